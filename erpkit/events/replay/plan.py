"""What a replay would do: which handlers would see which events again, and what they would do with them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from psycopg import sql

from erpkit.database import Connection, Errors, Tenant, read_tenants, tenants_with_table
from erpkit.errors import UsageError
from erpkit.events.brokers.broker import Route
from erpkit.events.replay.selection import Selection
from erpkit.modules import EventHandler, Registry

__all__ = [
    "HandlerChoice", "ReplayPlan", "ReplayStep", "SendTarget", "choose_handlers", "count_events", "count_query", "describe_handler",
    "plan_replay", "send_steps", "steps_of",
]  # fmt: skip


@dataclass(frozen=True)
class SendTarget:
    """Where a replay's events go if not to handlers: a subject of a broker. `broker` is its URL without the password.

    With `again` each event has a message id of this replay's own, and JetStream takes what it had before.
    """

    broker: str
    subject: str
    again: bool = False

    def __str__(self) -> str:
        return f"broker:{self.subject}"

    @property
    def route(self) -> Route:
        """The route that its events are published on."""
        return Route(self.subject, self.again)

    @property
    def does(self) -> str:
        """What becomes of each event, in one sentence."""
        ids = "new message ids" if self.again else "the events' uuids as message ids"
        drops = self.broker.startswith("nats:") and not self.again
        note = ": JetStream drops what it had in its duplicate window" if drops else ""
        return f"Publish on {self.broker}, subject {self.subject}, under {ids}{note}."


@dataclass(frozen=True)
class HandlerChoice:
    """Which handlers a replay's events go to.

    `handlers` names those to use; without it all replayable ones are. A handler with side effects is left out unless
    `side_effects` names it. `topics` maps the topics of another ERP's log to those of modules (see `plan_watermill`).
    """

    handlers: Sequence[str] = ()
    side_effects: Sequence[str] = ()
    topics: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ReplayStep:
    """The events of one topic of one tenant that one handler would see again, and what it does with each."""

    tenant: str
    topic: str
    handler: str
    events: int
    first_offset: int
    last_offset: int
    first_time: datetime
    last_time: datetime
    does: str = ""
    has_side_effects: bool = False


@dataclass(frozen=True)
class ReplayPlan:
    """What a replay would do. `left_out` maps what it leaves alone to the reason; `id` changes with the world.

    With a `target` the events go there, and each step has that in place of a handler. `errors` maps tenants that could not be read
    to the reason: their events are not in the plan.

    One that goes on where another stopped has that one's id in `resumes`, its plan's in `resumes_plan`, and what is done in
    `positions`: the last offset by tenant.
    """

    selection: Selection
    tenants: tuple[Tenant, ...]
    steps: tuple[ReplayStep, ...]
    left_out: dict[str, str]
    resumes: UUID | None = None
    resumes_plan: str = ""
    positions: Mapping[str, int] = field(default_factory=dict)
    target: SendTarget | None = None
    errors: Mapping[str, str] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """`replay-` and ten hexadecimal digits that stand for exactly this plan."""
        if self.resumes is not None:
            return self.resumes_plan
        facts = [asdict(self.selection), [asdict(step) for step in self.steps]]
        return f"replay-{hashlib.sha256(json.dumps(facts, default=str).encode()).hexdigest()[:10]}"

    @property
    def event_count(self) -> int:
        """How many times a handler would be called, or how many events would be published."""
        return sum(step.events for step in self.steps)

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to replay."""
        return not self.steps

    @property
    def handlers(self) -> dict[str, str]:
        """What each handler in the plan does, by name."""
        return {step.handler: step.does for step in self.steps}

    @property
    def side_effects(self) -> tuple[str, ...]:
        """The handlers in the plan that do more than write tables of their own: they were asked for by name."""
        return tuple(sorted({step.handler for step in self.steps if step.has_side_effects}))


def plan_replay(
    connection: Connection,
    tenants: Sequence[Tenant],
    registry: Registry,
    selection: Selection,
    choice: HandlerChoice | None = None,
) -> ReplayPlan:
    """Plan to replay what `selection` holds in the logs of `tenants` to the handlers of `choice`.

    Raises UsageError for a handler that does not exist.
    """
    chosen, left_out = choose_handlers(registry, choice or HandlerChoice())
    errors: dict[str, str] = {}
    steps = steps_of(registry, chosen, selection, count_events(connection, tenants, selection, errors))
    with_steps = {step.tenant for step in steps}
    return ReplayPlan(selection, tuple(t for t in tenants if t.slug in with_steps), steps, left_out, errors=errors)


def steps_of(
    registry: Registry, handlers: Sequence[EventHandler], selection: Selection, counts: Sequence[tuple[Any, ...]]
) -> tuple[ReplayStep, ...]:
    """Return a step for each row of counts (tenant, topic, events, first, last) and handler of that topic. Pure."""
    return tuple(
        ReplayStep(
            slug,
            topic,
            handler.name,
            events,
            first,
            last,
            since,
            until,
            describe_handler(handler),
            not handler.replayable,
        )
        for slug, topic, events, first, last, since, until in counts
        if selection.has_topic(topic)
        for handler in handlers
        if registry.topic(handler.event) == topic
    )


def send_steps(target: SendTarget, selection: Selection, counts: Sequence[tuple[Any, ...]]) -> tuple[ReplayStep, ...]:
    """Return a step for each row of counts, as in `steps_of`, whose events would be published. Pure."""
    return tuple(
        ReplayStep(slug, topic, str(target), events, first, last, since, until, target.does)
        for slug, topic, events, first, last, since, until in counts
        if selection.has_topic(topic)
    )


def choose_handlers(registry: Registry, choice: HandlerChoice) -> tuple[list[EventHandler], dict[str, str]]:
    """Return the handlers that a replay may use, and those that it leaves out with the reason. Pure."""
    known, handlers, side_effects = registry.event_handlers, choice.handlers, choice.side_effects
    if unknown := sorted({*handlers, *side_effects} - set(known)):
        raise UsageError(f"no handler is named {', '.join(unknown)}; there are {', '.join(known)}")
    asked = [handler for name, handler in known.items() if not handlers or name in handlers or name in side_effects]
    chosen = [handler for handler in asked if handler.replayable or handler.name in side_effects]
    left_out = {handler.name: "has side effects" for handler in asked if handler not in chosen}
    return chosen, left_out


def describe_handler(handler: EventHandler) -> str:
    """Return what a handler does in one sentence: its description, or the first line of its function's docstring."""
    text = handler.description or (handler.function.__doc__ or "").strip()
    return text.splitlines()[0].strip() if text else ""


def count_events(
    connection: Connection, tenants: Sequence[Tenant], selection: Selection, errors: Errors | None = None
) -> list[tuple[Any, ...]]:
    """Return tenant, topic, events, first and last for each topic of each tenant; `errors` is as in `read_tenants`."""
    with_log = tenants_with_table(connection, "erpkit_events", tenants, errors)
    return sorted(
        read_tenants(connection, [(tenant, count_query(tenant, selection.condition())) for tenant in with_log], errors)
    )


def count_query(tenant: Tenant, condition: sql.Composable) -> sql.Composed:
    """Return a query for the counts that a tenant's steps are made of."""
    return sql.SQL(
        'SELECT {}, topic, count(*), min("offset"), max("offset"), min(recorded_at), max(recorded_at) '
        "FROM {} WHERE {} GROUP BY topic"
    ).format(sql.Literal(tenant.slug), sql.Identifier(tenant.schema, "erpkit_events"), condition)
