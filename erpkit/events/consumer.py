"""Who handles events: consumer groups, the handler of one for one tenant, and the context that handlers are given."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeVar
from uuid import UUID, uuid4

from psycopg import sql

from erpkit.database import Connection, Tenant
from erpkit.database.in_use import Leaving
from erpkit.errors import DatabaseError, ErpkitError
from erpkit.events.message import Message, check_storable, encode
from erpkit.modules import EventHandler, Query, Registry

_Answer = TypeVar("_Answer")


class Watch:
    """Learns which event a handler has in flight; this one ignores it."""

    def begin(self, tenant: Tenant, handler: EventHandler, message: Message) -> None:
        """Record that the handler starts on the event."""

    def end(self) -> None:
        """Record that no handler has an event in flight."""


UNWATCHED = Watch()


@dataclass
class Context:
    """What a handler works with: the tenant's transaction, the message, and a way to publish.

    What it publishes is written to the log in the same transaction as its other work: both become true, or neither.
    `attempt` counts from 1. `error` is what made the message a dead letter, once it is one.
    """

    connection: Connection
    tenant: Tenant
    message: Message
    registry: Registry
    handler: str
    published: list[Message] = field(default_factory=list)
    attempt: int = 1
    error: Exception | None = None
    sent: int = 0

    @property
    def idempotency_key(self) -> str:
        """The same for every attempt of this handler on this message, and for no other: what a service knows a repetition by."""
        return f"{self.message.uuid}:{self.handler}"

    def publish(self, event: object) -> None:
        """Publish an event that a module declares under `publishes`.

        Raises ModuleError for any other, and PayloadError when its values are not of its fields' types or cannot be stored.
        """
        self.published.append(self.caused(event, len(self.published)))

    def caused(self, event: object, number: int) -> Message:
        """Return the message of the `number`th event that this handler publishes."""
        kind = type(event)
        topic, version = self.registry.topic(kind), self.registry.version(kind)
        payload = encode(event)
        check_storable(kind.__name__, payload)
        return self.message.cause(topic, payload, f"{self.handler}/{number}", version)

    def send(self, command: object) -> None:
        """Carry out another command in this transaction; what it publishes is published with this handler's events.

        Raises ModuleError for a command without a handler, and what the handler raises.
        """
        handler = self.registry.command_handler(type(command))
        inner = self._inner(command)
        handler.function(command, inner)
        self.published += inner.published

    def ask(self, query: Query[_Answer]) -> _Answer:
        """Return the answer to a query in this transaction, which sees what the handler has changed so far.

        Raises ModuleError for a query without a handler, and ErpkitError for a handler that publishes.
        """
        handler = self.registry.query_handler(type(query))
        inner = self._inner(query)
        answer = handler.function(query, inner)
        if inner.published:
            raise ErpkitError(f"{inner.handler}: a query cannot publish events: make it a command")
        return answer

    def _inner(self, value: object) -> Context:
        """Return the context of a command or query within this one; its ids follow from this message's."""
        self.sent += 1
        topic = self.registry.topic(type(value))
        message = self.message.cause(topic, encode(value), f"{self.handler}/sent/{self.sent}")
        return Context(self.connection, self.tenant, message, self.registry, topic)

    @property
    def is_lost(self) -> bool:
        """Whether the connection to the database is gone: which is not the message's fault."""
        return self.connection is not None and self.connection.closed  # the bus in memory may have none


def new_message(registry: Registry, value: object, uuid: UUID | None = None) -> Message:
    """Return the message of a command, query or event that nothing else caused; raises ModuleError and PayloadError."""
    kind = type(value)
    uuid = uuid or uuid4()
    metadata = {"name": kind.__name__, "correlation_id": str(uuid)}
    if (version := registry.version(kind)) > 1:
        metadata["version"] = str(version)
    return Message(registry.topic(kind), encode(value), uuid, metadata)


def raise_if_lost(connection: Connection | None, error: Exception, what: str) -> None:
    """Raise DatabaseError if the connection on which `error` came up is gone: the event will be read again later.

    `what` was being done; it begins the message.
    """
    if connection is not None and connection.closed:  # the bus in memory may have none
        raise DatabaseError(f"{what}: the connection was lost ({type(error).__name__}: {error})") from error


@dataclass(frozen=True)
class ConsumerGroup:
    """A reader of events: the name under which checkpoints, locks and brokers know it, and the topics that it reads.

    Each event handler is a group of its own.
    """

    name: str
    topics: tuple[str, ...]


@dataclass(frozen=True)
class Consumer:
    """One handler working for one tenant; `watch` learns which event it has in flight."""

    tenant: Tenant
    registry: Registry
    handler: EventHandler
    watch: Watch = UNWATCHED
    leaving: Leaving | None = None  # tells a batch to end, as a session waits for the tenant

    @property
    def name(self) -> str:
        """The handler's name, which is its consumer group's."""
        return self.handler.name

    @cached_property
    def group(self) -> ConsumerGroup:
        """The consumer group that it belongs to."""
        return group_of(self.registry, self.handler)

    def context(self, connection: Connection, message: Message) -> Context:
        """Return the context that the handler gets with `message`."""
        return Context(connection, self.tenant, message, self.registry, self.handler.name)

    def __str__(self) -> str:
        return f"tenant {self.tenant.slug}: {self.handler.name}"


def group_of(registry: Registry, handler: EventHandler) -> ConsumerGroup:
    """Return the consumer group of a handler."""
    return ConsumerGroup(handler.name, registry.topics_of(handler))


def consumer_groups(registry: Registry) -> list[ConsumerGroup]:
    """Return the consumer groups of all event handlers, in load order."""
    return [group_of(registry, handler) for handler in registry.event_handlers.values()]


def group_rows(groups: Iterable[ConsumerGroup]) -> sql.Composed:
    """Return groups as rows of VALUES, the name and one topic in each."""
    pairs = [(group.name, topic) for group in groups for topic in group.topics]
    return sql.SQL(", ").join(sql.SQL("({}, {})").format(*map(sql.Literal, pair)) for pair in pairs)
