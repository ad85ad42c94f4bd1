"""Handling a batch of events: all in one savepoint, and one by one after a fault, to find out which of them it is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TypeVar

from erpkit.database import Connection
from erpkit.events.consumer import Consumer
from erpkit.events.context import Context, raise_if_lost
from erpkit.events.dead_letters import add_dead_letter
from erpkit.events.message import Message
from erpkit.events.middleware import Middleware
from erpkit.events.parking import park_if_blocked
from erpkit.events.router import EVERY, handle, isolated, run_handler
from erpkit.events.watchdog import Watch, watched
from erpkit.modules import EventHandler

ATTEMPTS = 3

_Result = TypeVar("_Result")


@dataclass(frozen=True)
class BatchResult:
    """What became of a batch: events that were handled (now or before), those that became dead letters, and what was published.

    An event in neither was parked behind one of the dead letters.
    """

    handled: Sequence[Message] = ()
    dead: Sequence[tuple[Message, Exception]] = ()
    published: Sequence[Message] = field(default_factory=list)


def together_or_each(
    connection: Connection, what: str, together: Callable[[], _Result], each: Callable[[], _Result]
) -> _Result:
    """Do `together` in one savepoint; after any fault undo it and do `each` instead, which looks after its own savepoints.

    A lost connection is no fault of an event: raises DatabaseError then, which begins with `what` was being done.
    """
    try:
        with connection.transaction():
            return together()
    except Exception as error:
        raise_if_lost(connection, error, what)
        return each()


def handle_batch(
    connection: Connection, consumer: Consumer, messages: Sequence[Message], attempts: int = ATTEMPTS
) -> BatchResult:
    """Handle messages, each once, as its inbox tells; the caller appends what was published.

    One that fails `attempts` times becomes a dead letter.
    """
    return together_or_each(
        connection,
        str(consumer),
        lambda: _handle_together(connection, consumer, messages),
        lambda: handle_each(connection, consumer, messages, attempts),
    )


def _handle_together(connection: Connection, consumer: Consumer, messages: Sequence[Message]) -> BatchResult:
    """Handle those messages that are not in the handler's inbox yet, and put them there."""
    if not messages:
        return BatchResult()
    rows = connection.execute(
        "INSERT INTO erpkit_inbox (handler, uuid) SELECT %s, unnest(%s::uuid[]) ON CONFLICT DO NOTHING RETURNING uuid",
        [consumer.name, [message.uuid for message in messages]],
    )
    new = {uuid for (uuid,) in rows}
    middleware = _middleware(consumer.handler, consumer.watch)
    published: list[Message] = []
    for message in messages:
        if message.uuid in new:
            new.discard(message.uuid)  # a broker may bring one twice
            published += handle(connection, consumer, message, middleware)
    return BatchResult(messages, (), published)


def handle_each(
    connection: Connection, consumer: Consumer, messages: Iterable[Message], attempts: int = ATTEMPTS
) -> BatchResult:
    """Handle messages one by one, each in a savepoint of its own."""
    middleware = _isolated_middleware(consumer.handler, consumer.watch, attempts)
    handled: list[Message] = []
    dead: list[tuple[Message, Exception]] = []
    published: list[Message] = []
    for message in messages:
        if dead and park_if_blocked(connection, consumer, message):
            continue
        context = consumer.context(connection, message)
        published += run_handler(consumer.handler, context, middleware)
        if context.error is None:
            handled.append(message)
        else:
            dead.append((message, context.error))
    return BatchResult(handled, dead, published)


@lru_cache(maxsize=1000)
def _middleware(handler: EventHandler, watch: Watch) -> tuple[Middleware, ...]:
    """For a batch, whose savepoint and look into the inbox are one for all."""
    return (*EVERY, watched(watch, handler))


@lru_cache(maxsize=1000)
def _isolated_middleware(handler: EventHandler, watch: Watch, attempts: int) -> tuple[Middleware, ...]:
    """For one after the other, after a fault."""

    def store(context: Context, error: Exception) -> None:
        consumer = Consumer(context.tenant, context.registry, handler)
        add_dead_letter(context.connection, consumer, context.message, error, context.attempt)

    return isolated(store, attempts, watched(watch, handler))
