"""What a handler is given: business runs through these, and through nothing else."""

from __future__ import annotations

from dataclasses import dataclass, field
from uuid import UUID, uuid4

from erpkit.database import Connection, Tenant
from erpkit.errors import DatabaseError
from erpkit.events.message import Message, encode
from erpkit.modules import Registry


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

    def publish(self, event: object) -> None:
        """Publish an event that a module declares under `publishes`.

        Raises ModuleError for any other, and PayloadError when its values are not of its fields' types.
        """
        self.published.append(self.caused(event, len(self.published)))

    def caused(self, event: object, number: int) -> Message:
        """Return the message of an event that follows from the handled one, the `number`th of this handler."""
        kind = type(event)
        topic, version = self.registry.topic(kind), self.registry.version(kind)
        return self.message.cause(topic, encode(event), f"{self.handler}/{number}", version)

    @property
    def is_lost(self) -> bool:
        """Whether the connection to the database is gone: no fault of the message."""
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
    """Raise DatabaseError if the connection on which `error` came up is gone: the event is to be read again later.

    `what` was being done; it begins the message.
    """
    if connection is not None and connection.closed:  # the bus in memory may have none
        raise DatabaseError(f"{what}: the connection was lost ({type(error).__name__}: {error})") from error
