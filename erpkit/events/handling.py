"""Handling a batch of messages: together if that works, else one by one; what fails for good is dead-lettered, or an outage."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import NamedTuple, TypeVar

from erpkit.database import Connection
from erpkit.errors import ErpkitError
from erpkit.events.checkpoints import Checkpoint
from erpkit.events.consumer import Consumer, Context, Watch, raise_if_lost
from erpkit.events.dead_letters import add_dead_letter
from erpkit.events.guard import check_intact, is_open, noting, true_cause, unbroken
from erpkit.events.message import Message
from erpkit.events.middleware import Middleware, TransactionEndedError
from erpkit.events.parking import park_if_blocked
from erpkit.events.pauses import WIDE_FOR, Pause, find_outage, is_wide, wait_for_retry
from erpkit.events.router import EVERY, handle, isolated, run_handler
from erpkit.events.timeout import watched
from erpkit.modules import EventHandler, Retry

ATTEMPTS = 3  # of a process, at an event that ends it
STATEMENT_TIMEOUT = 30.0  # seconds

_Result = TypeVar("_Result")


class CrashError(ErpkitError):
    """The process of a handler ended, or hung and was killed, each time that it had this event in flight."""


def crash_of(checkpoint: Checkpoint) -> CrashError:
    """Return the error of an event that ended its dispatcher each time, with the last error that one could note."""
    said = f"; the last error: {checkpoint.error}" if checkpoint.error else ""
    return CrashError(f"its dispatcher ended {ATTEMPTS} times with it in flight{said}")


class Dispatched(NamedTuple):
    """How many events of a batch were handled, became dead letters, and were parked behind one.

    `passed` counts what else was done: dead letters that were passed over, and batches to be tried again event by event.
    """

    handled: int = 0
    dead: int = 0
    parked: int = 0
    passed: int = 0


@dataclass(frozen=True)
class BatchResult:
    """What became of a batch: events that were handled (now or before), those that became dead letters, and what was published.

    An event in neither was parked behind one of the dead letters, or comes again after a `pause`.
    """

    handled: Sequence[Message] = ()
    dead: Sequence[tuple[Message, Exception]] = ()
    published: Sequence[Message] = field(default_factory=list)
    pause: Pause | None = None
    rest: Sequence[Message] = ()  # not begun, as a session waits for the tenant


def together_or_each(
    connection: Connection, what: str, together: Callable[[], _Result], each: Callable[[], _Result]
) -> _Result:
    """Do `together` in one savepoint; after any error undo it and do `each` instead, which sets its own savepoints.

    A lost connection is no fault of an event: raises DatabaseError then, which begins with `what` was being done.
    """
    try:
        with connection.transaction():
            return together()
    except Exception as error:
        raise_if_lost(connection, error, what)
        if isinstance(error, TransactionEndedError):
            raise
        if not is_open(connection):  # there is no savepoint to go back to
            raise TransactionEndedError(None) from error
        return each()


def handle_batch(
    connection: Connection,
    consumer: Consumer,
    messages: Sequence[Message],
    attempts: int | None = None,
    checkpoint: Checkpoint | None = None,
) -> BatchResult:
    """Handle messages that are not in the handler's inbox yet; the caller appends what was published.

    One that fails `attempts` times, as its handler declares if that is None, becomes a dead letter. With its `checkpoint` the group
    may pause instead, which the caller is to note.
    """
    if consumer.handler.is_outside or (checkpoint is not None and (checkpoint.pauses or checkpoint.tries)):
        return handle_each(connection, consumer, messages, attempts, checkpoint)
    return together_or_each(
        connection,
        str(consumer),
        lambda: _handle_together(connection, consumer, messages),
        lambda: handle_each(connection, consumer, messages, attempts, checkpoint),
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
    with noting(connection):
        for number, message in enumerate(messages):
            if consumer.leaving is not None and consumer.leaving.is_due():
                query = "DELETE FROM erpkit_inbox WHERE handler = %s AND uuid = ANY(%s)"
                connection.execute(query, [consumer.name, list(new)])
                return BatchResult(messages[:number], (), published, rest=messages[number:])
            if message.uuid in new:
                new.discard(message.uuid)  # a broker may bring one twice
                try:
                    published += handle(connection, consumer, message, middleware)
                except TransactionEndedError as error:
                    error.published = published
                    raise
    check_intact(connection, consumer.tenant)
    return BatchResult(messages, (), published)


def handle_each(
    connection: Connection,
    consumer: Consumer,
    messages: Sequence[Message],
    attempts: int | None = None,
    checkpoint: Checkpoint | None = None,
) -> BatchResult:
    """Handle messages one by one, each in a savepoint of its own; the arguments are as in `handle_batch`."""
    retry = _retry(consumer.handler.retry, attempts, checkpoint)
    middleware = _isolated_middleware(consumer.handler, consumer.watch, retry)
    handled: list[Message] = []
    dead: list[tuple[Message, Exception]] = []
    published: list[Message] = []
    context: Context | None = None
    rest: Sequence[Message] = ()
    ends = time.monotonic() + WIDE_FOR
    for number, message in enumerate(messages):
        if consumer.leaving is not None and consumer.leaving.is_due():
            return BatchResult(handled, dead, published, rest=messages[number:])
        is_new = checkpoint is not None and is_wide(checkpoint) and (message.offset or 0) > checkpoint.offset
        if dead and not handled and is_new and time.monotonic() > ends:
            rest = messages[number:]
            break
        if dead and park_if_blocked(connection, consumer, message):
            continue
        context = consumer.context(connection, message)
        published += run_handler(consumer.handler, context, middleware)
        if context.error is None:
            handled.append(message)
            checkpoint = checkpoint and replace(checkpoint, tries=0, pauses=0)
        elif pause := give_up(connection, consumer, context, checkpoint):
            return BatchResult(handled, _before(dead, pause), published, pause)
        else:
            dead.append((message, context.error))
            checkpoint = checkpoint and replace(checkpoint, tries=0)
    last = None if context is None or handled else give_up_all(connection, consumer, context, len(dead), checkpoint)
    return BatchResult(handled, _before(dead, last) if last else dead, published, last, () if last else rest)


def give_up(
    connection: Connection, consumer: Consumer, context: Context, checkpoint: Checkpoint | None
) -> Pause | None:
    """Dead-letter the message that failed, unless it is to wait or its failure is one of an outage: then return the pause."""
    error, message = context.error, context.message
    assert error is not None
    if checkpoint is not None and not checkpoint.pauses:  # one attempt each while it lasts
        is_first = checkpoint.tries and (message.offset or 0) > checkpoint.offset
        tries = (checkpoint.tries if is_first else 0) + context.attempt
        if pause := wait_for_retry(consumer, message, error, tries):
            return pause
    add_dead_letter(connection, consumer, message, error, context.attempt)
    return None if checkpoint is None else find_outage(connection, consumer, context, checkpoint)


def give_up_all(
    connection: Connection, consumer: Consumer, context: Context, dead: int, checkpoint: Checkpoint | None
) -> Pause | None:
    """Return the pause where more than one event was tried after a pause, and all of them failed alike."""
    if checkpoint is None or not is_wide(checkpoint) or context.error is None:
        return None
    return find_outage(connection, consumer, context, checkpoint, wanted=dead)


def _before(dead: Sequence[tuple[Message, Exception]], pause: Pause) -> list[tuple[Message, Exception]]:
    return [(message, error) for message, error in dead if (message.offset or 0) <= pause.offset]


def _retry(declared: Retry, attempts: int | None, checkpoint: Checkpoint | None) -> Retry:
    """Return how often to try here: once where the pauses pass outside, or where it goes on after an outage."""
    if attempts is not None:
        return replace(declared, attempts=attempts)
    is_once = checkpoint is not None and (checkpoint.pauses or declared.waits_outside)
    return replace(declared, attempts=1) if is_once else declared


@lru_cache(maxsize=1000)
def _middleware(handler: EventHandler, watch: Watch) -> tuple[Middleware, ...]:
    """Return the middleware for a batch, which has one savepoint and one look into the inbox."""
    return (*EVERY, unbroken, watched(watch, handler))


@lru_cache(maxsize=1000)
def _isolated_middleware(handler: EventHandler, watch: Watch, retry: Retry) -> tuple[Middleware, ...]:
    """Return the middleware for messages one by one, after an error."""
    return isolated(lambda *_: None, retry, true_cause, unbroken, watched(watch, handler))
