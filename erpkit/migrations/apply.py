"""Applying one migration to one tenant: in one transaction and one round trip, or statement by statement."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psycopg
from psycopg import pq
from psycopg.generators import fetch_many, send

from erpkit.database import Connection, Tenant, search_path
from erpkit.errors import MigrationError
from erpkit.migrations.faults import describe_invalid_indexes, explain, file_of, message_of
from erpkit.migrations.files import Migration
from erpkit.migrations.history import Run, ensure_history, note_start, record, record_done
from erpkit.migrations.parser import Direction
from erpkit.migrations.script import (
    NOT_DUE,
    Limits,
    check_schema,
    create_version_table,
    lock_schema,
    migration_message,
    not_due,
)

__all__ = ["apply_migration", "apply_step"]


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
    limits = limits or Limits()
    try:
        return apply_step(connection, tenant, migration, direction, Run("apply"), limits)
    except psycopg.Error as error:
        raise MigrationError(explain(tenant, migration, error, limits)) from error


def apply_step(
    connection: Connection,
    tenant: Tenant,
    migration: Migration,
    direction: Direction,
    run: Run,
    limits: Limits,
    *,
    new_table: bool = True,
    working: set[Connection] | None = None,
) -> bool:
    """Do what `apply_migration` does, with psycopg's own errors; `new_table` makes goose's table where it is missing.

    `working` holds, while it runs, the connection that a NO TRANSACTION migration has of its own, so that it can be cancelled.
    """
    if not migration.content.use_transaction:
        with _own_connection(connection, tenant, limits) as own, _noted(own, working if working is not None else set()):
            return _apply_without_transaction(own, connection, tenant, migration, direction, run)
    message = migration_message(tenant, migration, direction, run, limits, new_table=new_table)
    error = send_message(connection, message)
    if error is None:
        return True
    if not connection.closed:
        connection.rollback()
    if NOT_DUE in str(error):
        return False
    raise error


def send_message(connection: Connection, message: bytes) -> psycopg.Error | None:
    """Send a transaction as one message of the simple protocol; return the error that ended it, if there was one.

    Only the answer to COMMIT says that it was done: a COPY, for one, leaves the message half way without an error.
    """
    connection.pgconn.send_query(message)
    connection.wait(send(connection.pgconn))
    last = connection.wait(fetch_many(connection.pgconn))[-1]
    if last.status == pq.ExecStatus.FATAL_ERROR:
        return psycopg.errors.error_from_result(last, connection.info.encoding)
    if last.command_status == b"COMMIT":
        return None
    connection.close()  # which rolls back, whatever it is in the middle of
    return psycopg.ProgrammingError(f"it did not come to its COMMIT, but ended at {pq.ExecStatus(last.status).name}")


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


def _apply_without_transaction(
    own: Connection, connection: Connection, tenant: Tenant, migration: Migration, direction: Direction, run: Run
) -> bool:
    """Run a NO TRANSACTION file on a connection of its own; `connection` writes the history."""
    own.execute(lock_schema(tenant, session=True).encode())
    own.execute(check_schema(tenant).encode())
    own.execute(create_version_table(tenant, migration).encode())
    if own.execute(f"SELECT {not_due(tenant, migration, direction)}".encode()).fetchone() is not None:
        return False
    record(connection, tenant, migration, direction, run, "running")
    own.execute(note_start(session=True).encode())
    own.execute(
        "SET lock_timeout TO 0"
    )  # CREATE INDEX CONCURRENTLY waits for older transactions, and ends invalid without
    _run_statements(own, connection, tenant, migration, direction, run)
    own.execute(record_done(tenant, migration, direction, run))
    return True


def _run_statements(
    own: Connection, connection: Connection, tenant: Tenant, migration: Migration, direction: Direction, run: Run
) -> None:
    started, ended = time.perf_counter(), 0
    statements = migration.content.statements(direction)
    try:
        for statement in statements:
            own.execute(statement.encode())
            ended += 1
    except psycopg.Error as error:
        text = f"statement {ended + 1} of {len(statements)} failed: {message_of(error, migration)}"
        text += describe_invalid_indexes(connection, tenant)
        milliseconds = 1000 * (time.perf_counter() - started)
        with suppress(psycopg.Error):  # the server may be gone; the entry that it was begun stands
            record(connection, tenant, migration, direction, run, "stopped", milliseconds=milliseconds, error=text)
        raise MigrationError(f"tenant {tenant.slug}: {file_of(migration)} stopped half way: {text}") from error
