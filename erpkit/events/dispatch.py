"""Dispatching the events of a tenant's log to their handlers, batch by batch: at least once, with exactly one effect."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple, TypeVar

from erpkit.database import Connection, Database, Tenant
from erpkit.database.in_use import Leaving
from erpkit.errors import ErpkitError, TenantNotActiveError
from erpkit.events.checkpoints import Checkpoint, mark_in_flight, move_checkpoint, read_batch
from erpkit.events.consumer import UNWATCHED, Consumer, Context, Watch, raise_if_lost
from erpkit.events.dead_letters import add_dead_letter
from erpkit.events.log import append, name_log_behind
from erpkit.events.message import Message
from erpkit.events.middleware import Middleware
from erpkit.events.parking import hold_back, park_if_blocked
from erpkit.events.router import EVERY, handle, isolated, run_handler
from erpkit.events.timeout import watched
from erpkit.modules import EventHandler, Registry

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
    rest: Sequence[Message] = ()  # not begun, as somebody waits for the tenant


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
        return each()


def handle_batch(
    connection: Connection,
    consumer: Consumer,
    messages: Sequence[Message],
    attempts: int = ATTEMPTS,
    leaving: Leaving | None = None,
) -> BatchResult:
    """Handle messages that are not in the handler's inbox yet; the caller appends what was published.

    One that fails `attempts` times becomes a dead letter. With `leaving`, the batch ends where somebody waits for the tenant.
    """
    return together_or_each(
        connection,
        str(consumer),
        lambda: _handle_together(connection, consumer, messages, leaving),
        lambda: handle_each(connection, consumer, messages, attempts, leaving),
    )


def _handle_together(
    connection: Connection, consumer: Consumer, messages: Sequence[Message], leaving: Leaving | None
) -> BatchResult:
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
    for number, message in enumerate(messages):
        if leaving is not None and leaving.is_due():
            query = "DELETE FROM erpkit_inbox WHERE handler = %s AND uuid = ANY(%s)"
            connection.execute(query, [consumer.name, list(new)])
            return BatchResult(messages[:number], (), published, messages[number:])
        if message.uuid in new:
            new.discard(message.uuid)  # a broker may bring one twice
            published += handle(connection, consumer, message, middleware)
    return BatchResult(messages, (), published)


def handle_each(
    connection: Connection,
    consumer: Consumer,
    messages: Sequence[Message],
    attempts: int = ATTEMPTS,
    leaving: Leaving | None = None,
) -> BatchResult:
    """Handle messages one by one, each in a savepoint of its own."""
    middleware = _isolated_middleware(consumer.handler, consumer.watch, attempts)
    handled: list[Message] = []
    dead: list[tuple[Message, Exception]] = []
    published: list[Message] = []
    for number, message in enumerate(messages):
        if leaving is not None and leaving.is_due():
            return BatchResult(handled, dead, published, messages[number:])
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
    """Return the middleware for a batch, which has one savepoint and one look into the inbox."""
    return (*EVERY, watched(watch, handler))


@lru_cache(maxsize=1000)
def _isolated_middleware(handler: EventHandler, watch: Watch, attempts: int) -> tuple[Middleware, ...]:
    """Return the middleware for messages one by one, after an error."""

    def store(context: Context, error: Exception) -> None:
        consumer = Consumer(context.tenant, context.registry, handler)
        add_dead_letter(context.connection, consumer, context.message, error, context.attempt)

    return isolated(store, attempts, watched(watch, handler))


BATCH = 500
STATEMENT_TIMEOUT = 30.0  # seconds


class CrashError(ErpkitError):
    """The process of a handler ended, or hung and was killed, each time that it had this event in flight."""


@dataclass(frozen=True)
class DispatchResult:
    """How many events were handled, became dead letters, and were parked behind one, over all handlers of one tenant."""

    tenant: str
    handled: int
    dead: int
    parked: int = 0


class Dispatched(NamedTuple):
    """How many events of a batch were handled, became dead letters, and were parked behind one."""

    handled: int = 0
    dead: int = 0
    parked: int = 0


def dispatch(
    database: Database, tenant: Tenant, registry: Registry, *, batch: int = BATCH, watch: Watch = UNWATCHED
) -> DispatchResult:
    """Hand every event that is not yet handled to its handlers, and those that they publish, until nothing is left.

    Each handler is a consumer group with a checkpoint of its own. Its effect, its inbox row and its checkpoint commit
    together. An event that fails three times becomes a dead letter and does not hold up those behind it, except later ones
    of its aggregate where the handler declares `ordered_by`: they are parked.
    """
    consumers = [Consumer(tenant, registry, handler, watch) for handler in registry.event_handlers.values()]
    total = Dispatched()
    while True:
        found = [dispatch_batch(database, consumer, batch) for consumer in consumers]
        if not any(map(any, found)):
            return DispatchResult(tenant.slug, *total)
        total = Dispatched(*map(sum, zip(total, *found, strict=True)))


def dispatch_batch(database: Database, consumer: Consumer, limit: int = BATCH) -> Dispatched:
    """Hand the next events of one tenant to one handler in one transaction.

    Where the last dispatcher of the group ended with some in flight, one of them is handed over alone, up to three times in
    all: one that ends the process each time becomes a dead letter. All figures are 0 where nothing waits, or another
    dispatcher has the group. The batch ends early where somebody waits to suspend, rename or drop the tenant. Raises
    TenantNotActiveError where the tenant is not active any more.
    """
    with (
        name_log_behind(consumer.tenant),
        database.tenant_transaction(
            consumer.tenant, write=True, statement_timeout=STATEMENT_TIMEOUT, active=True
        ) as connection,
    ):
        checkpoint, messages = read_batch(connection, consumer.group, limit)
        if messages is None:
            return Dispatched()
        if messages and checkpoint.is_suspect(messages[0]):
            return _dispatch_suspect(connection, consumer, messages[0], checkpoint)
        if messages:
            mark_in_flight(connection, consumer, messages[-1].offset or 0, 0, STATEMENT_TIMEOUT)
        ready = hold_back(connection, consumer, messages)
        if not messages and not ready:
            return Dispatched()
        result = handle_batch(connection, consumer, ready, ATTEMPTS, Leaving(connection, consumer.tenant))
        if messages or result.rest:
            move_checkpoint(connection, consumer.group, _last_offset(consumer, messages, result.rest))
        append(connection, result.published)
        rest = {message.uuid for message in result.rest}
        return _count([message for message in (*messages, *ready) if message.uuid not in rest], result)


def _last_offset(consumer: Consumer, messages: Sequence[Message], rest: Sequence[Message]) -> int:
    """Return the offset up to which all of a batch is done.

    Raises TenantNotActiveError, which undoes the batch, where the rest begins among events that were parked before it.
    """
    if not rest:
        return messages[-1].offset or 0
    if rest[0] not in messages:
        raise TenantNotActiveError(f"{consumer} ended its batch, as somebody waits for the tenant")
    return (rest[0].offset or 1) - 1


def _dispatch_suspect(
    connection: Connection, consumer: Consumer, suspect: Message, checkpoint: Checkpoint
) -> Dispatched:
    """Handle one event that may have ended the last dispatcher's process, or dead-letter it; the others remain suspect."""
    in_flight, offset = checkpoint.in_flight or 0, suspect.offset or 0
    is_hopeless = checkpoint.attempts >= ATTEMPTS
    if not is_hopeless:
        mark_in_flight(connection, consumer, in_flight, checkpoint.attempts + 1, STATEMENT_TIMEOUT)
    ready = hold_back(connection, consumer, [suspect])
    given_up = [suspect] if is_hopeless and suspect in ready else []
    for message in given_up:
        crash = CrashError(f"its dispatcher ended {ATTEMPTS} times with it in flight")
        add_dead_letter(connection, consumer, message, crash, ATTEMPTS)
    result = handle_each(connection, consumer, [message for message in ready if message not in given_up])
    move_checkpoint(connection, consumer.group, offset, in_flight if offset < in_flight else None)
    append(connection, result.published)
    return _count([suspect, *ready], result, len(given_up))


def _count(messages: list[Message], result: BatchResult, given_up: int = 0) -> Dispatched:
    """Count the results of messages, some of which may be listed twice; those neither handled nor dead-lettered were parked."""
    handled, dead = len(result.handled), len(result.dead) + given_up
    return Dispatched(handled, dead, len({message.uuid for message in messages}) - handled - dead)
