"""Handling events as they come from the broker: at least once, with exactly one effect, acknowledged after the commit."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from uuid import UUID

import psycopg

from erpkit.database import Connection, Database, Tenant
from erpkit.errors import DatabaseError, ErpkitError
from erpkit.events.brokers.broker import Broker, Delivery, Subscription
from erpkit.events.consumer import Consumer, ConsumerGroup, group_of
from erpkit.events.dead_letters import add_dead_letter
from erpkit.events.handling import ATTEMPTS, handle_batch
from erpkit.events.log import append
from erpkit.events.message import Message
from erpkit.events.parking import hold_back
from erpkit.modules import EventHandler, Registry

_LOOK = 0.05  # seconds between two looks at `stop`
_FORGET_TENANTS = 30  # seconds
_END_WITHIN = 10  # seconds for what is in flight when it is to stop
_STEP = 1000  # events that one statement looks at to move a checkpoint
_CRASHES = 5  # of a consumer, each time with the same event in flight

# Each consumer moves it after its commit: of two at once, the later one sees what both have done.
_MOVE_CHECKPOINT = """
WITH following AS MATERIALIZED (
    SELECT "offset", uuid FROM erpkit_events WHERE topic = ANY(%(topics)s)
       AND "offset" > coalesce((SELECT "offset" FROM erpkit_checkpoints WHERE consumer_group = %(handler)s), 0)
     ORDER BY "offset" LIMIT %(step)s
), done AS (
    SELECT "offset" FROM following WHERE "offset" < coalesce((
        SELECT "offset" FROM following f
         WHERE NOT EXISTS (SELECT FROM erpkit_inbox i WHERE i.handler = %(handler)s AND i.uuid = f.uuid)
           AND NOT EXISTS (SELECT FROM erpkit_dead_letters d WHERE d.handler = %(handler)s AND d.uuid = f.uuid)
           AND NOT EXISTS (SELECT FROM erpkit_parked p WHERE p.handler = %(handler)s AND p.uuid = f.uuid)
         ORDER BY "offset" LIMIT 1), 9223372036854775807)
), moved AS (
    INSERT INTO erpkit_checkpoints (consumer_group, "offset")
    SELECT %(handler)s, max("offset") FROM done HAVING count(*) > 0
        ON CONFLICT (consumer_group) DO UPDATE
       SET "offset" = greatest(erpkit_checkpoints."offset", EXCLUDED."offset"), updated_at = now()
)
SELECT count(*) FROM done
"""

_log = logging.getLogger("erpkit.brokers")


class NotActiveError(ErpkitError):
    """An event came for a tenant that is suspended or archived."""


class ConsumerEndedError(ErpkitError):
    """The process of the consumer ended each time that it had this event in flight."""


@dataclass(frozen=True)
class ConsumeOptions:
    """When to end: once `stop` is set, or nothing was delivered for `idle` seconds (None: no limit)."""

    stop: threading.Event = field(default_factory=threading.Event)
    idle: float | None = None


@dataclass(frozen=True)
class Consumed:
    """How many deliveries were handled, how many became dead letters, and how many were for an unknown tenant."""

    handled: int
    dead: int
    unknown: int


def consume(
    database: Database,
    registry: Registry,
    broker: Broker,
    list_tenants: Callable[[], Sequence[Tenant]],
    options: ConsumeOptions | None = None,
) -> Consumed:
    """Hand events from the broker to their handlers until the options tell it to end.

    Each handler is a consumer group. Its effect and its inbox row commit together, and the broker is told after that: what is
    delivered again does nothing. An event that fails three times becomes a dead letter, as do those of a tenant that is not
    active; one for a tenant that does not exist is counted and left. While the database is away nothing is acknowledged.
    Checkpoints move with it: `dispatch` goes on where it stopped, and handles nothing twice.
    Raises BrokerError when the broker cannot be reached.
    """
    options = options or ConsumeOptions()
    work = _Consuming(database, registry, list_tenants)
    subscriptions = [
        Subscription(handler.name, topic, partial(work.receive, handler))
        for handler in registry.event_handlers.values()
        for topic in group_of(registry, handler).topics
    ]
    with broker.consuming(subscriptions):
        work.last_delivery = time.monotonic()
        while not options.stop.wait(_LOOK):
            if options.idle is not None and work.idle_for() > options.idle:
                break
    work.wait_until_idle()
    return Consumed(work.handled, work.dead, work.unknown)


@dataclass
class _Consuming:
    """The state that the handlers' threads share."""

    database: Database
    registry: Registry
    list_tenants: Callable[[], Sequence[Tenant]]
    handled: int = 0
    dead: int = 0
    unknown: int = 0
    busy: int = 0
    last_delivery: float = 0
    _tenants: dict[str, Tenant] = field(default_factory=dict)
    _read_at: float = -_FORGET_TENANTS
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def receive(self, handler: EventHandler, deliveries: Sequence[Delivery]) -> None:
        """Handle what was delivered to one handler, one transaction per tenant; after an error it is delivered again."""
        with self._lock:
            self.busy += 1
        try:
            for slug, group in groupby(deliveries, lambda delivery: delivery.tenant):
                self._receive_for(self._tenant(slug), slug, handler, [delivery.message for delivery in group])
        except (DatabaseError, psycopg.OperationalError):
            self.database.renew()  # the pool may hold more connections that died
            raise
        finally:
            with self._lock:
                self.busy -= 1
                self.last_delivery = time.monotonic()

    def idle_for(self) -> float:
        """Return for how many seconds nothing was delivered; 0 while something is in flight."""
        return 0.0 if self.busy else time.monotonic() - self.last_delivery

    def wait_until_idle(self) -> None:
        """Wait for what is in flight; what takes too long is delivered again."""
        deadline = time.monotonic() + _END_WITHIN
        while self.busy and time.monotonic() < deadline:
            time.sleep(_LOOK)

    def _receive_for(
        self, tenant: Tenant | None, slug: str, handler: EventHandler, messages: Sequence[Message]
    ) -> None:
        if tenant is None:
            _log.warning("group %s: %d events for %s, which is no tenant, were left", handler.name, len(messages), slug)
            self._count(unknown=len(messages))
        else:
            consumer = Consumer(tenant, self.registry, handler)
            dead = Deliveries(self.database, consumer).handle(messages)
            move_over_handled(self.database, tenant, consumer.group)
            self._count(handled=len(messages) - dead, dead=dead)

    def _tenant(self, slug: str) -> Tenant | None:
        with self._lock:
            if slug not in self._tenants or time.monotonic() - self._read_at > _FORGET_TENANTS:
                self._tenants = {tenant.slug: tenant for tenant in self.list_tenants()}
                self._read_at = time.monotonic()
            return self._tenants.get(slug)

    def _count(self, handled: int = 0, dead: int = 0, unknown: int = 0) -> None:
        with self._lock:
            self.handled, self.dead, self.unknown = self.handled + handled, self.dead + dead, self.unknown + unknown


@dataclass(frozen=True)
class Deliveries:
    """Handles what the broker delivers to one consumer: each effect once, and no event that blocks the others."""

    database: Database
    consumer: Consumer

    def handle(self, messages: Sequence[Message]) -> int:
        """Handle messages, in one transaction if possible; return how many became dead letters.

        They are marked as in flight before. Where some are already, the last consumer ended with them in flight: then each is
        handled alone, so that only the one that ends a process again and again becomes a dead letter for it.
        """
        tenant = self.consumer.tenant
        if not tenant.is_active:
            return self._dead_letter_all(messages, NotActiveError(f"tenant {tenant.slug} is {tenant.status}"))
        if not self.consumer.handler.is_outside and self._mark_in_flight(messages):
            return self._handle_all(messages)
        return sum(self._handle_alone(message) for message in messages)

    def _handle_all(self, messages: Sequence[Message]) -> int:
        with self._transaction() as connection:
            new = self._without_letters(connection, messages)
            result = handle_batch(connection, self.consumer, hold_back(connection, self.consumer, new))
            self._forget(connection, messages)
            append(connection, result.published)
        return len(result.dead)

    def _handle_alone(self, message: Message) -> int:
        if self._count_attempt(message) <= _CRASHES:
            return self._handle_all([message])
        return self._dead_letter_all(
            [message], ConsumerEndedError(f"its consumer ended {_CRASHES} times with it in flight")
        )

    def _dead_letter_all(self, messages: Sequence[Message], error: Exception) -> int:
        with self._transaction() as connection:
            new = self._without_letters(connection, messages)
            for message in new:
                add_dead_letter(connection, self.consumer, message, error, ATTEMPTS)
            self._forget(connection, messages)
        return len(new)

    def _without_letters(self, connection: Connection, messages: Sequence[Message]) -> list[Message]:
        """Leave out dead letters that were delivered again: an operator retries or discards them."""
        rows = connection.execute(
            "SELECT uuid FROM erpkit_dead_letters WHERE handler = %s AND uuid = ANY (%s)",
            [self.consumer.name, _uuids(messages)],
        )
        letters = {uuid for (uuid,) in rows}
        return [message for message in messages if message.uuid not in letters]

    def _mark_in_flight(self, messages: Sequence[Message]) -> bool:
        """Mark these as in flight, in a transaction of its own; return whether none of them was already."""
        with self._transaction() as connection:
            cursor = connection.execute(
                "INSERT INTO erpkit_deliveries (handler, uuid) SELECT %s, unnest(%s::uuid[]) ON CONFLICT DO NOTHING",
                [self.consumer.name, _uuids(messages)],
            )
        return cursor.rowcount == len({message.uuid for message in messages})

    def _count_attempt(self, message: Message) -> int:
        with self._transaction() as connection:
            row = connection.execute(
                "INSERT INTO erpkit_deliveries AS d (handler, uuid) VALUES (%s, %s) "
                "ON CONFLICT (handler, uuid) DO UPDATE SET attempts = d.attempts + 1 RETURNING attempts",
                [self.consumer.name, message.uuid],
            ).fetchone()
        return row[0] if row else 0

    def _transaction(self) -> AbstractContextManager[Connection]:
        return self.database.tenant_transaction(self.consumer.tenant, write=True)

    def _forget(self, connection: Connection, messages: Sequence[Message]) -> None:
        connection.execute(
            "DELETE FROM erpkit_deliveries WHERE handler = %s AND uuid = ANY (%s)",
            [self.consumer.name, _uuids(messages)],
        )


def _uuids(messages: Sequence[Message]) -> list[UUID]:
    return [message.uuid for message in messages]


def move_over_handled(database: Database, tenant: Tenant, group: ConsumerGroup) -> None:
    """Move a group's checkpoint up to the first event that it has neither handled, nor dead-lettered, nor parked.

    Deliveries need not come in the order of the log, and one that failed comes again after later ones. So the checkpoint stays
    before the first event that is not done: `events lag` then tells the truth, and a dispatcher that takes over begins there.
    """
    moved = _STEP
    while moved == _STEP:
        with database.tenant_transaction(tenant, write=True) as connection:
            values = {"handler": group.name, "topics": list(group.topics), "step": _STEP}
            ((moved,),) = connection.execute(_MOVE_CHECKPOINT, values).fetchall()
