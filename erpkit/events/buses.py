"""The buses: commands and queries go to their one handler in a tenant's transaction, events in memory to all of theirs."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar
from uuid import UUID, uuid4

import psycopg

from erpkit.database import Connection, Database, Tenant
from erpkit.errors import ErpkitError, UsageError
from erpkit.events.consumer import Context, new_message
from erpkit.events.log import append
from erpkit.events.message import Message
from erpkit.events.middleware import Middleware
from erpkit.events.router import EVERY, chain, run_handler
from erpkit.modules import EventHandler, Query, QueryHandler, Registry

_Answer = TypeVar("_Answer")


class CommandBus:
    """Sends commands, each to its one handler, in a transaction of a tenant."""

    def __init__(self, database: Database, registry: Registry) -> None:
        self._database = database
        self._registry = registry

    def send(self, tenant: Tenant, command: object, uuid: UUID | None = None) -> list[Message]:
        """Carry out one command and return the events that it published.

        `uuid` is the command's id, random if not given; the ids of the events follow from it. Raises what the handler
        raises, with nothing done, and TenantNotActiveError for a tenant that is suspended or archived.
        """
        return self.send_all(tenant, [command], [uuid or uuid4()])

    def send_all(self, tenant: Tenant, commands: Sequence[object], uuids: Sequence[UUID]) -> list[Message]:
        """Carry out several commands in one transaction: all of them or none."""
        published: list[Message] = []
        with (
            _named(tenant, commands[0] if commands else None),
            self._database.tenant_transaction(tenant, write=True, active=True) as connection,
        ):
            for command, uuid in zip(commands, uuids, strict=True):
                published += self._handle(connection, tenant, command, uuid)
            append(connection, published)
        return published

    def _handle(self, connection: Connection, tenant: Tenant, command: object, uuid: UUID) -> Sequence[Message]:
        return carry_out(command, _context(connection, tenant, self._registry, command, uuid))


class QueryBus:
    """Answers queries, each by its one handler, in a transaction of a tenant that only reads."""

    def __init__(self, database: Database, registry: Registry) -> None:
        self._database = database
        self._registry = registry

    def ask(self, tenant: Tenant, query: Query[_Answer]) -> _Answer:
        """Return the answer to a query; a type checker knows its type from the query's.

        Raises what the handler raises, ModuleError for a query without a handler, and ErpkitError for a handler that tries
        to change something.
        """
        self._registry.query_handler(type(query))
        with _named(tenant, query), self._database.tenant_transaction(tenant) as connection:
            return find_answer(query, _context(connection, tenant, self._registry, query, None))


def carry_out(command: object, context: Context) -> Sequence[Message]:
    """Let the command's one handler carry it out in the transaction of `context`; return what it published."""
    handler = context.registry.command_handler(type(command))

    def call(context: Context) -> Sequence[Message]:
        handler.function(command, context)
        return context.published

    return chain(EVERY, call)(context)


def find_answer(query: Query[_Answer], context: Context) -> _Answer:
    """Let the query's one handler answer it in the transaction of `context`."""
    handler: QueryHandler[_Answer] = context.registry.query_handler(type(query))
    answers: list[_Answer] = []

    def call(context: Context) -> Sequence[Message]:
        answers.append(handler.function(query, context))
        if context.published:
            raise ErpkitError(f"{context.message.topic}: a query cannot publish events: make it a command")
        return ()

    chain(EVERY, call)(context)
    return answers[0]


def _context(connection: Connection, tenant: Tenant, registry: Registry, value: object, uuid: UUID | None) -> Context:
    message = new_message(registry, value, uuid)
    return Context(connection, tenant, message, registry, message.topic)


@contextmanager
def _named(tenant: Tenant, message: object) -> Iterator[None]:
    """Name the tenant and the message in an error of the database."""
    try:
        yield
    except psycopg.Error as error:
        raise ErpkitError(
            f"tenant {tenant.slug}: {type(message).__name__} failed: {error.diag.message_primary or error}"
        ) from error


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
        """Hand all queued events, and those that are published meanwhile, to their handlers; return how many calls that were."""
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
        return [h for h in self._registry.event_handlers.values() if topic in self._registry.topics_of(h)]


class _Sent:
    """An event on its way. Its message is only made when it is read: making ids and JSON would take most of the time."""

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
    """A handler's context whose parts are only made when they are read: most handlers read few of them."""

    def __init__(self, bus: EventBus, handler: str, sent: _Sent) -> None:
        self.handler = handler
        self._bus = bus
        self._sent = sent
        self._count = 0

    def publish(self, event: object) -> None:
        """Queue an event behind those that wait already."""
        self._bus._put(_Sent(self._bus, event, self, self._count))
        self._count += 1

    def _inner(self, value: object) -> Context:
        self._count += 1
        return _InMemory(self._bus, self.registry.topic(type(value)), _Sent(self._bus, value, self, self._count - 1))

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
