"""A call from outside, by HTTP or by an AI assistant: one transaction of a tenant, and what is told of one that failed."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar
from uuid import uuid4

import psycopg

from erpkit.database import Database, Tenant
from erpkit.errors import DatabaseError, ErpkitError, UsageError
from erpkit.events import Context, Message, append, carry_out, encode, find_answer
from erpkit.modules import Query, Registry

_Answer = TypeVar("_Answer")


@dataclass
class Call(Context):
    """What a route or a tool works with: a handler's Context, with the two buses inside its transaction.

    `public` holds the public objects of the modules that have one, by name. What is published, by itself or by the commands
    that it sends, is written to the log in the same transaction. The application's own buses would take a second connection
    and know nothing of this transaction: use `send` and `ask`.
    """

    public: Mapping[str, Any] = field(default_factory=dict)

    def send(self, command: object) -> None:
        """Let a command's handler carry it out inside this transaction; raises what the handler raises."""
        self.published += carry_out(command, self._within(command))

    def ask(self, query: Query[_Answer]) -> _Answer:
        """Return a query's answer, as it is inside this transaction."""
        return find_answer(query, self._within(query))

    def _within(self, value: object) -> Context:
        topic, version = self.registry.topic(type(value)), self.registry.version(type(value))
        message = self.message.cause(topic, encode(value), str(uuid4()), version)
        return Context(self.connection, self.tenant, message, self.registry, topic)


@contextmanager
def enter_call(
    database: Database, registry: Registry, public: Mapping[str, Any], tenant: Tenant, name: str, *, write: bool
) -> Iterator[Call]:
    """Lend a Call named `name`, for people, inside a transaction of `tenant`, which commits at the end if it may `write`.

    What was published goes to the log as the last step; a call that only reads may publish nothing.
    """
    uuid = uuid4()
    message = Message(name, {}, uuid, {"name": name, "correlation_id": str(uuid)})
    with database.tenant_transaction(tenant, write=write) as connection:
        call = Call(connection, tenant, message, registry, name, public=public)
        yield call
        if call.published and not write:
            raise ErpkitError(f"{name}: what only reads publishes no events")
        append(connection, call.published)


_log = logging.getLogger("erpkit.app")

_STATUSES: tuple[tuple[type[Exception], int], ...] = (
    (psycopg.errors.IntegrityError, 409),
    (psycopg.DataError, 422),
    (psycopg.errors.QueryCanceled, 504),
    (psycopg.errors.ReadOnlySqlTransaction, 500),
    (psycopg.errors.InsufficientPrivilege, 500),
    (psycopg.errors.SerializationFailure, 503),
    (psycopg.errors.DeadlockDetected, 503),
    (UsageError, 400),
    (ErpkitError, 422),
)


class RefusedError(Exception):
    """A request that is refused with this status and line."""

    def __init__(self, status: int, line: str) -> None:
        super().__init__(line)
        self.status = status


def refusal_of(error: Exception, name: str) -> RefusedError:
    """Return what to tell of an error: its own line where it is meant for people, and else no more than that there was one.

    An unexpected error goes to the log, with its traceback; so does what is wrong with the database, without one.
    """
    if isinstance(error, RefusedError):
        return error
    if isinstance(error, DatabaseError):  # it names the server
        _log.error("%s: %s", name, _line(error))
        return RefusedError(503, "the database does not answer as it should: try again")
    for kind, status in _STATUSES:
        if isinstance(error, kind):
            return RefusedError(status, _line(error))
    if isinstance(error, psycopg.OperationalError):
        _log.error("%s: %s", name, _line(error))
        return RefusedError(503, "the database does not answer as it should: try again")
    _log.error("%s failed", name, exc_info=error)
    return RefusedError(500, f"{name} failed: see the server's log")


def _line(error: Exception) -> str:
    said = error.diag.message_primary if isinstance(error, psycopg.Error) else None
    return (said or str(error) or type(error).__name__).splitlines()[0]
