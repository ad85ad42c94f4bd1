"""Connections, the pool, and transactions that are scoped to one tenant."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from types import TracebackType
from typing import Any, Self
from weakref import WeakKeyDictionary

import psycopg
from psycopg import pq, sql
from psycopg.conninfo import conninfo_to_dict

from erpkit.config import Settings
from erpkit.embedded import EmbeddedServer
from erpkit.errors import DatabaseError, UsageError

__all__ = [
    "TEMPLATE",
    "TENANTS_A_CONNECTION",
    "Connection",
    "Database",
    "Tenant",
    "check_schema_name",
    "enter_tenant",
    "fetch_union",
    "no_schema",
    "schemas_with_table",
    "scope_statements",
    "search_path",
]

Connection = psycopg.Connection[tuple[Any, ...]]

# A backend grew from 13 MB to 174 MB over 1,000 tenants of three tables, for all that it keeps of each table.
TENANTS_A_CONNECTION = 500

_DISCARD = (
    "SET SESSION AUTHORIZATION DEFAULT; RESET ALL; RESET ROLE; CLOSE ALL; UNLISTEN *; DEALLOCATE ALL; "
    "SELECT pg_advisory_unlock_all(); DISCARD TEMP"
)
_SCHEMA_NAME = re.compile(r"_template|(?!pg_)[a-z][a-z0-9_]{0,62}", re.ASCII)


def check_schema_name(name: str) -> str:
    """Return `name` if it may name a tenant's schema; raise UsageError if not.

    Lower-case ASCII letters, digits and underscores, a letter first, at most 63 of them, and not `pg_…`, which PostgreSQL
    keeps for itself. A name that passes needs no quoting, and is quoted all the same.
    """
    if not _SCHEMA_NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} is no schema name: use a-z, 0-9 and _, a letter first, at most 63 characters, not pg_…"
        )
    return name


@dataclass(frozen=True)
class Tenant:
    """One customer of the ERP: a schema of its own, and a role that may use nothing else."""

    slug: str
    schema: str
    role: str | None = None
    name: str = ""
    status: str = "active"

    @property
    def reader(self) -> str | None:
        """The role that may read its schema and nothing else; whatever only reads runs under it."""
        return f"{self.role}.read" if self.role is not None else None

    @property
    def is_active(self) -> bool:
        """Whether operations on the whole fleet include it."""
        return self.status == "active"


TEMPLATE = Tenant(slug="_template", schema="_template", name="canonical schema")


class Database:
    """A PostgreSQL database with a pool of connections; open it with `Database.open(settings)`, in a `with` block or not.

    `target` names it for people: `embedded`, or host/database/user.
    """

    def __init__(self, conninfo: str, target: str, *, max_connections: int = 8, writable: bool = True) -> None:
        from psycopg_pool import ConnectionPool  # noqa: PLC0415 - half of the package's import time

        # The pool warns of connections that it replaces; without a handler Python would print that.
        logging.getLogger("psycopg.pool").addHandler(logging.NullHandler())
        self._visited: WeakKeyDictionary[Connection, set[str]] = WeakKeyDictionary()
        self.target = target
        self._writable = writable
        self.max_connections = max_connections
        self.conninfo = conninfo
        self._pool: ConnectionPool[Connection] = ConnectionPool(
            conninfo,
            min_size=0,
            max_size=max_connections,
            kwargs={"autocommit": True, "application_name": "erpkit", "prepare_threshold": None, "connect_timeout": 10},
            open=True,
            timeout=30,
            name="erpkit",
        )

    @classmethod
    def open(cls, settings: Settings) -> Self:
        """Open the database that `settings` name, starting the embedded server if it is the one.

        Raises DatabaseError, naming the target, when it does not answer or refuses us.
        """
        if settings.database is not None:
            return cls(settings.database, _probe(settings.database), writable=settings.tenants_query is None)
        server = EmbeddedServer(settings.home)
        server.start()
        _probe(server.url())
        return cls(server.url(), "embedded", writable=settings.tenants_query is None)

    def check_writable(self) -> None:
        """Raise UsageError where the database belongs to an ERP that erpkit only reads."""
        if not self._writable:
            raise UsageError(f"ERPKIT_TENANTS_QUERY is set: {self.target} is only read, and nothing was changed")

    def close(self) -> None:
        """Give the connections back; the server goes on."""
        self._pool.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Database {self.target}>"

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        """Lend a connection in autocommit mode, outside any tenant; whatever was set on it is reset when it comes back."""
        with self._lend() as connection:
            try:
                yield connection
            finally:
                _reset(connection)

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """Lend a connection inside a transaction that belongs to no tenant; commit at the end, roll back on an error."""
        with self.connection() as connection, connection.transaction():
            yield connection

    @contextmanager
    def tenant_transaction(
        self, tenant: Tenant, *, write: bool = False, statement_timeout: float | None = 30
    ) -> Iterator[Connection]:
        """Lend a connection inside a transaction that sees one tenant's schema, under that tenant's role.

        Without `write` it is read-only, and under the tenant's `reader`: an analyst's login may take only that one.
        `statement_timeout` is in seconds. It commits at the end and rolls back on an
        error. Raises DatabaseError when the tenant's schema does not exist (PostgreSQL itself would fall through silently),
        and when the transaction was ended, or had failed, before it came to the commit.
        """
        if write:
            self.check_writable()
        with self._lend() as connection:
            enter_tenant(connection, tenant, write=write, statement_timeout=statement_timeout)
            self._note_visit(connection, tenant)
            try:
                yield connection
                _check_in_transaction(connection, tenant)
            except BaseException:
                _reset(connection, "ROLLBACK")
                raise
            if write:
                _reset(connection, "COMMIT")
            else:
                connection.rollback()  # which undoes every setting as well
            self._retire(connection)

    @contextmanager
    def visit(self, tenants: Sequence[Tenant]) -> Iterator[Connection]:
        """Lend a connection in autocommit mode to go through many tenants on; the caller scopes each transaction."""
        with self._lend() as connection:
            for tenant in tenants:
                self._note_visit(connection, tenant)
            try:
                yield connection
            finally:
                _reset(connection)
            self._retire(connection)

    @contextmanager
    def _lend(self) -> Iterator[Connection]:
        from psycopg_pool import PoolTimeout  # noqa: PLC0415

        try:
            with self._pool.connection() as connection:
                yield connection
        except PoolTimeout:
            raise DatabaseError(f"no connection to {self.target} within {self._pool.timeout:.0f} s") from None

    def _note_visit(self, connection: Connection, tenant: Tenant) -> None:
        self._visited.setdefault(connection, set()).add(tenant.schema)

    def _retire(self, connection: Connection) -> None:
        """Close a connection that has seen many tenants: its backend keeps what it learnt of each table."""
        if len(self._visited[connection]) >= TENANTS_A_CONNECTION:
            connection.close()


def enter_tenant(
    connection: Connection,
    tenant: Tenant,
    *,
    write: bool = False,
    statement_timeout: float | None = None,
    as_role: bool = True,
) -> None:
    """Begin a transaction on `connection` that is scoped to `tenant`, in one round trip.

    Everything is SET LOCAL, so that nothing outlives the transaction, behind PgBouncer too. Raises DatabaseError when the
    tenant's schema does not exist.
    """
    begin = "BEGIN READ WRITE" if write else "BEGIN READ ONLY"
    role = (tenant.role if write else tenant.reader) if as_role else None
    scope = scope_statements(tenant.schema, role, statement_timeout)
    try:
        cursor = connection.execute("; ".join((begin, *scope)).encode())
        found = cursor.set_result(-1).fetchone()
    except psycopg.Error as error:
        connection.rollback()
        raise DatabaseError(f"tenant {tenant.slug}: cannot enter its schema: {_first_line(error)}") from error
    if found != (tenant.schema,):
        connection.rollback()
        raise DatabaseError(no_schema(tenant))


@lru_cache(maxsize=10_000)
def scope_statements(schema: str, role: str | None, statement_timeout: float | None) -> tuple[str, ...]:
    """Return the statements that scope the present transaction to a tenant; the last one reads the schema that came of it."""
    switch = (f"SET LOCAL ROLE {sql.Identifier(role).as_string()}",) if role is not None else ()
    return (
        f"SET LOCAL search_path TO {search_path(schema)}",
        f"SET LOCAL statement_timeout TO {int((statement_timeout or 0) * 1000)}",
        *switch,
        "SELECT current_schema()",
    )


def search_path(schema: str) -> str:
    """Return the search_path of a tenant: its schema, checked and quoted, as a comma in it would add another one.

    `pg_temp` is named last, or a temporary table could stand in front of the tenant's (PostgreSQL manual, "search_path").
    """
    return f"{sql.Identifier(check_schema_name(schema)).as_string()}, pg_temp"


def no_schema(tenant: Tenant) -> str:
    """Say that a tenant's schema cannot be used."""
    return f"tenant {tenant.slug}: there is no schema {tenant.schema}, or its role may not use it"


def _check_in_transaction(connection: Connection, tenant: Tenant) -> None:
    status = connection.pgconn.transaction_status
    if status == pq.TransactionStatus.INERROR:
        raise DatabaseError(f"tenant {tenant.slug}: a statement failed, and so the transaction was rolled back")
    if status != pq.TransactionStatus.INTRANS:
        raise DatabaseError(
            f"tenant {tenant.slug}: the transaction was ended inside its own block: leave that to erpkit"
        )


def _reset(connection: Connection, end: str = "ROLLBACK") -> None:
    """End the transaction, if there is one, and undo all that a session can set, in one round trip.

    That is what DISCARD ALL does (PostgreSQL manual), which cannot be sent together with the end of a transaction.
    """
    if connection.closed:
        return
    if connection.info.transaction_status == pq.TransactionStatus.IDLE:
        end = "SELECT"
    try:
        connection.execute(f"{end}; {_DISCARD}".encode())
    except psycopg.Error:
        connection.close()  # the pool replaces it
        raise


def _probe(conninfo: str) -> str:
    """Connect once, so that what is wrong is told at once and in one line; return the target's name."""
    named = _describe(conninfo)
    try:
        with psycopg.connect(conninfo, connect_timeout=10, application_name="erpkit") as connection:
            info = connection.info
            return f"{info.host or 'local socket'}/{info.dbname}/{info.user}"
    except psycopg.OperationalError as error:
        raise DatabaseError(f"cannot connect to {named}: {_reason(error)}") from None
    except psycopg.ProgrammingError:  # a malformed string; libpq's message may repeat the password in it
        raise UsageError(
            "ERPKIT_DATABASE is no libpq connection string: use postgresql://user@host/database or service=NAME"
        ) from None


def _describe(conninfo: str) -> str:
    try:
        parts = conninfo_to_dict(conninfo)
    except psycopg.ProgrammingError:
        return "the configured database"
    defaults = {option.keyword.decode(): option.val for option in pq.Conninfo.get_defaults()}  # from PG* variables, too
    known = {key: (value or b"").decode() for key, value in defaults.items()} | {k: str(v) for k, v in parts.items()}
    if known.get("service"):
        return f"service {known['service']}"
    return "/".join((known.get("host") or "local socket", known.get("dbname") or known["user"], known["user"]))


def _reason(error: psycopg.Error) -> str:
    """Cut libpq's message, which may name each address that was tried and give hints, down to its reason."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    line = next((line for line in lines if "FATAL:" in line), None) or next(
        (line for line in lines if "failed: " in line), lines[0]
    )
    return line.split("FATAL:")[-1].split("failed: ")[-1].strip()


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def fetch_union(connection: Connection, queries: Iterable[sql.Composed], chunk: int = 500) -> list[tuple[Any, ...]]:
    """Run queries of the same shape over many schemas as UNION ALL, `chunk` of them a round trip; return all rows."""
    rows: list[tuple[Any, ...]] = []
    remaining = iter(queries)
    while batch := list(islice(remaining, chunk)):
        rows += connection.execute(sql.SQL(" UNION ALL ").join(batch)).fetchall()
    return rows


def schemas_with_table(connection: Connection, table: str, schemas: Sequence[str]) -> set[str]:
    """Return those of `schemas` that have a table of this name."""
    rows = connection.execute(
        "SELECT schemaname FROM pg_tables WHERE tablename = %s AND schemaname = ANY(%s)", [table, list(schemas)]
    )
    return {schema for (schema,) in rows}
