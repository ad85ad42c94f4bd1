"""The command bus and what handlers are given: business runs through these, and through nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from uuid import UUID, uuid4

import psycopg

from erpkit.database import Connection, Database, Tenant
from erpkit.errors import ErpkitError
from erpkit.events.log import append
from erpkit.events.message import Message, encode
from erpkit.modules import Registry

__all__ = ["CommandBus", "Context"]


@dataclass
class Context:
    """What a handler works with: the tenant's transaction, the message in hand, and a way to publish.

    What it publishes is written to the log in the same transaction as its other work: both become true, or neither.
    """

    connection: Connection
    tenant: Tenant
    message: Message
    registry: Registry
    handler: str
    published: list[Message] = field(default_factory=list)

    def publish(self, event: object) -> None:
        """Publish an event that a module declares under `publishes`; raises ModuleError for any other."""
        topic = self.registry.topic(type(event))
        self.published.append(self.message.cause(topic, encode(event), f"{self.handler}/{len(self.published)}"))


class CommandBus:
    """Sends commands, each to its one handler, in a transaction of a tenant."""

    def __init__(self, database: Database, registry: Registry) -> None:
        self._database = database
        self._registry = registry

    def send(self, tenant: Tenant, command: object, uuid: UUID | None = None) -> list[Message]:
        """Carry out one command and return the events that it published.

        `uuid` is the command's id, random if not given; the ids of the events follow from it. Raises what the handler
        raises, with nothing done.
        """
        return self.send_all(tenant, [command], [uuid or uuid4()])

    def send_all(self, tenant: Tenant, commands: Sequence[object], uuids: Sequence[UUID]) -> list[Message]:
        """Carry out several commands in one transaction: all of them or none."""
        published: list[Message] = []
        try:
            with self._database.tenant_transaction(tenant, write=True) as connection:
                for command, uuid in zip(commands, uuids, strict=True):
                    published += self._handle(connection, tenant, command, uuid)
                append(connection, published)
        except psycopg.Error as error:
            raise ErpkitError(
                f"tenant {tenant.slug}: {type(commands[0]).__name__} failed: {error.diag.message_primary or error}"
            ) from error
        return published

    def _handle(self, connection: Connection, tenant: Tenant, command: object, uuid: UUID) -> list[Message]:
        handler = self._registry.command_handler(type(command))
        topic = self._registry.topic(type(command))
        message = Message(topic, encode(command), uuid, {"name": type(command).__name__, "correlation_id": str(uuid)})
        context = Context(connection, tenant, message, self._registry, topic)
        handler.function(command, context)
        return context.published
