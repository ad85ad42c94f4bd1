"""Handing the events of a tenant's log to their handlers: at least once, with exactly one effect."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import psycopg

from erpkit.database import Connection, Database, Tenant
from erpkit.errors import DatabaseError
from erpkit.events.log import append, read_events
from erpkit.events.message import Message
from erpkit.events.router import handle
from erpkit.modules import EventHandler, Registry

__all__ = ["DispatchResult", "dispatch", "handle"]

BATCH = 500
ATTEMPTS = 3


@dataclass(frozen=True)
class DispatchResult:
    """How many events were handled and how many became dead letters, over all handlers of one tenant."""

    tenant: str
    handled: int
    dead: int


def dispatch(database: Database, tenant: Tenant, registry: Registry, *, batch: int = BATCH) -> DispatchResult:
    """Hand every event that is not yet handled to its handlers, and those that they publish, until nothing is left.

    Each handler is a consumer group with a checkpoint of its own. Its effect, its inbox row and its checkpoint commit
    together. An event that fails three times becomes a dead letter and does not hold up those behind it.
    """
    handled = dead = 0
    while True:
        round_handled = 0
        for handler in registry.event_handlers.values():
            ok, bad = _dispatch_batch(database, tenant, registry, handler, batch)
            handled, dead, round_handled = handled + ok, dead + bad, round_handled + ok + bad
        if not round_handled:
            return DispatchResult(tenant.slug, handled, dead)


def _dispatch_batch(
    database: Database, tenant: Tenant, registry: Registry, handler: EventHandler, limit: int
) -> tuple[int, int]:
    with database.tenant_transaction(tenant, write=True) as connection:
        if not _lock(connection, handler.name):
            return 0, 0
        messages = read_events(connection, registry.topic(handler.event), _checkpoint(connection, handler.name), limit)
        if not messages:
            return 0, 0
        try:
            with connection.transaction():
                published = _handle_new(connection, tenant, registry, handler, messages)
            dead = 0
        except Exception as error:  # any fault of a handler: find out which event it is
            _reraise_if_lost(connection, tenant, error)
            published, dead = _handle_one_by_one(connection, tenant, registry, handler, messages)
        _move_checkpoint(connection, handler.name, messages[-1])
        append(connection, published)
        return len(messages) - dead, dead


def _handle_new(
    connection: Connection, tenant: Tenant, registry: Registry, handler: EventHandler, messages: Sequence[Message]
) -> list[Message]:
    """Handle those messages that are not in the handler's inbox yet, and put them there."""
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
) -> tuple[list[Message], int]:
    published: list[Message] = []
    dead = 0
    for message in messages:
        try:
            published += _handle_with_retries(connection, tenant, registry, handler, message)
        except Exception as error:
            _reraise_if_lost(connection, tenant, error)
            _bury(connection, handler.name, message, error)
            dead += 1
    return published, dead


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
