"""What keeps a handler's transaction intact: it may not end it, leave its tenant, or hide a database error."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import psycopg
from psycopg import pq, sql
from psycopg.errors import InFailedSqlTransaction

from erpkit.database import Connection, Tenant
from erpkit.events.consumer import Context
from erpkit.events.message import Message
from erpkit.events.middleware import Handle, HandlerError, TransactionEndedError

_ENDING = ("COMMIT", "ROLLBACK", "BEGIN", "START TRANSACTION", "PREPARE TRANSACTION")
_OPEN = pq.TransactionStatus.INTRANS


def is_open(connection: Connection) -> bool:
    """Tell, without asking the server, whether a transaction is open on the connection and has not failed."""
    return connection.pgconn.transaction_status == _OPEN


@dataclass
class Notes:
    """What the statements of handlers on a connection came to: their errors, and whether one may have ended the transaction."""

    errors: list[psycopg.Error] = field(default_factory=list)
    may_have_ended: bool = False


@contextmanager
def noting(connection: Connection) -> Iterator[Notes]:
    """Note what the statements in the block come to."""
    usual: Any = connection.cursor_factory
    notes = Notes()
    connection.cursor_factory, connection.erpkit_notes = _noting_cursor(usual), notes  # type: ignore[attr-defined]
    try:
        yield notes
    finally:
        connection.cursor_factory, connection.erpkit_notes = usual, None  # type: ignore[attr-defined]


@cache
def _noting_cursor(usual: Any) -> Any:
    class Noting(usual):  # type: ignore[misc]
        def execute(self, *args: Any, **options: Any) -> Any:
            notes: Notes | None = self.connection.erpkit_notes
            try:
                found = super().execute(*args, **options)
            except psycopg.Error as error:
                if notes is not None and not isinstance(error, InFailedSqlTransaction):
                    notes.errors.append(error)
                raise
            if notes is not None and len(self._results) + (self.statusmessage in _ENDING) > 1:
                notes.may_have_ended = True  # several statements at once, or one of those
            return found

    return Noting


def unbroken(following: Handle) -> Handle:
    """Raise TransactionEndedError when a handler ended the transaction; it costs no round trip where none was suspicious.

    After COMMIT there is no transaction; after COMMIT AND CHAIN there is another one, which is not the tenant's.
    """

    def handle(context: Context) -> Sequence[Message]:
        try:
            return following(context)
        finally:
            _raise_if_ended(context)

    return handle


def _raise_if_ended(context: Context) -> None:
    connection = context.connection
    status, notes = connection.pgconn.transaction_status, getattr(connection, "erpkit_notes", None)
    if status == pq.TransactionStatus.IDLE:
        raise TransactionEndedError(context.message)
    if status == _OPEN and notes is not None and notes.may_have_ended:
        notes.may_have_ended = False
        row = connection.execute("SELECT current_schema()").fetchone()
        if row != (context.tenant.schema,):
            raise TransactionEndedError(context.message)


def true_cause(following: Handle) -> Handle:
    """Raise the database error that a handler caught and went on after, and what it leaves for the commit to find.

    PostgreSQL refuses everything after an error, and says only that. A deferred constraint is checked here and not in the commit,
    where nobody could tell which event broke it; a role or a search_path that the handler changed is refused. One round trip.
    """

    def handle(context: Context) -> Sequence[Message]:
        with noting(context.connection) as notes:
            try:
                published = following(context)
                check_intact(context.connection, context.tenant)
            except InFailedSqlTransaction as error:
                raise _swallowed(context, notes.errors) from error
        return published

    return handle


def check_intact(connection: Connection, tenant: Tenant) -> None:
    """Check what else would be found at the commit: deferred constraints, and whether the transaction is the tenant's still.

    Raises what the server says, and HandlerError for another role or search_path. Afterwards constraints are deferred again.
    """
    cursor = connection.execute(
        "SET CONSTRAINTS ALL IMMEDIATE; SET CONSTRAINTS ALL DEFERRED; SELECT current_schema(), current_setting('role')"
    )
    while cursor.nextset():
        pass
    if cursor.fetchone() != (tenant.schema, tenant.role or "none"):
        raise HandlerError("it changed the role or the search_path of its transaction, which are the tenant's")


def _swallowed(context: Context, noted: Sequence[psycopg.Error]) -> Exception:
    said = (
        f"{type(noted[-1]).__name__}: {noted[-1]}" if noted else context.connection.pgconn.get_error_message().strip()
    )
    return HandlerError(f"it caught a database error and went on: use a savepoint (connection.transaction()): {said}")


def quote(value: object) -> str:
    """Return a value as a literal of SQL, for statements that are sent together."""
    return sql.Literal(value).as_string()
