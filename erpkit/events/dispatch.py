"""Handing the events of a tenant's log to their handlers: at least once, with exactly one effect."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from erpkit.database import Connection, Database, Tenant
from erpkit.errors import ErpkitError
from erpkit.events.checkpoints import Checkpoint, mark_in_hand, move_checkpoint, read_batch
from erpkit.events.context import Context
from erpkit.events.dead_letters import bury
from erpkit.events.faults import name_log_behind, raise_if_lost
from erpkit.events.log import append
from erpkit.events.message import Message
from erpkit.events.middleware import Middleware
from erpkit.events.parking import hold_back, park_if_blocked
from erpkit.events.router import EVERY, careful, handle, run_handler
from erpkit.events.watchdog import Watch, watched
from erpkit.modules import EventHandler, Registry

__all__ = ["ATTEMPTS", "BATCH", "CrashError", "DispatchResult", "dispatch", "dispatch_batch", "handle", "handle_all"]

BATCH = 500
ATTEMPTS = 3
STATEMENT_TIMEOUT = 30.0  # seconds

_UNWATCHED = Watch()


class CrashError(ErpkitError):
    """The process of a handler ended, or hung and was ended, each time that it had this event in hand."""


@dataclass(frozen=True)
class DispatchResult:
    """How many events were handled, became dead letters, and were parked behind one, over all handlers of one tenant."""

    tenant: str
    handled: int
    dead: int
    parked: int = 0


def dispatch(
    database: Database, tenant: Tenant, registry: Registry, *, batch: int = BATCH, watch: Watch = _UNWATCHED
) -> DispatchResult:
    """Hand every event that is not yet handled to its handlers, and those that they publish, until nothing is left.

    Each handler is a consumer group with a checkpoint of its own. Its effect, its inbox row and its checkpoint commit
    together. An event that fails three times becomes a dead letter and does not hold up those behind it, except later ones
    of its aggregate where the handler declares `ordered_by`: they are parked.
    """
    handled = dead = parked = 0
    while True:
        progress = False
        for handler in registry.event_handlers.values():
            ok, bad, later = dispatch_batch(database, tenant, registry, handler, batch, watch)
            handled, dead, parked = handled + ok, dead + bad, parked + later
            progress = progress or ok + bad + later > 0
        if not progress:
            return DispatchResult(tenant.slug, handled, dead, parked)


def dispatch_batch(
    database: Database,
    tenant: Tenant,
    registry: Registry,
    handler: EventHandler,
    limit: int = BATCH,
    watch: Watch = _UNWATCHED,
) -> tuple[int, int, int]:
    """Hand the next events of one tenant to one handler in one transaction; return how many were handled, died, were parked.

    Where the last dispatcher of the group ended with some in hand, one of them is handed over alone, up to three times in
    all: one that ends the process each time becomes a dead letter. All are 0 where nothing waits, or another dispatcher has
    the group.
    """
    with (
        name_log_behind(tenant),
        database.tenant_transaction(tenant, write=True, statement_timeout=STATEMENT_TIMEOUT) as connection,
    ):
        found = read_batch(connection, handler.name, registry.topic(handler.event), limit)
        if found is None:
            return 0, 0, 0
        checkpoint, messages = found
        if messages and checkpoint.is_suspect(messages[0]):
            return _dispatch_suspect(connection, tenant, registry, handler, messages[0], checkpoint, watch)
        if messages:
            _mark(connection, tenant, handler, messages[-1].offset or 0, 0)
        ready = hold_back(connection, registry, handler, messages)
        if not messages and not ready:
            return 0, 0, 0
        published, handled, dead = handle_all(connection, tenant, registry, handler, ready, watch)
        if messages:
            move_checkpoint(connection, handler.name, messages[-1].offset or 0)
        append(connection, published)
        return handled, dead, len({message.uuid for message in (*messages, *ready)}) - handled - dead


def _dispatch_suspect(
    connection: Connection, tenant: Tenant, registry: Registry, handler: EventHandler, suspect: Message, checkpoint: Checkpoint,
    watch: Watch,
) -> tuple[int, int, int]:  # fmt: skip
    """Handle one event that may have ended the last dispatcher's process, or give it up; keep the others suspect."""
    in_hand, offset = checkpoint.in_hand or 0, suspect.offset or 0
    is_hopeless = checkpoint.attempts >= ATTEMPTS
    if not is_hopeless:
        _mark(connection, tenant, handler, in_hand, checkpoint.attempts + 1)
    ready = hold_back(connection, registry, handler, [suspect])
    given_up = [suspect] if is_hopeless and suspect in ready else []
    for message in given_up:
        crash = CrashError(f"its dispatcher ended {ATTEMPTS} times with it in hand")
        bury(connection, registry, handler, message, crash, ATTEMPTS)
    others = [message for message in ready if message not in given_up]
    published, handled, dead = _handle_one_by_one(connection, tenant, registry, handler, others, watch)
    move_checkpoint(connection, handler.name, offset, in_hand if offset < in_hand else None)
    append(connection, published)
    dead += len(given_up)
    return handled, dead, len({message.uuid for message in (suspect, *ready)}) - handled - dead


def _mark(connection: Connection, tenant: Tenant, handler: EventHandler, last: int, attempts: int) -> None:
    mark_in_hand(connection, tenant, handler.name, last, attempts, STATEMENT_TIMEOUT)


def handle_all(
    connection: Connection,
    tenant: Tenant,
    registry: Registry,
    handler: EventHandler,
    messages: Sequence[Message],
    watch: Watch = _UNWATCHED,
) -> tuple[list[Message], int, int]:
    """Handle messages together; after any fault of the handler one by one, to find out which of them it is.

    Return what was published, which the caller appends, and how many were handled and became dead letters.
    """
    try:
        with connection.transaction():
            return _handle_new(connection, tenant, registry, handler, messages, watch), len(messages), 0
    except Exception as error:
        raise_if_lost(connection, error, f"tenant {tenant.slug}: {handler.name}")
        return _handle_one_by_one(connection, tenant, registry, handler, messages, watch)


def _handle_new(
    connection: Connection,
    tenant: Tenant,
    registry: Registry,
    handler: EventHandler,
    messages: Sequence[Message],
    watch: Watch,
) -> list[Message]:
    """Handle those messages that are not in the handler's inbox yet, and put them there."""
    if not messages:
        return []
    rows = connection.execute(
        "INSERT INTO erpkit_inbox (handler, uuid) SELECT %s, unnest(%s::uuid[]) ON CONFLICT DO NOTHING RETURNING uuid",
        [handler.name, [message.uuid for message in messages]],
    )
    new = {uuid for (uuid,) in rows}
    middleware = _middleware(handler, watch)
    published: list[Message] = []
    for message in messages:
        if message.uuid in new:
            new.discard(message.uuid)  # a broker may bring one twice
            published += handle(connection, tenant, registry, handler, message, middleware)
    return published


def _handle_one_by_one(
    connection: Connection,
    tenant: Tenant,
    registry: Registry,
    handler: EventHandler,
    messages: Iterable[Message],
    watch: Watch,
) -> tuple[list[Message], int, int]:
    middleware = _careful_middleware(handler, watch)
    published: list[Message] = []
    handled = dead = 0
    for message in messages:
        if dead and park_if_blocked(connection, registry, handler, message):
            continue
        context = Context(connection, tenant, message, registry, handler.name)
        published += run_handler(handler, context, middleware)
        handled, dead = handled + (context.error is None), dead + (context.error is not None)
    return published, handled, dead


@lru_cache(maxsize=1000)
def _middleware(handler: EventHandler, watch: Watch) -> tuple[Middleware, ...]:
    """For a batch, whose savepoint and look into the inbox are one for all."""
    return (*EVERY, watched(watch, handler))


@lru_cache(maxsize=1000)
def _careful_middleware(handler: EventHandler, watch: Watch) -> tuple[Middleware, ...]:
    """For one after the other, after a fault."""

    def bury_it(context: Context, error: Exception) -> None:
        bury(context.connection, context.registry, handler, context.message, error, context.attempt)

    return careful(bury_it, ATTEMPTS, watched(watch, handler))
