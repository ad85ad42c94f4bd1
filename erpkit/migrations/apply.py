"""Applying one migration to one tenant: in one transaction and one round trip, or statement by statement."""

from __future__ import annotations

import time

import psycopg
from psycopg import pq
from psycopg.generators import fetch_many, send

from erpkit.database import Connection, Tenant, search_path
from erpkit.errors import MigrationError
from erpkit.migrations.faults import describe_invalid_indexes, explain, file_of, message_of
from erpkit.migrations.files import Migration
from erpkit.migrations.history import Run, ensure_history, note_start, record, record_done
from erpkit.migrations.parser import Direction
from erpkit.migrations.script import NOT_DUE, Limits, create_version_table, lock_schema, migration_message, not_due

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
) -> bool:
    """Do what `apply_migration` does, with psycopg's own errors; `new_table` makes goose's table where it is missing."""
    if not migration.content.use_transaction:
        return _apply_without_transaction(connection, tenant, migration, direction, run, limits)
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
    """Send several statements as one message of the simple protocol; return the error that ended it, if there was one."""
    connection.pgconn.send_query(message)
    connection.wait(send(connection.pgconn))
    last = connection.wait(fetch_many(connection.pgconn))[-1]
    if last.status != pq.ExecStatus.FATAL_ERROR:
        return None
    return psycopg.errors.error_from_result(last, connection.info.encoding)


def _apply_without_transaction(
    connection: Connection, tenant: Tenant, migration: Migration, direction: Direction, run: Run, limits: Limits
) -> bool:
    """Run a NO TRANSACTION file on a connection of its own, which is thrown away; `connection` writes the history."""
    dsn, password = connection.info.dsn, connection.info.password or None
    with psycopg.connect(dsn, password=password, autocommit=True, application_name="erpkit") as own:
        own.execute(f"SET search_path TO {search_path(tenant.schema)}".encode())
        own.execute(f"SET lock_timeout TO {int(limits.lock_timeout * 1000)}".encode())
        own.execute(f"SET statement_timeout TO {int(limits.statement_timeout * 1000)}".encode())
        own.execute("SET client_min_messages TO warning")
        own.execute(lock_schema(session=True).encode())
        own.execute(create_version_table(migration).encode())
        if own.execute(f"SELECT {not_due(migration, direction)}".encode()).fetchone() is not None:
            return False
        record(connection, tenant, migration, direction, run, "running")
        own.execute(note_start(session=True).encode())
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
        record(connection, tenant, migration, direction, run, "stopped", milliseconds=milliseconds, error=text)
        raise MigrationError(f"tenant {tenant.slug}: {file_of(migration)} stopped half way: {text}") from error
