"""Sending the statements of many handlers without a wait for each answer: PostgreSQL's pipeline mode."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg

from erpkit.database import Connection, Tenant
from erpkit.events.message import Message
from erpkit.events.router import handle
from erpkit.modules import EventHandler, Registry

__all__ = ["handle_pipelined", "may_be_pipelined", "pipelined"]


class _Cursor(psycopg.Cursor[Any]):
    """A cursor that waits for its answer when somebody looks at it; psycopg's own says -1 rows in a pipeline until then."""

    @property
    def rowcount(self) -> int:
        """How many rows the statement touched."""
        self._await_answer()
        return super().rowcount

    @property
    def description(self) -> list[psycopg.Column] | None:
        """The columns of the answer."""
        self._await_answer()
        return super().description

    @property
    def statusmessage(self) -> str | None:
        """The server's word for what it did."""
        self._await_answer()
        return super().statusmessage

    def _await_answer(self) -> None:
        if self.pgresult is None:
            with self.connection.pipeline() as pipeline:
                pipeline.sync()


@contextmanager
def pipelined(connection: Connection) -> Iterator[None]:
    """Let statements whose answer nobody looks at cost no round trip; whoever looks waits, as always.

    An error is raised at the next look or at the end of the block, and so tells nothing of who caused it. What a pipeline
    cannot do (COPY, a server-side cursor) is refused by psycopg: go back and do it without.
    """
    usual, connection.cursor_factory = connection.cursor_factory, _Cursor
    try:
        with connection.pipeline():
            yield
    finally:
        connection.cursor_factory = usual


def may_be_pipelined(handler: EventHandler) -> bool:
    """Whether handling an event twice does no harm, and nothing has to end in time: both are unsure in a pipeline."""
    return handler.replayable and handler.timeout is None


def handle_pipelined(
    connection: Connection, tenant: Tenant, registry: Registry, pairs: Sequence[tuple[EventHandler, Message]]
) -> list[Message]:
    """Run each handler on its message in one savepoint and one pipeline; return what was published.

    Raises what any of them raises, with nothing done.
    """
    with connection.transaction(), pipelined(connection):
        return [event for one, message in pairs for event in handle(connection, tenant, registry, one, message)]
