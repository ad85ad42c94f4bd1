"""Forwarding a tenant's log to the broker: at least once, in order, from a checkpoint of its own."""

from __future__ import annotations

from dataclasses import dataclass

from erpkit.database import Connection, Database, Tenant
from erpkit.events.brokers.broker import Broker
from erpkit.events.checkpoints import group_lock
from erpkit.events.log import COLUMNS, to_message
from erpkit.events.message import Message

BATCH = 500


@dataclass(frozen=True)
class Forwarded:
    """How many events of a tenant were forwarded, and the offset of the last one that the broker has acknowledged."""

    tenant: str
    events: int
    offset: int


def forward_group(broker: Broker) -> str:
    """Return the consumer group that stands for a broker in `erpkit_checkpoints`."""
    return f"forward.{broker.scheme}"


def forward(database: Database, tenant: Tenant, broker: Broker, *, batch: int = BATCH) -> Forwarded:
    """Publish what follows the broker's checkpoint in the tenant's log, until nothing is left.

    The checkpoint moves once the broker has acknowledged the whole batch. After a fault a batch is published again, under
    the same message ids. Another forwarder on the same tenant is left to its work. Raises BrokerError.
    """
    events = 0
    while True:
        count, offset = _forward_batch(database, tenant, broker, batch)
        events += count
        if count < batch:
            return Forwarded(tenant.slug, events, offset)


def _forward_batch(database: Database, tenant: Tenant, broker: Broker, limit: int) -> tuple[int, int]:
    group = forward_group(broker)
    with database.tenant_transaction(tenant, write=True) as connection:
        after = _checkpoint(connection, group)
        if not _lock(connection, group):
            return 0, after
        after = _checkpoint(connection, group)  # the one before the lock may have been moved since
        messages = _read(connection, after, limit)
        if not messages:
            return 0, after
        broker.publish(tenant.slug, messages)
        last = messages[-1].offset or 0
        _move_checkpoint(connection, group, last)
    return len(messages), last


def _read(connection: Connection, after: int, limit: int) -> list[Message]:
    rows = connection.execute(
        f'SELECT {COLUMNS} FROM erpkit_events WHERE "offset" > %s ORDER BY "offset" LIMIT %s',  # noqa: S608
        [after, limit],
    )
    return [to_message(row) for row in rows]


def _lock(connection: Connection, group: str) -> bool:
    query = f"SELECT pg_try_advisory_xact_lock({group_lock('current_schema()', '%s')})"
    return connection.execute(query, [group]).fetchone() == (True,)


def _checkpoint(connection: Connection, group: str) -> int:
    row = connection.execute('SELECT "offset" FROM erpkit_checkpoints WHERE consumer_group = %s', [group]).fetchone()
    return row[0] if row else 0


def _move_checkpoint(connection: Connection, group: str, offset: int) -> None:
    connection.execute(
        'INSERT INTO erpkit_checkpoints (consumer_group, "offset") VALUES (%s, %s) '
        'ON CONFLICT (consumer_group) DO UPDATE SET "offset" = EXCLUDED."offset", updated_at = now()',
        [group, offset],
    )
