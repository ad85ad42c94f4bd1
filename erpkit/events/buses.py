"""The command and query buses: each message goes to its one handler, in a transaction of a tenant."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar
from uuid import UUID, uuid4

import psycopg

from erpkit.database import Connection, Database, Tenant
from erpkit.errors import ErpkitError
from erpkit.events.context import Context, new_message
from erpkit.events.log import append
from erpkit.events.message import Message
from erpkit.events.router import EVERY, chain
from erpkit.modules import Query, QueryHandler, Registry

_Answer = TypeVar("_Answer")


class CommandBus:
    """Sends commands, each to its one handler, in a transaction of a tenant."""

    def __init__(self, database: Database, registry: Registry) -> None:
        self._database = database
        self._registry = registry

    def send(self, tenant: Tenant, command: object, uuid: UUID | None = None) -> list[Message]:
        """Carry out one command and return the events that it published.

        `uuid` is the command's id, random if not given; the ids of the events follow from it. Raises what the handler
        raises, with nothing done.
        """
        return self.send_all(tenant, [command], [uuid or uuid4()])

    def send_all(self, tenant: Tenant, commands: Sequence[object], uuids: Sequence[UUID]) -> list[Message]:
        """Carry out several commands in one transaction: all of them or none."""
        published: list[Message] = []
        with (
            _named(tenant, commands[0] if commands else None),
            self._database.tenant_transaction(tenant, write=True) as connection,
        ):
            for command, uuid in zip(commands, uuids, strict=True):
                published += self._handle(connection, tenant, command, uuid)
            append(connection, published)
        return published

    def _handle(self, connection: Connection, tenant: Tenant, command: object, uuid: UUID) -> Sequence[Message]:
        return carry_out(command, _context(connection, tenant, self._registry, command, uuid))


class QueryBus:
    """Answers queries, each by its one handler, in a transaction of a tenant that only reads."""

    def __init__(self, database: Database, registry: Registry) -> None:
        self._database = database
        self._registry = registry

    def ask(self, tenant: Tenant, query: Query[_Answer]) -> _Answer:
        """Return the answer to a query; a type checker knows its type from the query's.

        Raises what the handler raises, ModuleError for a query without a handler, and ErpkitError for a handler that tries
        to change something.
        """
        self._registry.query_handler(type(query))
        with _named(tenant, query), self._database.tenant_transaction(tenant) as connection:
            return find_answer(query, _context(connection, tenant, self._registry, query, None))


def carry_out(command: object, context: Context) -> Sequence[Message]:
    """Let the command's one handler carry it out in the transaction of `context`; return what it published."""
    handler = context.registry.command_handler(type(command))

    def call(context: Context) -> Sequence[Message]:
        handler.function(command, context)
        return context.published

    return chain(EVERY, call)(context)


def find_answer(query: Query[_Answer], context: Context) -> _Answer:
    """Let the query's one handler answer it in the transaction of `context`."""
    handler: QueryHandler[_Answer] = context.registry.query_handler(type(query))
    answers: list[_Answer] = []

    def call(context: Context) -> Sequence[Message]:
        answers.append(handler.function(query, context))
        if context.published:
            raise ErpkitError(f"{context.message.topic}: a query publishes no events: make it a command")
        return ()

    chain(EVERY, call)(context)
    return answers[0]


def _context(connection: Connection, tenant: Tenant, registry: Registry, value: object, uuid: UUID | None) -> Context:
    message = new_message(registry, value, uuid)
    return Context(connection, tenant, message, registry, message.topic)


@contextmanager
def _named(tenant: Tenant, message: object) -> Iterator[None]:
    """Name the tenant and the message in an error of the database."""
    try:
        yield
    except psycopg.Error as error:
        raise ErpkitError(
            f"tenant {tenant.slug}: {type(message).__name__} failed: {error.diag.message_primary or error}"
        ) from error
