"""Applying migrations to one tenant: in transactions that take one round trip together, or statement by statement."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

import psycopg
from psycopg import pq
from psycopg.generators import fetch_many, send

from erpkit.database import Connection, Tenant, act_as_maker, check_session, give_to_owner, search_path, shared_schemas
from erpkit.errors import MigrationError
from erpkit.migrations import golang
from erpkit.migrations.failures import (
    describe_invalid_indexes,
    explain,
    file_of,
    message_of,
    name_right,
    note_missing_schema,
)
from erpkit.migrations.files import Migration, Step
from erpkit.migrations.golang_table import (
    check_idle,
    is_done_by_golang,
    mark_dirty,
    read_mark,
    remedy_of,
    take_back_mark,
    what_is_left,
)
from erpkit.migrations.history import Run, ensure_history, note_start, read_stop, record, record_done
from erpkit.migrations.parser import Direction
from erpkit.migrations.place import Part, note_place, place_in
from erpkit.migrations.script import (
    LOCKED,
    NOT_DUE,
    SEPARATOR,
    Limits,
    body_parts,
    check_schema,
    check_scope,
    create_version_table,
    is_atomic,
    is_done,
    message_parts,
    migration_message,
    try_lock,
)

# Another transaction caused these: waiting helps.
BUSY = (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected, psycopg.errors.SerializationFailure)

_FIRST_PAUSE, _LONGEST_PAUSE = 0.005, 0.1  # seconds between two tries for a schema's lock


@dataclass(frozen=True)
class Sent:
    """What became of the steps of one message: `done` were committed; the next one was `not_due`, or ended in `error`.

    `is_clean` says that the session is as new, and may be another tenant's.
    """

    done: int
    not_due: bool = False
    error: psycopg.Error | None = None
    is_clean: bool = False


def apply_migration(connection: Connection, tenant: Tenant, migration: Migration) -> bool:
    """Apply one migration to one tenant under the schema's advisory lock, and record it in goose's table and the history.

    Returns False where another runner has applied it already. `connection` is in autocommit mode. Raises MigrationError, naming the
    tenant and the file, and leaves the tenant at a whole version. A NO TRANSACTION file that fails half way is recorded as
    stopped there, as nothing can roll it back.
    """
    ensure_history(connection)
    check_own_sessions(connection, [migration])
    limits, run = Limits(), Run("apply")
    try:
        if not migration.content.use_transaction:
            return all(apply_without_transaction(connection, tenant, [(migration, "up")], run, limits, set()))
        sent = send_steps(connection, tenant, [(migration, "up")], run, limits, new_tables={migration.version_table})
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
    stop: threading.Event | None = None,
) -> Sent:
    """Apply steps, a transaction each, in one round trip; `is_last` says that the tenant gets no others after them.

    They act as the schema's owner, where that is the operators' role; a step that it may not do is tried again as the login.
    While another runner has the schema they are sent again and again, until the limit is over or `stop` is set. Raises
    psycopg's errors only where the connection is lost.
    """
    done = 0
    for _ in pauses(limits.lock_timeout, stop):
        sent = _send_steps(connection, tenant, steps[done:], run, limits, new_tables=new_tables, is_last=is_last)
        done += sent.done
        if LOCKED not in str(sent.error):
            return replace(sent, done=done)
    return Sent(done, error=_locked())


def pauses(seconds: float, stop: threading.Event | None = None) -> Iterator[None]:
    """Yield at once, and then again and again with pauses until `seconds` are over, never if that is 0, or `stop` is set."""
    until, pause, stop = time.monotonic() + seconds, _FIRST_PAUSE, stop or threading.Event()
    yield
    while not stop.wait(pause) and (not seconds or time.monotonic() < until):
        yield
        pause = min(2 * pause, _LONGEST_PAUSE)


def _locked() -> psycopg.Error:
    return psycopg.errors.LockNotAvailable("another session has the lock of the schema's migrations")


def wait_for_lock(
    connection: Connection,
    tenant: Tenant,
    seconds: float,
    *,
    session: bool = False,
    stop: threading.Event | None = None,
) -> None:
    """Lock other runners out of a tenant's schema, for the present transaction or the session.

    It asks again and again rather than wait in PostgreSQL: CREATE INDEX CONCURRENTLY of the runner that has the lock waits for
    whoever waits in a statement. Raises psycopg's LockNotAvailable after `seconds`, if they are not 0, or when `stop` is set.
    """
    statement = try_lock(tenant, session=session).encode()
    if not any(connection.execute(statement).fetchone() == (True,) for _ in pauses(seconds, stop)):
        raise _locked()


def _wait_for_golang(
    own: Connection, tenant: Tenant, migration: Migration, seconds: float, stop: threading.Event | None = None
) -> None:
    """Take the locks of golang-migrate's for the session, in the same way."""
    row = own.execute("SELECT current_database()").fetchone()
    for key in golang.lock_keys(row[0] if row else "", tenant.schema, migration.version_table):
        asked = (own.execute("SELECT pg_try_advisory_lock(%s)", [key]).fetchone() for _ in pauses(seconds, stop))
        if not any(answer == (True,) for answer in asked):
            raise psycopg.errors.LockNotAvailable(
                f"another session has {golang.TOOL}'s lock on {migration.version_table}"
            )


def _send_steps(
    connection: Connection,
    tenant: Tenant,
    steps: Sequence[Step],
    run: Run,
    limits: Limits,
    *,
    new_tables: Collection[str],
    is_last: bool,
    as_login: bool = False,
) -> Sent:
    how: dict[str, Any] = {
        "new_tables": new_tables,
        "is_last": is_last,
        "as_login": as_login,
        "shared": shared_schemas(connection),
    }
    done, count, error = _send(connection, migration_message(tenant, steps, run, limits, **how), len(steps))
    if error is None:
        return Sent(done, is_clean=is_last)
    if not connection.closed:
        connection.rollback()
    if LOCKED in str(error):
        return Sent(done, error=error)
    if NOT_DUE in str(error):
        return Sent(done, not_due=True)
    if isinstance(error, psycopg.errors.InsufficientPrivilege):
        if not as_login and tenant.owner is None:
            left = steps[done:]
            sent = _send_steps(
                connection, tenant, left, run, limits, new_tables=new_tables, is_last=is_last, as_login=True
            )  # fmt: skip
            return replace(sent, done=done + sent.done)
        name_right(connection, tenant, error)
    note_missing_schema(connection, tenant, error)
    note_place(error, place_in(message_parts(tenant, steps, run, limits, **how), SEPARATOR, count, error))
    return Sent(done, error=error)


def _send(connection: Connection, message: bytes, transactions: int) -> tuple[int, int, psycopg.Error | None]:
    """Send a message of the simple protocol; return how many transactions were committed, how many statements were done, and the
    error that ended it.

    Only the answer to COMMIT says that it was done: a COPY, for one, leaves the message half way without an error.
    """
    connection.pgconn.send_query(message)
    connection.wait(send(connection.pgconn))
    results = connection.wait(fetch_many(connection.pgconn))
    done, last = sum(result.command_status == b"COMMIT" for result in results), results[-1]
    count = len(results) - 1
    if last.status == pq.ExecStatus.FATAL_ERROR:
        return done, count, psycopg.errors.error_from_result(last, connection.info.encoding)
    if done == transactions:
        return done, count, None
    connection.close()  # rolls back, whatever state the session is in
    return done, count, psycopg.ProgrammingError(f"it ended before its COMMIT, at {pq.ExecStatus(last.status).name}")


def send_body(connection: Connection, tenant: Tenant, step: Step, run: Run) -> None:
    """Apply a migration in the present transaction, which is scoped to the tenant; raises psycopg's errors, with the place."""
    parts = body_parts(tenant, step, run)
    _, count, error = _send(connection, SEPARATOR.join(part.text for part in parts).encode(), 0)
    if error is not None:
        note_place(error, place_in(parts, SEPARATOR, count, error))
        raise error


def check_own_sessions(connection: Connection, migrations: Iterable[Migration]) -> None:
    """Raise UsageError where a pooler is in between and one of `migrations` is a NO TRANSACTION file, which needs a session."""
    own = [migration for migration in migrations if not migration.content.use_transaction]
    if own:
        check_session(connection, f"{file_of(own[0])}, a NO TRANSACTION file,")


def apply_without_transaction(
    connection: Connection,
    tenant: Tenant,
    steps: Sequence[Step],
    run: Run,
    limits: Limits,
    working: set[Connection],
    stop: threading.Event | None = None,
) -> Generator[bool]:
    """Run a NO TRANSACTION file, or files of golang-migrate's with one version table, on a connection of their own.

    `working` holds that, so that it can be cancelled; `connection` writes the history. Yields after each step whether it was done
    here, False when another runner was faster; raises psycopg's errors, and MigrationError where it stopped half way, now or before.
    """
    with _own_connection(connection, tenant, limits) as own, _noted(own, working):
        wait_for_lock(own, tenant, limits.lock_timeout, session=True, stop=stop)
        if steps[0][0].golang is not None:
            _wait_for_golang(own, tenant, steps[0][0], limits.lock_timeout, stop)
        for step in steps:
            yield _apply(own, connection, tenant, step, run, limits)


def force_mark(
    connection: Connection,
    tenant: Tenant,
    migration: Migration,
    marks: tuple[golang.Mark, golang.Mark],
    run: Run,
    limits: Limits,
) -> None:
    """Set golang-migrate's version from the first of `marks` to the second, and record it; `migration` is one of the module.

    Raises MigrationError where it stands elsewhere by now, and psycopg's errors.
    """
    with _own_connection(connection, tenant, limits) as own:
        wait_for_lock(own, tenant, limits.lock_timeout, session=True)
        _wait_for_golang(own, tenant, migration, limits.lock_timeout)
        own.execute(check_schema(tenant).encode())
        own.execute(create_version_table(tenant, migration).encode())
        own.execute(give_to_owner(tenant.schema).encode())
        if (present := read_mark(own, tenant, migration)) != marks[0]:
            raise MigrationError(f"it is at {present} by now, and was at {marks[0]}: plan again")
        with own.transaction():
            own.execute(golang.set_mark(tenant.schema, migration.version_table, marks[1]).encode())
            forced = replace(migration, version=marks[1].version)
            record(own, tenant, forced, "up", run, "done", error=f"forced from {marks[0]}: nothing was run")


@contextmanager
def _own_connection(connection: Connection, tenant: Tenant, limits: Limits) -> Iterator[Connection]:
    """Connect as `connection` did, in a session that belongs to one tenant and is thrown away."""
    dsn, password = connection.info.dsn, connection.info.password or None
    with psycopg.connect(dsn, password=password, autocommit=True, application_name="erpkit") as own:
        own.execute(f"SET search_path TO {search_path(tenant.schema, shared_schemas(connection))}".encode())
        own.execute(f"SET lock_timeout TO {int(limits.lock_timeout * 1000)}".encode())
        own.execute(f"SET statement_timeout TO {int(limits.statement_timeout * 1000)}".encode())
        own.execute("SET client_min_messages TO warning")
        if tenant.owner is not None:
            own.execute(act_as_maker(tenant, session=True).encode())
        yield own


@contextmanager
def _noted(connection: Connection, working: set[Connection]) -> Iterator[None]:
    working.add(connection)
    try:
        yield
    finally:
        working.discard(connection)


def _apply(own: Connection, connection: Connection, tenant: Tenant, step: Step, run: Run, limits: Limits) -> bool:
    migration, direction = step
    own.execute(check_schema(tenant).encode())
    own.execute(create_version_table(tenant, migration).encode())
    if _is_done(own, tenant, migration, direction):
        return False
    stopped = "" if migration.golang else read_stop(connection, tenant, migration, direction, run)
    if stopped:  # since the plan was made
        raise MigrationError(f"tenant {tenant.slug}: {file_of(migration)} was not run again: dirty: {stopped}")
    record(connection, tenant, migration, direction, run, "running")
    own.execute(f"SELECT {note_start(session=True)}".encode())
    if migration.golang is not None:
        mark_dirty(own, tenant, migration, direction)
    # CREATE INDEX CONCURRENTLY waits for older transactions, and would leave an invalid index.
    seconds = limits.lock_timeout if is_atomic(migration, direction) else 0
    own.execute(f"SET lock_timeout TO {int(seconds * 1000)}".encode())
    _run_statements(own, connection, tenant, migration, direction, run)
    own.execute(f"BEGIN;\n{record_done(tenant, migration, direction, run)};\nCOMMIT".encode())
    return True


def _is_done(own: Connection, tenant: Tenant, migration: Migration, direction: Direction) -> bool:
    if migration.golang is not None:
        return is_done_by_golang(own, tenant, migration, direction)
    return own.execute(f"SELECT {is_done(tenant, migration, direction)}".encode()).fetchone() == (True,)


def _execute(own: Connection, text: str) -> tuple[int, psycopg.Error | None]:
    """Send one text, which may hold several statements; return how many of them were answered, and the error that ended it."""
    own.pgconn.send_query(text.encode())
    own.wait(send(own.pgconn))
    results = own.wait(fetch_many(own.pgconn))
    last = results[-1]
    if last.status == pq.ExecStatus.FATAL_ERROR:
        return len(results) - 1, psycopg.errors.error_from_result(last, own.info.encoding)
    if last.status in (pq.ExecStatus.COPY_IN, pq.ExecStatus.COPY_OUT):
        own.close()
        return len(results) - 1, psycopg.ProgrammingError("COPY to or from a client cannot be used in a migration")
    return len(results), None


def _run_statements(
    own: Connection, connection: Connection, tenant: Tenant, migration: Migration, direction: Direction, run: Run
) -> None:
    started, ended, answered = time.perf_counter(), 0, 0
    statements = migration.content.statements(direction)
    give, check = give_to_owner(tenant.schema).encode(), check_scope(tenant)
    is_whole = is_atomic(
        migration, direction
    )  # then the check is a part of its transaction, which rolls back what is elsewhere
    try:
        for statement in statements:
            answered, failure = _execute(own, SEPARATOR.join((statement, check)) if is_whole else statement)
            if failure is not None:
                raise failure
            own.execute(check.encode())  # before the next one makes something elsewhere
            ended += 1
        if migration.golang is not None:
            check_idle(own)
        own.execute(give)
    except psycopg.Error as error:
        with suppress(psycopg.Error):  # so that any operator can mend what it left half way
            own.rollback()
            own.execute(give)
        if ended < len(statements):
            step = (migration, direction)
            note_place(error, place_in([Part(statements[ended], step, ended)], "", answered, error))
        if isinstance(error, BUSY) and is_atomic(migration, direction):
            take_back_mark(own, tenant, migration, direction)
            raise
        text = f"statement {ended + 1:,} of {len(statements):,} failed: {message_of(error, migration)}"
        name_right(connection, tenant, error)
        text += "".join(f"; {note}" for note in getattr(error, "__notes__", []))
        text += describe_invalid_indexes(connection, tenant)
        text += what_is_left(migration, direction)
        milliseconds = 1000 * (time.perf_counter() - started)
        with suppress(psycopg.Error):  # the server may be gone; the entry that says it was begun remains
            record(connection, tenant, migration, direction, run, "stopped", milliseconds=milliseconds, error=text)
        text += remedy_of(migration)
        raise MigrationError(
            f"tenant {tenant.slug}: {file_of(migration, direction)} stopped half way: {text}"
        ) from error
