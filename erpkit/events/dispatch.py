"""Handing the events of a tenant's log to their handlers: at least once, with exactly one effect."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import psycopg

from erpkit.database import Connection, Database, Tenant
from erpkit.errors import DatabaseError, ErpkitError
from erpkit.events.checkpoints import Checkpoint, mark_in_hand, move_checkpoint, read_batch
from erpkit.events.log import append
from erpkit.events.message import Message
from erpkit.events.router import handle
from erpkit.events.watchdog import Watch
from erpkit.modules import EventHandler, Registry

__all__ = ["BATCH", "CrashError", "DispatchResult", "dispatch", "dispatch_batch", "handle"]

BATCH = 500
ATTEMPTS = 3

_UNWATCHED = Watch()


class CrashError(ErpkitError):
    """The process of a handler ended, or hung and was ended, each time that it had this event in hand."""


@dataclass(frozen=True)
class DispatchResult:
    """How many events were handled and how many became dead letters, over all handlers of one tenant."""

    tenant: str
    handled: int
    dead: int


def dispatch(
    database: Database, tenant: Tenant, registry: Registry, *, batch: int = BATCH, watch: Watch = _UNWATCHED
) -> DispatchResult:
    """Hand every event that is not yet handled to its handlers, and those that they publish, until nothing is left.

    Each handler is a consumer group with a checkpoint of its own. Its effect, its inbox row and its checkpoint commit
    together. An event that fails three times becomes a dead letter and does not hold up those behind it.
    """
    handled = dead = 0
    while True:
        round_handled = 0
        for handler in registry.event_handlers.values():
            ok, bad = dispatch_batch(database, tenant, registry, handler, batch, watch)
            handled, dead, round_handled = handled + ok, dead + bad, round_handled + ok + bad
        if not round_handled:
            return DispatchResult(tenant.slug, handled, dead)


def dispatch_batch(
    database: Database,
    tenant: Tenant,
    registry: Registry,
    handler: EventHandler,
    limit: int = BATCH,
    watch: Watch = _UNWATCHED,
) -> tuple[int, int]:
    """Hand the next events of one tenant to one handler in one transaction; return how many were handled and how many died.

    Where the last dispatcher of the group ended with some in hand, one of them is handed over alone, up to three times in
    all: one that ends the process each time becomes a dead letter. Both are 0 where nothing waits, or another dispatcher has
    the group.
    """
    with database.tenant_transaction(tenant, write=True) as connection:
        found = read_batch(connection, handler.name, registry.topic(handler.event), limit)
        if found is None or not found[1]:
            return 0, 0
        checkpoint, messages = found
        if checkpoint.is_suspect(messages[0]):
            return _handle_suspect(database, connection, tenant, registry, handler, messages[0], checkpoint, watch)
        mark_in_hand(database, tenant, handler.name, messages[-1].offset or 0, 0)
        try:
            with connection.transaction():
                published = _handle_new(connection, tenant, registry, handler, messages, watch)
            dead = 0
        except Exception as error:  # any fault of a handler: find out which event it is
            _reraise_if_lost(connection, tenant, error)
            published, dead = _handle_one_by_one(connection, tenant, registry, handler, messages, watch)
        move_checkpoint(connection, handler.name, messages[-1].offset or 0)
        append(connection, published)
        return len(messages) - dead, dead


def _handle_suspect(
    database: Database, connection: Connection, tenant: Tenant, registry: Registry, handler: EventHandler, message: Message,
    checkpoint: Checkpoint, watch: Watch,
) -> tuple[int, int]:  # fmt: skip
    """Handle one event that may have ended the last dispatcher's process, or give it up; keep the others suspect."""
    in_hand, offset = checkpoint.in_hand or 0, message.offset or 0
    published: list[Message] = []
    if checkpoint.attempts >= ATTEMPTS:
        _bury(connection, handler.name, message, CrashError(f"its dispatcher ended {ATTEMPTS} times with it in hand"))
        dead = 1
    else:
        mark_in_hand(database, tenant, handler.name, in_hand, checkpoint.attempts + 1)
        published, dead = _handle_one_by_one(connection, tenant, registry, handler, [message], watch)
    move_checkpoint(connection, handler.name, offset, in_hand if offset < in_hand else None)
    append(connection, published)
    return 1 - dead, dead


def _handle_new(
    connection: Connection,
    tenant: Tenant,
    registry: Registry,
    handler: EventHandler,
    messages: Sequence[Message],
    watch: Watch,
) -> list[Message]:
    """Handle those messages that are not in the handler's inbox yet, and put them there."""
    rows = connection.execute(
        "INSERT INTO erpkit_inbox (handler, uuid) SELECT %s, unnest(%s::uuid[]) ON CONFLICT DO NOTHING RETURNING uuid",
        [handler.name, [message.uuid for message in messages]],
    )
    new = {uuid for (uuid,) in rows}
    published: list[Message] = []
    for message in messages:
        if message.uuid in new:
            watch.begin(tenant, handler, message)
            try:
                published += handle(connection, tenant, registry, handler, message)
            finally:
                watch.end()
    return published


def _handle_one_by_one(
    connection: Connection,
    tenant: Tenant,
    registry: Registry,
    handler: EventHandler,
    messages: Iterable[Message],
    watch: Watch,
) -> tuple[list[Message], int]:
    published: list[Message] = []
    dead = 0
    for message in messages:
        try:
            published += _handle_with_retries(connection, tenant, registry, handler, message, watch)
        except Exception as error:
            _reraise_if_lost(connection, tenant, error)
            _bury(connection, handler.name, message, error)
            dead += 1
    return published, dead


def _handle_with_retries(
    connection: Connection, tenant: Tenant, registry: Registry, handler: EventHandler, message: Message, watch: Watch
) -> list[Message]:
    from tenacity import Retrying, stop_after_attempt, wait_random_exponential  # noqa: PLC0415 - only after a fault

    for attempt in Retrying(
        stop=stop_after_attempt(ATTEMPTS), wait=wait_random_exponential(0.02, max=0.2), reraise=True
    ):
        with attempt, connection.transaction():
            return _handle_new(connection, tenant, registry, handler, [message], watch)
    raise AssertionError("unreachable: the last attempt raises")


def _bury(connection: Connection, handler: str, message: Message, error: Exception) -> None:
    connection.execute(
        'INSERT INTO erpkit_dead_letters (handler, uuid, "offset", topic, error, attempts) VALUES (%s, %s, %s, %s, %s, %s) '
        "ON CONFLICT (handler, uuid) DO UPDATE SET error = EXCLUDED.error, failed_at = now(), status = 'open'",
        [handler, message.uuid, message.offset, message.topic, f"{type(error).__name__}: {error}".strip(), ATTEMPTS],
    )


def _reraise_if_lost(connection: Connection, tenant: Tenant, error: Exception) -> None:
    """A lost connection is no fault of an event: let the batch be read again later."""
    if connection.closed or (isinstance(error, psycopg.OperationalError) and connection.broken):
        raise DatabaseError(f"tenant {tenant.slug}: the connection was lost while events were dispatched") from error
