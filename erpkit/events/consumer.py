"""Who handles events: consumer groups, and the handler of one at work for one tenant."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from psycopg import sql

from erpkit.database import Connection, Tenant
from erpkit.events.context import Context
from erpkit.events.message import Message
from erpkit.events.watchdog import UNWATCHED, Watch
from erpkit.modules import EventHandler, Registry


@dataclass(frozen=True)
class ConsumerGroup:
    """The name by which checkpoints, locks and brokers know a reader of events, and the topics that it reads.

    Each event handler is a group of its own, and of one topic so far.
    """

    name: str
    topics: tuple[str, ...]


@dataclass(frozen=True)
class Consumer:
    """One handler at work for one tenant. `watch` is told which event the handler has."""

    tenant: Tenant
    registry: Registry
    handler: EventHandler
    watch: Watch = UNWATCHED

    @property
    def name(self) -> str:
        """The handler's name, which is its consumer group's."""
        return self.handler.name

    @cached_property
    def group(self) -> ConsumerGroup:
        """The consumer group that it belongs to."""
        return group_of(self.registry, self.handler)

    def context(self, connection: Connection, message: Message) -> Context:
        """Return what the handler is given with `message`."""
        return Context(connection, self.tenant, message, self.registry, self.handler.name)

    def __str__(self) -> str:
        return f"tenant {self.tenant.slug}: {self.handler.name}"


def group_of(registry: Registry, handler: EventHandler) -> ConsumerGroup:
    """Return the consumer group of a handler."""
    return ConsumerGroup(handler.name, (registry.topic(handler.event),))


def consumer_groups(registry: Registry) -> list[ConsumerGroup]:
    """Return the consumer groups of all event handlers, in load order."""
    return [group_of(registry, handler) for handler in registry.event_handlers.values()]


def group_rows(groups: Iterable[ConsumerGroup]) -> sql.Composed:
    """Return groups as rows of VALUES, the name and one topic in each."""
    pairs = [(group.name, topic) for group in groups for topic in group.topics]
    return sql.SQL(", ").join(sql.SQL("({}, {})").format(*map(sql.Literal, pair)) for pair in pairs)
