"""A broker: where events are published, and the consumer groups that receive them; opening the one that the settings name."""

from __future__ import annotations

import re
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Protocol
from uuid import UUID

from erpkit.config import Settings, mask_url
from erpkit.errors import BrokerError, UsageError
from erpkit.events.consumer import ConsumerGroup
from erpkit.events.message import Message

FROM_BROKER = "from_broker"  # in the metadata of what another program published: it is not forwarded back

_SUBJECT = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
_LONGEST = 100  # characters; Kafka allows 249 for all of a topic's name


@dataclass(frozen=True)
class Route:
    """Where messages are published: `<subject>.<tenant>.<topic>`, or `<subject>.<topic>` where tenants share a topic.

    Handlers listen to the subject `erp`. With `again`, what is replayed has a message id of this replay's own, and a broker that
    drops duplicates takes what it had before. Raises UsageError for what can be no subject.
    """

    subject: str = "erp"
    again: bool = False

    def __post_init__(self) -> None:
        if not _SUBJECT.fullmatch(self.subject) or len(self.subject) > _LONGEST:
            raise UsageError(
                f"{self.subject!r} is not a subject: use letters, digits, - and _ in parts joined by dots, such as audit.replay"
            )

    @property
    def is_live(self) -> bool:
        """Whether it leads to what handlers listen to."""
        return self.subject == LIVE.subject


LIVE = Route()


@dataclass(frozen=True)
class Delivery:
    """A message as it came from the broker, and the slug of the tenant whose event it is."""

    tenant: str
    message: Message


class RefusedError(BrokerError):
    """A broker refuses `message` for good, as it is too large, say: those before it are stored, and none behind it."""

    def __init__(self, reason: str, message: Message) -> None:
        super().__init__(reason)
        self.message = message


@dataclass(frozen=True)
class Subscription:
    """A consumer group, by its name for the broker, on one topic of all tenants.

    `receive` is called from a thread of the broker's, one call a group at a time. What it was given is acknowledged when it
    returns, and delivered again when it raises. `leave_out` is told of each message that is no event, and so in no delivery.
    """

    group: str
    topic: str
    receive: Callable[[Sequence[Delivery]], None]
    leave_out: Callable[[], None] = lambda: None


def queue_of(group: ConsumerGroup, topic: str) -> str:
    """Return what a broker knows a group by on one of its topics: its name, and behind the first one the topic, too."""
    return group.name if topic == group.topics[0] else f"{group.name}.{topic}"


class Broker(Protocol):
    """What events are forwarded to and consumed from, at least once."""

    name: str  # for people; without a password

    @property
    def order(self) -> str:
        """In which order events come from it: a sentence for people."""

    @property
    def scheme(self) -> str:
        """What its checkpoints are named after."""

    def publish(self, tenant: str, messages: Sequence[Message], route: Route = LIVE) -> set[UUID]:
        """Publish in this order and return once all are acknowledged; raises BrokerError if some may not be.

        None is stored behind one that was not. Return the uuids of those that it had already, by their message id, and dropped.
        Raises RefusedError for the first that it refuses for good.
        """

    def declare(self, groups: Sequence[ConsumerGroup], route: Route = LIVE) -> None:
        """Make sure that what is published from now on is kept: for these groups, and on this route."""

    def has_mark(self) -> bool:
        """Tell whether the mark is there that a forwarder leaves: without it, what was forwarded before is gone."""

    def leave_mark(self) -> None:
        """Leave the mark, which lasts as long as what is published."""

    def consuming(self, subscriptions: Sequence[Subscription]) -> AbstractContextManager[None]:
        """Deliver to `subscriptions` while the block runs."""

    def close(self) -> None:
        """Give up the connections."""


IN_ORDER = "handlers get a tenant's events in the order of its log; what other programs publish, "
_PAUSE = 0.1  # seconds before what failed is delivered again
_BATCH = 100


class MemoryBroker:
    """Keeps what was published on the topic of each declared group until it is acknowledged."""

    scheme = "memory"
    name = "memory:"
    order = f"{IN_ORDER}as it comes"

    def __init__(self) -> None:
        self._queues: dict[tuple[str, str], deque[Delivery]] = {}
        self._changed = threading.Condition()

    def publish(self, tenant: str, messages: Sequence[Message], route: Route = LIVE) -> set[UUID]:
        """Hand the messages to every group of their topic; without one, or on another route, they are dropped."""
        with self._changed:
            for message in messages:
                for (_, topic), queue in self._queues.items():
                    if topic == message.topic and route.is_live:
                        queue.append(Delivery(tenant, message))
            self._changed.notify_all()
        return set()

    def declare(self, groups: Sequence[ConsumerGroup], route: Route = LIVE) -> None:  # noqa: ARG002
        """Keep what is published from now on for these groups."""
        with self._changed:
            for group in groups:
                for topic in group.topics:
                    self._queues.setdefault((queue_of(group, topic), topic), deque())

    def has_mark(self) -> bool:
        """Tell that nothing was lost: what it holds ends with the process that forwards."""
        return True

    def leave_mark(self) -> None:
        """Do nothing."""

    @contextmanager
    def consuming(self, subscriptions: Sequence[Subscription]) -> Iterator[None]:
        """Deliver to `subscriptions`, each from a thread of its own, while the block runs."""
        self.declare([ConsumerGroup(each.group, (each.topic,)) for each in subscriptions])
        stop = threading.Event()
        threads = [threading.Thread(target=self._serve, args=(each, stop), daemon=True) for each in subscriptions]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            stop.set()
            with self._changed:
                self._changed.notify_all()
            for thread in threads:
                thread.join()

    def close(self) -> None:
        """Forget everything."""
        self._queues.clear()

    def _serve(self, subscription: Subscription, stop: threading.Event) -> None:
        queue = self._queues[subscription.group, subscription.topic]
        while not stop.is_set():
            with self._changed:
                self._changed.wait_for(lambda: queue or stop.is_set())
                batch = [queue[index] for index in range(min(len(queue), _BATCH))]
            if stop.is_set():
                return
            try:
                subscription.receive(batch)
            except Exception:  # it stays in the queue
                stop.wait(_PAUSE)
                continue
            for _ in batch:
                queue.popleft()


_STREAM_BROKERS = {
    "nats": ("nats", "NatsBroker"),
    "kafka": ("kafka", "KafkaBroker"),
    "redis": ("redis", "RedisBroker"),
    "rediss": ("redis", "RedisBroker"),
    "amqp": ("rabbit", "RabbitBroker"),
    "amqps": ("rabbit", "RabbitBroker"),
}


def scheme_of(settings: Settings) -> str:
    """Return what the checkpoints of the configured broker are named after; "" for none that lasts."""
    scheme = settings.broker.partition(":")[0]
    return {"memory": "", "rediss": "redis", "amqps": "amqp"}.get(scheme, scheme)


def open_broker(settings: Settings, *, lasting: bool = False) -> Broker:
    """Return the broker that ERPKIT_BROKER names; it connects when it is first used.

    Raises UsageError, saying what to install, where the libraries for it are missing; and for `memory:` where it is to outlast
    this process.
    """
    scheme = settings.broker.partition(":")[0]
    if scheme == "memory" and lasting:
        raise UsageError("ERPKIT_BROKER is memory:, which ends with this process: set it to nats://host:4222, say")
    if scheme == "memory":
        return MemoryBroker()
    file, name = _STREAM_BROKERS[scheme]
    try:
        # By name, as each file needs the libraries of its broker, and imports this one.
        made = getattr(import_module(f"erpkit.events.brokers.{file}"), name)
    except ImportError as error:
        raise UsageError(
            f"{mask_url(settings.broker)} needs the package {error.name}: pip install 'erpkit[brokers]'"
        ) from None
    broker: Broker = made(settings.broker, subject=settings.broker_subject)
    return broker
