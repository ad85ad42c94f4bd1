"""Forwarding a tenant's log to the broker: at least once, in order, from a checkpoint of its own."""

from __future__ import annotations

from dataclasses import dataclass

from erpkit.database import Database, Tenant
from erpkit.events.brokers.broker import Broker
from erpkit.events.checkpoints import move_checkpoint, read_batch
from erpkit.events.consumer import ConsumerGroup
from erpkit.events.orphans import FORWARDERS

BATCH = 500


@dataclass(frozen=True)
class Forwarded:
    """How many events of a tenant were forwarded, and the offset of the last one that the broker has acknowledged."""

    tenant: str
    events: int
    offset: int


def forward_group(broker: Broker) -> str:
    """Return the consumer group that stands for a broker in `erpkit_checkpoints`."""
    return f"{FORWARDERS}{broker.scheme}"


def forward(database: Database, tenant: Tenant, broker: Broker, *, batch: int = BATCH) -> Forwarded:
    """Publish what follows the broker's checkpoint in the tenant's log, until nothing is left.

    The checkpoint moves once the broker has acknowledged the whole batch. After a fault a batch is published again, under
    the same message ids. Where another forwarder works on the tenant, this one does nothing there. Raises BrokerError.
    """
    events = 0
    while True:
        count, offset = _forward_batch(database, tenant, broker, batch)
        events += count
        if count < batch:
            return Forwarded(tenant.slug, events, offset)


def _forward_batch(database: Database, tenant: Tenant, broker: Broker, limit: int) -> tuple[int, int]:
    """Publish one batch; return how many events it had, and the checkpoint after it."""
    group = ConsumerGroup(forward_group(broker), ())
    with database.tenant_transaction(tenant, write=True) as connection:
        checkpoint, messages = read_batch(connection, group, limit)
        if not messages:
            return 0, checkpoint.offset
        broker.publish(tenant.slug, messages)
        last = messages[-1].offset or 0
        move_checkpoint(connection, group, last)
    return len(messages), last
