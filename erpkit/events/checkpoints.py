"""The checkpoint of a consumer group in a tenant's log, and the events that its dispatcher has in flight."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import psycopg
from psycopg import sql

from erpkit.database import Connection, Errors, Tenant, fetch_union, read_tenants, tenants_with_table
from erpkit.database.scope import scope_statements, shared_schemas, use_lock
from erpkit.events.consumer import Consumer, ConsumerGroup, group_rows
from erpkit.events.log import COLUMNS, to_message
from erpkit.events.message import Message

# The statement after it sees all that the group's last dispatcher committed, as it has a snapshot of its own.
_LOCK = "SELECT pg_try_advisory_xact_lock({})"

_CHECKPOINT = 'SELECT "offset", in_hand, attempts FROM erpkit_checkpoints WHERE consumer_group = %s'

_MARK = (
    'INSERT INTO erpkit_checkpoints (consumer_group, "offset", in_hand, attempts, taken_at) VALUES ({}, 0, {}, {}, now()) '
    "ON CONFLICT (consumer_group) DO UPDATE SET in_hand = EXCLUDED.in_hand, attempts = EXCLUDED.attempts, taken_at = now()"
)

# One topic is read along its index, and so are the pieces of several, which are merged.
_EVENTS = f"""
SELECT {COLUMNS} FROM erpkit_events WHERE {{of_topic}}
       "offset" > coalesce((SELECT "offset" FROM erpkit_checkpoints WHERE consumer_group = %s), 0)
 ORDER BY "offset" LIMIT %s
"""  # noqa: S608

_WAITING = (
    "SELECT {slug}, h.name FROM (VALUES {handlers}) h (name, topic) "
    "LEFT JOIN {checkpoints} c ON c.consumer_group = h.name WHERE "
)
_NEW = 'EXISTS (SELECT FROM {events} e WHERE e.topic = h.topic AND e."offset" > coalesce(c."offset", 0))'
_FREE = (
    " OR EXISTS (SELECT FROM {parked} p WHERE p.handler = h.name AND NOT EXISTS (SELECT FROM {dead_letters} d "
    'WHERE d.handler = p.handler AND d.status = \'open\' AND d.aggregate = p.aggregate AND d."offset" < p."offset"))'
)

_LOGS = """
SELECT n.nspname, bool_or(c.relname = 'erpkit_parked' AND pg_relation_size(c.oid) > 0)
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relname IN ('erpkit_events', 'erpkit_parked') AND c.relkind IN ('r', 'p') AND n.nspname = ANY(%s)
 GROUP BY 1 HAVING bool_or(c.relname = 'erpkit_events')
"""

# What a query over many tenants meets where one of them is locked, or dropped beside it.
_BESIDE = (
    psycopg.ProgrammingError,
    psycopg.InternalError,
    psycopg.errors.LockNotAvailable,
    psycopg.errors.DeadlockDetected,
)
_PATIENCE = 1.0  # seconds that a dispatcher waits for a table that is locked
_TENANTS_A_QUERY = 100  # the quickest of 50 to 1,000, measured


@dataclass(frozen=True)
class Checkpoint:
    """The checkpoint of a group: it has handled all events up to `offset`.

    `in_flight` is the last offset of the batch of a dispatcher that ended before it was done, None where none did. `attempts`
    counts how often the first event after `offset` was tried alone since then.
    """

    offset: int = 0
    in_flight: int | None = None
    attempts: int = 0

    def is_suspect(self, message: Message) -> bool:
        """Whether a dispatcher ended while it had this message in flight, alone or among others."""
        return self.in_flight is not None and (message.offset or 0) <= self.in_flight


def group_lock(schema: str, group: str) -> str:
    """Return, as SQL, the key of the advisory lock that a group's one dispatcher holds; both arguments are SQL expressions."""
    return f"hashtextextended('erpkit.dispatch.' || {schema} || '.' || {group}, 0)"


def read_batch(connection: Connection, group: ConsumerGroup, limit: int) -> tuple[Checkpoint, list[Message] | None]:
    """Lock a group until the transaction ends, and read its checkpoint and the events after it, in one round trip.

    A group without topics reads all of them. The events are None where another dispatcher holds the lock.
    """
    with connection.pipeline():
        lock = connection.execute(_LOCK.format(group_lock("current_schema()", "%s")), [group.name])
        checkpoint = connection.execute(_CHECKPOINT, [group.name])
        events = connection.execute(*_following(group, limit))
    is_locked, row = lock.fetchone() == (True,), checkpoint.fetchone()
    found = Checkpoint(*row) if row else Checkpoint()
    return found, [to_message(event) for event in events] if is_locked else None


def _following(group: ConsumerGroup, limit: int) -> tuple[str, list[object]]:
    """Return the query for the events of a group's topics after its checkpoint, with its values."""
    if not group.topics:
        return _EVENTS.format(of_topic=""), [group.name, limit]
    one_topic = _EVENTS.format(of_topic="topic = %s AND")
    values: list[object] = [value for topic in group.topics for value in (topic, group.name, limit)]
    if len(group.topics) == 1:
        return one_topic, values
    pieces = " UNION ALL ".join(f"({one_topic})" for _ in group.topics)
    return f'SELECT * FROM ({pieces}) e ORDER BY "offset" LIMIT %s', [*values, limit]  # noqa: S608


def mark_in_flight(
    connection: Connection, consumer: Consumer, last: int, attempts: int, statement_timeout: float
) -> None:
    """Durably mark all up to offset `last` as in flight, and go on in a new transaction that holds the group's lock.

    The present transaction, which took that lock and only read, is committed. All of it is one message: the server connection
    stays ours behind a pooler too, which may have no second one, and no other dispatcher comes in between, as the session
    holds the lock meanwhile. It costs no wait for the disk: should the server crash, the mark is lost, and nothing else.
    """
    key = sql.SQL(group_lock("current_schema()", "{}")).format(sql.Literal(consumer.name))
    use = sql.SQL(use_lock("current_schema()"))
    mark = sql.SQL(_MARK).format(sql.Literal(consumer.name), sql.Literal(last), sql.Literal(attempts))
    connection.execute(
        sql.SQL("; ").join(
            (
                sql.SQL("SET LOCAL synchronous_commit TO off"),
                mark,
                sql.SQL("SELECT pg_advisory_lock({}), pg_advisory_lock_shared({})").format(key, use),
                sql.SQL("COMMIT AND CHAIN"),
                *map(
                    sql.SQL,
                    scope_statements(
                        consumer.tenant.schema, consumer.tenant.role, statement_timeout, shared_schemas(connection)
                    ),
                ),
                sql.SQL("SELECT pg_advisory_xact_lock({0}), pg_advisory_unlock({0})").format(key),
                sql.SQL("SELECT pg_advisory_xact_lock_shared({0}), pg_advisory_unlock_shared({0})").format(use),
            )
        )
    )


def move_checkpoint(connection: Connection, group: ConsumerGroup, offset: int, in_flight: int | None = None) -> None:
    """Move the checkpoint to `offset`; up to `in_flight` events are still to be handled one by one after it."""
    connection.execute(
        'INSERT INTO erpkit_checkpoints (consumer_group, "offset", in_hand) VALUES (%s, %s, %s) '
        'ON CONFLICT (consumer_group) DO UPDATE SET "offset" = EXCLUDED."offset", in_hand = EXCLUDED.in_hand, '
        "attempts = 0, taken_at = NULL, updated_at = now()",
        [group.name, offset, in_flight],
    )


class Backlog(NamedTuple):
    """How many events wait for a handler, and for how many seconds the oldest has waited."""

    events: int
    seconds: float


def read_backlog(
    connection: Connection, tenants: Sequence[Tenant], groups: Sequence[ConsumerGroup], errors: Errors | None = None
) -> dict[str, dict[str, Backlog]]:
    """Return what waits for each handler, by tenant: the events of its topic after its checkpoint; zeros are left out.

    `errors` is as in `read_tenants`.
    """
    with_log = tenants_with_table(connection, "erpkit_events", tenants, errors) if groups else []
    handlers = group_rows(groups)
    queries = [(tenant, _count_query(tenant, handlers)) for tenant in with_log]
    backlog: dict[str, dict[str, Backlog]] = {tenant.slug: {} for tenant in tenants}
    for slug, waiting in read_tenants(connection, queries, errors):
        backlog[slug] = {name: Backlog(int(events), seconds) for name, (events, seconds) in (waiting or {}).items()}
    return backlog


def _count_query(tenant: Tenant, handlers: sql.Composed) -> sql.Composed:
    return sql.SQL(
        "SELECT {slug}, (SELECT jsonb_object_agg(name, jsonb_build_array(events, greatest(extract(epoch FROM now() - oldest), 0))) "
        "FROM (SELECT h.name, sum(w.events) AS events, min(w.oldest) AS oldest "
        "FROM (VALUES {handlers}) h (name, topic) LEFT JOIN {checkpoints} c ON c.consumer_group = h.name "
        "CROSS JOIN LATERAL (SELECT count(*) AS events, min(e.recorded_at) AS oldest FROM {events} e "
        'WHERE e.topic = h.topic AND e."offset" > coalesce(c."offset", 0)) w WHERE w.events > 0 GROUP BY h.name) g)'
    ).format(
        slug=sql.Literal(tenant.slug),
        handlers=handlers,
        checkpoints=sql.Identifier(tenant.schema, "erpkit_checkpoints"),
        events=sql.Identifier(tenant.schema, "erpkit_events"),
    )


def read_waiting(
    connection: Connection, tenants: Sequence[Tenant], groups: Sequence[ConsumerGroup], errors: Errors | None = None
) -> list[tuple[Tenant, str]]:
    """Return each tenant and group for which an event waits. It does not count them, and so is fast for any number.

    A parked event whose dead letter was closed, by a replay say, waits as one past the checkpoint does. It is read under the
    login's own rights, many tenants a query, as dispatchers ask all the time; only where that fails, tenant by tenant, with
    `errors` as in `read_tenants`.
    """
    with_parked = _find_logs(connection, tenants)
    handlers = group_rows(groups)
    queries = [
        (tenant, _any_query(tenant, handlers, _NEW + _FREE if with_parked[tenant.schema] else _NEW))
        for tenant in (tenants if groups else ())
        if tenant.schema in with_parked
    ]
    by_slug = {tenant.slug: tenant for tenant in tenants}
    try:
        rows = fetch_union(connection, (query for _, query in queries), _TENANTS_A_QUERY, patience=_PATIENCE)
    except _BESIDE:
        rows = read_tenants(connection, queries, errors)
    return list(dict.fromkeys((by_slug[slug], name) for slug, name in rows))


def _find_logs(connection: Connection, tenants: Sequence[Tenant]) -> dict[str, bool]:
    """Return the schemas that have a log, and whether events were ever parked there; asking each one would take twice as long."""
    return dict(connection.execute(_LOGS, [[tenant.schema for tenant in tenants]]).fetchall())


def _any_query(tenant: Tenant, handlers: sql.Composed, condition: str) -> sql.Composed:
    tables = ("checkpoints", "events", "parked", "dead_letters")
    return sql.SQL(_WAITING + condition).format(
        slug=sql.Literal(tenant.slug),
        handlers=handlers,
        **{table: sql.Identifier(tenant.schema, f"erpkit_{table}") for table in tables},
    )
