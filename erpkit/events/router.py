"""The router: the one way to run a handler on a message, through its middleware."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

from erpkit.database import Connection
from erpkit.events.consumer import Consumer, Context
from erpkit.events.message import Message, decode_message
from erpkit.events.middleware import (
    Handle,
    Middleware,
    correlation,
    dead_letters,
    deduplicate,
    recoverer,
    retry,
    retry_as,
    savepoint,
    tracing,
)
from erpkit.events.timeout import timeout
from erpkit.modules import EventHandler, Retry

# What every handler of an event runs in, the outermost first; its timeout, if it has one, is the innermost. None of these costs
# a round trip: a dispatcher hands on a batch in them, with one savepoint and one look into the inbox for all of it.
EVERY: tuple[Middleware, ...] = (tracing, correlation, recoverer)


def isolated(
    store: Callable[[Context, Exception], None], attempts: int | Retry = 3, *more: Middleware
) -> tuple[Middleware, ...]:
    """Return all the middleware for a message on its own, the outermost first: what a dispatcher uses after an error.

    `store` keeps a dead letter, and sees only the last attempt's error; the span holds all attempts, and that error. Each attempt
    has a savepoint, which takes back the inbox row too. `more` goes inside, around each attempt. Make it once, not once a message.
    """
    tries = retry(attempts) if isinstance(attempts, int) else retry_as(attempts)
    return (dead_letters(store), tracing, correlation, tries, savepoint, deduplicate, recoverer, *more)


def handle(
    connection: Connection, consumer: Consumer, message: Message, middleware: tuple[Middleware, ...] = EVERY
) -> list[Message]:
    """Run one handler on one message inside the present transaction; return what it published, which the caller appends.

    Raises what the handler raises, PayloadError for a payload that does not fit, HandlerTimeoutError for a handler that was
    too slow: the transaction, or a savepoint in it, is then to be rolled back.
    """
    return list(run_handler(consumer.handler, consumer.context(connection, message), middleware))


def run_handler(
    handler: EventHandler, context: Context, middleware: tuple[Middleware, ...] = EVERY
) -> Sequence[Message]:
    """Run one handler on the message in `context`, as `handle` does; the context has its result afterwards."""
    return _wrapped(handler, middleware)(context)


def chain(middleware: Sequence[Middleware], handle: Handle) -> Handle:
    """Put `handle` inside `middleware`, the first of which becomes the outermost."""
    for wrap in reversed(middleware):
        handle = wrap(handle)
    return handle


@lru_cache(maxsize=1000)
def _wrapped(handler: EventHandler, middleware: tuple[Middleware, ...]) -> Handle:
    def call(context: Context) -> Sequence[Message]:
        kind = context.registry.event_of(handler, context.message.topic)
        handler.function(decode_message(context.registry, kind, context.message), context)
        return context.published

    limit = () if handler.timeout is None else (timeout(handler.timeout),)
    return chain((*middleware, *limit), call)
