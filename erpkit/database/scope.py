"""A tenant, and the transactions that are scoped to its schema and role."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import psycopg
from psycopg import generators, pq, sql

from erpkit.errors import CommitUnknownError, DatabaseError, TenantNotActiveError, UsageError, first_line

Connection = psycopg.Connection[tuple[Any, ...]]

# Undo all that a session can set, as DISCARD ALL does (PostgreSQL manual): that one cannot be sent with other statements.
DISCARD = (
    "SET SESSION AUTHORIZATION DEFAULT; RESET ALL; RESET ROLE; CLOSE ALL; UNLISTEN *; DEALLOCATE ALL; "
    "SELECT pg_advisory_unlock_all(); DISCARD TEMP"
)
# A rollback undoes every setting, cursor and LISTEN, but keeps the session's prepared statements and advisory locks. Dropping
# those before the rollback takes half the time of a transaction of its own after it.
_LEAVE = b"DEALLOCATE ALL; SELECT pg_catalog.pg_advisory_unlock_all(); ROLLBACK"
_SCHEMA_NAME = re.compile(r"_template|(?!pg_)[a-z][a-z0-9_]{0,62}", re.ASCII)
# Without what could end a quote of either kind, or be taken for a placeholder.
_QUOTABLE = re.compile(r"""(?!pg_|information_schema\Z)[^'"\\$%\x00-\x1f\x7f]+""")
_NAME_LIMIT = 63  # bytes
# An ERP that erpkit did not make may have tables of that name itself.
_REGISTRY = (
    b"SELECT CASE WHEN pg_catalog.to_regclass('public.erpkit_tenants') IS NULL "
    b"THEN 'public.tenants' ELSE 'public.erpkit_tenants' END"
)
_FINE = (pq.ExecStatus.TUPLES_OK, pq.ExecStatus.COMMAND_OK, pq.ExecStatus.EMPTY_QUERY)
_DENIED = re.compile(
    "permission denied for (?P<kind>schema|table|view|materialized view|foreign table|sequence) (?P<name>.+)"
)
# Formats of values that lose nothing; a server, database or role may have set others.
OUTPUT = (
    "pg_catalog.set_config('client_encoding', CASE pg_catalog.getdatabaseencoding() WHEN 'SQL_ASCII' "
    "THEN 'SQL_ASCII' ELSE 'UTF8' END, true), "
    "pg_catalog.set_config('DateStyle', 'ISO', true), "
    "pg_catalog.set_config('IntervalStyle', 'postgres', true), pg_catalog.set_config('extra_float_digits', '1', true), "
    "pg_catalog.set_config('bytea_output', 'hex', true)"
)


@dataclass(frozen=True)
class Tenant:
    """One customer of the ERP: a schema of its own, and a role that may use nothing else.

    `owner` is the ERP's own login, for a tenant that erpkit adopted: what erpkit creates in the schema is created as this role.
    """

    slug: str
    schema: str
    role: str | None = None
    name: str = ""
    status: str = "active"
    owner: str | None = None

    @property
    def reader(self) -> str | None:
        """The role that may only read its schema; everything that only reads runs under it."""
        return f"{self.role}.read" if self.role is not None else None

    @property
    def is_active(self) -> bool:
        """Whether operations on all tenants include it."""
        return self.status == "active"


TEMPLATE = Tenant(slug="_template", schema="_template", name="canonical schema")


def check_schema_name(name: str) -> str:
    """Return `name` if it may name a tenant's schema; raise UsageError if not.

    Allowed are at most 63 lower-case ASCII letters, digits and underscores, a letter first, and not `pg_…`, which PostgreSQL
    reserves. Such a name needs no quotes; it is quoted all the same.
    """
    if not _SCHEMA_NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} is not a valid schema name: use a-z, 0-9 and _, a letter first, at most 63 characters, not pg_…"
        )
    return name


def check_quotable(name: str) -> str:
    """Return `name` if the schema of an adopted tenant may have it: it can be put between quotes of either kind as it is.

    Capitals, hyphens, dots and blanks are allowed. Raises UsageError for quotes, backslashes, `$`, `%`, control characters, and
    for names that PostgreSQL reserves.
    """
    if not _QUOTABLE.fullmatch(name) or len(name.encode()) > _NAME_LIMIT:
        raise UsageError(
            f"{name!r} is no schema name that erpkit can migrate: it may hold no quote, backslash, $, % or control character, "
            "and not begin with pg_"
        )
    return name


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
    active: bool = False,
) -> None:
    """Begin a transaction on `connection` that is scoped to `tenant`, in one round trip.

    Everything is SET LOCAL, so that nothing outlives the transaction, behind PgBouncer too. With `active` the tenant cannot be
    suspended, renamed or dropped until it ends. Raises DatabaseError when the tenant's schema does not exist, and when the
    connection is lost, which is closed then; and with `active` TenantNotActiveError for a tenant that is not.
    """
    shared = shared_schemas(connection)
    try:
        registry = _registry(connection) if active else ""
        results = _run_all(connection, _entrance(tenant, write, statement_timeout, shared, registry))
        found = results[-1].get_value(0, 0)
    except psycopg.Error as error:
        if not connection.closed:
            connection.rollback()
        raise DatabaseError(f"tenant {tenant.slug}: cannot enter its schema: {first_line(error)}") from error
    if found != tenant.schema.encode():
        connection.rollback()
        raise DatabaseError(no_schema(tenant))
    if active:
        try:
            _check_active(tenant, *(result.get_value(0, 0) for result in results if result.ntuples))
        except TenantNotActiveError:
            connection.rollback()
            raise


@lru_cache(maxsize=10_000)
def _entrance(
    tenant: Tenant, write: bool, statement_timeout: float | None, shared: tuple[str, ...], registry: str
) -> bytes:
    """Return the statements that enter a tenant; with the table `registry` as one that is active."""
    role = tenant.role if write else tenant.reader
    begin = "BEGIN READ WRITE" if write else "BEGIN READ ONLY"
    join = _join(tenant.schema, role, registry) if registry else ()
    return "; ".join((begin, *join, *scope_statements(tenant.schema, role, statement_timeout, shared))).encode()


def use_lock(schema: str) -> str:
    """Return, as SQL, the key of the lock that those who work in a tenant share; `schema` is an SQL expression."""
    return f"hashtextextended('erpkit.use.' || {schema}, 0)"


def leave_lock(schema: str) -> str:
    """Return, as SQL, the key of the lock of the one who waits until nobody works in a tenant any more."""
    return f"hashtextextended('erpkit.leave.' || {schema}, 0)"


def _registry(connection: Connection) -> str:
    """Return the table in which erpkit keeps its tenants; a connection asks once."""
    known: str = getattr(connection, "registry", "")
    if not known:
        known = (_run(connection, _REGISTRY).get_value(0, 0) or b"").decode()
        if isinstance(getattr(connection, "registry", None), str):
            connection.registry = known  # type: ignore[attr-defined]
    return known


def _join(schema: str, role: str | None, registry: str) -> tuple[str, ...]:
    """Return the statements that share a tenant's lock, and then read its status: a change of that waits for the lock.

    The login reads the status, as the tenant's role must not. A tenant without a role is not in erpkit's registry.
    """
    name = sql.Literal(schema).as_string()
    share = f"SELECT pg_catalog.pg_try_advisory_xact_lock_shared(pg_catalog.{use_lock(name)})"
    status = f"SELECT coalesce((SELECT status FROM {registry} WHERE schema_name = {name}), '')"  # noqa: S608
    return (share, status) if role is not None else (share, "SELECT ''")


def _check_active(tenant: Tenant, shared: bytes | None, status: bytes | None, _: bytes | None) -> None:
    """Raise TenantNotActiveError for a tenant that is being suspended, renamed or dropped, or is suspended or archived."""
    found = (status or b"").decode() or (tenant.status if tenant.role is None else "active")
    if shared != b"t":
        raise TenantNotActiveError(
            f"tenant {tenant.slug} is being suspended, renamed or dropped: nothing was done; try again in a moment"
        )
    if found != "active":
        raise TenantNotActiveError(
            f"tenant {tenant.slug} is {found}: nothing was done; `erpkit tenants activate {tenant.slug}` activates it"
        )


def scope_statements(
    schema: str, role: str | None, statement_timeout: float | None, shared: tuple[str, ...] = ()
) -> tuple[str, ...]:
    """Return the statements that scope the present transaction to a tenant; the last one returns the schema in effect.

    The `shared` schemas follow the tenant's on the search_path.
    """
    switch = (f"SET LOCAL ROLE {quote_name(role)}",) if role is not None else ()
    return (
        f"SET LOCAL search_path TO {search_path(schema, shared)}",
        *switch,
        f"SET LOCAL statement_timeout TO {int((statement_timeout or 0) * 1000)}",  # the server counts from here on
        "SELECT current_schema()",
    )


@lru_cache(maxsize=10_000)
def search_path(schema: str, shared: tuple[str, ...] = ()) -> str:
    """Return the search_path of a tenant: its schema, quoted, as a comma in it would add another one, and the `shared` ones.

    `pg_temp` comes last, as otherwise a temporary table would hide the tenant's (PostgreSQL manual, "search_path"). For a name
    that no tenant's schema can have, the path holds nothing else, so that `enter_tenant` finds no schema.
    """
    if not schema or "\0" in schema or schema.startswith("pg_") or schema == "information_schema":
        return "pg_temp"
    return ", ".join([*map(quote_name, (schema, *shared)), "pg_temp"])


def shared_schemas(connection: Connection) -> tuple[str, ...]:
    """Return the schemas that follow a tenant's on this connection's search_path: those that the settings declare as shared."""
    found: tuple[str, ...] = getattr(connection, "shared_schemas", ())
    return found


def is_direct(connection: Connection) -> bool:
    """Tell whether the connection leads to PostgreSQL itself, and not to a pooler, which invents the process id.

    Only then does the next transaction find what a session keeps: settings, locks, prepared statements.
    """
    row = connection.execute("SELECT pg_backend_pid()").fetchone()
    return row == (connection.info.backend_pid,)


def check_session(connection: Connection, why: str) -> None:
    """Raise UsageError if a pooler is in between, unless the settings say that it is in session mode; `why` is what needs one."""
    if getattr(connection, "pooler", "") != "session" and not is_direct(connection):
        raise UsageError(
            f"{why} needs a session of its own, and a pooler is between erpkit and PostgreSQL, which hands each transaction to "
            "another: connect to PostgreSQL itself, or set ERPKIT_POOLER=session if the pooler is in session mode"
        )


def no_schema(tenant: Tenant) -> str:
    """Return the message for a tenant whose schema cannot be used."""
    if tenant.schema == "$user":
        return f"tenant {tenant.slug}: PostgreSQL takes the schema name $user for that of the role: rename the schema"
    if tenant.schema.startswith("pg_") or tenant.schema == "information_schema":
        return f"tenant {tenant.slug}: the schema {tenant.schema} is PostgreSQL's own"
    return f"tenant {tenant.slug}: there is no schema {tenant.schema}, or its role may not use it"


def missing_grant(tenant: Tenant, who: str, message: str) -> str | None:
    """Return the statement that grants `who` the privilege that PostgreSQL's `message` says is missing to read a tenant.

    Returns None for any other message, among them refusals of objects that are not the tenant's, which are intended. Pure.
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
    """Set the formats of values that lose nothing, for the present transaction."""
    _run(connection, f"SELECT {OUTPUT}".encode())


def check_in_transaction(connection: Connection, tenant: Tenant) -> None:
    """Raise DatabaseError unless the tenant's transaction is still open and has not failed."""
    status = connection.pgconn.transaction_status
    if status == pq.TransactionStatus.UNKNOWN:
        raise DatabaseError(f"tenant {tenant.slug}: the connection was lost: the transaction was rolled back")
    if status == pq.TransactionStatus.INERROR:
        raise DatabaseError(f"tenant {tenant.slug}: a statement failed: the transaction was rolled back")
    if status != pq.TransactionStatus.INTRANS:
        raise DatabaseError(
            f"tenant {tenant.slug}: the transaction was ended inside its block: leave COMMIT and ROLLBACK to erpkit"
        )


def is_alive(connection: Connection) -> bool:
    """Tell whether the server still answers on an idle connection, in one round trip; close the connection if not."""
    try:
        _run(connection, b"")
    except psycopg.Error:
        connection.close()
        return False
    return True


def commit(connection: Connection, tenant: Tenant) -> None:
    """Commit a transaction and reset the session, in one round trip.

    Raises CommitUnknownError when the connection is lost meanwhile: the server may or may not have committed.
    """
    try:
        _run(connection, f"COMMIT; {DISCARD}".encode())
    except BaseException as error:
        if _close(connection) and isinstance(error, psycopg.Error):
            raise CommitUnknownError(
                f"tenant {tenant.slug}: the connection was lost during the commit ({first_line(error)}): "
                "check whether the data were written before you write them again"
            ) from error
        raise


def leave_unchanged(connection: Connection) -> None:
    """Roll back a transaction that is still open, with all settings made in it, in one round trip."""
    _undo(connection, _LEAVE)


def reset(connection: Connection) -> None:
    """Roll back the transaction, if there is one, and reset the session, in one round trip."""
    if not connection.closed:
        is_idle = connection.info.transaction_status == pq.TransactionStatus.IDLE
        _undo(connection, f"{'SELECT' if is_idle else 'ROLLBACK'}; {DISCARD}".encode())


def _undo(connection: Connection, statements: bytes) -> None:
    """Run statements that only undo; if the connection is lost, the server has undone everything already."""
    try:
        _run(connection, statements)
    except BaseException as error:
        if not (_close(connection) and isinstance(error, psycopg.Error)):
            raise


def _close(connection: Connection) -> bool:
    """Close a connection, so that the pool replaces it; return whether it had been lost before."""
    is_lost = connection.closed
    connection.close()
    return is_lost


def _run(connection: Connection, statements: bytes) -> pq.abc.PGresult:
    """Send statements without parameters in one message, and return the last one's result."""
    return _run_all(connection, statements)[-1]


def _run_all(connection: Connection, statements: bytes) -> list[pq.abc.PGresult]:
    """Send statements without parameters in one message, and return their results.

    A cursor would do the same, but creating it, and a result for each SET, takes longer than the server's work. Waiting for
    the socket is skipped when `flush` has sent everything, as it mostly has.
    """
    pgconn = connection.pgconn
    with connection.lock:
        pgconn.send_query(statements)
        if pgconn.flush():
            connection.wait(generators.send(pgconn))
        results: list[pq.abc.PGresult] = connection.wait(generators.fetch_many(pgconn))
    if results[-1].status not in _FINE:
        raise psycopg.errors.error_from_result(results[-1], connection.info.encoding)
    return results
