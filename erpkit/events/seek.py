"""Moving the checkpoint of a handler by hand: planned, confirmed, and without handling anything twice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

import psycopg
from psycopg import sql

from erpkit.config import acting_user
from erpkit.database import Connection, Database, Errors, Tenant, read_tenants, tenants_with_table
from erpkit.errors import DatabaseError, PlanChangedError, UsageError, first_line
from erpkit.events.checkpoints import WAS_HANDLED, group_lock, remember_handled
from erpkit.events.consumer import ConsumerGroup, group_of
from erpkit.events.log import check_time_zones
from erpkit.events.starts import TAKEN_OVER
from erpkit.finding import Finding, not_read
from erpkit.modules import Registry
from erpkit.near import did_you_mean
from erpkit.plan import plan_id
from erpkit.plural import count_of
from erpkit.table import Column, Table

Target = Literal["beginning", "now", "removed"] | int | datetime

# `target` is the offset of the last event that is passed over: one that is there, as events to come are never passed over.
_STEPS = """
SELECT {slug}, coalesce(c."offset", 0), t.target,
       (SELECT count(*) FROM {events} e WHERE e.topic = ANY({topics}) AND e."offset" > coalesce(c."offset", 0)
           AND e."offset" <= t.target),
       (SELECT count(*) FROM {events} e WHERE e.topic = ANY({topics}) AND e."offset" > t.target
           AND e."offset" <= coalesce(c."offset", 0)
           AND {was_handled} IS NOT TRUE),
       (SELECT count(*) FROM {events} e
         WHERE e.topic = ANY({topics}) AND e."offset" > t.target AND e."offset" <= coalesce(c."offset", 0) AND {was_handled}),
       (SELECT count(*) FROM {events} e
         WHERE e.topic = ANY({topics}) AND e."offset" > t.target AND e."offset" <= c.start_offset AND {was_handled}
           AND NOT EXISTS (SELECT FROM {inbox} i WHERE i.handler = {name} AND i.uuid = e.uuid)),
       coalesce(c.is_paused, false)
  FROM (SELECT {target} AS target) t
  LEFT JOIN (SELECT consumer_group, "offset", coalesce((to_jsonb(p)->>'start_offset')::bigint, 0) AS start_offset,
                    (to_jsonb(p)->>'started_at')::timestamptz AS started_at,
                    (to_jsonb(p)->>'inbox_since')::timestamptz AS inbox_since,
                    to_jsonb(p)->>'paused_until' IS NOT NULL AS is_paused FROM {checkpoints} p) c ON c.consumer_group = {name}
"""
_WAS_HANDLED = "(EXISTS (SELECT FROM {inbox} i WHERE i.handler = {name} AND i.uuid = e.uuid) OR (" + WAS_HANDLED + "))"
_REMOVE = """
SELECT {slug}, "offset", {target}, 0, 0, 0, 0, false FROM {checkpoints} WHERE consumer_group = {name} AND "offset" < {target}
"""
_TARGETS = {
    "beginning": "0",
    "now": 'coalesce((SELECT max("offset") FROM {events}), 0)',
    "offset": 'least(greatest({value} - 1, 0), coalesce((SELECT max("offset") FROM {events}), 0))::bigint',
    "time": 'coalesce((SELECT min("offset") - 1 FROM {events} WHERE recorded_at >= {value}), (SELECT max("offset") FROM {events}), 0)',
}

_LOCK = f"SET LOCAL lock_timeout TO '5s'; SELECT pg_advisory_xact_lock({group_lock('current_schema()', '{}')})"
_SEEK = """
INSERT INTO erpkit_checkpoints AS c (consumer_group, "offset", start_offset, started_at, topics, read_offset)
VALUES (%(name)s, %(target)s, %(target)s, clock_timestamp(), %(topics)s, %(target)s)
    ON CONFLICT (consumer_group) DO UPDATE
   SET "offset" = EXCLUDED."offset", topics = EXCLUDED.topics, read_offset = EXCLUDED.read_offset, in_hand = NULL, attempts = 0,
       start_offset = CASE WHEN EXCLUDED."offset" > c."offset" THEN EXCLUDED."offset"
                           ELSE least(c.start_offset, EXCLUDED."offset") END,
       paused_until = NULL, pauses = 0, tries = 0, error = NULL, updated_at = now()
 WHERE c."offset" = %(before)s
"""
_CLOSE = (
    "UPDATE erpkit_dead_letters SET status = 'resolved', resolved_at = now(), resolved_by = %(who)s, reason = %(reason)s "
    'WHERE handler = %(name)s AND status = \'open\' AND "offset" > %(target)s AND "offset" <= %(before)s',
    'DELETE FROM erpkit_parked WHERE handler = %(name)s AND ("offset" > %(target)s OR %(is_removed)s)',
)


@dataclass(frozen=True)
class SeekStep:
    """A move of one tenant's checkpoint from offset `before` to `target`, the last event that is not handled after it.

    Forward, `passed` events are never handled. Backward, `again` events are handled that were not, as those that a start or a dead
    letter left out; `known` ones were handled already, and are not handled again: that is what a replay is for. `unsure` are those
    `known` ones that an earlier seek may have passed over, which is not known any more, as the inbox was pruned since. A checkpoint
    that is there already only ends the pause of a handler that `is_paused`.
    """

    tenant: str
    before: int
    target: int
    passed: int
    again: int
    known: int
    unsure: int = 0
    is_paused: bool = False


@dataclass(frozen=True)
class SeekPlan:
    """A plan to move the checkpoint of a handler; `to` is where, as it was asked."""

    group: ConsumerGroup
    to: str
    tenants: tuple[Tenant, ...]
    steps: tuple[SeekStep, ...]
    errors: Mapping[str, str] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """`seek-` and ten hexadecimal digits that stand for the handler, the checkpoints, and where they go."""
        steps = [(one.tenant, one.before, "now" if self.to == "now" else one.target) for one in self.steps]
        return plan_id("seek", [self.group.name, self.to, steps])

    @property
    def size(self) -> int:
        """How many checkpoints move."""
        return len(self.steps)

    @property
    def facts(self) -> dict[str, object]:
        """How many checkpoints move, and what that means for events."""
        return {
            "moved": 0,
            "passed over": sum(one.passed for one in self.steps),
            "to handle": sum(one.again for one in self.steps),
            "handled before": sum(one.known for one in self.steps),
        }

    @property
    def findings(self) -> list[Finding]:
        """The events that will never be handled, those that a replay would handle again, and what was not read."""
        name = self.group.name
        passed = [
            Finding("passed over", one.tenant, f"events are passed over, and {name} never handles them", "info",
                    evidence=(count_of(one.passed, "event"),))
            for one in self.steps if one.passed
        ]  # fmt: skip
        known = [
            Finding("handled before", one.tenant, f"events that {name} has handled stay so", "info",
                    f"erpkit events replay --handler {name}", (count_of(one.known, "event"),))
            for one in self.steps if one.known
        ]  # fmt: skip
        unsure = [
            Finding("not known", one.tenant,
                    f"{name} has handled events or passed them over, the pruned inbox does not tell which: they count as handled",
                    "warning", f"erpkit events replay --handler {name}", (count_of(one.unsure, "event"),))
            for one in self.steps if one.unsure
        ]  # fmt: skip
        beyond = [
            Finding("beyond the log", one.tenant, "its log holds no event from there on: those to come are all handled", "info")
            for one in self.steps if self.to.isdigit() and int(self.to) > one.target + 1
        ]  # fmt: skip
        return [*passed, *known, *unsure, *beyond, *not_read(self.errors)]

    @property
    def tables(self) -> tuple[Table[SeekStep], ...]:
        """One row per tenant whose checkpoint moves."""
        return (Table(_COLUMNS, self.steps, "Each checkpoint is there already."),)

    def __str__(self) -> str:
        return f"move {self.group.name} to {self.to} in {count_of(len(self.steps), 'tenant')}"


@dataclass(frozen=True)
class SeekRun:
    """The tenants in which the checkpoint was moved, and to the reason those in which it was not."""

    plan: SeekPlan
    moved: tuple[str, ...]
    failures: Mapping[str, str] = field(default_factory=dict)

    @property
    def facts(self) -> dict[str, object]:
        """In how many tenants it was moved."""
        return {"moved": len(self.moved)}

    @property
    def findings(self) -> list[Finding]:
        """The tenants in which it was not moved."""
        return [
            *(Finding("failed", slug, why, "error") for slug, why in self.failures.items()),
            *not_read(self.plan.errors),
        ]

    @property
    def tables(self) -> tuple[Table[SeekStep], ...]:
        """One row per tenant in which it was moved."""
        return (Table(_COLUMNS, [one for one in self.plan.steps if one.tenant in self.moved], "Nothing was moved."),)

    def __str__(self) -> str:
        return f"moved {self.plan.group.name} to {self.plan.to} in {count_of(len(self.moved), 'tenant')}"


_COLUMNS = (
    Column[SeekStep]("tenant", lambda one: one.tenant),
    Column[SeekStep]("from offset", lambda one: one.before),
    Column[SeekStep]("to offset", lambda one: "removed" if one.target == TAKEN_OVER else one.target, right=True),
    Column[SeekStep]("passed over", lambda one: one.passed, tone=lambda one: "warning" if one.passed else ""),
    Column[SeekStep]("to handle", lambda one: one.again),
    Column[SeekStep]("handled before", lambda one: one.known),
    Column[SeekStep]("pause", lambda one: "ends" if one.is_paused else ""),
)


def plan_seek(
    connection: Connection, tenants: Sequence[Tenant], registry: Registry, handler: str, to: Target
) -> SeekPlan:
    """Plan to let a handler go on at `to`: "beginning", "now", the offset of the first event to handle, or a time.

    "removed" is for a handler that no module has any more: its checkpoint then holds no events back from pruning. Raises UsageError
    for a handler that no module has, with "removed" for one that a module has, and for a time without a zone.
    """
    known = registry.event_handlers
    if to == "removed" and handler in known:
        raise UsageError(f"{handler} is not removed: a module has it; `--to now` passes over what waits for it")
    if to != "removed" and handler not in known:
        raise UsageError(f"no handler is named {handler}; {did_you_mean(handler, known)}")
    if isinstance(to, datetime):
        check_time_zones(to=to)
    errors: Errors = {}
    group = ConsumerGroup(handler, ()) if to == "removed" else group_of(registry, known[handler])
    queries = [
        (tenant, _query(tenant, group, to))
        for tenant in tenants_with_table(connection, "erpkit_checkpoints", tenants, errors)
    ]
    steps = sorted((SeekStep(*row) for row in read_tenants(connection, queries, errors)), key=lambda one: one.tenant)
    if to == "removed" and not (steps or errors):
        raise UsageError(f"no module has a handler {handler}, and no tenant has a checkpoint of it")
    moving = tuple(one for one in steps if one.before != one.target or one.is_paused)
    return SeekPlan(group, _name(to), tuple(tenants), moving, errors)


def run_seek(database: Database, plan: SeekPlan, confirm: str) -> SeekRun:
    """Move the checkpoints of `plan` if `confirm` is its id, each in a transaction of its own.

    Each pause ends. Where a dispatcher is at work on the handler it is waited for, up to five seconds. Dead letters behind the new
    checkpoint are closed, as their events come again. Raises PlanChangedError, with nothing done, when the id is another.
    """
    database.check_writable()
    PlanChangedError.check(confirm, plan.id)
    by_slug = {tenant.slug: tenant for tenant in plan.tenants}
    moved: list[str] = []
    failures: dict[str, str] = {}
    for step in plan.steps:
        try:
            with database.tenant_transaction(by_slug[step.tenant], write=True) as connection:
                _seek(connection, plan, step)
            moved.append(step.tenant)
        except (psycopg.Error, DatabaseError) as error:
            failures[step.tenant] = first_line(error)
    return SeekRun(plan, tuple(moved), failures)


def _seek(connection: Connection, plan: SeekPlan, step: SeekStep) -> None:
    name = plan.group.name
    connection.execute(_LOCK.format(sql.Literal(name).as_string()).encode())
    target = step.target
    if plan.to == "now":
        target = connection.execute('SELECT coalesce(max("offset"), 0) FROM erpkit_events').fetchall()[0][0]
    values = {
        "name": name, "topics": list(plan.group.topics), "before": step.before, "target": target,
        "who": acting_user(), "reason": f"handled again: {plan.id}", "is_removed": plan.to == "removed",
    }  # fmt: skip
    remember_handled(connection, plan.group, target)
    if connection.execute(_SEEK, values).rowcount != 1:
        raise DatabaseError(f"the checkpoint of {name} has moved meanwhile: plan again")
    for statement in _CLOSE:
        connection.execute(statement, values)


def _query(tenant: Tenant, group: ConsumerGroup, to: Target) -> sql.Composed:
    tables = {"letters": "dead_letters"} | {table: table for table in ("events", "inbox", "checkpoints", "parked")}
    names = {name: sql.Identifier(tenant.schema, f"erpkit_{table}") for name, table in tables.items()}
    slug, name = sql.Literal(tenant.slug), sql.Literal(group.name)
    if to == "removed":
        return sql.SQL(_REMOVE).format(
            slug=slug, name=name, target=sql.Literal(TAKEN_OVER), checkpoints=names["checkpoints"]
        )
    kind = to if isinstance(to, str) else "time" if isinstance(to, datetime) else "offset"
    target = sql.SQL(_TARGETS[kind]).format(value=sql.Literal(to), events=names["events"])
    return sql.SQL(_STEPS).format(
        slug=slug,
        name=name,
        topics=sql.Literal(list(group.topics)),
        target=target,
        was_handled=sql.SQL(_WAS_HANDLED).format(name=name, **names),
        **names,
    )


def _name(to: Target) -> str:
    return to.isoformat() if isinstance(to, datetime) else str(to)
