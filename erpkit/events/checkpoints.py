"""How far a consumer group has come in a tenant's log, and what a dispatcher of it has in hand."""

from __future__ import annotations

from dataclasses import dataclass

from psycopg import sql

from erpkit.database import Connection, Tenant
from erpkit.database.scope import scope_statements
from erpkit.events.log import COLUMNS, to_message
from erpkit.events.message import Message

__all__ = ["Checkpoint", "group_lock", "mark_in_hand", "move_checkpoint", "read_batch"]

# The statement after it sees all that the group's last dispatcher committed, as it has a snapshot of its own.
_LOCK = "SELECT pg_try_advisory_xact_lock({})"

_CHECKPOINT = 'SELECT "offset", in_hand, attempts FROM erpkit_checkpoints WHERE consumer_group = %s'

_NOTE = (
    'INSERT INTO erpkit_checkpoints (consumer_group, "offset", in_hand, attempts, taken_at) VALUES ({}, 0, {}, {}, now()) '
    "ON CONFLICT (consumer_group) DO UPDATE SET in_hand = EXCLUDED.in_hand, attempts = EXCLUDED.attempts, taken_at = now()"
)

_EVENTS = f"""
SELECT {COLUMNS} FROM erpkit_events WHERE topic = %s
   AND "offset" > coalesce((SELECT "offset" FROM erpkit_checkpoints WHERE consumer_group = %s), 0)
 ORDER BY "offset" LIMIT %s
"""  # noqa: S608


@dataclass(frozen=True)
class Checkpoint:
    """Where a group stands: all up to `offset` is handled.

    `in_hand` is set where a dispatcher ended before it was done: the last offset of what it had taken. `attempts` is how
    often one has begun on the first event after `offset` alone since then.
    """

    offset: int = 0
    in_hand: int | None = None
    attempts: int = 0

    def is_suspect(self, message: Message) -> bool:
        """Whether a dispatcher ended while it had this message in hand, alone or among others."""
        return self.in_hand is not None and (message.offset or 0) <= self.in_hand


def group_lock(schema: str, group: str) -> str:
    """Return the SQL expression of the key of the advisory lock that a group's one dispatcher holds; both are expressions."""
    return f"hashtextextended('erpkit.dispatch.' || {schema} || '.' || {group}, 0)"


def read_batch(connection: Connection, group: str, topic: str, limit: int) -> tuple[Checkpoint, list[Message]] | None:
    """Lock a group until the transaction ends, and read where it stands and what follows, in one round trip.

    Return None where another dispatcher has it.
    """
    with connection.pipeline():
        lock = connection.execute(_LOCK.format(group_lock("current_schema()", "%s")), [group])
        checkpoint = connection.execute(_CHECKPOINT, [group])
        events = connection.execute(_EVENTS, [topic, group, limit])
    if lock.fetchone() != (True,):
        return None
    row = checkpoint.fetchone()
    return Checkpoint(*row) if row else Checkpoint(), [to_message(event) for event in events]


def mark_in_hand(
    connection: Connection, tenant: Tenant, group: str, last: int, attempts: int, statement_timeout: float
) -> None:
    """Note for good that all up to offset `last` is now in hand, and go on in a new transaction that holds the group's lock.

    The present transaction, which took that lock and only read, is committed. All of it is one message: the server connection
    stays ours behind a pooler too, which may have no second one, and no other dispatcher comes in between, as the session
    holds the lock meanwhile. It costs no wait for the disk: should the server crash, the note is lost, and nothing else.
    """
    key = sql.SQL(group_lock("current_schema()", "{}")).format(sql.Literal(group))
    note = sql.SQL(_NOTE).format(sql.Literal(group), sql.Literal(last), sql.Literal(attempts))
    connection.execute(
        sql.SQL("; ").join(
            (
                sql.SQL("SET LOCAL synchronous_commit TO off"),
                note,
                sql.SQL("SELECT pg_advisory_lock({})").format(key),
                sql.SQL("COMMIT AND CHAIN"),
                *map(sql.SQL, scope_statements(tenant.schema, tenant.role, statement_timeout)),
                sql.SQL("SELECT pg_advisory_xact_lock({0}), pg_advisory_unlock({0})").format(key),
            )
        )
    )


def move_checkpoint(connection: Connection, group: str, offset: int, in_hand: int | None = None) -> None:
    """Note that all up to `offset` is handled; `in_hand` is what is still to be handled one by one after it."""
    connection.execute(
        'INSERT INTO erpkit_checkpoints (consumer_group, "offset", in_hand) VALUES (%s, %s, %s) '
        'ON CONFLICT (consumer_group) DO UPDATE SET "offset" = EXCLUDED."offset", in_hand = EXCLUDED.in_hand, '
        "attempts = 0, taken_at = NULL, updated_at = now()",
        [group, offset, in_hand],
    )
