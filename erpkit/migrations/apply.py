"""Applying migrations to one tenant: in transactions that take one round trip together, or statement by statement."""

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
from erpkit.errors import MigrationError
from erpkit.migrations.faults import describe_invalid_indexes, explain, file_of, message_of, note_missing_schema
from erpkit.migrations.files import Migration, Step
from erpkit.migrations.history import Run, ensure_history, note_start, record, record_done
from erpkit.migrations.parser import Direction
from erpkit.migrations.script import (
    NOT_DUE,
    Limits,
    check_schema,
    create_version_table,
    is_done,
    lock_schema,
    migration_message,
)

__all__ = ["Sent", "apply_migration", "apply_without_transaction", "send_steps"]


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

    Returns False when another runner was faster. `connection` is in autocommit mode. Raises MigrationError, naming the
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
    connection.close()  # which rolls back, whatever it is in the middle of
    return done, psycopg.ProgrammingError(
        f"it did not come to its COMMIT, but ended at {pq.ExecStatus(last.status).name}"
    )


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
    )  # CREATE INDEX CONCURRENTLY waits for older transactions, and ends invalid without
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
        with suppress(psycopg.Error):  # what it left half way is for another operator to mend, too
            own.rollback()
            own.execute(give)
        text = f"statement {ended + 1} of {len(statements)} failed: {message_of(error, migration)}"
        name_grant(connection, error)
        text += "".join(f"; {note}" for note in getattr(error, "__notes__", []))
        text += describe_invalid_indexes(connection, tenant)
        milliseconds = 1000 * (time.perf_counter() - started)
        with suppress(psycopg.Error):  # the server may be gone; the entry that it was begun stands
            record(connection, tenant, migration, direction, run, "stopped", milliseconds=milliseconds, error=text)
        raise MigrationError(f"tenant {tenant.slug}: {file_of(migration)} stopped half way: {text}") from error
