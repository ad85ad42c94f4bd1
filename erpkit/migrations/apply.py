"""Applying migrations to one tenant: in transactions that take one round trip together, or statement by statement.

What went wrong is told in one line: who held a lock, what was left behind, what to do.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace

import psycopg
from psycopg import pq
from psycopg.generators import fetch_many, send

from erpkit.database import Connection, Tenant, give_to_owner, search_path
from erpkit.database.rights import name_grant
from erpkit.errors import DatabaseError, MigrationError
from erpkit.migrations.files import Migration, Step
from erpkit.migrations.history import Run, ensure_history, note_start, record, record_done
from erpkit.migrations.parser import Direction
from erpkit.migrations.script import (
    NO_SCHEMA,
    NOT_DUE,
    Limits,
    check_schema,
    create_version_table,
    is_done,
    lock_schema,
    migration_message,
)

# Another transaction caused these: waiting helps.
BUSY = (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected, psycopg.errors.SerializationFailure)

# Who has a lock on an object of the schema, on the schema itself, on its migrations, or writes to a table of the registry.
_HOLDERS = """
SELECT DISTINCT coalesce(l.pid, 0), coalesce(a.usename, x.owner, ''), coalesce(nullif(a.application_name, ''), x.gid, 'unnamed'),
       a.state, round(extract(epoch FROM clock_timestamp() - coalesce(a.xact_start, x.prepared))),
       round(extract(epoch FROM clock_timestamp() - a.query_start))
  FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid
  LEFT JOIN pg_prepared_xacts x ON l.pid IS NULL AND x.transaction::text = split_part(l.virtualtransaction, '/', 2)
  LEFT JOIN pg_class c ON c.oid = l.relation LEFT JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE l.granted AND l.pid IS DISTINCT FROM pg_backend_pid()
   AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
   AND (n.nspname = %(schema)s AND c.relkind IN ('r', 'p', 'm', 'v', 'S', 'f')
        OR c.oid = ANY(%(tables)s::text[]::regclass[]) AND l.mode <> 'AccessShareLock'
        OR l.locktype = 'object' AND l.classid = 'pg_namespace'::regclass
           AND l.objid = (SELECT oid FROM pg_namespace WHERE nspname = %(schema)s)
        OR l.locktype = 'advisory' AND l.classid::bigint << 32 | l.objid::bigint = hashtextextended('erpkit.migrate.' || %(schema)s, 0)
        OR l.locktype = 'advisory' AND l.classid::bigint << 32 | l.objid::bigint = hashtextextended('erpkit.use.' || %(schema)s, 0))
 ORDER BY 5 DESC NULLS LAST LIMIT 3
"""

_INVALID = """
SELECT format('%%I.%%I', n.nspname, c.relname) FROM pg_index x JOIN pg_class c ON c.oid = x.indexrelid
  JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = %s AND NOT x.indisvalid ORDER BY 1
"""


@dataclass(frozen=True)
class Sent:
    """What became of the steps of one message: `done` were committed; the next one was `not_due`, or ended in `error`.

    `is_clean` says that the session is as new, and may be another tenant's.
    """

    done: int
    not_due: bool = False
    error: psycopg.Error | None = None
    is_clean: bool = False


def apply_migration(
    connection: Connection,
    tenant: Tenant,
    migration: Migration,
    direction: Direction = "up",
    limits: Limits | None = None,
) -> bool:
    """Apply one migration to one tenant under the schema's advisory lock, and record it in goose's table and the history.

    Returns False where another runner has applied it already. `connection` is in autocommit mode. Raises MigrationError, naming the
    tenant and the file, and leaves the tenant at a whole version. A NO TRANSACTION file that fails half way is recorded as
    stopped there, as nothing can roll it back.
    """
    ensure_history(connection)
    limits, run = limits or Limits(), Run("apply")
    try:
        if not migration.content.use_transaction:
            return apply_without_transaction(connection, tenant, (migration, direction), run, limits, set())
        sent = send_steps(
            connection, tenant, [(migration, direction)], run, limits, new_tables={migration.version_table}
        )
        if sent.error is not None:
            raise sent.error
    except psycopg.Error as error:
        raise MigrationError(explain(tenant, migration, error, limits)) from error
    return not sent.not_due


def send_steps(
    connection: Connection,
    tenant: Tenant,
    steps: Sequence[Step],
    run: Run,
    limits: Limits,
    *,
    new_tables: Collection[str] = (),
    is_last: bool = False,
    as_login: bool = False,
) -> Sent:
    """Apply steps, a transaction each, in one round trip; `is_last` says that the tenant gets no others after them.

    They act as the schema's owner, where that is the operators' role; a step that it may not do is tried again `as_login`.
    Raises psycopg's errors only where the connection is lost.
    """
    message = migration_message(
        tenant, steps, run, limits, new_tables=new_tables, is_last=is_last, as_login=as_login
    )  # fmt: skip
    done, error = _send(connection, message, len(steps))
    if error is None:
        return Sent(done, is_clean=is_last)
    if not connection.closed:
        connection.rollback()
    if NOT_DUE in str(error):
        return Sent(done, not_due=True)
    if isinstance(error, psycopg.errors.InsufficientPrivilege):
        if not as_login:
            left = steps[done:]
            sent = send_steps(
                connection, tenant, left, run, limits, new_tables=new_tables, is_last=is_last, as_login=True
            )  # fmt: skip
            return replace(sent, done=done + sent.done)
        name_grant(connection, error)
    note_missing_schema(connection, tenant, error)
    return Sent(done, error=error)


def _send(connection: Connection, message: bytes, transactions: int) -> tuple[int, psycopg.Error | None]:
    """Send a message of the simple protocol; return how many transactions were committed, and the error that ended it.

    Only the answer to COMMIT says that it was done: a COPY, for one, leaves the message half way without an error.
    """
    connection.pgconn.send_query(message)
    connection.wait(send(connection.pgconn))
    results = connection.wait(fetch_many(connection.pgconn))
    done, last = sum(result.command_status == b"COMMIT" for result in results), results[-1]
    if last.status == pq.ExecStatus.FATAL_ERROR:
        return done, psycopg.errors.error_from_result(last, connection.info.encoding)
    if done == transactions:
        return done, None
    connection.close()  # rolls back, whatever state the session is in
    return done, psycopg.ProgrammingError(f"it ended before its COMMIT, at {pq.ExecStatus(last.status).name}")


def apply_without_transaction(
    connection: Connection, tenant: Tenant, step: Step, run: Run, limits: Limits, working: set[Connection]
) -> bool:
    """Run a NO TRANSACTION file on a connection of its own, which `working` holds so that it can be cancelled.

    `connection` writes the history. Returns False when another runner was faster; raises psycopg's errors, and MigrationError
    where it stopped half way.
    """
    with _own_connection(connection, tenant, limits) as own, _noted(own, working):
        return _apply(own, connection, tenant, *step, run)


@contextmanager
def _own_connection(connection: Connection, tenant: Tenant, limits: Limits) -> Iterator[Connection]:
    """Connect as `connection` did, in a session that belongs to one tenant and is thrown away."""
    dsn, password = connection.info.dsn, connection.info.password or None
    with psycopg.connect(dsn, password=password, autocommit=True, application_name="erpkit") as own:
        own.execute(f"SET search_path TO {search_path(tenant.schema)}".encode())
        own.execute(f"SET lock_timeout TO {int(limits.lock_timeout * 1000)}".encode())
        own.execute(f"SET statement_timeout TO {int(limits.statement_timeout * 1000)}".encode())
        own.execute("SET client_min_messages TO warning")
        yield own


@contextmanager
def _noted(connection: Connection, working: set[Connection]) -> Iterator[None]:
    working.add(connection)
    try:
        yield
    finally:
        working.discard(connection)


def _apply(
    own: Connection, connection: Connection, tenant: Tenant, migration: Migration, direction: Direction, run: Run
) -> bool:
    own.execute(lock_schema(tenant, session=True).encode())
    own.execute(check_schema(tenant).encode())
    own.execute(create_version_table(tenant, migration).encode())
    if own.execute(f"SELECT {is_done(tenant, migration, direction)}".encode()).fetchone() == (True,):
        return False
    record(connection, tenant, migration, direction, run, "running")
    own.execute(f"SELECT {note_start(session=True)}".encode())
    own.execute(
        "SET lock_timeout TO 0"
    )  # CREATE INDEX CONCURRENTLY waits for older transactions, and would leave an invalid index
    _run_statements(own, connection, tenant, migration, direction, run)
    own.execute(record_done(tenant, migration, direction, run).encode())
    return True


def _run_statements(
    own: Connection, connection: Connection, tenant: Tenant, migration: Migration, direction: Direction, run: Run
) -> None:
    started, ended = time.perf_counter(), 0
    statements = migration.content.statements(direction)
    give = give_to_owner(tenant.schema).encode()
    try:
        for statement in statements:
            own.execute(statement.encode())
            ended += 1
        own.execute(give)
    except psycopg.Error as error:
        with suppress(psycopg.Error):  # so that any operator can mend what it left half way
            own.rollback()
            own.execute(give)
        text = f"statement {ended + 1} of {len(statements)} failed: {message_of(error, migration)}"
        name_grant(connection, error)
        text += "".join(f"; {note}" for note in getattr(error, "__notes__", []))
        text += describe_invalid_indexes(connection, tenant)
        milliseconds = 1000 * (time.perf_counter() - started)
        with suppress(psycopg.Error):  # the server may be gone; the entry that says it was begun remains
            record(connection, tenant, migration, direction, run, "stopped", milliseconds=milliseconds, error=text)
        raise MigrationError(f"tenant {tenant.slug}: {file_of(migration)} stopped half way: {text}") from error


def is_lost(error: BaseException | None) -> bool:
    """Tell whether the connection was lost, or none could be had, rather than a statement refused."""
    if isinstance(error, DatabaseError):
        return True
    state = error.sqlstate if isinstance(error, psycopg.OperationalError) else ""
    return state is None or state.startswith(("08", "57P"))


def explain(tenant: Tenant, migration: Migration, error: BaseException, limits: Limits, tries: int = 1) -> str:
    """Say in one line what went wrong, with the name of the tenant and the file, and what to do where that is known.

    `tries` is how often a lock was asked for.
    """
    if NO_SCHEMA in str(error) or NO_SCHEMA in getattr(error, "__notes__", ()):
        return f"tenant {tenant.slug}: its schema {tenant.schema} does not exist any more: it was dropped or renamed"
    reason = message_of(error, migration)
    if isinstance(error, psycopg.errors.InsufficientPrivilege):
        reason = "; ".join([reason, *getattr(error, "__notes__", [])])
    elif isinstance(error, psycopg.errors.LockNotAvailable):
        notes = "; ".join(getattr(error, "__notes__", [])[-1:])
        reason = f"could not get a lock within {limits.lock_timeout:g} s, tried {tries} times{notes}"
    elif isinstance(error, psycopg.errors.QueryCanceled) and limits.statement_timeout:
        reason += f" (limit {limits.statement_timeout:g} s)"
    return f"tenant {tenant.slug}: {file_of(migration)} failed: {reason}"


def note_missing_schema(connection: Connection, tenant: Tenant, error: psycopg.Error) -> None:
    """Note it on an error about a missing table or schema if it is the tenant's own schema that does not exist."""
    if not isinstance(error, psycopg.errors.InvalidSchemaName | psycopg.errors.UndefinedTable):
        return
    found = connection.execute("SELECT 1 FROM pg_catalog.pg_namespace WHERE nspname = %s", [tenant.schema])
    if found.fetchone() is None:
        error.add_note(NO_SCHEMA)


def message_of(error: BaseException, migration: Migration) -> str:
    """Return PostgreSQL's message and detail in one line; only the kind of error where a secret could be in it."""
    if not isinstance(error, psycopg.Error):
        return str(error)
    if migration.content.uses_environment:
        return f"{type(error).__name__} ({error.sqlstate}); the text is left out, as values of the environment may be in it"
    lines = (error.diag.message_primary or str(error)).strip().splitlines() or [type(error).__name__]
    return f"{lines[0]} ({error.diag.message_detail})" if error.diag.message_detail else lines[0]


def file_of(migration: Migration) -> str:
    """Name a migration's file for people: module and file."""
    return f"{migration.module}/{migration.path.name}"


def describe_holders(connection: Connection, tenant: Tenant, tables: Sequence[str] = ()) -> str:
    """Say which transactions hold locks on a tenant's objects, or its migration lock, or write to `tables` as well.

    Empty where none does. Their statements are left out: they may hold secrets.
    """
    try:
        rows = connection.execute(_HOLDERS, {"schema": tenant.schema, "tables": list(tables)}).fetchall()
    except psycopg.Error:  # the holders are extra information only
        return ""
    return f"; held by {', '.join(_describe_holder(*row) for row in rows)}" if rows else ""


def _describe_holder(
    pid: int, user: str, app: str, state: str | None, seconds: float | None, query_seconds: float | None
) -> str:
    who = f"{user}, {app}".encode("unicode_escape").decode()  # the name of a role may hold control characters
    if not pid:
        return f"a prepared transaction ({who}, for {seconds or 0:.0f} s)"
    statement = f", last statement begun {query_seconds:.0f} s ago" if query_seconds is not None else ""
    return f"process {pid} ({who}, {state or 'state unknown'} for {seconds or 0:.0f} s{statement})"


def describe_invalid_indexes(connection: Connection, tenant: Tenant) -> str:
    """Name the invalid indexes that a failed CREATE INDEX CONCURRENTLY leaves, and how to remove them."""
    try:
        names = [name for (name,) in connection.execute(_INVALID, [tenant.schema])]
    except psycopg.Error:
        return ""
    return "".join(f"; index {name} is invalid: DROP INDEX CONCURRENTLY {name}, then run it again" for name in names)
