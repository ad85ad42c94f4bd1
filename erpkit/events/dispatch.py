"""Handing the events of a tenant's log to their handlers: at least once, with exactly one effect."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import psycopg

from erpkit.database import Connection, Database, Tenant
from erpkit.errors import DatabaseError
from erpkit.events.dead_letters import bury
from erpkit.events.log import append, read_events
from erpkit.events.message import Message
from erpkit.events.parking import hold_back, park_if_blocked
from erpkit.events.router import handle
from erpkit.modules import EventHandler, Registry

__all__ = ["DispatchResult", "dispatch", "handle"]

BATCH = 500
ATTEMPTS = 3


@dataclass(frozen=True)
class DispatchResult:
    """How many events were handled, became dead letters, and were parked behind one, over all handlers of one tenant."""

    tenant: str
    handled: int
    dead: int
    parked: int = 0


def dispatch(database: Database, tenant: Tenant, registry: Registry, *, batch: int = BATCH) -> DispatchResult:
    """Hand every event that is not yet handled to its handlers, and those that they publish, until nothing is left.

    Each handler is a consumer group with a checkpoint of its own. Its effect, its inbox row and its checkpoint commit
    together. An event that fails three times becomes a dead letter and does not hold up those behind it, except later ones
    of its aggregate where the handler declares `ordered_by`: they are parked.
    """
    handled = dead = parked = 0
    while True:
        progress = False
        for handler in registry.event_handlers.values():
            ok, bad, later = _dispatch_batch(database, tenant, registry, handler, batch)
            handled, dead, parked = handled + ok, dead + bad, parked + later
            progress = progress or ok + bad + later > 0
        if not progress:
            return DispatchResult(tenant.slug, handled, dead, parked)


def _dispatch_batch(
    database: Database, tenant: Tenant, registry: Registry, handler: EventHandler, limit: int
) -> tuple[int, int, int]:
    with database.tenant_transaction(tenant, write=True) as connection:
        if not _lock(connection, handler.name):
            return 0, 0, 0
        messages = read_events(connection, registry.topic(handler.event), _checkpoint(connection, handler.name), limit)
        ready = hold_back(connection, registry, handler, messages)
        if not messages and not ready:
            return 0, 0, 0
        try:
            with connection.transaction():
                published = _handle_new(connection, tenant, registry, handler, ready)
            handled, dead = len(ready), 0
        except Exception as error:  # any fault of a handler: find out which event it is
            _reraise_if_lost(connection, tenant, error)
            published, handled, dead = _handle_one_by_one(connection, tenant, registry, handler, ready)
        if messages:
            _move_checkpoint(connection, handler.name, messages[-1])
        append(connection, published)
        return handled, dead, len({message.uuid for message in (*messages, *ready)}) - handled - dead


def _handle_new(
    connection: Connection, tenant: Tenant, registry: Registry, handler: EventHandler, messages: Sequence[Message]
) -> list[Message]:
    """Handle those messages that are not in the handler's inbox yet, and put them there."""
    if not messages:
        return []
    rows = connection.execute(
        "INSERT INTO erpkit_inbox (handler, uuid) SELECT %s, unnest(%s::uuid[]) ON CONFLICT DO NOTHING RETURNING uuid",
        [handler.name, [message.uuid for message in messages]],
    )
    new = {uuid for (uuid,) in rows}
    return [
        event
        for message in messages
        if message.uuid in new
        for event in handle(connection, tenant, registry, handler, message)
    ]


def _handle_one_by_one(
    connection: Connection, tenant: Tenant, registry: Registry, handler: EventHandler, messages: Iterable[Message]
) -> tuple[list[Message], int, int]:
    published: list[Message] = []
    handled = dead = 0
    for message in messages:
        if dead and park_if_blocked(connection, registry, handler, message):
            continue
        try:
            published += _handle_with_retries(connection, tenant, registry, handler, message)
            handled += 1
        except Exception as error:
            _reraise_if_lost(connection, tenant, error)
            bury(connection, registry, handler, message, error, ATTEMPTS)
            dead += 1
    return published, handled, dead


def _handle_with_retries(
    connection: Connection, tenant: Tenant, registry: Registry, handler: EventHandler, message: Message
) -> list[Message]:
    from tenacity import Retrying, stop_after_attempt, wait_random_exponential  # noqa: PLC0415 - only after a fault

    for attempt in Retrying(
        stop=stop_after_attempt(ATTEMPTS), wait=wait_random_exponential(0.02, max=0.2), reraise=True
    ):
        with attempt, connection.transaction():
            return _handle_new(connection, tenant, registry, handler, [message])
    raise AssertionError("unreachable: the last attempt raises")


def _reraise_if_lost(connection: Connection, tenant: Tenant, error: Exception) -> None:
    """A lost connection is no fault of an event: let the batch be read again later."""
    if connection.closed or (isinstance(error, psycopg.OperationalError) and connection.broken):
        raise DatabaseError(f"tenant {tenant.slug}: the connection was lost while events were dispatched") from error


def _lock(connection: Connection, group: str) -> bool:
    row = connection.execute(
        "SELECT pg_try_advisory_xact_lock(hashtextextended('erpkit.dispatch.' || current_schema() || '.' || %s, 0))",
        [group],
    ).fetchone()
    return row == (True,)


def _checkpoint(connection: Connection, group: str) -> int:
    row = connection.execute('SELECT "offset" FROM erpkit_checkpoints WHERE consumer_group = %s', [group]).fetchone()
    return row[0] if row else 0


def _move_checkpoint(connection: Connection, group: str, last: Message) -> None:
    connection.execute(
        'INSERT INTO erpkit_checkpoints (consumer_group, "offset") VALUES (%s, %s) '
        'ON CONFLICT (consumer_group) DO UPDATE SET "offset" = EXCLUDED."offset", updated_at = now()',
        [group, last.offset],
    )
