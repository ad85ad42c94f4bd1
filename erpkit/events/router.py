"""Running a handler on a message: the one way, whoever asks for it."""

from __future__ import annotations

from erpkit.database import Connection, Tenant
from erpkit.events.buses import Context
from erpkit.events.message import Message, decode
from erpkit.modules import EventHandler, Registry

__all__ = ["handle"]


def handle(
    connection: Connection, tenant: Tenant, registry: Registry, handler: EventHandler, message: Message
) -> list[Message]:
    """Run one handler on one message inside the present transaction; return what it published."""
    context = Context(connection, tenant, message, registry, handler.name)
    handler.function(decode(handler.event, message.payload), context)
    return context.published
