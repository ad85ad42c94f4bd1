"""Retention: how long events, inbox rows and replays are kept, by declaration, and pruning what is older and not needed."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, get_args

import psycopg
from psycopg import sql

from erpkit.database import Connection, Database, Tenant, read_tenants, tenants_with_table
from erpkit.errors import DatabaseError, UsageError, first_line
from erpkit.events.consumer import ConsumerGroup, group_rows
from erpkit.events.orphans import FORWARDERS
from erpkit.events.replay.shadow import list_shadows
from erpkit.finding import NO_TENANTS, Finding, not_read
from erpkit.plan import Work, plan_id
from erpkit.plural import count_of
from erpkit.result import Result
from erpkit.table import Column, Table

_REMOVED = "the removed "  # begins what holds events and is no handler of any module

Kind = Literal["events", "inbox", "replays"]

BATCH = 5000  # rows a transaction
_DAYS = {"d": 1, "w": 7, "y": 365}
_MOST_DAYS = 365_000
_EXAMPLE = "ERPKIT_RETENTION=events=365d,inbox=90d,replays=30d"

# How far a handler has read a topic: one that was added to it is read from its first event, and so may be one that another version
# of the ERP passed over.
_READ = 'coalesce(CASE WHEN c.topics IS NULL OR {topic} = ANY(c.topics) THEN least(c."offset", c.read_offset) END, 0)'

# An event stays while a handler, the forwarder or an unfinished replay is to read it, or a dead letter or parked event is it. A
# handler without a checkpoint reads from the beginning; what a checkpoint without a handler means to read is not known: everything.
_PRUNABLE = sql.SQL(
    'e.recorded_at < {before} AND e."offset" <= CASE e.topic {topics} ELSE 9223372036854775807 END'
    ' AND e."offset" <= coalesce('
    '(SELECT min(c."offset") FROM {checkpoints} c WHERE c.consumer_group <> ALL({groups})), 9223372036854775807)'
    " AND (NOT {forwards} OR EXISTS (SELECT FROM {checkpoints} c WHERE starts_with(c.consumer_group, {forwarders})))"
    " AND e.\"offset\" <= coalesce((SELECT min(r.last_offset) FROM {replays} r WHERE r.state <> 'done'), 9223372036854775807)"
    " AND NOT EXISTS (SELECT FROM {letters} d WHERE d.uuid = e.uuid AND d.status = 'open')"
    " AND NOT EXISTS (SELECT FROM {parked} p WHERE p.uuid = e.uuid)"
)
_OF_TOPIC = sql.SQL(
    f"WHEN {{topic}} THEN (SELECT min({_READ}) FROM unnest({{names}}::text[]) h (name)"  # noqa: S608 - a constant
    " LEFT JOIN {checkpoints} c ON c.consumer_group = h.name)"
)
_COUNT_EVENTS = sql.SQL("""
SELECT {slug}, count(*) FILTER (WHERE {prunable}), count(*),
       ARRAY(SELECT DISTINCT h.name FROM (VALUES {handlers}) h (name, topic) LEFT JOIN {checkpoints} c ON c.consumer_group = h.name
              WHERE EXISTS (SELECT FROM {events} e WHERE e.topic = h.topic AND e."offset" > {read}
                                                     AND e.recorded_at < {before}) ORDER BY 1)
    || ARRAY(SELECT {removed} || c.consumer_group FROM {checkpoints} c WHERE c.consumer_group <> ALL({groups})
                AND c."offset" < (SELECT max("offset") FROM {events} WHERE recorded_at < {before}) ORDER BY 1)
    || CASE WHEN {forwards} AND NOT EXISTS (SELECT FROM {checkpoints} c WHERE starts_with(c.consumer_group, {forwarders}))
            THEN ARRAY['the forwarder'] ELSE ARRAY[]::text[] END
    || ARRAY(SELECT 'replay ' || r.replay_id FROM {replays} r WHERE r.state <> 'done' ORDER BY 1)
    || ARRAY(SELECT 'dead letters of ' || d.handler FROM {letters} d WHERE d.status = 'open' GROUP BY d.handler ORDER BY 1)
  FROM {events} e WHERE e.recorded_at < {before}
""")
# A row goes once its event is behind the handler's checkpoint: until then it keeps the event from being handled again.
_HANDLED = sql.SQL(
    'i.handled_at < {before} AND NOT EXISTS (SELECT FROM {events} e WHERE e.uuid = i.uuid AND e."offset" > '
    'coalesce((SELECT least(c."offset", c.read_offset) FROM {checkpoints} c WHERE c.consumer_group = i.handler), 0))'
)
_COUNT_INBOX = sql.SQL("SELECT {slug}, count(*) FROM {inbox} i WHERE {handled}")
_OLD_REPLAY = sql.SQL("coalesce(r.finished_at, r.started_at) < {before}")
_COUNT_REPLAYS = sql.SQL(
    "SELECT {slug}, count(*) + (SELECT count(*) FROM {results} x JOIN {replays} r USING (replay_id) WHERE {old})"
    " FROM {replays} r WHERE {old}"
)

_PRUNE_EVENTS = sql.SQL(
    'WITH gone AS (DELETE FROM {events} WHERE "offset" = ANY(ARRAY(SELECT "offset" FROM {events} e WHERE {prunable} AND '
    'e."offset" > %(after)s ORDER BY "offset" LIMIT %(limit)s)) RETURNING "offset") SELECT count(*), max("offset") FROM gone'
)
# The inbox is walked along its key, so that no batch reads what another one has read.
_PRUNE_INBOX = sql.SQL(
    "WITH part AS (SELECT * FROM {inbox} WHERE (handler, uuid) > (%(handler)s, %(uuid)s::uuid) ORDER BY handler, uuid LIMIT %(limit)s),"
    " gone AS (DELETE FROM {inbox} i USING part WHERE i.handler = part.handler AND i.uuid = part.uuid AND {handled} RETURNING 1)"
    " SELECT (SELECT count(*) FROM gone), handler, uuid FROM part ORDER BY handler DESC, uuid DESC LIMIT 1"
)
_PRUNE_RESULTS = sql.SQL(
    "WITH gone AS (DELETE FROM {results} WHERE ctid = ANY(ARRAY(SELECT x.ctid FROM {results} x JOIN {replays} r USING (replay_id)"
    " WHERE {old} LIMIT %(limit)s)) RETURNING 1) SELECT count(*) FROM gone"
)
_PRUNE_REPLAYS = sql.SQL("WITH gone AS (DELETE FROM {replays} r WHERE {old} RETURNING 1) SELECT count(*) FROM gone")
_TABLES = {"letters": "dead_letters", "results": "replay_results"}


@dataclass(frozen=True)
class Retention:
    """How long each kind of rows is kept; what is not in `ages` is kept for good."""

    ages: Mapping[Kind, timedelta]

    @classmethod
    def of(cls, declared: Iterable[str]) -> Retention:
        """Read declarations such as `events=365d`; d is days, w weeks, y years. Raises UsageError for any other text."""
        ages: dict[Kind, timedelta] = {}
        kinds: dict[str, Kind] = {kind: kind for kind in get_args(Kind)}
        for text in declared:
            name, _, age = text.partition("=")
            found = re.fullmatch(r"(\d+)([dwy])", age.strip())
            days = int(found[1]) * _DAYS[found[2]] if found else 0
            if not days or name.strip() not in kinds:
                raise UsageError(f"retention {text!r} is not a kind and an age: write it like {_EXAMPLE}")
            if days > _MOST_DAYS:
                raise UsageError(f"retention {text!r} is longer than 1,000 years: leave it out, and all are kept")
            ages[kinds[name.strip()]] = timedelta(days=days)
        return cls(ages)

    def limits(self, now: datetime) -> dict[Kind, datetime]:
        """Return the moment before which rows of each kind may go: a midnight, so that a plan holds for the day."""
        midnight = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        return {kind: midnight - age for kind, age in self.ages.items()}


@dataclass(frozen=True)
class PruneStep:
    """How many rows of one kind of one tenant are old; `rows` of them may go, the others are needed by `holders`."""

    tenant: str
    kind: Kind
    rows: int
    old: int
    holders: tuple[str, ...] = ()

    @property
    def held(self) -> int:
        """How many old rows stay."""
        return self.old - self.rows


@dataclass(frozen=True)
class PrunePlan:
    """What pruning would delete. `limits` are the moments before which rows are old, `left_out` tenants that it leaves alone."""

    tenants: tuple[Tenant, ...]
    limits: Mapping[Kind, datetime]
    steps: tuple[PruneStep, ...]
    groups: Sequence[ConsumerGroup] = field(repr=False)
    forwards: bool = False
    left_out: Mapping[str, str] = field(default_factory=dict)
    errors: Mapping[str, str] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """`prune-` and ten hexadecimal digits that stand for these rows of these tenants."""
        facts = [sorted(self.limits.items()), [(s.tenant, s.kind, s.rows) for s in self.steps if s.rows]]
        return plan_id("prune", facts)

    @property
    def size(self) -> int:
        """How many rows it deletes."""
        return sum(step.rows for step in self.steps)

    @property
    def facts(self) -> dict[str, object]:
        """Its figures; nothing is pruned yet."""
        counts = {f"old {kind}": sum(s.rows for s in self.steps if s.kind == kind) for kind in self.limits}
        return {**counts, "needed": sum(step.held for step in self.steps), "pruned": 0}

    @property
    def findings(self) -> list[Finding]:
        """What holds old rows back, the tenants that are left out, and those that could not be read."""
        held = [
            Finding("held", one.tenant, f"old {one.kind} are kept, as they are needed by {', '.join(one.holders)}", "info",
                    "erpkit events lag", (count_of(one.held, "row"),))
            for one in self.steps
            if one.held and one.holders
        ]  # fmt: skip
        removed = [
            Finding("removed handler", one.tenant, f"old events are kept for {name}, which no module has any more", "info",
                    f"erpkit events seek {name} --to removed")
            for one in self.steps
            for name in (holder.removeprefix(_REMOVED) for holder in one.holders if holder.startswith(_REMOVED))
        ]  # fmt: skip
        left = [Finding("left out", slug, f"left out: {why}", "info") for slug, why in self.left_out.items()]
        nothing = [] if self.tenants or self.left_out or self.errors else [NO_TENANTS]
        return [*nothing, *not_read(self.errors), *held, *removed, *left]

    @property
    def tables(self) -> tuple[Table[PruneStep], ...]:
        """One row per tenant and kind that has old rows."""
        rows = [step for step in self.steps if step.old]
        return (Table(_STEPS, rows, "Nothing is old enough to go."),)

    def __str__(self) -> str:
        ages = ", ".join(f"{kind} before {limit:%Y-%m-%d}" for kind, limit in self.limits.items())
        tenants = {step.tenant for step in self.steps if step.rows}
        return f"prune {count_of(self.size, 'row')} of {count_of(len(tenants), 'tenant')}: {ages}"


_STEPS = (
    Column[PruneStep]("tenant", lambda one: one.tenant),
    Column[PruneStep]("kind", lambda one: one.kind),
    Column[PruneStep]("prune", lambda one: one.rows, bar=True),
    Column[PruneStep]("keep", lambda one: one.held),
    Column[PruneStep]("needed by", lambda one: ", ".join(one.holders)),
)


@dataclass(frozen=True)
class Pruned(Result):
    """How many rows of each kind of each tenant were deleted; `failures` maps tenants where it ended early to the reason."""

    counts: Mapping[tuple[str, Kind], int]
    failures: Mapping[str, str] = field(default_factory=dict)

    @property
    def facts(self) -> dict[str, object]:
        """How many rows were deleted."""
        return {"pruned": sum(self.counts.values())}

    @property
    def findings(self) -> list[Finding]:
        """The tenants where it ended early."""
        return [Finding("failed", slug, why, "error") for slug, why in self.failures.items()]

    @property
    def tables(self) -> tuple[Table[Any], ...]:
        """One row per tenant and kind."""
        return (Table(_COUNTS, list(self.counts.items()), "Nothing was pruned."),)

    def __str__(self) -> str:
        return f"{count_of(sum(self.counts.values()), 'row was', 'rows were')} pruned"


_Count = tuple[tuple[str, Kind], int]
_COUNTS = (
    Column[_Count]("tenant", lambda row: row[0][0]),
    Column[_Count]("kind", lambda row: row[0][1]),
    Column[_Count]("pruned", lambda row: row[1], bar=True),
)


def plan_prune(
    connection: Connection,
    tenants: Sequence[Tenant],
    retention: Retention,
    groups: Sequence[ConsumerGroup],
    *,
    forwards: bool = False,
) -> PrunePlan:
    """Plan to delete what is older than declared and no handler of `groups`, forwarder, shadow, replay or dead letter needs.

    With `forwards` a tenant's events go to a broker, and none may go before the forwarder has a checkpoint there. Tenants that
    are archived, and so are not written to, are left out. Raises UsageError where nothing is declared.
    """
    if not retention.ages:
        raise UsageError(f"no retention is declared, so everything is kept: set it, such as {_EXAMPLE}")
    errors: dict[str, str] = {}
    left = {tenant.slug: tenant.status for tenant in tenants if tenant.status == "archived"}
    asked = [tenant for tenant in tenants if tenant.slug not in left]
    chosen = tuple(tenants_with_table(connection, "erpkit_letter_edits", asked, errors))
    left |= {
        t.slug: "its log lacks migrations: erpkit migrate up" for t in asked if t not in chosen and t.slug not in errors
    }
    empty = PrunePlan(chosen, retention.limits(datetime.now(UTC)), (), tuple(groups), forwards, left)
    shadowed = _shadowed(connection)
    counts = {
        kind: read_tenants(connection, [(tenant, _count_query(empty, tenant, kind)) for tenant in chosen], errors)
        for kind in empty.limits
    }
    steps = [_step(row, kind, shadowed) for kind, rows in counts.items() for row in rows]
    return PrunePlan(
        chosen, empty.limits, tuple(sorted(steps, key=lambda s: (s.tenant, s.kind))), tuple(groups), forwards, left, errors
    )  # fmt: skip


def prune(database: Database, plan: PrunePlan, work: Work) -> Pruned:
    """Delete what a plan says, some thousand rows in each transaction, until it is done or stopped; check the id before.

    What is needed is looked at anew in each transaction. A tenant that fails does not stop the others.
    """
    counts: dict[tuple[str, Kind], int] = {}
    failures: dict[str, str] = {}
    tenants = {tenant.slug: tenant for tenant in plan.tenants}
    for step in plan.steps:
        if not step.rows or work.stop.is_set() or step.tenant in failures:
            continue
        try:
            counts[step.tenant, step.kind] = _prune(database, plan, tenants[step.tenant], step.kind, work)
        except (psycopg.Error, DatabaseError) as error:
            failures[step.tenant] = first_line(error)
    return Pruned(counts, failures)


def _prune(database: Database, plan: PrunePlan, tenant: Tenant, kind: Kind, work: Work) -> int:
    if kind == "events":
        with database.connection() as connection:
            if tenant.slug in _shadowed(connection):
                return 0
        return _walk(database, tenant, _fill(plan, tenant, kind, _PRUNE_EVENTS), work, {"after": 0})
    if kind == "inbox":
        with database.tenant_transaction(tenant, write=True) as connection:
            connection.execute(
                "UPDATE erpkit_checkpoints SET inbox_since = %(before)s WHERE inbox_since IS NULL OR inbox_since < %(before)s",
                {"before": plan.limits[kind]},
            )
        start = {"handler": "", "uuid": "00000000-0000-0000-0000-000000000000"}
        return _walk(database, tenant, _fill(plan, tenant, kind, _PRUNE_INBOX), work, start)
    results = _walk(database, tenant, _fill(plan, tenant, kind, _PRUNE_RESULTS), work, {})
    if work.stop.is_set():
        return results
    with database.tenant_transaction(tenant, write=True) as connection:
        row = connection.execute(_fill(plan, tenant, kind, _PRUNE_REPLAYS)).fetchone()
    work.advance(row[0] if row else 0)
    return results + (row[0] if row else 0)


def _walk(database: Database, tenant: Tenant, query: sql.Composed, work: Work, position: dict[str, Any]) -> int:
    """Run a batch's query, in a transaction of its own, from `position` on until it finds nothing; return how many rows went.

    The query returns how many rows it deleted, and then the position behind them.
    """
    total = 0
    while not work.stop.is_set():
        with database.tenant_transaction(tenant, write=True) as connection:
            row = connection.execute(query, {**position, "limit": BATCH}).fetchone()
        if row is None or not any(row):
            break
        total += row[0]
        work.advance(row[0])
        position = dict(zip(position, row[1:], strict=True))
    return total


def _step(row: Sequence[Any], kind: Kind, shadowed: Collection[str]) -> PruneStep:
    slug, rows, *more = row
    old, holders = more or (rows, [])
    if kind == "events" and slug in shadowed and old:
        return PruneStep(slug, kind, 0, old, (*holders, "a shadow"))
    return PruneStep(slug, kind, rows, old, tuple(holders) if old > rows else ())


def _shadowed(connection: Connection) -> set[str]:
    """Return the tenants of which a shadow stands: until it is swapped in or dropped, it may be built anew."""
    return {shadow.tenant for shadow in list_shadows(connection)}


def _count_query(plan: PrunePlan, tenant: Tenant, kind: Kind) -> sql.Composed:
    queries: dict[Kind, sql.SQL] = {"events": _COUNT_EVENTS, "inbox": _COUNT_INBOX, "replays": _COUNT_REPLAYS}
    return _fill(plan, tenant, kind, queries[kind])


def _fill(plan: PrunePlan, tenant: Tenant, kind: Kind, query: sql.SQL) -> sql.Composed:
    """Return a query for one tenant's tables, with the conditions that it names."""
    names = ("events", "checkpoints", "inbox", "parked", "replays", *_TABLES)
    parts: dict[str, sql.Composable] = {
        name: sql.Identifier(tenant.schema, f"erpkit_{_TABLES.get(name, name)}") for name in names
    }
    listeners: dict[str, list[str]] = {}
    for group in plan.groups:
        for topic in group.topics:
            listeners.setdefault(topic, []).append(group.name)
    parts |= {
        "slug": sql.Literal(tenant.slug),
        "read": sql.SQL(_READ).format(topic=sql.SQL("h.topic")),
        "before": sql.Literal(plan.limits[kind]),
        "groups": sql.Literal([group.name for group in plan.groups]),
        "forwards": sql.Literal(plan.forwards),
        "forwarders": sql.Literal(FORWARDERS),
        "removed": sql.Literal(_REMOVED),
        "handlers": group_rows(plan.groups) if plan.groups else sql.SQL("(NULL::text, NULL::text)"),
        "topics": sql.SQL(" ").join(
            _OF_TOPIC.format(topic=sql.Literal(t), names=sql.Literal(n), checkpoints=parts["checkpoints"])
            for t, n in listeners.items()
        )
        if listeners
        else sql.SQL("WHEN NULL THEN 0"),
    }
    conditions = {"prunable": _PRUNABLE, "handled": _HANDLED, "old": _OLD_REPLAY}
    return query.format(**parts, **{name: condition.format(**parts) for name, condition in conditions.items()})
