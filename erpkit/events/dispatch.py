"""Dispatching the events of a tenant's log to their handlers: at least once, with exactly one effect."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from erpkit.database import Connection, Database, Tenant
from erpkit.errors import ErpkitError
from erpkit.events.batch import ATTEMPTS, BatchResult, handle_batch, handle_each
from erpkit.events.checkpoints import Checkpoint, mark_in_flight, move_checkpoint, read_batch
from erpkit.events.consumer import Consumer
from erpkit.events.dead_letters import add_dead_letter
from erpkit.events.log import append, name_log_behind
from erpkit.events.message import Message
from erpkit.events.parking import hold_back
from erpkit.events.watchdog import UNWATCHED, Watch
from erpkit.modules import Registry

BATCH = 500
STATEMENT_TIMEOUT = 30.0  # seconds


class CrashError(ErpkitError):
    """The process of a handler ended, or hung and was ended, each time that it had this event in flight."""


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
    dispatcher has the group.
    """
    with (
        name_log_behind(consumer.tenant),
        database.tenant_transaction(consumer.tenant, write=True, statement_timeout=STATEMENT_TIMEOUT) as connection,
    ):
        found = read_batch(connection, consumer.group, limit)
        if found is None:
            return Dispatched()
        checkpoint, messages = found
        if messages and checkpoint.is_suspect(messages[0]):
            return _dispatch_suspect(connection, consumer, messages[0], checkpoint)
        if messages:
            mark_in_flight(connection, consumer, messages[-1].offset or 0, 0, STATEMENT_TIMEOUT)
        ready = hold_back(connection, consumer, messages)
        if not messages and not ready:
            return Dispatched()
        result = handle_batch(connection, consumer, ready)
        if messages:
            move_checkpoint(connection, consumer.group, messages[-1].offset or 0)
        append(connection, result.published)
        return _count([*messages, *ready], result)


def _dispatch_suspect(
    connection: Connection, consumer: Consumer, suspect: Message, checkpoint: Checkpoint
) -> Dispatched:
    """Handle one event that may have ended the last dispatcher's process, or give it up; keep the others suspect."""
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
    """Count what became of messages, some of which may be named twice; those that neither succeeded nor died were parked."""
    handled, dead = len(result.handled), len(result.dead) + given_up
    return Dispatched(handled, dead, len({message.uuid for message in messages}) - handled - dead)
