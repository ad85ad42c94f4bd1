"""Handling events as they come from the broker: at least once, with exactly one effect, acknowledged after the commit."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby

import psycopg

from erpkit.database import Database, Tenant
from erpkit.errors import DatabaseError
from erpkit.events.brokers.broker import Broker, Delivery, Subscription
from erpkit.events.brokers.effects import Effects
from erpkit.events.brokers.settled import settle
from erpkit.events.message import Message
from erpkit.modules import EventHandler, Registry

__all__ = ["Consumed", "consume"]

_LOOK = 0.05  # seconds between two looks at `stop`
_FORGET_TENANTS = 30  # seconds
_END_WITHIN = 10  # seconds for what is in hand when it is to stop

_log = logging.getLogger("erpkit.brokers")


@dataclass(frozen=True)
class Consumed:
    """How many deliveries were handled, how many became dead letters, and how many were for no tenant of ours."""

    handled: int
    dead: int
    unknown: int


def consume(
    database: Database,
    registry: Registry,
    broker: Broker,
    list_tenants: Callable[[], Sequence[Tenant]],
    *,
    stop: threading.Event | None = None,
    idle: float | None = None,
) -> Consumed:
    """Hand events from the broker to their handlers until `stop` is set, or for `idle` seconds nothing came.

    Each handler is a consumer group. Its effect and its inbox row commit together, and the broker is told after that: what is
    delivered again does nothing. An event that fails three times becomes a dead letter, as do those of a tenant that is not
    active; one for a tenant that does not exist is counted and left. While the database is away nothing is acknowledged.
    Checkpoints move with it: `dispatch` goes on where it stopped, and handles nothing twice.
    Raises BrokerError when the broker cannot be reached.
    """
    consumer = _Consumer(database, registry, list_tenants)
    subscriptions = [
        Subscription(handler.name, registry.topic(handler.event), partial(consumer.receive, handler))
        for handler in registry.event_handlers.values()
    ]
    stop = stop or threading.Event()
    with broker.consuming(subscriptions):
        consumer.last_delivery = time.monotonic()
        while not stop.wait(_LOOK):
            if idle is not None and time.monotonic() - consumer.last_delivery > idle and not consumer.busy:
                break
    consumer.wait_until_idle()
    return Consumed(consumer.handled, consumer.dead, consumer.unknown)


@dataclass
class _Consumer:
    """What the handlers' threads share."""

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
        """Handle what was delivered to one handler, a transaction a tenant; whatever is raised is delivered again."""
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

    def wait_until_idle(self) -> None:
        """Let what is in hand end; what takes too long is delivered again."""
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
            dead = Effects(self.database, tenant, self.registry, handler).apply(messages)
            settle(self.database, tenant, handler.name, self.registry.topic(handler.event))
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
