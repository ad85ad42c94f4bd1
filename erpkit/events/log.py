"""The event log of a tenant: appended to in the business transaction, read in order."""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any
from uuid import UUID

import psycopg

from erpkit.database import Connection, Tenant
from erpkit.errors import DatabaseError, ErpkitError, UsageError
from erpkit.events.message import Message, fields_of
from erpkit.near import find_near
from erpkit.table import Column


def append_lock(schema: str) -> str:
    """Return, as SQL, the key of the lock that an append holds until its commit; `schema` is an SQL expression."""
    return f"hashtextextended('erpkit.append.' || {schema}, 0)"


def polled_lock(schema: str) -> str:
    """Return, as SQL, the key of the lock that a worker shares while it polls a tenant."""
    return f"hashtextextended('erpkit.awake.' || {schema}, 0)"


CHANNEL = "erpkit_events"  # of NOTIFY, in the database of the tenants; what is said is the schema
_COPY_FROM = 10  # messages; COPY takes two round trips more than INSERT, and a quarter of its time a row
# The log's trigger gives rows of programs that do not hold the lock another offset as they commit; see 00010_operating.sql.
_LOCK = (
    f"SELECT pg_advisory_xact_lock({append_lock('current_schema()')}), "
    "set_config('erpkit.append', 'erpkit_events'::regclass::oid::text, true)"
)
# Only where no worker polls the tenant, and after the lock, as such a worker asks whether an append has that.
_NOTIFY = (
    f"SELECT CASE WHEN pg_try_advisory_xact_lock({polled_lock('current_schema()')}) "
    f"THEN pg_notify('{CHANNEL}', current_schema()) END"
)

EVENT_COLUMNS = (
    Column[Message]("offset", lambda event: event.offset),
    Column[Message]("topic", lambda event: event.topic),
    Column[Message](
        "recorded", lambda event: event.recorded_at and f"{event.recorded_at:%Y-%m-%d %H:%M:%S}", minor=True
    ),
    Column[Message]("uuid", lambda event: event.uuid, minor=True),
)
PAYLOAD_COLUMN = Column[Message]("payload", lambda event: fields_of(event.payload))
COLUMNS = '"offset", uuid, topic, payload, metadata, recorded_at'
EVENT = ", ".join(f"e.{name}" for name in COLUMNS.split(", "))  # the same of a table that is called e


def append(connection: Connection, messages: Sequence[Message]) -> None:
    """Write `messages` to the log of the tenant whose transaction `connection` is in; the last step before its commit.

    The tenant's lock is held until that commit, so that offsets become visible in their order and no reader skips one. A
    message whose uuid is in the log already is left out. The commit wakes the workers that listen on `erpkit_events`, unless
    one of them polls this tenant.
    """
    if not messages:
        return
    with connection.pipeline():
        connection.execute(_LOCK)
        announce(connection)
        if len(messages) < _COPY_FROM:
            _insert(connection, messages)
            return
    try:
        with connection.transaction():
            _copy(connection, messages)
    except psycopg.errors.UniqueViolation:  # COPY knows no ON CONFLICT
        _insert(connection, messages)


def announce(connection: Connection) -> None:
    """Make the commit wake a worker for the tenant of the transaction, unless one polls it."""
    connection.execute(_NOTIFY)


def _insert(connection: Connection, messages: Sequence[Message]) -> None:
    connection.execute(
        "INSERT INTO erpkit_events (uuid, topic, payload, metadata) "
        "SELECT * FROM unnest(%s::uuid[], %s::text[], %s::jsonb[], %s::jsonb[]) ON CONFLICT (uuid) DO NOTHING",
        [list(column) for column in zip(*map(_row, messages), strict=True)],
    )


def _copy(connection: Connection, messages: Sequence[Message]) -> None:
    with connection.cursor().copy("COPY erpkit_events (uuid, topic, payload, metadata) FROM STDIN") as copy:
        for message in messages:
            copy.write_row(_row(message))


def _row(message: Message) -> tuple[UUID, str, str, str]:
    from pydantic_core import to_json  # noqa: PLC0415 - comes with pydantic, which is slow to import

    return message.uuid, message.topic, to_json(message.payload).decode(), to_json(message.metadata).decode()


def read_events(connection: Connection, topic: str, after: int, limit: int) -> list[Message]:
    """Read up to `limit` events of one topic that follow offset `after`."""
    rows = connection.execute(
        f'SELECT {COLUMNS} FROM erpkit_events WHERE topic = %s AND "offset" > %s ORDER BY "offset" LIMIT %s',  # noqa: S608
        [topic, after, limit],
    )
    return [to_message(row) for row in rows]


def list_events(connection: Connection, limit: int = 50) -> list[Message]:
    """Read the newest events of the log, newest first."""
    rows = connection.execute(f'SELECT {COLUMNS} FROM erpkit_events ORDER BY "offset" DESC LIMIT %s', [limit])  # noqa: S608
    return [to_message(row) for row in rows]


def to_message(row: tuple[Any, ...]) -> Message:
    """Build a message from a row of the log's `COLUMNS`."""
    offset, uuid, topic, payload, metadata, recorded_at = row
    if type(metadata) is not dict or not all(type(value) is str for value in metadata.values()):
        metadata = _as_texts(metadata)
    return Message(topic, payload, uuid, metadata, offset, recorded_at)


def _as_texts(metadata: object) -> dict[str, str]:
    """Return as text what another program wrote as metadata, which are texts by name; nothing of what has no names."""
    found = metadata if isinstance(metadata, dict) else {}
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in found.items()}


def hint_topic(pattern: str, known: Iterable[str]) -> str:
    """Say that no known topic fits a pattern, and which ones are like it; "" where one fits. Pure."""
    topics = sorted(set(known))
    if pattern == "*" or any(fnmatch.fnmatchcase(topic, pattern) for topic in topics):
        return ""
    near = [topic for topic in topics if fnmatch.fnmatchcase(topic.lower(), pattern.lower())]
    near = near or find_near(pattern.strip("*"), topics, cutoff=0.5)
    hint = f"did you mean {' or '.join(near[:3])}?" if near else f"there are {', '.join(topics) or 'no topics'}"
    return f"no topic fits {pattern!r}; {hint}"


def check_time_zones(**moments: datetime | None) -> None:
    """Raise UsageError, naming it, for a moment without a time zone: the log's times have one."""
    for name, moment in moments.items():
        if moment is not None and moment.tzinfo is None:
            raise UsageError(f"{name} = {moment.isoformat()} has no time zone: add one, +00:00 for UTC")


@contextmanager
def name_log_behind(tenant: Tenant) -> Iterator[None]:
    """Name the tenant, and what to do, where its event log lacks a table or a column, or cannot be read."""
    try:
        yield
    except (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn) as error:
        raise ErpkitError(
            f"tenant {tenant.slug}: its event log lacks migrations: run `erpkit migrate up` first ({error.diag.message_primary})"
        ) from error
    except (psycopg.errors.InsufficientPrivilege, psycopg.errors.LockNotAvailable) as error:
        raise DatabaseError(
            f"tenant {tenant.slug}: its event log cannot be read: {error.diag.message_primary}"
        ) from error
