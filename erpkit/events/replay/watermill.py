"""Events in Watermill's own PostgreSQL tables, written by an ERP in Go: inspected, read and replayed, never changed.

Tables and order are those of watermill-sql: `watermill_<topic>`, read by `(transaction_id, "offset")` and only below the oldest
transaction that still runs, so that none that commits late is skipped; `watermill_offsets_<topic>` has the consumer groups.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any
from uuid import NAMESPACE_OID, UUID, uuid4, uuid5

from psycopg import sql

from erpkit.database import IMPATIENT, Connection, Database, Tenant, note_failure
from erpkit.errors import ErpkitError, PlanChangedError, UsageError
from erpkit.events.consumer import Consumer
from erpkit.events.message import Message
from erpkit.events.replay.plan import HandlerChoice, ReplayPlan, choose_handlers, steps_of, with_steps
from erpkit.events.replay.run import Pace, ReplayFailure, ReplayRun, RunOptions, hand_over
from erpkit.events.replay.selection import Selection
from erpkit.finding import Finding, find_skipped, not_read
from erpkit.modules import EventHandler, Registry
from erpkit.result import Result, Summary
from erpkit.signals import stop_at_interrupt
from erpkit.table import Column, Table

_TABLE, _OFFSETS = "watermill_", "watermill_offsets_"
_UUID_KEY = "_watermill_message_uuid"
_FAILURES_KEPT = 1000
_BATCH = 1000

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


@dataclass(frozen=True)
class WatermillTopics(Result):
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

    def __repr__(self) -> str:
        return repr(self.table)

    def _repr_html_(self) -> str:
        return self.table._repr_html_()


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
class WatermillPlan(ReplayPlan):
    """What a replay of Watermill's tables would do. Its steps have modules' topics; `sources` are tenant and topic of Watermill's."""

    sources: tuple[tuple[str, str], ...] = ()
    renamed: tuple[tuple[str, str], ...] = ()

    @property
    def id(self) -> str:
        """The id of the plan; it changes with the events, the choice and the names."""
        facts = repr((super().id, self.sources, self.renamed))
        return f"watermill-{hashlib.sha256(facts.encode()).hexdigest()[:10]}"


def list_watermill_topics(connection: Connection) -> list[str]:
    """Return the topics that have a table in the present tenant's schema, by name.

    Raises ErpkitError, saying what to grant, for one that the tenant's role may not read.
    """
    rows = connection.execute(
        "SELECT relname, has_table_privilege(c.oid, 'SELECT'), current_schema(), current_user "
        "FROM pg_class c WHERE relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = current_schema()) "
        "AND relkind IN ('r', 'p') "
        "AND starts_with(relname, %s) AND (SELECT count(*) FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname IN "
        "('offset', 'uuid', 'created_at', 'payload', 'metadata', 'transaction_id')) = 6 ORDER BY relname",
        [_TABLE],
    )
    topics = []
    for name, may_read, schema, role in rows:
        if not may_read:
            grant = f'GRANT SELECT ON ALL TABLES IN SCHEMA "{schema}" TO "{role}"'
            raise ErpkitError(f"the role {role} may not read {schema}.{name}: {grant}")
        topics.append(name.removeprefix(_TABLE))
    return topics


def inspect_watermill(database: Database, tenant: Tenant) -> list[WatermillTopic]:
    """Return every topic of a tenant with its counts, and the lag of each consumer group."""
    with database.tenant_transaction(tenant) as connection:
        connection.execute(IMPATIENT)
        return [_inspect(connection, tenant, topic) for topic in list_watermill_topics(connection)]


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
    rows = connection.execute(
        sql.SQL(
            'SELECT transaction_id::text::bigint, "offset", uuid, payload, metadata, recorded_at FROM {events} '
            'WHERE {condition} AND (transaction_id, "offset") > ({transaction}::text::xid8, {offset}) '
            'AND transaction_id < pg_snapshot_xmin(pg_current_snapshot()) ORDER BY transaction_id, "offset" LIMIT {limit}'
        ).format(
            events=_events(topic), condition=_condition(selection), transaction=sql.Literal(str(after[0])),
            offset=sql.Literal(after[1]), limit=sql.Literal(limit),
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
    wanted = {registry.topic(handler.event) for handler in chosen}
    tables: list[tuple[str, str]] = []
    counts: list[tuple[Any, ...]] = []
    errors: dict[str, str] = {}
    for tenant in tenants:
        with note_failure(tenant, errors), database.tenant_transaction(tenant) as connection:
            connection.execute(IMPATIENT)
            found = [topic for topic in list_watermill_topics(connection) if selection.has_topic(topic)]
            counted = [(topic, _count_by_name(connection, topic, selection)) for topic in found]
            tables += [(tenant.slug, topic) for topic in found]
            for topic, rows in counted:
                counts += [(tenant.slug, _name(topic, name, choice.topics, wanted), *rest) for name, *rest in rows]
    steps = steps_of(registry, chosen, replace(selection, topic="*"), counts)
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
            self._handlers.setdefault(registry.topic(handler.event), []).append(handler)
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
        named = [self._named(message) for message in messages]
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
        failures = [ReplayFailure(tenant.slug, name, m.offset or 0, error) for name, m, error in outcomes if error]
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


def _count_by_name(connection: Connection, topic: str, selection: Selection) -> list[tuple[Any, ...]]:
    """Return the name in the metadata, events, first and last of each kind of selected event in one topic."""
    query = sql.SQL(
        'SELECT e.metadata->>\'name\', count(*), min("offset"), max("offset"), min(recorded_at), max(recorded_at) '
        "FROM {} WHERE {} AND transaction_id < pg_snapshot_xmin(pg_current_snapshot()) GROUP BY 1 ORDER BY 1"
    )
    return connection.execute(query.format(_events(topic), _condition(selection))).fetchall()


def _events(topic: str) -> sql.Composed:
    """Return a topic's table with the columns of erpkit's log."""
    return sql.SQL(
        "(SELECT transaction_id, \"offset\", uuid::text, payload, coalesce(metadata, '{{}}') AS metadata, "
        "created_at::timestamptz AS recorded_at FROM {}) e"
    ).format(sql.Identifier(_TABLE + topic))


def _condition(selection: Selection) -> sql.Composed:
    """Return the condition without the uuids, and with them as Watermill has them: text."""
    condition = replace(selection, uuids=()).condition()
    if not selection.uuids:
        return condition
    return sql.SQL("{} AND uuid = ANY({})").format(condition, sql.Literal([str(uuid) for uuid in selection.uuids]))


def _message(topic: str, row: Sequence[Any]) -> Message:
    offset, uuid, payload, metadata, time = row
    texts = {key: str(value) for key, value in metadata.items()}
    try:
        return Message(topic, payload, UUID(uuid), texts, offset, time)
    except ValueError:
        return Message(topic, payload, uuid5(NAMESPACE_OID, uuid), {**texts, _UUID_KEY: uuid}, offset, time)


def _inspect(connection: Connection, tenant: Tenant, topic: str) -> WatermillTopic:
    table = sql.Identifier(_TABLE + topic)
    ((events, held_back, first, last),) = connection.execute(
        sql.SQL(
            "SELECT count(*), count(*) FILTER (WHERE transaction_id >= pg_snapshot_xmin(pg_current_snapshot())), "
            "min(created_at)::timestamptz, max(created_at)::timestamptz FROM {}"
        ).format(table)
    ).fetchall()
    groups: list[WatermillGroup] = []
    if connection.execute("SELECT to_regclass(quote_ident(%s))", [_OFFSETS + topic]).fetchone() != (None,):
        rows = connection.execute(
            sql.SQL(
                "SELECT consumer_group, last_processed_transaction_id::text::bigint, coalesce(offset_acked, 0), "
                '(SELECT count(*) FROM {} m WHERE (m.transaction_id, m."offset") > (o.last_processed_transaction_id, '
                "coalesce(o.offset_acked, 0))) FROM {} o ORDER BY 1"
            ).format(table, sql.Identifier(_OFFSETS + topic))
        )
        groups = [WatermillGroup(*row) for row in rows]
    return WatermillTopic(tenant.slug, topic, events, held_back, first, last, tuple(groups))
