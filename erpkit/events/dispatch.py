"""Dispatching the events of a tenant's log to their handlers, batch by batch: at least once, with exactly one effect."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace

from erpkit.database import Connection, Database, Tenant
from erpkit.database.in_use import Leaving
from erpkit.errors import TenantNotActiveError
from erpkit.events.checkpoints import (
    Checkpoint,
    NotStartedError,
    list_paused,
    mark_in_flight,
    move_checkpoint,
)
from erpkit.events.consumer import UNWATCHED, Consumer, Watch
from erpkit.events.dead_letters import add_dead_letter, describe_error
from erpkit.events.handling import (
    ATTEMPTS,
    STATEMENT_TIMEOUT,
    BatchResult,
    Dispatched,
    crash_of,
    handle_batch,
    handle_each,
)
from erpkit.events.log import append, name_log_behind
from erpkit.events.message import Message
from erpkit.events.middleware import TransactionEndedError
from erpkit.events.one_by_one import dispatch_one_by_one
from erpkit.events.parking import hold_back
from erpkit.events.pauses import read_past_outage
from erpkit.events.starts import start_handlers
from erpkit.modules import Registry

BATCH = 500


@dataclass(frozen=True)
class DispatchResult:
    """How many events were handled, became dead letters, and were parked behind one, over all handlers of one tenant.

    `paused` are the handlers that wait after failures, and have not handled all.
    """

    tenant: str
    handled: int
    dead: int
    parked: int = 0
    paused: tuple[str, ...] = ()


def dispatch(
    database: Database, tenant: Tenant, registry: Registry, *, batch: int = BATCH, watch: Watch = UNWATCHED
) -> DispatchResult:
    """Hand every event that is not yet handled to its handlers, and those that they publish, until nothing is left.

    Each handler is a consumer group with a checkpoint of its own. Its effect, its inbox row and its checkpoint commit
    together. An event that fails three times becomes a dead letter and does not hold up those behind it, except later ones
    of its aggregate where the handler declares `ordered_by`: they are parked.
    """
    start_handlers(database, registry, [tenant])
    consumers = [Consumer(tenant, registry, handler, watch) for handler in registry.event_handlers.values()]
    total = Dispatched()
    while True:
        found = [dispatch_batch(database, consumer, batch) for consumer in consumers]
        if not any(map(any, found)):
            return DispatchResult(tenant.slug, total.handled, total.dead, total.parked, _paused(database, consumers))
        total = Dispatched(*map(sum, zip(total, *found, strict=True)))


def _paused(database: Database, consumers: Sequence[Consumer]) -> tuple[str, ...]:
    """Return the handlers that pause; all consumers are of one tenant."""
    if not consumers:
        return ()
    with (
        name_log_behind(consumers[0].tenant),
        database.tenant_transaction(consumers[0].tenant, write=True) as connection,
    ):
        return list_paused(connection, [consumer.name for consumer in consumers])


def dispatch_batch(database: Database, consumer: Consumer, limit: int = BATCH) -> Dispatched:
    """Hand the next events of one tenant to one handler in one transaction.

    Where the last dispatcher of the group ended with some in flight, one of them is handed over alone, up to three times in
    all: one that ends the process each time becomes a dead letter. All figures are 0 where nothing waits, or another
    dispatcher has the group. The batch ends early where a session waits to suspend, rename or drop the tenant. Raises
    TenantNotActiveError where the tenant is not active any more.
    """
    in_flight: list[Message] = []
    try:
        with (
            name_log_behind(consumer.tenant),
            _noting_failure(database, consumer),
            database.tenant_transaction(
                consumer.tenant, write=True, statement_timeout=STATEMENT_TIMEOUT, active=True
            ) as connection,
        ):
            consumer = replace(consumer, leaving=Leaving(connection, consumer.tenant))
            work = dispatch_one_by_one if consumer.handler.is_outside else _dispatch
            return work(connection, consumer, limit, in_flight)
    except NotStartedError:
        start_handlers(database, consumer.registry, [consumer.tenant])
        return dispatch_batch(database, consumer, limit)
    except TransactionEndedError as ended:
        settle(database, consumer, in_flight, ended)
        return Dispatched(dead=1) if ended.message else Dispatched(passed=1)


def _dispatch(connection: Connection, consumer: Consumer, limit: int, in_flight: list[Message]) -> Dispatched:
    """Hand on a batch, which is `in_flight` then, in a transaction that only has begun."""
    checkpoint, messages = read_past_outage(connection, consumer, limit)
    if messages is None:
        return Dispatched()
    if messages and checkpoint.is_suspect(messages[0]):
        in_flight.append(messages[0])
        return _dispatch_suspect(connection, replace(consumer, leaving=None), messages[0], checkpoint)
    if messages:
        mark_in_flight(connection, consumer, messages[-1].offset or 0, 0, STATEMENT_TIMEOUT)
    ready = hold_back(connection, consumer, checkpoint.without_letters(messages))
    if not messages and not ready:
        return Dispatched()
    in_flight += ready
    result = handle_batch(connection, consumer, ready, checkpoint=checkpoint)
    place = _place_of(checkpoint, messages, ready, result)
    if place is not None:
        move_checkpoint(connection, consumer.group, place, pause=result.pause)
    append(connection, result.published)
    fresh, rest = checkpoint.without_letters(messages), {message.uuid for message in result.rest}
    passed = 0 if rest else len(messages) - len(fresh)
    return _count([one for one in (*fresh, *ready) if one.uuid not in rest], result, passed=passed)


def _place_of(
    checkpoint: Checkpoint, messages: Sequence[Message], ready: Sequence[Message], result: BatchResult
) -> int | None:
    """Return where the checkpoint moves over what was done, None if it stays; what comes again after a pause lies behind it."""
    if result.rest and result.pause is None:
        if result.rest[0] not in messages:  # it was parked before this batch: undo all of it
            raise TenantNotActiveError("the batch ended early, because another process waits for the tenant")
        return (result.rest[0].offset or 1) - 1
    if result.pause is None:
        return messages[-1].offset if messages else None
    done = {message.uuid for message in (*result.handled, *(message for message, _ in result.dead))}
    freed = [one.offset or 0 for one in ready if one.uuid not in done and (one.offset or 0) <= checkpoint.offset]
    return min([result.pause.offset, *(first - 1 for first in freed)])


@contextmanager
def _noting_failure(database: Database, consumer: Consumer) -> Iterator[None]:
    """Keep the error of a transaction that failed as a whole, for the dead letter that an event may become after several."""
    try:
        yield
    except (TransactionEndedError, NotStartedError, TenantNotActiveError):
        raise
    except Exception as error:
        with suppress(Exception), database.tenant_transaction(consumer.tenant, write=True) as connection:
            connection.execute(
                "UPDATE erpkit_checkpoints SET error = %s WHERE consumer_group = %s AND paused_until IS NULL",
                [describe_error(error), consumer.name],
            )
        raise


def settle(database: Database, consumer: Consumer, in_flight: Sequence[Message], ended: TransactionEndedError) -> None:
    """Put in order what a handler left that ended its transaction: its message becomes a dead letter, and no effect is lost.

    What was in flight with it may have been committed, or rolled back; the inbox tells. Those behind it leave the inbox, and come
    again one by one, as after a crash.
    """
    uuids = [message.uuid for message in in_flight]
    first = uuids.index(ended.message.uuid) if ended.message and ended.message.uuid in uuids else 0
    with database.tenant_transaction(consumer.tenant, write=True) as connection:
        rows = connection.execute(
            "DELETE FROM erpkit_inbox WHERE handler = %s AND uuid = ANY(%s) RETURNING uuid",
            [consumer.name, uuids[first:]],
        ).fetchall()
        if ended.message is not None:
            connection.execute(
                "DELETE FROM erpkit_parked WHERE handler = %s AND uuid = %s", [consumer.name, ended.message.uuid]
            )
            add_dead_letter(connection, consumer, ended.message, ended, 1)
        if rows:  # it was committed, and what the messages before it published was not
            append(connection, ended.published)


def _dispatch_suspect(
    connection: Connection, consumer: Consumer, suspect: Message, checkpoint: Checkpoint
) -> Dispatched:
    """Handle one event that may have ended the last dispatcher's process, or dead-letter it; the others remain suspect."""
    in_flight, offset = checkpoint.in_flight or 0, suspect.offset or 0
    is_hopeless = checkpoint.attempts >= ATTEMPTS
    if not is_hopeless:
        mark_in_flight(connection, consumer, in_flight, checkpoint.attempts + 1, STATEMENT_TIMEOUT)
    fresh = checkpoint.without_letters([suspect])
    ready = hold_back(connection, consumer, fresh)
    given_up = [suspect] if is_hopeless and suspect in ready else []
    for message in given_up:
        add_dead_letter(connection, consumer, message, crash_of(checkpoint), ATTEMPTS)
    rest = [message for message in ready if message not in given_up]
    result = handle_each(connection, consumer, rest, checkpoint=checkpoint)
    done = offset if result.pause is None else min(offset - 1, result.pause.offset)
    move_checkpoint(connection, consumer.group, done, in_flight if done < in_flight else None, result.pause)
    append(connection, result.published)
    return _count([*fresh, *ready], result, len(given_up), passed=1 - len(fresh))


def _count(messages: list[Message], result: BatchResult, given_up: int = 0, passed: int = 0) -> Dispatched:
    """Count the results of messages, some of which may be listed twice; those neither handled nor dead-lettered were parked."""
    handled, dead = len(result.handled), len(result.dead) + given_up
    if result.pause is not None:  # what comes again is not done
        return Dispatched(handled, dead, 0)
    return Dispatched(handled, dead, len({message.uuid for message in messages}) - handled - dead, passed)
