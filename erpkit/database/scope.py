"""Transactions that are scoped to one tenant: how one is entered, and how it is left with nothing behind."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

import psycopg
from psycopg import generators, pq, sql

from erpkit.database.tenant import Tenant
from erpkit.errors import DatabaseError, UsageError, first_line

__all__ = [
    "DISCARD",
    "OUTPUT",
    "Connection",
    "check_in_transaction",
    "check_session",
    "commit",
    "enter_tenant",
    "is_alive",
    "is_direct",
    "leave_unchanged",
    "missing_grant",
    "no_schema",
    "reset",
    "scope_statements",
    "search_path",
    "set_output",
    "shared_schemas",
]

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
    tenant's schema does not exist, and when the connection is lost: then it is closed.
    """
    role = (tenant.role if write else tenant.reader) if as_role else None
    shared = shared_schemas(connection)
    try:
        found = _run(connection, _entrance(tenant.schema, role, statement_timeout, write, shared)).get_value(0, 0)
    except psycopg.Error as error:
        if not connection.closed:
            connection.rollback()
        raise DatabaseError(f"tenant {tenant.slug}: cannot enter its schema: {first_line(error)}") from error
    if found != tenant.schema.encode():
        connection.rollback()
        raise DatabaseError(no_schema(tenant))


@lru_cache(maxsize=10_000)
def _entrance(
    schema: str, role: str | None, statement_timeout: float | None, write: bool, shared: tuple[str, ...]
) -> bytes:
    begin = "BEGIN READ WRITE" if write else "BEGIN READ ONLY"
    return "; ".join((begin, *scope_statements(schema, role, statement_timeout, shared))).encode()


def scope_statements(
    schema: str, role: str | None, statement_timeout: float | None, shared: tuple[str, ...] = ()
) -> tuple[str, ...]:
    """Return the statements that scope the present transaction to a tenant; the last one reads the schema that came of it.

    The `shared` schemas follow the tenant's on the search_path.
    """
    switch = (f"SET LOCAL ROLE {sql.Identifier(role).as_string()}",) if role is not None else ()
    return (
        f"SET LOCAL search_path TO {search_path(schema, shared)}",
        *switch,
        f"SET LOCAL statement_timeout TO {int((statement_timeout or 0) * 1000)}",  # late: from then on it is measured
        "SELECT current_schema()",
    )


@lru_cache(maxsize=10_000)
def search_path(schema: str, shared: tuple[str, ...] = ()) -> str:
    """Return the search_path of a tenant: its schema, quoted, as a comma in it would add another one, and the `shared` ones.

    `pg_temp` is named last, or a temporary table could stand in front of the tenant's (PostgreSQL manual, "search_path"). For a
    name that no tenant's schema can have there is nothing else on it, and so the entrance finds no schema.
    """
    if not schema or "\0" in schema or schema.startswith("pg_") or schema == "information_schema":
        return "pg_temp"
    return ", ".join([*(sql.Identifier(name).as_string() for name in (schema, *shared)), "pg_temp"])


def shared_schemas(connection: Connection) -> tuple[str, ...]:
    """Return the schemas that follow a tenant's on this connection's search_path: those that the settings declare as shared."""
    found: tuple[str, ...] = getattr(connection, "shared_schemas", ())
    return found


def is_direct(connection: Connection) -> bool:
    """Tell whether PostgreSQL itself is at the other end: a pooler such as PgBouncer makes up the process id.

    Only then is it certain that the next transaction finds what a session keeps: settings, locks, prepared statements.
    """
    row = connection.execute("SELECT pg_backend_pid()").fetchone()
    return row == (connection.info.backend_pid,)


def check_session(connection: Connection, why: str) -> None:
    """Raise UsageError where a pooler is in between, unless the settings say that it is in session mode; `why` is what needs one."""
    if getattr(connection, "pooler", "") != "session" and not is_direct(connection):
        raise UsageError(
            f"{why} needs a session of its own, and a pooler is between erpkit and PostgreSQL, which hands each transaction to "
            "another: connect to PostgreSQL itself, or set ERPKIT_POOLER=session where the pooler is in session mode"
        )


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
    schema, grantee = sql.Identifier(tenant.schema), sql.Identifier(who)
    if tenant.reader is not None and who != tenant.reader:
        return sql.SQL("GRANT {} TO {}").format(sql.Identifier(tenant.reader), grantee).as_string()
    denied = _DENIED.fullmatch(message)
    if denied is None or denied["name"].startswith("pg_"):
        return None
    if denied["kind"] != "schema":
        return sql.SQL("GRANT SELECT ON ALL TABLES IN SCHEMA {} TO {}").format(schema, grantee).as_string()
    if denied["name"] != tenant.schema:
        return None
    return sql.SQL("GRANT USAGE ON SCHEMA {} TO {}").format(schema, grantee).as_string()


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
