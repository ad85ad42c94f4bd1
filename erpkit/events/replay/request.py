"""A replay as an operator asks for it, whatever it reads and wherever its events go: planned and run by two calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from psycopg import sql

from erpkit.config import Settings
from erpkit.database import Connection, Database, Errors, Tenant, read_tenants, tenants_with_table
from erpkit.errors import UsageError
from erpkit.events.brokers.broker import LIVE, Broker, Route, open_broker
from erpkit.events.brokers.forward import forward_group, publish_past_refused
from erpkit.events.dead_letters import DeadLetter, describe_error, failure_findings, group_letters, letter_findings
from erpkit.events.message import Message
from erpkit.events.replay.audit import Outcome, plan_resume
from erpkit.events.replay.plan import (
    HandlerChoice,
    ReplayPlan,
    SendTarget,
    count_events,
    count_query,
    plan_replay,
    send_steps,
    with_steps,
)
from erpkit.events.replay.run import ReplayFailure, ReplayRun, RunOptions, carry_out, run_replay
from erpkit.events.replay.selection import Selection
from erpkit.events.replay.watermill import WatermillPlan, plan_watermill, replay_watermill
from erpkit.finding import Finding, not_read
from erpkit.modules import Registry
from erpkit.plural import count_of
from erpkit.result import Result
from erpkit.table import Column, Table


@dataclass(frozen=True)
class ReplayRequest:
    """Which events go where.

    They go to handlers (`handlers` and `side_effects` as in `HandlerChoice`), or with `send_to` to a broker: `broker` for what
    handlers listen to, `broker:SUBJECT` for another subject; `again` sends what the broker has already, under other message
    ids. `watermill` reads Watermill's tables in place of the log. `resume` is the id of a replay that was stopped: its
    selection and its target hold. Raises UsageError for what does not go together.
    """

    selection: Selection
    handlers: Sequence[str] = ()
    side_effects: Sequence[str] = ()
    send_to: str = ""
    again: bool = False
    watermill: bool = False
    resume: str = ""

    def __post_init__(self) -> None:
        if sum(map(bool, (self.send_to, self.watermill, self.resume))) > 1:
            raise UsageError(
                "a target, Watermill's tables and an earlier replay exclude one another: give only one of them"
            )
        if self.again and not self.send_to:
            raise UsageError("again is for a replay to a broker: leave it out, or say where to send the events")
        if self.send_to and (self.handlers or self.side_effects):
            raise UsageError("what goes to a broker goes to no handler: leave out handlers and side effects")
        if self.send_to:
            self.route()

    def route(self) -> Route:
        """Return the route to the broker's subject."""
        kind, found, subject = self.send_to.partition(":")
        if kind != "broker" or (found and not subject):
            raise UsageError(f"{self.send_to!r} is not a target: write broker, or broker:SUBJECT")
        return Route(subject or LIVE.subject, self.again)


def plan_request(
    database: Database, registry: Registry, tenants: Sequence[Tenant], request: ReplayRequest, settings: Settings
) -> ReplayPlan:
    """Plan what was asked for; `settings` name the broker. Nothing is changed, and no broker is asked."""
    choice = HandlerChoice(request.handlers, request.side_effects)
    if request.watermill:
        return plan_watermill(database, registry, tenants, request.selection, choice)
    with database.connection() as connection:
        if request.resume:
            return plan_resume(connection, tenants, registry, request.resume)
        if not request.send_to:
            return plan_replay(connection, tenants, registry, request.selection, choice)
        with closing(open_broker(settings, lasting=True)) as broker:
            return plan_send(connection, tenants, request.selection, broker, request.route())


def run_request(
    database: Database,
    registry: Registry,
    plan: ReplayPlan,
    settings: Settings,
    options: RunOptions | None = None,
) -> ReplayRun:
    """Carry out a plan of `plan_request` whose id was confirmed: see `run_replay`, `send_replay` and `replay_watermill`.

    `settings` name the broker. Check the id before, by `Plan.apply` or `PlanChangedError.check`.
    """
    if isinstance(plan, WatermillPlan):
        return replay_watermill(database, registry, plan, plan.id, options)
    if plan.target is None:
        return run_replay(database, registry, plan, plan.id, options)
    with closing(open_broker(settings, lasting=True)) as broker:
        return send_replay(database, broker, plan, plan.id, options)


@dataclass(frozen=True)
class ReplayReport(Result):
    """The result of carrying out a plan, with the dead letters that are open now.

    `counts` are events by tenant and handler (or target), and by state; empty where no result per event was kept.
    """

    plan: ReplayPlan
    run: ReplayRun
    letters: Sequence[DeadLetter] = ()
    counts: Mapping[tuple[str, str], Mapping[str, int]] = field(default_factory=dict)

    @property
    def facts(self) -> dict[str, object]:
        """How many events were handled or sent, how many failed, and how many dead letters remain."""
        done = "sent" if self.plan.target else "handled"
        return {done: self.run.handled, "failed": self.run.failed, "dead letters": len(self.letters)}

    @property
    def go_on(self) -> str:
        """The command that resumes a replay that was stopped; empty for any other."""
        if self.run.state != "cancelled" or not self.run.plan_id.startswith("replay-"):
            return ""
        return f"erpkit events replay --resume {self.run.replay_id} --confirm {self.run.plan_id}"

    @property
    def findings(self) -> list[Finding]:
        """What failed, by tenant, handler and cause; what a broker dropped; what was not read; and dead letters that remain."""
        stopped = Finding(
            "stopped", str(self.run.replay_id), "was stopped before its end", remedy=self.go_on, of="replay"
        )
        known = f"the broker had {count_of(self.run.known, 'event')} already, and did not take them again"
        letters = () if self.plan.target else self.letters
        return [
            *([stopped] if self.run.state == "cancelled" else ()),
            *([Finding("known", "", known, remedy=_AGAIN)] if self.run.known else ()),
            *failure_findings((one.tenant, one.handler, one.error, one.offset) for one in self.run.failures),
            *not_read(self.plan.errors),
            *letter_findings(group_letters(letters), "info"),
        ]

    @property
    def failures(self) -> Table[ReplayFailure]:
        """One row per event that a handler failed on again; the first thousand."""
        return Table(_FAILURES, self.run.failures, "No event failed.")

    @property
    def results(self) -> Table[_Count]:
        """One row per tenant and handler, or target: how many events it handled, and how many it failed on.

        For a broker it is how many were sent, and how many it knew already and dropped.
        """
        columns = _TO_BROKER if self.plan.target else _TO_HANDLERS
        return Table(columns, list(self.counts.items()), "No result per event was kept.")

    @property
    def whole_table(self) -> Table[_Count]:
        """The table for a program: what became of the events."""
        return self.results

    @property
    def tables(self) -> tuple[Table[Any], ...]:
        """The handlers, the events of each, and the failures."""
        return self.plan.handler_table, self.results, self.failures

    def __str__(self) -> str:
        run = self.run
        if self.plan.target is None:
            counts = f"{run.handled:,} handled, {run.failed:,} failed, {count_of(run.resolved, 'dead letter')} resolved"
        else:
            counts = f"{run.handled:,} sent to {self.plan.target.broker}, {run.known:,} that it had already and dropped"
        return f"replay {run.replay_id} {run.state}: {counts}"


_Count = tuple[tuple[str, str], Mapping[str, int]]  # tenant and handler; events by state
_AGAIN = "plan it with --again (again = True): it sends those all the same, under other message ids"

_WHO = (Column[_Count]("tenant", lambda row: row[0][0]), Column[_Count]("to", lambda row: row[0][1]))
_TO_HANDLERS = (
    *_WHO,
    Column[_Count]("handled", lambda row: row[1].get("handled", 0), bar=True),
    Column[_Count](
        "failed", lambda row: row[1].get("failed", 0), tone=lambda row: "error" if row[1].get("failed") else ""
    ),
)
_TO_BROKER = (
    *_WHO,
    Column[_Count]("sent", lambda row: row[1].get("sent", 0), bar=True),
    Column[_Count](
        "known", lambda row: row[1].get("known", 0), tone=lambda row: "warning" if row[1].get("known") else ""
    ),
)
_FAILURES = (
    Column[ReplayFailure]("tenant", lambda one: one.tenant),
    Column[ReplayFailure]("offset", lambda one: one.offset),
    Column[ReplayFailure]("handler", lambda one: one.handler),
    Column[ReplayFailure]("error", lambda one: one.error),
)


def plan_send(
    connection: Connection, tenants: Sequence[Tenant], selection: Selection, broker: Broker, route: Route = LIVE
) -> ReplayPlan:
    """Plan to publish what `selection` holds in the logs of `tenants`; nothing is asked of the broker yet.

    On the live route what the forwarder has not come to is left to it: sent now, it would be out of order.
    """
    target = SendTarget(broker.name, route.subject, route.again)
    errors: dict[str, str] = {}
    forwarded, rest = _count(connection, tenants, selection, forward_group(broker) if route.is_live else None, errors)
    steps = send_steps(target, selection, forwarded)
    waiting = sum(row[2] for row in rest if selection.has_topic(row[1]))
    left_out = {count_of(waiting, "event"): "not forwarded yet: `erpkit events forward` sends them"} if waiting else {}
    return ReplayPlan(selection, with_steps(tenants, steps), steps, left_out, target=target, errors=errors)


def send_replay(
    database: Database,
    broker: Broker,
    plan: ReplayPlan,
    confirm: str,
    options: RunOptions | None = None,
) -> ReplayRun:
    """Carry out `plan` if `confirm` is its id: publish each tenant's events in the order of its log.

    They keep their uuid, and say that they are replayed: headers `is_replay` and `replay_id`. The message id is the uuid too, so
    that JetStream drops those that came in its duplicate window (an hour); they are counted as `known`. A route with `again`
    has ids of its own. What a batch's end, a crash or a fault of the broker leaves is done by `plan_resume`, under the same
    ids. erpkit's own handlers know the uuids, and handle nothing twice. Raises BrokerError, and PlanChangedError.
    """
    target = plan.target
    if target is None or target.broker != broker.name:
        raise UsageError(
            f"plan {plan.id} goes to {target.broker if target else 'handlers'}, ERPKIT_BROKER is {broker.name}"
        )
    name, route = str(target), target.route

    def deliver(_: Connection, tenant: Tenant, messages: Sequence[Message]) -> tuple[list[Outcome], list[Message]]:
        known, refused = publish_past_refused(broker, tenant, messages, route)
        errors = {error.message.uuid: describe_error(error) for error in refused}
        had = dict.fromkeys(known, "known") | dict.fromkeys(errors, "failed")
        return [Outcome(name, one, had.get(one.uuid, "sent"), errors.get(one.uuid)) for one in messages], []

    if confirm == plan.id:
        broker.declare([], route)
    return carry_out(database, plan, confirm, deliver, options)


def _count(
    connection: Connection, tenants: Sequence[Tenant], selection: Selection, group: str | None, errors: Errors
) -> tuple[list[tuple[Any, ...]], list[tuple[Any, ...]]]:
    """Count the events up to the checkpoint of `group`, and those after it; without a group all are on the first side."""
    if group is None:
        return count_events(connection, tenants, selection, errors), []
    logs = tenants_with_table(connection, "erpkit_events", tenants, errors)
    up_to, past = (
        sorted(
            read_tenants(connection, [(t, count_query(t, _side(t, selection, group, compare))) for t in logs], errors)
        )
        for compare in (sql.SQL("<="), sql.SQL(">"))
    )
    return up_to, past


def _side(tenant: Tenant, selection: Selection, group: str, compare: sql.SQL) -> sql.Composed:
    return sql.SQL('{} AND "offset" {} coalesce((SELECT "offset" FROM {} WHERE consumer_group = {}), 0)').format(
        selection.condition(), compare, sql.Identifier(tenant.schema, "erpkit_checkpoints"), sql.Literal(group)
    )
