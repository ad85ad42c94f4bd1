"""Transactions that are scoped to one tenant: how one is entered, and how it is left with nothing behind."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import psycopg
from psycopg import generators, pq, sql

from erpkit.errors import DatabaseError, UsageError, first_line

Connection = psycopg.Connection[tuple[Any, ...]]

# All that a session can set, undone: what DISCARD ALL does (PostgreSQL manual), which cannot be sent with other statements.
DISCARD = (
    "SET SESSION AUTHORIZATION DEFAULT; RESET ALL; RESET ROLE; CLOSE ALL; UNLISTEN *; DEALLOCATE ALL; "
    "SELECT pg_advisory_unlock_all(); DISCARD TEMP"
)
# A rollback takes back every setting, cursor and LISTEN; it leaves the session's prepared statements and advisory locks. To
# drop those before it costs half of what it would in a transaction of their own after it.
_LEAVE = b"DEALLOCATE ALL; SELECT pg_catalog.pg_advisory_unlock_all(); ROLLBACK"
_FINE = (pq.ExecStatus.TUPLES_OK, pq.ExecStatus.COMMAND_OK, pq.ExecStatus.EMPTY_QUERY)
_DENIED = re.compile(
    "permission denied for (?P<kind>schema|table|view|materialized view|foreign table|sequence) (?P<name>.+)"
)
# The forms in which PostgreSQL writes values, which a server, database or role may have set otherwise: these lose nothing.
OUTPUT = (
    "pg_catalog.set_config('client_encoding', CASE pg_catalog.getdatabaseencoding() WHEN 'SQL_ASCII' "
    "THEN 'SQL_ASCII' ELSE 'UTF8' END, true), "
    "pg_catalog.set_config('DateStyle', 'ISO', true), "
    "pg_catalog.set_config('IntervalStyle', 'postgres', true), pg_catalog.set_config('extra_float_digits', '1', true), "
    "pg_catalog.set_config('bytea_output', 'hex', true)"
)


def connect_beside(connection: Connection) -> Connection:
    """Connect to the same database as the same login, outside the pool: for work beside, or that changes the session."""
    info = connection.info
    return psycopg.connect(info.dsn, password=info.password or None, autocommit=True, application_name="erpkit")


def enter_tenant(
    connection: Connection,
    tenant: Tenant,
    *,
    write: bool = False,
    statement_timeout: float | None = None,
) -> None:
    """Begin a transaction on `connection` that is scoped to `tenant`, in one round trip.

    Everything is SET LOCAL, so that nothing outlives the transaction, behind PgBouncer too. Raises DatabaseError when the
    tenant's schema does not exist, and when the connection is lost: then it is closed.
    """
    role = tenant.role if write else tenant.reader
    try:
        found = _run(connection, _entrance(tenant.schema, role, statement_timeout, write)).get_value(0, 0)
    except psycopg.Error as error:
        if not connection.closed:
            connection.rollback()
        raise DatabaseError(f"tenant {tenant.slug}: cannot enter its schema: {first_line(error)}") from error
    if found != tenant.schema.encode():
        connection.rollback()
        raise DatabaseError(no_schema(tenant))


@lru_cache(maxsize=10_000)
def _entrance(schema: str, role: str | None, statement_timeout: float | None, write: bool) -> bytes:
    begin = "BEGIN READ WRITE" if write else "BEGIN READ ONLY"
    return "; ".join((begin, *scope_statements(schema, role, statement_timeout))).encode()


def scope_statements(schema: str, role: str | None, statement_timeout: float | None) -> tuple[str, ...]:
    """Return the statements that scope the present transaction to a tenant; the last one reads the schema that came of it."""
    switch = (f"SET LOCAL ROLE {quote_name(role)}",) if role is not None else ()
    return (
        f"SET LOCAL search_path TO {search_path(schema)}",
        *switch,
        f"SET LOCAL statement_timeout TO {int((statement_timeout or 0) * 1000)}",  # late: from then on it is measured
        "SELECT current_schema()",
    )


@lru_cache(maxsize=10_000)
def search_path(schema: str) -> str:
    """Return the search_path of a tenant: its schema, quoted, as a comma in it would add another one.

    `pg_temp` is named last, or a temporary table could stand in front of the tenant's (PostgreSQL manual, "search_path"). For a
    name that no tenant's schema can have there is nothing else on it, and so the entrance finds no schema.
    """
    if not schema or "\0" in schema or schema.startswith("pg_") or schema == "information_schema":
        return "pg_temp"
    return f"{quote_name(schema)}, pg_temp"


def no_schema(tenant: Tenant) -> str:
    """Say that a tenant's schema cannot be used."""
    if tenant.schema == "$user":
        return f"tenant {tenant.slug}: PostgreSQL takes the schema name $user for that of the role: rename the schema"
    if tenant.schema.startswith("pg_") or tenant.schema == "information_schema":
        return f"tenant {tenant.slug}: the schema {tenant.schema} is PostgreSQL's own"
    return f"tenant {tenant.slug}: there is no schema {tenant.schema}, or its role may not use it"


def missing_grant(tenant: Tenant, who: str, message: str) -> str | None:
    """Return the statement that gives `who` what reading a tenant needs and PostgreSQL's `message` says is missing.

    None where it says something else: that what is not the tenant's is refused is as it should be. Pure.
    """
    if tenant.reader is not None and who != tenant.reader:
        return f"GRANT {quote_name(tenant.reader)} TO {quote_name(who)}"
    denied = _DENIED.fullmatch(message)
    if denied is None or denied["name"].startswith("pg_"):
        return None
    if denied["kind"] != "schema":
        return f"GRANT SELECT ON ALL TABLES IN SCHEMA {quote_name(tenant.schema)} TO {quote_name(who)}"
    return grant_usage(tenant.schema, who) if denied["name"] == tenant.schema else None


def grant_usage(schema: str, who: str) -> str:
    """Return the statement that lets a role use a schema."""
    return f"GRANT USAGE ON SCHEMA {quote_name(schema)} TO {quote_name(who)}"


def quote_name(name: str) -> str:
    """Return a name as SQL writes it, in double quotes."""
    return sql.Identifier(name).as_string()


def set_output(connection: Connection) -> None:
    """Have the present transaction's values written in the forms that lose nothing."""
    _run(connection, f"SELECT {OUTPUT}".encode())


def check_in_transaction(connection: Connection, tenant: Tenant) -> None:
    """Raise DatabaseError unless the tenant's transaction is still open and sound."""
    status = connection.pgconn.transaction_status
    if status == pq.TransactionStatus.UNKNOWN:
        raise DatabaseError(f"tenant {tenant.slug}: the connection was lost, and so the transaction was rolled back")
    if status == pq.TransactionStatus.INERROR:
        raise DatabaseError(f"tenant {tenant.slug}: a statement failed, and so the transaction was rolled back")
    if status != pq.TransactionStatus.INTRANS:
        raise DatabaseError(
            f"tenant {tenant.slug}: the transaction was ended inside its own block: leave that to erpkit"
        )


def is_alive(connection: Connection) -> bool:
    """Ask on an idle connection whether its server is still there, in one round trip; close the connection if not."""
    try:
        _run(connection, b"")
    except psycopg.Error:
        connection.close()
        return False
    return True


def commit(connection: Connection, tenant: Tenant) -> None:
    """Commit a transaction and undo all that a session can set, in one round trip.

    Raises DatabaseError when the connection is lost meanwhile: it cannot be told then whether the server committed.
    """
    try:
        _run(connection, f"COMMIT; {DISCARD}".encode())
    except BaseException as error:
        if _close(connection) and isinstance(error, psycopg.Error):
            raise DatabaseError(
                f"tenant {tenant.slug}: the connection was lost during the commit ({first_line(error)}): "
                "look whether the data were written before you write them again"
            ) from error
        raise


def leave_unchanged(connection: Connection) -> None:
    """Roll back a transaction that is still open, with all that was set in it, in one round trip."""
    _undo(connection, _LEAVE)


def reset(connection: Connection) -> None:
    """Roll back the transaction, if there is one, and undo all that a session can set, in one round trip."""
    if not connection.closed:
        is_idle = connection.info.transaction_status == pq.TransactionStatus.IDLE
        _undo(connection, f"{'SELECT' if is_idle else 'ROLLBACK'}; {DISCARD}".encode())


def _undo(connection: Connection, statements: bytes) -> None:
    """Run what only takes back; where the connection is lost, the server has taken all of it back already."""
    try:
        _run(connection, statements)
    except BaseException as error:
        if not (_close(connection) and isinstance(error, psycopg.Error)):
            raise


def _close(connection: Connection) -> bool:
    """Close a connection, so that the pool replaces it; return whether it was lost before that."""
    is_lost = connection.closed
    connection.close()
    return is_lost


def _run(connection: Connection, statements: bytes) -> pq.abc.PGresult:
    """Send statements without parameters in one message, and return the last one's result.

    A cursor would do the same; making one, and the results of each SET, took longer than the server's work. So would
    waiting until the message can be sent, which it mostly is already.
    """
    pgconn = connection.pgconn
    with connection.lock:
        pgconn.send_query(statements)
        if pgconn.flush():
            connection.wait(generators.send(pgconn))
        result: pq.abc.PGresult = connection.wait(generators.fetch_many(pgconn))[-1]
    if result.status not in _FINE:
        raise psycopg.errors.error_from_result(result, connection.info.encoding)
    return result


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
