"""What one handler does with the deliveries of one tenant: each effect once, and no event that stops the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from erpkit.database import Connection, Database, Tenant
from erpkit.errors import ErpkitError
from erpkit.events.dead_letters import bury
from erpkit.events.dispatch import ATTEMPTS, handle_all
from erpkit.events.log import append
from erpkit.events.message import Message
from erpkit.events.parking import hold_back
from erpkit.modules import EventHandler, Registry

__all__ = ["ConsumerEndedError", "Effects", "NotActiveError"]

CRASHES = 5  # of a consumer, each time with the same event in hand


class NotActiveError(ErpkitError):
    """An event came for a tenant that is suspended or archived."""


class ConsumerEndedError(ErpkitError):
    """The process of the consumer ended each time that it had this event in hand."""


@dataclass(frozen=True)
class Effects:
    """One handler at work for one tenant."""

    database: Database
    tenant: Tenant
    registry: Registry
    handler: EventHandler

    def apply(self, messages: Sequence[Message]) -> int:
        """Handle messages, all in one transaction if that goes; return how many became dead letters now.

        They are noted before. Where some are noted already, the last consumer ended with them in hand: then each is handled
        alone, so that only the one that ends a process again and again becomes a dead letter for it.
        """
        if not self.tenant.is_active:
            return self._bury_all(messages, NotActiveError(f"tenant {self.tenant.slug} is {self.tenant.status}"))
        if self._note(messages):
            return self._handle_all(messages)
        return sum(self._handle_alone(message) for message in messages)

    def _handle_all(self, messages: Sequence[Message]) -> int:
        with self.database.tenant_transaction(self.tenant, write=True) as connection:
            new = self._without_letters(connection, messages)
            ready = hold_back(connection, self.registry, self.handler, new)
            published, _, dead = handle_all(connection, self.tenant, self.registry, self.handler, ready)
            self._forget(connection, messages)
            append(connection, published)
        return dead

    def _handle_alone(self, message: Message) -> int:
        if self._count_attempt(message) <= CRASHES:
            return self._handle_all([message])
        return self._bury_all([message], ConsumerEndedError(f"its consumer ended {CRASHES} times with it in hand"))

    def _bury_all(self, messages: Sequence[Message], error: Exception) -> int:
        with self.database.tenant_transaction(self.tenant, write=True) as connection:
            new = self._without_letters(connection, messages)
            for message in new:
                bury(connection, self.registry, self.handler, message, error, ATTEMPTS)
            self._forget(connection, messages)
        return len(new)

    def _without_letters(self, connection: Connection, messages: Sequence[Message]) -> list[Message]:
        """Leave out what came again though it is a dead letter: to retry or discard it is an operator's business by now."""
        rows = connection.execute(
            "SELECT uuid FROM erpkit_dead_letters WHERE handler = %s AND uuid = ANY (%s)",
            [self.handler.name, _uuids(messages)],
        )
        letters = {uuid for (uuid,) in rows}
        return [message for message in messages if message.uuid not in letters]

    def _note(self, messages: Sequence[Message]) -> bool:
        """Note, in a transaction of its own, that these are in hand; return whether none of them was already."""
        with self.database.tenant_transaction(self.tenant, write=True) as connection:
            cursor = connection.execute(
                "INSERT INTO erpkit_deliveries (handler, uuid) SELECT %s, unnest(%s::uuid[]) ON CONFLICT DO NOTHING",
                [self.handler.name, _uuids(messages)],
            )
        return cursor.rowcount == len({message.uuid for message in messages})

    def _count_attempt(self, message: Message) -> int:
        with self.database.tenant_transaction(self.tenant, write=True) as connection:
            row = connection.execute(
                "INSERT INTO erpkit_deliveries AS d (handler, uuid) VALUES (%s, %s) "
                "ON CONFLICT (handler, uuid) DO UPDATE SET attempts = d.attempts + 1 RETURNING attempts",
                [self.handler.name, message.uuid],
            ).fetchone()
        return row[0] if row else 0

    def _forget(self, connection: Connection, messages: Sequence[Message]) -> None:
        connection.execute(
            "DELETE FROM erpkit_deliveries WHERE handler = %s AND uuid = ANY (%s)",
            [self.handler.name, _uuids(messages)],
        )


def _uuids(messages: Sequence[Message]) -> list[UUID]:
    return [message.uuid for message in messages]
