"""The checkpoint of a consumer group in a tenant's log, and the events that its dispatcher has in flight."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol
from uuid import UUID

import psycopg
from psycopg import sql

from erpkit.database import Connection, Errors, Tenant, fetch_union, read_tenants, tenants_with_table
from erpkit.database.scope import scope_statements, shared_schemas, use_lock
from erpkit.errors import ErpkitError
from erpkit.events.consumer import Consumer, ConsumerGroup, group_rows
from erpkit.events.log import COLUMNS, to_message
from erpkit.events.message import Message

# The statement after it sees all that the group's last dispatcher committed, as it has a snapshot of its own.
_LOCK = "SELECT pg_try_advisory_xact_lock({})"

_CHECKPOINT = (
    "SELECT \"offset\", in_hand, attempts, tries, pauses, coalesce(error, ''), coalesce(paused_until > clock_timestamp(), false), "
    "topics, true FROM erpkit_checkpoints WHERE consumer_group = %s"
)

# What a dispatcher must leave alone where it reads events once more, as after a pause.
_LETTERS = (
    "SELECT uuid FROM erpkit_dead_letters WHERE handler = %s AND status = 'open' AND \"offset\" > "
    'coalesce((SELECT least("offset", read_offset) FROM erpkit_checkpoints WHERE consumer_group = %s), 0)'
)

_MOVE = """
INSERT INTO erpkit_checkpoints AS c (consumer_group, "offset", in_hand, topics, read_offset, paused_until, tries, pauses, error)
VALUES (%(name)s, %(offset)s, %(in_flight)s, %(topics)s, %(offset)s, clock_timestamp() + make_interval(secs => %(seconds)s),
        %(tries)s, %(pauses)s, %(error)s)
    ON CONFLICT (consumer_group) DO UPDATE
   SET "offset" = EXCLUDED."offset", in_hand = EXCLUDED.in_hand, attempts = 0, taken_at = NULL, updated_at = now(),
       paused_until = EXCLUDED.paused_until, tries = EXCLUDED.tries, pauses = EXCLUDED.pauses, error = EXCLUDED.error,
       topics = CASE WHEN c.topics <@ EXCLUDED.topics IS NOT FALSE THEN EXCLUDED.topics ELSE c.topics END,
       read_offset = CASE WHEN c.topics <@ EXCLUDED.topics IS NOT FALSE THEN EXCLUDED.read_offset ELSE c.read_offset END
"""

# The first event of a topic that was added to a group, and not handled under another version of it.
_ADDED = """
SELECT min("offset") FROM erpkit_events e
 WHERE topic = ANY(%(topics)s) AND "offset" <= %(offset)s
   AND "offset" > (SELECT start_offset FROM erpkit_checkpoints WHERE consumer_group = %(name)s)
   AND NOT EXISTS (SELECT FROM erpkit_inbox i WHERE i.handler = %(name)s AND i.uuid = e.uuid)
   AND NOT EXISTS (SELECT FROM erpkit_dead_letters d WHERE d.handler = %(name)s AND d.uuid = e.uuid)
   AND NOT EXISTS (SELECT FROM erpkit_parked p WHERE p.handler = %(name)s AND p.uuid = e.uuid)
"""

# An event whose row in the inbox was pruned was handled, unless it was before the handler's start, or is a dead letter or parked.
WAS_HANDLED = """
e.recorded_at < c.inbox_since AND (e."offset" > c.start_offset OR c.started_at IS NULL OR e.recorded_at >= c.started_at)
   AND NOT EXISTS (SELECT FROM {letters} d WHERE d.handler = c.consumer_group AND d.uuid = e.uuid AND d.status <> 'resolved')
   AND NOT EXISTS (SELECT FROM {parked} p WHERE p.handler = c.consumer_group AND p.uuid = e.uuid)
"""
_REMEMBER = f"""
INSERT INTO erpkit_inbox (handler, uuid)
SELECT c.consumer_group, e.uuid FROM erpkit_checkpoints c
  JOIN erpkit_events e ON e."offset" > %(after)s AND e."offset" <= c."offset" AND e.topic = ANY(%(topics)s)
 WHERE c.consumer_group = %(name)s AND {WAS_HANDLED.format(letters="erpkit_dead_letters", parked="erpkit_parked")}
    ON CONFLICT DO NOTHING
"""  # noqa: S608 - the tables are constants

_MARK = (
    'INSERT INTO erpkit_checkpoints (consumer_group, "offset", in_hand, attempts, taken_at) VALUES ({}, 0, {}, {}, now()) '
    "ON CONFLICT (consumer_group) DO UPDATE SET in_hand = EXCLUDED.in_hand, attempts = EXCLUDED.attempts, taken_at = now()"
)

# One topic is read along its index, and so are the pieces of several, which are merged. Of several, a dispatcher of another version
# may not know all: what it passed over is read once more, and what it handled is in the inbox.
_EVENTS = f"""
SELECT {COLUMNS} FROM erpkit_events WHERE {{of_topic}}
       "offset" > coalesce((SELECT {{after}} FROM erpkit_checkpoints WHERE consumer_group = %s), 0)
 ORDER BY "offset" LIMIT %s
"""  # noqa: S608

_WAITING = (
    "SELECT {slug}, h.name FROM (VALUES {handlers}) h (name, topic) "
    "LEFT JOIN {checkpoints} c ON c.consumer_group = h.name WHERE "
)
_AWAKE = "coalesce((to_jsonb(c)->>'paused_until')::timestamptz <= now(), true) AND ("
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
_READ = 'least("offset", CASE WHEN topics <@ %s::text[] THEN read_offset END)'
_PATIENCE = 1.0  # seconds that a dispatcher waits for a table that is locked
_TENANTS_A_QUERY = 100  # the quickest of 50 to 1,000, measured


@dataclass(frozen=True)
class Checkpoint:
    """The checkpoint of a group: it has handled all events up to `offset`.

    `in_flight` is the last offset of the batch of a dispatcher that ended before it was done, None where none did. `attempts`
    counts how often the first event after `offset` was tried alone since then. `tries`, `pauses` and `error` tell of the failures
    that made it pause (see `Pause`); it is paused still, or about to go on. It does not exist before the group's first batch.
    """

    offset: int = 0
    in_flight: int | None = None
    attempts: int = 0
    tries: int = 0
    pauses: int = 0
    error: str = ""
    is_paused: bool = False
    topics: Sequence[str] | None = None
    exists: bool = False
    letters: frozenset[UUID] = frozenset()

    def is_suspect(self, message: Message) -> bool:
        """Whether a dispatcher ended while it had this message in flight, alone or among others."""
        return self.in_flight is not None and (message.offset or 0) <= self.in_flight

    def without_letters(self, messages: Sequence[Message]) -> list[Message]:
        """Leave out those that are dead letters already, and wait for an operator."""
        return [message for message in messages if message.uuid not in self.letters] if self.letters else list(messages)


class NotStartedError(ErpkitError):
    """A handler that does not begin with the first event has no checkpoint yet."""


class Waiting(Protocol):
    """What a pause tells of itself: see `Pause`."""

    @property
    def seconds(self) -> float:
        """How long it waits."""

    @property
    def error(self) -> str:
        """The last error."""

    @property
    def tries(self) -> int:
        """How often the first event was tried."""

    @property
    def pauses(self) -> int:
        """How often it paused in this outage."""


def group_lock(schema: str, group: str) -> str:
    """Return, as SQL, the key of the advisory lock that a group's one dispatcher holds; both arguments are SQL expressions."""
    return f"hashtextextended('erpkit.dispatch.' || {schema} || '.' || {group}, 0)"


def read_batch(connection: Connection, group: ConsumerGroup, limit: int) -> tuple[Checkpoint, list[Message] | None]:
    """Lock a group until the transaction ends, and read its checkpoint and the events after it, in one round trip.

    A group without topics reads all of them. The events are None where another dispatcher holds the lock, or the group pauses. The
    checkpoint's `letters` are those among them that are dead letters already.
    """
    with connection.pipeline():
        lock = connection.execute(_LOCK.format(group_lock("current_schema()", "%s")), [group.name])
        checkpoint = connection.execute(_CHECKPOINT, [group.name])
        letters = connection.execute(_LETTERS, [group.name, group.name])
        events = connection.execute(*_following(group, limit))
    is_locked, row = lock.fetchone() == (True,), checkpoint.fetchone()
    found = replace(Checkpoint(*row), letters=frozenset(uuid for (uuid,) in letters)) if row else Checkpoint()
    is_free = is_locked and not found.is_paused
    return found, [to_message(event) for event in events] if is_free else None


def read_following(connection: Connection, consumer: Consumer, limit: int) -> tuple[Checkpoint, list[Message] | None]:
    """Read a batch, also where another version of the ERP passed over events of topics that it did not know.

    Raises NotStartedError where the handler has not started: see `start_handlers`.
    """
    checkpoint, messages = read_batch(connection, consumer.group, limit)
    if messages is not None and not checkpoint.exists and consumer.handler.starts_later:
        raise NotStartedError(f"{consumer}: where it starts is not noted yet")
    if messages is not None and add_topics(
        connection, consumer.group, checkpoint, with_past=consumer.handler.start in (None, "beginning")
    ):
        return read_batch(connection, consumer.group, limit)
    return checkpoint, messages


def add_topics(connection: Connection, group: ConsumerGroup, checkpoint: Checkpoint, *, with_past: bool) -> bool:
    """Note the topics of a group that listens to more than before; tell whether there are events to read that it passed over.

    Another version of the ERP may have dispatched the group and not known them. `with_past`: those from before are for it, too.
    """
    added = sorted(set(group.topics).difference(checkpoint.topics or ()))
    if len(group.topics) < 2 or not checkpoint.exists or not added:
        return False
    values = {"topics": added, "offset": checkpoint.offset, "name": group.name}
    row = connection.execute(_ADDED, values).fetchone() if with_past else None
    first: int | None = row[0] if row else None
    if first is not None:
        read = [topic for topic in group.topics if topic in (checkpoint.topics or group.topics)]
        remember_handled(connection, ConsumerGroup(group.name, tuple(read)), first - 1)
    connection.execute(
        'UPDATE erpkit_checkpoints SET topics = %s, read_offset = least(read_offset, %s, "offset") WHERE consumer_group = %s',
        [sorted({*group.topics, *(checkpoint.topics or ())}), None if first is None else first - 1, group.name],
    )
    return first is not None


def remember_handled(connection: Connection, group: ConsumerGroup, after: int) -> None:
    """Enter what the group has handled after an offset into its inbox again, where its rows were pruned, as it reads that again."""
    connection.execute(_REMEMBER, {"name": group.name, "topics": list(group.topics), "after": after})


def _following(group: ConsumerGroup, limit: int) -> tuple[str, list[object]]:
    """Return the query for the events of a group's topics after its checkpoint, with its values."""
    if not group.topics:
        return _EVENTS.format(of_topic="", after='"offset"'), [group.name, limit]
    one_topic = _EVENTS.format(of_topic="topic = %s AND", after='"offset"' if len(group.topics) == 1 else _READ)
    if len(group.topics) == 1:
        return one_topic, [*group.topics, group.name, limit]
    values: list[object] = [value for topic in group.topics for value in (topic, list(group.topics), group.name, limit)]
    pieces = " UNION ALL ".join(f"({one_topic})" for _ in group.topics)
    return f'SELECT * FROM ({pieces}) e ORDER BY "offset" LIMIT %s', [*values, limit]  # noqa: S608


def mark_in_flight(
    connection: Connection, consumer: Consumer, last: int, attempts: int, statement_timeout: float
) -> None:
    """Durably mark all up to offset `last` as in flight, and go on in a new transaction that holds the group's lock.

    The present transaction, which took that lock and only read, is committed; it costs no wait for the disk: should the server
    crash, the mark is lost, and nothing else.
    """
    mark = mark_statement(consumer, last, attempts)
    commit_and_go_on(connection, consumer, ("SET LOCAL synchronous_commit TO off", mark), (), statement_timeout)


def mark_statement(consumer: Consumer, last: int, attempts: int) -> str:
    """Return the statement that marks all up to offset `last` as in flight, to be sent together with others."""
    return _MARK.format(*(sql.Literal(value).as_string() for value in (consumer.name, last, attempts)))


def commit_and_go_on(
    connection: Connection, consumer: Consumer, before: Sequence[str], after: Sequence[str], statement_timeout: float
) -> int:
    """Run statements, commit, and run others in a new transaction that holds the group's lock; return how many rows the last touched.

    All of it is one message: the server connection stays ours behind a pooler too, which may have no second one, and no other
    dispatcher comes in between, as the session holds the lock meanwhile.
    """
    key, tenant = group_lock("current_schema()", sql.Literal(consumer.name).as_string()), consumer.tenant
    use = use_lock("current_schema()")
    statements = (
        *before,
        f"SELECT pg_advisory_lock({key}), pg_advisory_lock_shared({use})",
        "COMMIT AND CHAIN",
        *scope_statements(tenant.schema, tenant.role, statement_timeout, shared_schemas(connection)),
        f"SELECT pg_advisory_xact_lock({key}), pg_advisory_unlock({key})",
        f"SELECT pg_advisory_xact_lock_shared({use}), pg_advisory_unlock_shared({use})",
        *after,
    )
    cursor = connection.execute("; ".join(statements).encode())
    while cursor.nextset():
        pass
    return cursor.rowcount


def move_checkpoint(
    connection: Connection,
    group: ConsumerGroup,
    offset: int,
    in_flight: int | None = None,
    pause: Waiting | None = None,
) -> None:
    """Move the checkpoint to `offset`, and let the group wait where there is a `pause`.

    Up to `in_flight` events are still to be handled one by one after it.
    """
    connection.execute(_MOVE, _values(group, offset, in_flight, pause))


def move_statement(group: ConsumerGroup, offset: int) -> str:
    """Return the statement that moves the checkpoint, to be sent together with others."""
    values = _values(group, offset, None, None)
    return _MOVE % {name: sql.Literal(value).as_string() for name, value in values.items()}


def _values(group: ConsumerGroup, offset: int, in_flight: int | None, pause: Waiting | None) -> dict[str, object]:
    values: dict[str, object] = {
        "name": group.name,
        "offset": offset,
        "in_flight": in_flight,
        "topics": list(group.topics),
    }
    if pause is None:
        return {**values, "seconds": None, "tries": 0, "pauses": 0, "error": None}
    return {**values, "seconds": pause.seconds, "tries": pause.tries, "pauses": pause.pauses, "error": pause.error}


def list_paused(connection: Connection, groups: Sequence[str]) -> tuple[str, ...]:
    """Return which of these groups pause, in the tenant of the transaction."""
    query = "SELECT consumer_group FROM erpkit_checkpoints WHERE consumer_group = ANY(%s) AND paused_until > now() ORDER BY 1"
    return tuple(name for (name,) in connection.execute(query, [list(groups)]))


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
        (tenant, _any_query(tenant, handlers, f"{_AWAKE}{_NEW}{_FREE if with_parked[tenant.schema] else ''})"))
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
