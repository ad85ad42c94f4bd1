"""Parking: it keeps the order of an aggregate's events by holding back those behind a dead letter until it is closed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from erpkit.database import Connection, Errors, Tenant, read_tables
from erpkit.events.consumer import Consumer
from erpkit.events.log import COLUMNS, to_message
from erpkit.events.message import Message, decode_message
from erpkit.table import Column

_BATCH = 500

_ANY = (
    "SELECT EXISTS (SELECT 1 FROM erpkit_dead_letters WHERE handler = %(handler)s AND status = 'open' AND aggregate IS NOT NULL) "
    "OR EXISTS (SELECT 1 FROM erpkit_parked WHERE handler = %(handler)s)"
)

# An event waits while an earlier one of its aggregate does, as a dead letter or parked itself. One that a broker brought knows its
# place in the log by its uuid.
_PARK = """
WITH blocked AS (
    SELECT m.uuid, m."offset", m.aggregate
      FROM (SELECT u.uuid, coalesce(u."offset", e."offset") AS "offset", u.aggregate
              FROM unnest(%(uuids)s::uuid[], %(offsets)s::bigint[], %(aggregates)s::text[]) u (uuid, "offset", aggregate)
              LEFT JOIN erpkit_events e ON u."offset" IS NULL AND e.uuid = u.uuid) m
     WHERE EXISTS (SELECT 1 FROM erpkit_dead_letters d WHERE d.handler = %(handler)s AND d.status = 'open'
                      AND d.aggregate = m.aggregate AND d."offset" < m."offset")
        OR EXISTS (SELECT 1 FROM erpkit_parked p WHERE p.handler = %(handler)s
                      AND p.aggregate = m.aggregate AND p."offset" < m."offset")
), parked AS (
    INSERT INTO erpkit_parked (handler, uuid, "offset", aggregate)
    SELECT %(handler)s, uuid, "offset", aggregate FROM blocked ON CONFLICT (handler, uuid) DO NOTHING
)
SELECT uuid FROM blocked
"""

_RELEASE = f"""
WITH freed AS (
    DELETE FROM erpkit_parked WHERE handler = %(handler)s AND uuid IN (
        SELECT p.uuid FROM erpkit_parked p JOIN erpkit_events e ON e.uuid = p.uuid
         WHERE p.handler = %(handler)s AND NOT EXISTS (
               SELECT 1 FROM erpkit_dead_letters d WHERE d.handler = p.handler AND d.status = 'open'
                  AND d.aggregate = p.aggregate AND d."offset" < p."offset")
         ORDER BY p."offset" LIMIT %(limit)s)
    RETURNING uuid
)
SELECT {COLUMNS} FROM erpkit_events WHERE uuid IN (SELECT uuid FROM freed) ORDER BY "offset"
"""  # noqa: S608 - the columns are a constant


@dataclass(frozen=True)
class Parked:
    """The events of one aggregate that wait, for one handler, behind a dead letter."""

    tenant: str
    handler: str
    aggregate: str
    events: int
    first_offset: int


PARKED_COLUMNS = (
    Column[Parked]("tenant", lambda one: one.tenant),
    Column[Parked]("handler", lambda one: one.handler),
    Column[Parked]("aggregate", lambda one: one.aggregate),
    Column[Parked]("events", lambda one: one.events, bar=True),
    Column[Parked]("first offset", lambda one: one.first_offset),
)


def hold_back(
    connection: Connection, consumer: Consumer, messages: Sequence[Message], most: int = _BATCH
) -> list[Message]:
    """Return what the handler may handle now: at most `most` parked events that are released, then of `messages` what is not held back.

    The others are parked in the present transaction, so that the checkpoint may move past them. A handler without `ordered_by`
    gets all of `messages`; one with it pays a lock and two look-ups in an index while nothing is blocked. Call it before each
    batch, an empty one too: that is how events are freed whose dead letter was closed by other means.
    """
    if consumer.handler.ordered_by is None:
        return list(messages)
    with connection.pipeline():
        lock_parking(connection, consumer.name)
        found = connection.execute(_ANY, {"handler": consumer.name})
    if found.fetchone() == (False,):
        return list(messages)
    rows = connection.execute(_RELEASE, {"handler": consumer.name, "limit": most}).fetchall()
    blocked = _park(connection, consumer, messages)
    return [*map(to_message, rows), *(message for message in messages if message.uuid not in blocked)]


def park_if_blocked(connection: Connection, consumer: Consumer, message: Message) -> bool:
    """Park one event if an earlier one of its aggregate became a dead letter in this batch; tell whether it was parked."""
    if consumer.handler.ordered_by is None:
        return False
    lock_parking(connection, consumer.name)
    return bool(_park(connection, consumer, [message]))


def block(connection: Connection, consumer: Consumer, message: Message) -> None:
    """Let the dead letter of `message` hold back the later events of its aggregate.

    A payload that cannot be decoded tells no aggregate, and so holds back nothing.
    """
    if consumer.handler.ordered_by is not None:
        connection.execute(
            "UPDATE erpkit_dead_letters SET aggregate = %s WHERE handler = %s AND uuid = %s",
            [aggregate_of(consumer, message), consumer.name, message.uuid],
        )


def aggregate_of(consumer: Consumer, message: Message) -> str | None:
    """Return the key by which the handler wants the event ordered; None if it is not ordered or the payload cannot be decoded."""
    ordered_by = consumer.handler.ordered_by
    if ordered_by is None:
        return None
    try:
        kind = consumer.registry.event_of(consumer.handler, message.topic)
        return str(ordered_by(decode_message(consumer.registry, kind, message)))
    except Exception:  # the handler will fail on it as well, and that is what is reported
        return None


def lock_parking(connection: Connection, handler: str) -> None:
    """Lock parking and releasing the events of this handler until the end of the transaction.

    A dispatcher that looked before a dead letter was closed would otherwise park an event after the last one was freed.
    """
    connection.execute(
        "SELECT pg_advisory_xact_lock(hashtextextended('erpkit.parking.' || current_schema() || '.' || %s, 0))",
        [handler],
    )


def list_parked(connection: Connection, tenants: Sequence[Tenant], errors: Errors | None = None) -> list[Parked]:
    """Return what is parked in all `tenants`, by tenant, handler and aggregate; `errors` is as in `read_tenants`."""
    query = 'SELECT {slug}, handler, aggregate, count(*), min("offset") FROM {schema}.erpkit_parked GROUP BY handler, aggregate'
    rows = read_tables(connection, tenants, "erpkit_parked", query, errors)
    return [Parked(*row) for row in sorted(rows)]


def _park(connection: Connection, consumer: Consumer, messages: Sequence[Message]) -> set[object]:
    """Park those that must wait, and return their uuids."""
    keys = [(message, aggregate_of(consumer, message)) for message in messages]
    ordered = [(message, key) for message, key in keys if key is not None]
    if not ordered:
        return set()
    rows = connection.execute(
        _PARK,
        {
            "handler": consumer.name,
            "uuids": [message.uuid for message, _ in ordered],
            "offsets": [message.offset for message, _ in ordered],
            "aggregates": [key for _, key in ordered],
        },
    )
    return {uuid for (uuid,) in rows}
