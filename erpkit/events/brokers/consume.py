"""Handling events as they come from the broker: at least once, with exactly one effect, acknowledged after the commit."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import groupby
from uuid import UUID, uuid5

import psycopg

from erpkit.database import Connection, Database, Tenant
from erpkit.errors import DatabaseError, ErpkitError, TenantNotActiveError
from erpkit.events.brokers.broker import FROM_BROKER, Broker, Delivery, Subscription, queue_of
from erpkit.events.checkpoints import group_lock
from erpkit.events.consumer import Consumer, group_of
from erpkit.events.dispatch import BATCH, dispatch_batch
from erpkit.events.log import append, name_log_behind
from erpkit.events.message import Message
from erpkit.events.timeout import Watchdog
from erpkit.modules import EventHandler, Registry

_LOOK = 0.05  # seconds between two looks at `stop`
_FORGET_TENANTS = 30  # seconds
_PAUSE = 1.0  # seconds before what failed is tried again
_END_WITHIN = 10  # seconds for what is in flight when it is to stop

_log = logging.getLogger("erpkit.brokers")


class BusyError(ErpkitError):
    """Another process has the consumer group: what was delivered is to be delivered again."""


@dataclass(frozen=True)
class ConsumeOptions:
    """When to end: once `stop` is set, or nothing was delivered for `idle` seconds (None: no limit).

    An event that a handler has in flight for more than `limit` seconds ends the process (see `Watchdog`).
    """

    stop: threading.Event = field(default_factory=threading.Event)
    idle: float | None = None
    limit: float = 60.0


@dataclass(frozen=True)
class Consumed:
    """How many deliveries were handled, became dead letters, were for an unknown tenant, and could not be read as an event.

    `left` are those that wait in the log of a tenant that is not active.
    """

    handled: int
    dead: int
    unknown: int
    unreadable: int = 0
    left: int = 0


def consume(
    database: Database,
    registry: Registry,
    broker: Broker,
    list_tenants: Callable[[], Sequence[Tenant]],
    options: ConsumeOptions | None = None,
) -> Consumed:
    """Hand events from the broker to their handlers until the options tell it to end.

    Each handler is a consumer group with the checkpoint that `dispatch` knows too. A delivery brings the group up to that event, in
    the order of the tenant's log, whatever order the broker delivers in; the broker is told after the commit, and what is delivered
    again does nothing. What another program published is appended to the log first. An event that keeps failing becomes a dead
    letter. Those of a tenant that is not active wait in its log, and are handled once it is active again; one for a tenant that does
    not exist, or of another program for one that is archived, is counted and left. While the
    database is away nothing is acknowledged. A batch ends early where a session waits to suspend, rename or drop its tenant.
    Raises BrokerError when the broker cannot be reached.
    """
    options = options or ConsumeOptions()
    work = _Consuming(database, registry, list_tenants, Watchdog(options.limit))
    subscriptions = [
        Subscription(queue_of(group, topic), topic, partial(work.receive, handler), partial(work.count, unreadable=1))
        for handler in registry.event_handlers.values()
        for group in [group_of(registry, handler)]
        for topic in group.topics
    ]
    with work.watchdog:
        with broker.consuming(subscriptions):
            work.last_delivery = time.monotonic()
            while not options.stop.wait(_LOOK):
                work.catch_up()
                if options.idle is not None and work.idle_for() > options.idle:
                    break
        work.wait_until_idle()
    return work.counts


@dataclass
class _Consuming:
    """The state that the handlers' threads share."""

    database: Database
    registry: Registry
    list_tenants: Callable[[], Sequence[Tenant]]
    watchdog: Watchdog
    counts: Consumed = Consumed(0, 0, 0)
    busy: int = 0
    waiting: dict[tuple[str, str], Message] = field(
        default_factory=dict
    )  # by tenant and handler, the last that was left
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
            self._forget_tenants()
            self.database.renew()  # the pool may hold more connections that died
            raise
        except TenantNotActiveError:
            self._forget_tenants()
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
            self.count(unknown=len(messages))
        else:
            deliveries = Deliveries(self.database, Consumer(tenant, self.registry, handler, self.watchdog))
            if tenant.is_active:
                dead = deliveries.handle(messages)
                self.count(handled=max(len(messages) - dead, 0), dead=dead)
            else:
                left = deliveries.leave(messages)
                self.count(left=left, unknown=len(messages) - left)
                self.waiting[slug, handler.name] = messages[-1]

    def catch_up(self) -> None:
        """Handle what was left in the logs of tenants that are active again."""
        for (slug, name), message in [*self.waiting.items()]:
            try:
                tenant = self._tenant(slug)
                if tenant is None or tenant.is_active:
                    self.waiting.pop((slug, name))
                if tenant is not None and tenant.is_active:
                    self.receive(self.registry.event_handlers[name], [Delivery(slug, message)])
            except Exception as error:  # as that of a delivery, but no broker brings this one again
                _log.warning("group %s: to be tried again: %s", name, error)
                self.waiting.setdefault((slug, name), message)
                time.sleep(_PAUSE)

    def _tenant(self, slug: str) -> Tenant | None:
        with self._lock:
            if slug not in self._tenants or time.monotonic() - self._read_at > _FORGET_TENANTS:
                self._tenants = {tenant.slug: tenant for tenant in self.list_tenants()}
                self._read_at = time.monotonic()
            return self._tenants.get(slug)

    def _forget_tenants(self) -> None:
        """Read them anew with the next delivery: one of them may be suspended, renamed or dropped."""
        with self._lock:
            self._read_at = -_FORGET_TENANTS

    def count(self, **more: int) -> None:
        """Add to the counts, by their names in `Consumed`."""
        with self._lock:
            self.counts = replace(
                self.counts, **{name: getattr(self.counts, name) + count for name, count in more.items()}
            )


@dataclass(frozen=True)
class Deliveries:
    """Handles what a broker delivers to one consumer: each effect once, in the order of the log."""

    database: Database
    consumer: Consumer
    turn_within: int = 5  # seconds to wait for another process that has the group

    def handle(self, messages: Sequence[Message]) -> int:
        """Handle all that waits for the group up to the last of `messages`; return how many became dead letters.

        A broker may deliver late, twice, or not at all: the log has the events and their order, and the group's checkpoint says
        how far it is. Whatever lies before it was handled. An event of another program is appended to the log first.
        Raises BusyError while another process keeps the group to itself, and TenantNotActiveError where the tenant has been suspended
        meanwhile.
        """
        return self._handle_until(self._last_offset(messages))

    def leave(self, messages: Sequence[Message]) -> int:
        """Leave messages of a tenant that is not active in its log, for later; return how many are there.

        Those of other programs are appended to it, unless the tenant is archived: then nothing is written.
        """
        if self.consumer.tenant.status != "archived":
            self._last_offset(messages)
            return len(messages)
        with (
            name_log_behind(self.consumer.tenant),
            self.database.tenant_transaction(self.consumer.tenant) as connection,
        ):
            missing = _missing(connection, self.consumer, messages)
        return sum(message.uuid not in missing for message in messages)

    def _last_offset(self, messages: Sequence[Message]) -> int:
        """Return the highest offset of the messages in the log, where those of other programs are appended."""
        with name_log_behind(self.consumer.tenant), self._transaction() as connection:
            for _ in range(2):  # the second time for one that another consumer has appended meanwhile
                messages = _apart(connection, messages)
                missing = _missing(connection, self.consumer, messages)
                foreign = [message for message in messages if message.uuid in missing]
                append(connection, [message.with_metadata({FROM_BROKER: "true"}) for message in foreign])
                if not foreign:
                    break
            ((last,),) = connection.execute(
                'SELECT coalesce(max("offset"), 0) FROM erpkit_events WHERE uuid = ANY (%s)', [_uuids(messages)]
            ).fetchall()
        return int(last)

    def _handle_until(self, until: int) -> int:
        dead, is_waiting = 0, False
        while waiting := self._count_waiting(until):
            found = dispatch_batch(self.database, self.consumer, waiting)
            if not any(found) and is_waiting:
                raise BusyError(
                    f"{self.consumer}: events up to offset {until} wait for another dispatcher of the group"
                )
            if not any(found):
                self._wait_for_turn()
            is_waiting, dead = not any(found), dead + found.dead
        return dead

    def _count_waiting(self, until: int) -> int:
        """Return how many events wait up to an offset, as far as one batch goes."""
        with self._transaction() as connection:
            ((waiting,),) = connection.execute(
                'SELECT count(*) FROM (SELECT FROM erpkit_events WHERE topic = ANY (%s) AND "offset" <= %s AND "offset" > '
                'coalesce((SELECT "offset" FROM erpkit_checkpoints WHERE consumer_group = %s), 0) LIMIT %s) w',
                [list(self.consumer.group.topics), until, self.consumer.name, BATCH],
            ).fetchall()
        return int(waiting)

    def _wait_for_turn(self) -> None:
        """Wait until no other process has the group; raises BusyError after a while."""
        try:
            with self._transaction() as connection:
                connection.execute(f"SET LOCAL lock_timeout TO '{self.turn_within}s'")
                connection.execute(
                    f"SELECT pg_advisory_xact_lock({group_lock('current_schema()', '%s')})", [self.consumer.name]
                )
        except psycopg.errors.LockNotAvailable:
            raise BusyError(f"{self.consumer}: another process has the group for {self.turn_within} s") from None

    def _transaction(self) -> AbstractContextManager[Connection]:
        tenant = self.consumer.tenant
        return self.database.tenant_transaction(tenant, write=True, active=tenant.is_active)


def _apart(connection: Connection, messages: Sequence[Message]) -> list[Message]:
    """Return the messages, with a uuid of its own for each that the log has on another topic: Watermill may publish one on two."""
    rows = connection.execute("SELECT uuid, topic FROM erpkit_events WHERE uuid = ANY (%s)", [_uuids(messages)])
    topics: dict[UUID, str] = dict(rows.fetchall())
    return [
        message
        if topics.get(message.uuid, message.topic) == message.topic
        else replace(message, uuid=uuid5(message.uuid, message.topic))
        for message in messages
    ]


def _missing(connection: Connection, consumer: Consumer, messages: Sequence[Message]) -> set[UUID]:
    """Return the uuids that the log lacks, without those of events that were handled and removed from it since."""
    rows = connection.execute("SELECT uuid FROM erpkit_events WHERE uuid = ANY (%s)", [_uuids(messages)]).fetchall()
    missing = set(_uuids(messages)).difference(uuid for (uuid,) in rows)
    if not missing:
        return missing
    row = connection.execute(
        'SELECT "offset" FROM erpkit_checkpoints WHERE consumer_group = %s', [consumer.name]
    ).fetchone()
    done = row[0] if row else 0
    return {message.uuid for message in messages if message.uuid in missing and (message.offset or done + 1) > done}


def _uuids(messages: Sequence[Message]) -> list[UUID]:
    return [message.uuid for message in messages]
