"""What an operator asks of a replay, whatever it reads and wherever its events go: planned and carried out by two calls."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass

from erpkit.config import Settings
from erpkit.database import Database, Tenant
from erpkit.errors import UsageError
from erpkit.events.brokers.broker import LIVE, Route
from erpkit.events.brokers.opening import open_broker
from erpkit.events.replay.audit import plan_resume
from erpkit.events.replay.plan import HandlerChoice, ReplayPlan, plan_replay
from erpkit.events.replay.resend import plan_send, send_replay
from erpkit.events.replay.run import ReplayRun, RunOptions, run_replay
from erpkit.events.replay.selection import Selection
from erpkit.events.replay.watermill import WatermillPlan, plan_watermill, replay_watermill
from erpkit.modules import Registry


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
            raise UsageError("a target, Watermill's tables and an earlier replay exclude one another: name one of them")
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
            raise UsageError(f"{self.send_to!r} is no target: write broker, or broker:SUBJECT")
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
