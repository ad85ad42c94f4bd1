"""What one handler does with the deliveries of one tenant: each effect once, and no event that stops the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

import psycopg

from erpkit.database import Connection, Database, Tenant
from erpkit.errors import ErpkitError
from erpkit.events.dead_letters import bury
from erpkit.events.log import append
from erpkit.events.message import Message
from erpkit.events.parking import hold_back, park_if_blocked
from erpkit.events.router import handle
from erpkit.modules import EventHandler, Registry

__all__ = ["ConsumerEndedError", "Effects", "NotActiveError"]

ATTEMPTS = 3  # of a handler that raises
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
        """Handle messages, all in one transaction if that goes; return how many became dead letters.

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
            ready = hold_back(connection, self.registry, self.handler, messages)
            try:
                with connection.transaction():
                    published, dead = self._handle_new(connection, ready), 0
            except Exception as error:  # any fault of a handler: find out which event it is
                _reraise_if_lost(connection, error)
                published, dead = self._handle_each(connection, ready)
            self._forget(connection, messages)
            append(connection, published)
        return dead

    def _handle_alone(self, message: Message) -> int:
        if self._count_attempt(message) <= CRASHES:
            return self._handle_all([message])
        return self._bury_all([message], ConsumerEndedError(f"its consumer ended {CRASHES} times with it in hand"))

    def _handle_new(self, connection: Connection, messages: Sequence[Message]) -> list[Message]:
        """Handle those messages that are not in the handler's inbox yet, and put them there."""
        rows = connection.execute(
            "INSERT INTO erpkit_inbox (handler, uuid) SELECT %s, unnest(%s::uuid[]) ON CONFLICT DO NOTHING RETURNING uuid",
            [self.handler.name, _uuids(messages)],
        )
        new = {uuid for (uuid,) in rows}
        published: list[Message] = []
        for message in messages:
            if message.uuid in new:
                new.discard(message.uuid)  # the same one may have come twice
                published += handle(connection, self.tenant, self.registry, self.handler, message)
        return published

    def _handle_each(self, connection: Connection, messages: Sequence[Message]) -> tuple[list[Message], int]:
        published: list[Message] = []
        dead = 0
        for message in messages:
            if dead and park_if_blocked(connection, self.registry, self.handler, message):
                continue
            try:
                published += self._handle_with_retries(connection, message)
            except Exception as error:
                _reraise_if_lost(connection, error)
                bury(connection, self.registry, self.handler, message, error, ATTEMPTS)
                dead += 1
        return published, dead

    def _handle_with_retries(self, connection: Connection, message: Message) -> list[Message]:
        from tenacity import Retrying, stop_after_attempt, wait_random_exponential  # noqa: PLC0415 - only after a fault

        for attempt in Retrying(
            stop=stop_after_attempt(ATTEMPTS), wait=wait_random_exponential(0.02, max=0.2), reraise=True
        ):
            with attempt, connection.transaction():
                return self._handle_new(connection, [message])
        raise AssertionError("unreachable: the last attempt raises")

    def _bury_all(self, messages: Sequence[Message], error: Exception) -> int:
        with self.database.tenant_transaction(self.tenant, write=True) as connection:
            for message in messages:
                bury(connection, self.registry, self.handler, message, error, ATTEMPTS)
            self._forget(connection, messages)
        return len(messages)

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


def _reraise_if_lost(connection: Connection, error: Exception) -> None:
    """A lost connection is no fault of an event: let the broker deliver again."""
    if connection.closed or (isinstance(error, psycopg.OperationalError) and connection.broken):
        raise error
