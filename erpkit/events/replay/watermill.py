"""Events in Watermill's own PostgreSQL tables, written by an ERP in Go: inspected, read and replayed, never changed.

Tables and order are those of watermill-sql: `watermill_<topic>`, read by `(transaction_id, "offset")` and only below the oldest
transaction that still runs, so that none that commits late is skipped; `watermill_offsets_<topic>` has the consumer groups. Tables of
its queue schemas have `acked` in place of both, and are read by `"offset"`; payloads may be JSON or BYTEA.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any
from uuid import uuid4

from psycopg import sql

from erpkit.database import IMPATIENT, Connection, Database, Tenant, note_failure
from erpkit.errors import ErpkitError, PlanChangedError, UsageError
from erpkit.events.brokers.wire import payload_of, uuid_of
from erpkit.events.consumer import Consumer
from erpkit.events.message import Message
from erpkit.events.replay.plan import (
    STEP_COLUMNS,
    HandlerChoice,
    ReplayPlan,
    ReplayStep,
    choose_handlers,
    steps_of,
    with_steps,
)
from erpkit.events.replay.run import Pace, ReplayFailure, ReplayRun, RunOptions, hand_over
from erpkit.events.replay.selection import Selection
from erpkit.finding import Finding, find_skipped, not_read
from erpkit.modules import EventHandler, Registry
from erpkit.result import Summary, TableResult
from erpkit.signals import stop_at_interrupt
from erpkit.table import Column, Table

_TABLE, _OFFSETS = "watermill_", "watermill_offsets_"
_FAILURES_KEPT = 1000
_BATCH = 1000

_SOURCE = Column[Any]("read from", lambda step: step.source)

Position = tuple[int, int]  # transaction_id, offset


@dataclass(frozen=True)
class WatermillGroup:
    """How far a consumer group is, and how many events it has before it; those not yet visible to readers count too."""

    name: str
    transaction_id: int
    offset: int
    lag: int


@dataclass(frozen=True)
class WatermillTopic:
    """One topic of one tenant. `held_back` events wait for an older transaction to end before anybody may read them."""

    tenant: str
    topic: str
    events: int
    held_back: int
    first_time: datetime | None
    last_time: datetime | None
    groups: tuple[WatermillGroup, ...]


@dataclass(frozen=True, repr=False)
class WatermillTopics(TableResult):
    """The topics in Watermill's tables of some tenants, and the tenants that could not be read with the reason."""

    topics: Sequence[WatermillTopic]
    errors: Mapping[str, str]
    skipped: Mapping[str, str] = field(default_factory=dict)
    named: frozenset[str] = frozenset()

    @property
    def findings(self) -> list[Finding]:
        """The tenants that could not be read, and those that were skipped."""
        return [*not_read(self.errors), *find_skipped(self.skipped, self.named)]

    @property
    def table(self) -> Table[WatermillTopic]:
        """One row per topic: how many events, since when, and how far each consumer group is behind."""
        return Table(_TOPICS, self.topics, "No tenant has tables of Watermill's.")

    @property
    def summary(self) -> Summary:
        """How many there are, and which tenants could not be read."""
        return Summary("Topics in Watermill's tables", {"topics": len(self.topics)}, self.findings)


_TOPICS = (
    Column[WatermillTopic]("tenant", lambda one: one.tenant),
    Column[WatermillTopic]("topic", lambda one: one.topic),
    Column[WatermillTopic]("events", lambda one: one.events, bar=True),
    Column[WatermillTopic]("held back", lambda one: one.held_back),
    Column[WatermillTopic]("first", lambda one: one.first_time, minor=True),
    Column[WatermillTopic]("last", lambda one: one.last_time, minor=True),
    Column[WatermillTopic](
        "waiting, by group", lambda one: ", ".join(f"{g.name}: {g.lag:,}" for g in one.groups) or "no group"
    ),
)


@dataclass(frozen=True)
class WatermillStep(ReplayStep):
    """A step whose events stand in the table of Watermill's topic `source`: two of these may go by one topic of a module's."""

    source: str = ""


@dataclass(frozen=True)
class WatermillPlan(ReplayPlan):
    """What a replay of Watermill's tables would do. Its steps have modules' topics; `sources` are tenant and topic of Watermill's."""

    sources: tuple[tuple[str, str], ...] = ()
    renamed: tuple[tuple[str, str], ...] = ()

    @property
    def id(self) -> str:
        """The id of the plan; it changes with the events, the choice and the names."""
        facts = repr((super().id, self.sources, self.renamed))
        return f"watermill-{hashlib.sha256(facts.encode()).hexdigest()[:10]}"

    @property
    def step_table(self) -> Table[Any]:
        """One row per tenant, topic of Watermill's, topic and handler."""
        return replace(super().step_table, columns=(*STEP_COLUMNS[:1], _SOURCE, *STEP_COLUMNS[1:]))


@dataclass(frozen=True)
class _Shape:
    """What a topic's table is like: one of a queue schema has `acked` and no transaction ids."""

    topic: str
    is_queue: bool

    @property
    def place(self) -> sql.Composable:
        """By what its events are ordered."""
        return sql.SQL('"offset"' if self.is_queue else 'transaction_id, "offset"')

    @property
    def is_visible(self) -> sql.Composable:
        """Which events may be read: below the oldest transaction that still runs, where the table has transaction ids."""
        return sql.SQL("true" if self.is_queue else "transaction_id < pg_snapshot_xmin(pg_current_snapshot())")

    def after(self, position: Position) -> sql.Composable:
        """Return the condition for events past a position."""
        transaction, offset = (sql.Literal(str(number)) for number in position)
        if self.is_queue:
            return sql.SQL('"offset" > {}::bigint').format(offset)
        return sql.SQL('(transaction_id, "offset") > ({}::text::xid8, {}::bigint)').format(transaction, offset)

    @property
    def events(self) -> sql.Composable:
        """The table with the columns of erpkit's log. Its metadata may be null, as a value of JSON, too."""
        transaction = sql.SQL("'0'::xid8 AS transaction_id" if self.is_queue else "transaction_id")
        return sql.SQL(
            "(SELECT {transaction}, \"offset\", uuid::text, payload, CASE json_typeof(metadata::json) WHEN 'object' THEN "
            "metadata::json ELSE '{{}}' END AS metadata, created_at::timestamptz AS recorded_at FROM {table}) e"
        ).format(transaction=transaction, table=sql.Identifier(_TABLE + self.topic))


_TABLES = """
SELECT c.relname, has_table_privilege(c.oid, 'SELECT'), 'acked' = ANY (a.names), current_schema(), current_user FROM pg_class c
 CROSS JOIN LATERAL (SELECT array_agg(attname::text) AS names FROM pg_attribute WHERE attrelid = c.oid AND NOT attisdropped) a
 WHERE c.relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = current_schema()) AND c.relkind IN ('r', 'p')
   AND starts_with(c.relname, %(prefix)s) AND a.names @> '{offset,uuid,created_at,payload,metadata}'
   AND a.names && '{transaction_id,acked}' AND (%(topic)s::text IS NULL OR c.relname = %(prefix)s || %(topic)s) ORDER BY c.relname
"""


def _shapes(connection: Connection, topic: str | None = None) -> list[_Shape]:
    shapes = []
    for name, may_read, is_queue, schema, role in connection.execute(_TABLES, {"prefix": _TABLE, "topic": topic}):
        if not may_read:
            grant = f'GRANT SELECT ON ALL TABLES IN SCHEMA "{schema}" TO "{role}"'
            raise ErpkitError(f"the role {role} may not read {schema}.{name}: {grant}")
        shapes.append(_Shape(name.removeprefix(_TABLE), is_queue))
    return shapes


def _shape(connection: Connection, topic: str) -> _Shape:
    for shape in _shapes(connection, topic):
        return shape
    raise UsageError(f"there is no table {_TABLE}{topic} of Watermill's")


def inspect_watermill(database: Database, tenant: Tenant) -> list[WatermillTopic]:
    """Return every topic of a tenant with its counts, and the lag of each consumer group."""
    with database.tenant_transaction(tenant) as connection:
        connection.execute(IMPATIENT)
        return [_inspect(connection, tenant, shape) for shape in _shapes(connection)]


def read_watermill_topics(database: Database, tenants: Sequence[Tenant]) -> WatermillTopics:
    """Read the topics of all `tenants`; one that cannot be read does not stop the others."""
    errors: dict[str, str] = {}
    topics: list[WatermillTopic] = []
    for tenant in tenants:
        with note_failure(tenant, errors):
            topics += inspect_watermill(database, tenant)
    return WatermillTopics(topics, errors)


def read_watermill(
    connection: Connection, topic: str, selection: Selection, after: Position = (0, 0), limit: int = _BATCH
) -> list[tuple[Position, Message]]:
    """Read up to `limit` selected events of one topic past `after`, each with its position, in Watermill's order.

    Times are compared in the time zone of the database, as `created_at` has none. A message id that is no uuid, a ULID say,
    becomes one that follows from it, and stands in the metadata.
    """
    shape = _shape(connection, topic)
    rows = connection.execute(
        sql.SQL(
            'SELECT transaction_id::text::bigint, "offset", uuid, payload, metadata, recorded_at FROM {events} '
            "WHERE {condition} AND {after} AND {is_visible} ORDER BY {place} LIMIT {limit}"
        ).format(
            events=shape.events, condition=_condition(selection), after=shape.after(after), is_visible=shape.is_visible,
            place=shape.place, limit=sql.Literal(limit),
        )
    )  # fmt: skip
    return [((row[0], row[1]), _message(topic, row[1:])) for row in rows]


def stream_watermill(
    database: Database, tenant: Tenant, topic: str, selection: Selection, batch: int = _BATCH
) -> Iterator[list[Message]]:
    """Read all selected events of one topic, batch by batch, each in a read-only transaction of its own."""
    after: Position = (0, 0)
    while True:
        with database.tenant_transaction(tenant) as connection:
            found = read_watermill(connection, topic, selection, after, batch)
        if not found:
            return
        after = found[-1][0]
        yield [message for _, message in found]


def plan_watermill(
    database: Database,
    registry: Registry,
    tenants: Sequence[Tenant],
    selection: Selection,
    choice: HandlerChoice | None = None,
) -> WatermillPlan:
    """Plan to hand the selected events of Watermill's tables to the handlers of `choice`.

    Its `topics` map Watermill's topics to those of modules; without it an event goes by its topic, or by the `name` in its
    metadata. Events that no chosen handler listens to are passed over.
    """
    choice = choice or HandlerChoice()
    chosen, left_out = choose_handlers(registry, choice)
    wanted = {topic for handler in chosen for topic in registry.topics_of(handler)}
    tables: list[tuple[str, str]] = []
    counts: list[tuple[str, tuple[Any, ...]]] = []
    errors: dict[str, str] = {}
    for tenant in tenants:
        with note_failure(tenant, errors), database.tenant_transaction(tenant) as connection:
            connection.execute(IMPATIENT)
            found = [shape for shape in _shapes(connection) if selection.has_topic(shape.topic)]
            counted = [(shape.topic, _count_by_name(connection, shape, selection)) for shape in found]
            tables += [(tenant.slug, shape.topic) for shape in found]
            counts += [
                (topic, (tenant.slug, _name(topic, name, choice.topics, wanted), *rest))
                for topic, rows in counted
                for name, *rest in rows
            ]
    every = replace(selection, topic="*")
    steps = tuple(
        WatermillStep(**vars(step), source=topic)
        for topic, count in counts
        for step in steps_of(registry, chosen, every, [count])
    )
    return WatermillPlan(
        selection,
        with_steps(tenants, steps),
        steps,
        left_out,
        errors=errors,
        sources=tuple(tables),
        renamed=tuple(sorted(choice.topics.items())),
    )


def replay_watermill(
    database: Database,
    registry: Registry,
    plan: WatermillPlan,
    confirm: str,
    options: RunOptions | None = None,
) -> ReplayRun:
    """Carry out `plan` if `confirm` is its id; Watermill's tables, and the offsets in them, stay as they are.

    The schema needs no table of erpkit's, and so the returned record is the only audit, and nothing is resumed. Topics
    follow one another, as Watermill knows no order between them. What handlers publish has no log to go to: raises
    UsageError, the batch undone, when they do.
    """
    PlanChangedError.check(confirm, plan.id)
    options = options or RunOptions()
    work = _Work(database, registry, plan, options.advance)
    pace = Pace(options)
    with stop_at_interrupt(options.stop):
        for tenant, topic in work.tables():
            for messages in stream_watermill(database, tenant, topic, plan.selection, pace.batch):
                work.replay(tenant, messages)
                pace.wait(len(messages))
                if options.stop.is_set():
                    return work.result("cancelled")
    return work.result("done")


class _Work:
    def __init__(
        self, database: Database, registry: Registry, plan: WatermillPlan, progress: Callable[[int], object]
    ) -> None:
        self._database, self._registry, self._plan, self._progress = database, registry, plan, progress
        self._replay_id = uuid4()
        self._handlers: dict[str, list[EventHandler]] = {}
        for handler in (registry.event_handlers[name] for name in plan.handlers):
            for topic in registry.topics_of(handler):
                self._handlers.setdefault(topic, []).append(handler)
        self._handled = self._failed = 0
        self._failures: list[ReplayFailure] = []

    def tables(self) -> list[tuple[Tenant, str]]:
        return [
            (tenant, topic)
            for tenant in self._plan.tenants
            for slug, topic in self._plan.sources
            if slug == tenant.slug
        ]

    def replay(self, tenant: Tenant, messages: Sequence[Message]) -> None:
        """Hand on messages in one transaction; one in each where a handler has effects outside the database."""
        is_outside = any(handler.is_outside for found in self._handlers.values() for handler in found)
        for part in ([one] for one in messages) if is_outside else (messages,):
            self._replay(tenant, part)

    def _replay(self, tenant: Tenant, messages: Sequence[Message]) -> None:
        named, source = [self._named(message) for message in messages], messages[0].topic
        pairs = [
            (Consumer(tenant, self._registry, handler), message)
            for message in named
            for handler in self._handlers.get(message.topic, ())
        ]
        with self._database.tenant_transaction(tenant, write=True) as connection:
            outcomes, published = hand_over(connection, f"tenant {tenant.slug}: replay", pairs)
            if published:
                raise UsageError(
                    f"tenant {tenant.slug}: a handler publishes {published[0].topic}: leave it out of this replay"
                )
        failures = [
            ReplayFailure(
                tenant.slug, name, m.offset or 0, error if m.topic == source else f"{error} (read from {source})"
            )
            for name, m, error in outcomes
            if error
        ]
        self._handled += len(outcomes) - len(failures)
        self._failed += len(failures)
        self._failures += failures[: _FAILURES_KEPT - len(self._failures)]
        self._progress(len(outcomes))

    def result(self, state: str) -> ReplayRun:
        return ReplayRun(self._plan.id, self._replay_id, self._handled, 0, tuple(self._failures), self._failed, state)

    def _named(self, message: Message) -> Message:
        topic = _name(message.topic, message.metadata.get("name"), dict(self._plan.renamed), self._handlers)
        return replace(message, topic=topic, replay_id=self._replay_id)


def _name(topic: str, name: str | None, renamed: Mapping[str, str], wanted: Collection[str]) -> str:
    """Return the module's topic that an event of Watermill's goes by."""
    found = renamed.get(topic, topic)
    return found if found in wanted or name is None else name


def _count_by_name(connection: Connection, shape: _Shape, selection: Selection) -> list[tuple[Any, ...]]:
    """Return the name in the metadata, events, first and last of each kind of selected event in one topic."""
    query = sql.SQL(
        'SELECT e.metadata->>\'name\', count(*), min("offset"), max("offset"), min(recorded_at), max(recorded_at) '
        "FROM {} WHERE {} AND {} GROUP BY 1 ORDER BY 1"
    )
    return connection.execute(query.format(shape.events, _condition(selection), shape.is_visible)).fetchall()


def _condition(selection: Selection) -> sql.Composed:
    """Return the condition without the uuids, and with them as Watermill has them: text."""
    condition = replace(selection, uuids=()).condition()
    if not selection.uuids:
        return condition
    return sql.SQL("{} AND uuid = ANY({})").format(condition, sql.Literal([str(uuid) for uuid in selection.uuids]))


def _message(topic: str, row: Sequence[Any]) -> Message:
    """Build a message; a payload that is kept as bytes is read like one from a broker."""
    offset, id_, payload, metadata, time = row
    uuid, own_id = uuid_of(id_)
    texts = {key: str(value) for key, value in metadata.items()} | own_id
    return Message(topic, payload_of(payload) if isinstance(payload, bytes) else payload, uuid, texts, offset, time)


def _inspect(connection: Connection, tenant: Tenant, shape: _Shape) -> WatermillTopic:
    ((events, held_back, first, last),) = connection.execute(
        sql.SQL("SELECT count(*), count(*) FILTER (WHERE NOT {}), min(recorded_at), max(recorded_at) FROM {}").format(
            shape.is_visible, shape.events
        )
    ).fetchall()
    groups = _queue_group(connection, shape) if shape.is_queue else _groups(connection, shape.topic)
    return WatermillTopic(tenant.slug, shape.topic, events, held_back, first, last, groups)


def _queue_group(connection: Connection, shape: _Shape) -> tuple[WatermillGroup, ...]:
    """Return the one group that a queue has, without a name of its own: how much is not acknowledged yet."""
    query = sql.SQL('SELECT coalesce(max("offset") FILTER (WHERE acked), 0), count(*) FILTER (WHERE NOT acked) FROM {}')
    ((offset, lag),) = connection.execute(query.format(sql.Identifier(_TABLE + shape.topic))).fetchall()
    return (WatermillGroup("not acknowledged", 0, offset, lag),)


def _groups(connection: Connection, topic: str) -> tuple[WatermillGroup, ...]:
    """Return the groups of a topic; a table of offsets that has others' columns is that of a topic named `offsets_…`."""
    has_offsets = connection.execute(
        "SELECT 1 FROM pg_attribute WHERE attrelid = to_regclass(quote_ident(current_schema()) || '.' || quote_ident(%s)) "
        "AND attname = 'last_processed_transaction_id'",
        [_OFFSETS + topic],
    ).fetchone()
    if not has_offsets:
        return ()
    rows = connection.execute(
        sql.SQL(
            "SELECT consumer_group, last_processed_transaction_id::text::bigint, coalesce(offset_acked, 0), "
            '(SELECT count(*) FROM {} m WHERE (m.transaction_id, m."offset") > (o.last_processed_transaction_id, '
            "coalesce(o.offset_acked, 0))) FROM {} o ORDER BY 1"
        ).format(sql.Identifier(_TABLE + topic), sql.Identifier(_OFFSETS + topic))
    )
    return tuple(WatermillGroup(*row) for row in rows)
