"""What a broker is to erpkit: a place to publish to, and groups that what was published is handed to."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from erpkit.errors import UsageError
from erpkit.events.consumer import ConsumerGroup
from erpkit.events.message import Message

_SUBJECT = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
_LONGEST = 100  # characters; Kafka allows 249 for all of a topic's name


@dataclass(frozen=True)
class Route:
    """Where messages are published: on `<subject>.<tenant>.<topic>`, or `<subject>.<topic>` where a broker keeps tenants together.

    Handlers listen to the subject `erp`. With `again`, what is replayed has a message id of this replay's own, and a broker that
    drops duplicates takes what it had before. Raises UsageError for what can be no subject.
    """

    subject: str = "erp"
    again: bool = False

    def __post_init__(self) -> None:
        if not _SUBJECT.fullmatch(self.subject) or len(self.subject) > _LONGEST:
            raise UsageError(
                f"{self.subject!r} is no subject: use letters, digits, - and _ in parts joined by dots, such as audit.replay"
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


@dataclass(frozen=True)
class Subscription:
    """A consumer group on one topic of all tenants.

    `receive` is called from a thread of the broker's, one call a group at a time. What it was given is acknowledged when it
    returns, and delivered again when it raises.
    """

    group: str
    topic: str
    receive: Callable[[Sequence[Delivery]], None]


class Broker(Protocol):
    """What events are forwarded to and consumed from, at least once."""

    name: str  # for people; without a password

    @property
    def scheme(self) -> str:
        """What its checkpoints are named after."""

    def publish(self, tenant: str, messages: Sequence[Message], route: Route = LIVE) -> set[UUID]:
        """Publish in this order and return once all are acknowledged; raises BrokerError if some may not be.

        Return the uuids of those that it had already, by their message id, and dropped.
        """

    def declare(self, groups: Sequence[ConsumerGroup], route: Route = LIVE) -> None:
        """Make sure that what is published from now on is kept: for these groups, and on this route."""

    def consuming(self, subscriptions: Sequence[Subscription]) -> AbstractContextManager[None]:
        """Deliver to `subscriptions` while the block runs."""

    def close(self) -> None:
        """Give up the connections."""
