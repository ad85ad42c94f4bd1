"""A call from outside, by HTTP or by an AI assistant: one transaction of a tenant, and what is published in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar
from uuid import uuid4

from erpkit.database import Database, Tenant
from erpkit.errors import ErpkitError
from erpkit.events import Context, Message, append, carry_out, encode, find_answer
from erpkit.modules import Query, Registry

__all__ = ["Call", "enter_call"]

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
