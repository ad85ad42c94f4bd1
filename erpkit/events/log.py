"""The event log of a tenant: appended to in the business transaction, read in order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from psycopg.types.json import Jsonb

from erpkit.database import Connection
from erpkit.events.message import Message

__all__ = ["append", "list_events", "read_events", "to_message"]

COLUMNS = '"offset", uuid, topic, payload, metadata, recorded_at'


def append(connection: Connection, messages: Sequence[Message]) -> None:
    """Write `messages` to the log of the tenant whose transaction `connection` is in; the last step before its commit.

    The tenant's lock is held until that commit, so that offsets become visible in their order and no reader skips one. A
    message whose uuid is in the log already is left out.
    """
    if not messages:
        return
    with connection.pipeline():
        connection.execute("SELECT pg_advisory_xact_lock(hashtextextended('erpkit.append.' || current_schema(), 0))")
        connection.execute(
            "INSERT INTO erpkit_events (uuid, topic, payload, metadata) "
            "SELECT * FROM unnest(%s::uuid[], %s::text[], %s::jsonb[], %s::jsonb[]) ON CONFLICT (uuid) DO NOTHING",
            [
                [message.uuid for message in messages],
                [message.topic for message in messages],
                [Jsonb(message.payload) for message in messages],
                [Jsonb(message.metadata) for message in messages],
            ],
        )


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
