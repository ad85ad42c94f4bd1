"""The event log of a tenant: appended to in the business transaction, read in order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import psycopg

from erpkit.database import Connection
from erpkit.events.message import Message

__all__ = ["append", "list_events", "read_events", "to_message"]

CHANNEL = "erpkit_events"  # of NOTIFY, in the database of the tenants; what is said is the schema
_COPY_FROM = 10  # messages; COPY takes two round trips more than INSERT, and a quarter of its time a row
_LOCK_AND_NOTIFY = (
    "SELECT pg_advisory_xact_lock(hashtextextended('erpkit.append.' || current_schema(), 0)), "
    f"pg_notify('{CHANNEL}', current_schema())"
)

COLUMNS = '"offset", uuid, topic, payload, metadata, recorded_at'


def append(connection: Connection, messages: Sequence[Message]) -> None:
    """Write `messages` to the log of the tenant whose transaction `connection` is in; the last step before its commit.

    The tenant's lock is held until that commit, so that offsets become visible in their order and no reader skips one. A
    message whose uuid is in the log already is left out. The commit wakes the workers that listen on `erpkit_events`.
    """
    if not messages:
        return
    if len(messages) < _COPY_FROM:
        with connection.pipeline():
            connection.execute(_LOCK_AND_NOTIFY)
            _insert(connection, messages)
        return
    connection.execute(_LOCK_AND_NOTIFY)
    try:
        with connection.transaction():
            _copy(connection, messages)
    except psycopg.errors.UniqueViolation:  # COPY knows no ON CONFLICT
        _insert(connection, messages)


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
    return Message(topic, payload, uuid, metadata, offset, recorded_at)
