"""The event bus in memory, for development and tests: the handlers of the ERP without its log."""

from __future__ import annotations

from collections import deque
from typing import Any

from erpkit.database import Connection, Tenant
from erpkit.errors import UsageError
from erpkit.events.context import Context, new_message
from erpkit.events.message import Message
from erpkit.events.middleware import Middleware
from erpkit.events.router import run_handler
from erpkit.modules import EventHandler, Registry

_NOWHERE = Tenant("memory", "tenant_memory")


class EventBus:
    """Hands each event to all its handlers in this process: the same functions that dispatch calls, with a Context.

    For development and tests: nothing is written to a log, and what is queued ends with the process. `publish` returns when
    the event is handled, and then those that its handlers published, in their order; with `queued` it only queues, and `run`
    hands on. Handlers that need the database work on `connection`, a tenant's transaction. Without `middleware` they are
    called as plainly as can be, with the event itself; with it (`EVERY`, say) each event becomes JSON, goes through the
    middleware, and is read again, as on its way through the log. For one thread.
    """

    def __init__(
        self,
        registry: Registry,
        tenant: Tenant = _NOWHERE,
        connection: Connection | None = None,
        *,
        middleware: tuple[Middleware, ...] | None = None,
        queued: bool = False,
    ) -> None:
        self._registry = registry
        self._tenant = tenant
        self._connection = connection
        self._middleware = middleware
        self._queued = queued
        self._running = False
        self._handlers: dict[type, list[EventHandler]] = {}
        self._pending: deque[tuple[EventHandler, _Sent]] = deque()

    def publish(self, event: object) -> None:
        """Hand an event to its handlers; raises ModuleError for an event that no module publishes.

        Raises what a handler raises: its message is lost then, and those behind it wait for the next `publish` or `run`.
        """
        self._put(_Sent(self, event))
        if not (self._queued or self._running):
            self.run()

    def run(self) -> int:
        """Hand on all that is queued, and what its handlers publish; return how many times a handler was called."""
        handled = 0
        self._running = True
        try:
            while self._pending:
                handler, sent = self._pending.popleft()
                handled += 1
                if self._middleware is None:
                    handler.function(sent.event, _InMemory(self, handler.name, sent))
                else:
                    self._route(handler, sent.message, self._middleware)
        finally:
            self._running = False
        return handled

    def _put(self, sent: _Sent) -> None:
        kind = type(sent.event)
        if kind not in self._handlers:
            self._handlers[kind] = self._find(self._registry.topic(kind))
        for handler in self._handlers[kind]:
            self._pending.append((handler, sent))

    def _route(self, handler: EventHandler, message: Message, middleware: tuple[Middleware, ...]) -> None:
        connection: Any = self._connection  # a handler that needs none does without
        context = Context(connection, self._tenant, message, self._registry, handler.name)
        for published in run_handler(handler, context, middleware):
            for other in self._find(published.topic):
                self._pending.append((other, _Sent(self, None, message=published)))

    def _find(self, topic: str) -> list[EventHandler]:
        return [h for h in self._registry.event_handlers.values() if self._registry.topic(h.event) == topic]


class _Sent:
    """An event on its way; its message is made when it is looked at, as ids and JSON would take most of the time."""

    __slots__ = ("_message", "_publisher", "bus", "event", "number")

    def __init__(
        self,
        bus: EventBus,
        event: object,
        publisher: _InMemory | None = None,
        number: int = 0,
        message: Message | None = None,
    ) -> None:
        self.bus = bus
        self.event = event
        self.number = number
        self._publisher = publisher
        self._message = message

    @property
    def message(self) -> Message:
        if self._message is None:
            registry, publisher = self.bus._registry, self._publisher
            if publisher is None:
                self._message = new_message(registry, self.event)
            else:
                self._message = publisher.caused(self.event, self.number)
        return self._message


class _InMemory(Context):
    """A handler's context whose parts are made when they are looked at: most handlers look at few of them."""

    def __init__(self, bus: EventBus, handler: str, sent: _Sent) -> None:
        self.handler = handler
        self._bus = bus
        self._sent = sent
        self._count = 0

    def publish(self, event: object) -> None:
        """Queue an event behind those that wait already."""
        self._bus._put(_Sent(self._bus, event, self, self._count))
        self._count += 1

    def __getattr__(self, name: str) -> Any:
        if name == "message":
            return self._sent.message
        if name in ("tenant", "registry"):
            return getattr(self._bus, f"_{name}")
        if name == "published":
            return []
        if name == "connection":
            if self._bus._connection is None:
                raise UsageError(f"{self.handler} wants the database: give the EventBus a tenant's connection")
            return self._bus._connection
        raise AttributeError(name)
