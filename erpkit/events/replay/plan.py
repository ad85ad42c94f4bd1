"""The plan of a replay: which handlers would see which events again, and what they would do with them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Any
from uuid import UUID

from psycopg import sql

from erpkit.database import Connection, Errors, Tenant, read_tenants, tenants_with_table
from erpkit.errors import UsageError
from erpkit.events.brokers.broker import Route
from erpkit.events.dead_letters import DeadLetter, group_letters, letter_findings
from erpkit.events.log import hint_topic
from erpkit.events.replay.selection import Selection
from erpkit.finding import Finding, find_unseen, not_read
from erpkit.grouping import group_by
from erpkit.modules import EventHandler, Registry
from erpkit.near import did_you_mean
from erpkit.plan import plan_id
from erpkit.plural import count_of
from erpkit.table import Column, Table


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
    """What a replay would do. `left_out` maps what it leaves alone to the reason; `id` changes when the events or the handlers do.

    With a `target` the events go there, and each step has that in place of a handler. `errors` maps tenants that could not be read
    to the reason: their events are not in the plan.

    One that goes on where another stopped has that one's id in `resumes`, its plan's in `resumes_plan`, and what is done in
    `positions`: the last offset by tenant; `done_before` is how many events of that one's plan are done. `letters` are dead letters
    that are open now, and `skipped` tenants that are not active, with their status; `found` is how many tenants there are, if that
    was counted. They say how things stand, and the id does not stand for them.
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
    letters: Sequence[DeadLetter] = ()
    skipped: Mapping[str, str] = field(default_factory=dict)
    named: frozenset[str] = frozenset()
    found: int | None = None
    done_before: int = 0

    @cached_property
    def id(self) -> str:
        """`replay-` and ten hexadecimal digits that stand for exactly this plan."""
        if self.resumes is not None:
            return self.resumes_plan
        facts = [
            asdict(self.selection),
            [vars(step) for step in self.steps],
        ]  # asdict copies deeply, which takes seconds
        return plan_id("replay", facts)

    @cached_property
    def steps_by_tenant(self) -> dict[str, list[ReplayStep]]:
        """The steps of each tenant, by name."""
        return group_by(self.steps, lambda step: step.tenant)

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

    @property
    def size(self) -> int:
        """The same as `event_count`."""
        return self.event_count

    @property
    def facts(self) -> dict[str, object]:
        """Its figures; those of what was done are 0."""
        return {
            "planned": self.event_count + self.done_before,
            **({"done before": self.done_before} if self.resumes else {}),
            "sent" if self.target else "handled": 0,
            "failed": 0,
            "dead letters": len(self.letters),
            "skipped": ", ".join(self.skipped) or "none",
        }

    @property
    def findings(self) -> list[Finding]:
        """The tenants that could not be read, the handlers with side effects, and dead letters that are open."""
        does = self.handlers
        effects = [
            Finding(
                "side effects", name, f"has side effects: {does[name] or 'it does not say which'}", "info", of="handler"
            )
            for name in self.side_effects
        ]
        tenants = range(1 if self.found is None else self.found)
        unseen = [one for one in find_unseen(tenants, self.skipped, self.named) if one.severity != "info"]
        letters = () if self.target else self.letters  # what goes to a broker resolves none
        return [*unseen, *not_read(self.errors), *effects, *letter_findings(group_letters(letters), "info")]

    @property
    def handler_table(self) -> Table[_Handler]:
        """One row per handler: what it does, whether it has side effects, how many events it would see; or why it is left out."""
        events = Counter[str]()
        for step in self.steps:
            events[step.handler] += step.events
        effects = dict.fromkeys(self.side_effects, "yes, asked for by name")
        rows = [(name, does or "–", effects.get(name, "none"), events[name]) for name, does in self.handlers.items()]
        rows += [
            (name, f"left out: {reason}", "yes" if reason == _HAS_EFFECTS and not self.target else "none", 0)
            for name, reason in self.left_out.items()
        ]
        return Table(_TARGETS if self.target else _HANDLERS, rows, "No handler listens to these events.")

    @property
    def step_table(self) -> Table[ReplayStep]:
        """One row per tenant, topic and handler: how many events it would see again, and which."""
        return Table(_TARGET_STEPS if self.target else STEP_COLUMNS, self.steps, self._empty, height="30em")

    @property
    def _empty(self) -> str:
        return (
            "There is nothing to replay."
            if self.selection == Selection()
            else "No event matches: there is nothing to replay."
        )

    @property
    def whole_table(self) -> Table[ReplayStep]:
        """The table for a program: its steps."""
        return self.step_table

    @property
    def tables(self) -> tuple[Table[Any], ...]:
        """The handlers, and the events by tenant and topic."""
        return self.handler_table, self.step_table

    def __str__(self) -> str:
        to = f"{self.target.broker}, subject {self.target.subject}" if self.target else "handlers"
        what = f"{count_of(self.event_count, 'event')} of {count_of(len(self.tenants), 'tenant')} to {to}"
        return f"the rest of {self.event_count + self.done_before:,}: {what}" if self.resumes else what


_HAS_EFFECTS = "has side effects"
_Handler = tuple[str, str, str, int]  # name, what it does, side effects, events


def _handler_columns(whom: str) -> tuple[Column[_Handler], ...]:
    return (
        Column[_Handler](whom, lambda row: row[0]),
        Column[_Handler]("what it does", lambda row: row[1]),
        Column[_Handler](
            "side effects", lambda row: row[2], tone=lambda row: "warning" if row[2][:4] == "yes," else ""
        ),
        Column[_Handler]("events", lambda row: row[3], bar=True),
    )


def _step_columns(whom: str) -> tuple[Column[ReplayStep], ...]:
    return (
        Column[ReplayStep]("tenant", lambda step: step.tenant),
        Column[ReplayStep]("topic", lambda step: step.topic),
        Column[ReplayStep](whom, lambda step: step.handler),
        Column[ReplayStep]("events", lambda step: step.events, bar=True),
        Column[ReplayStep]("offsets", lambda step: f"{step.first_offset}–{step.last_offset}", right=True, minor=True),
        Column[ReplayStep]("first", lambda step: step.first_time, minor=True),
        Column[ReplayStep]("last", lambda step: step.last_time, minor=True),
    )


_HANDLERS, _TARGETS = _handler_columns("handler"), _handler_columns("target")
STEP_COLUMNS, _TARGET_STEPS = _step_columns("handler"), _step_columns("target")


def plan_replay(
    connection: Connection,
    tenants: Sequence[Tenant],
    registry: Registry,
    selection: Selection,
    choice: HandlerChoice | None = None,
) -> ReplayPlan:
    """Plan to replay what `selection` holds in the logs of `tenants` to the handlers of `choice`.

    Raises UsageError for a handler that does not exist, and for two with effects outside the database that listen to one topic.
    """
    chosen, left_out = choose_handlers(registry, choice or HandlerChoice())
    errors: dict[str, str] = {}
    counts = count_events(connection, tenants, selection, errors)
    steps = steps_of(registry, chosen, selection, counts)
    if hint := hint_topic(selection.topic, [*(row[1] for row in counts), *registry.topics]):
        left_out = {**left_out, "all events": hint}
    return ReplayPlan(selection, with_steps(tenants, steps), steps, left_out, errors=errors)


def with_steps(tenants: Sequence[Tenant], steps: Sequence[ReplayStep]) -> tuple[Tenant, ...]:
    """Return the tenants of which there are steps. Pure."""
    slugs = {step.tenant for step in steps}
    return tuple(tenant for tenant in tenants if tenant.slug in slugs)


def steps_of(
    registry: Registry, handlers: Sequence[EventHandler], selection: Selection, counts: Sequence[tuple[Any, ...]]
) -> tuple[ReplayStep, ...]:
    """Return a step for each row of counts (tenant, topic, events, first, last) and handler of that topic. Pure."""
    check_one_outside(registry, handlers)
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
            handler.has_side_effects,
        )
        for slug, topic, events, first, last, since, until in counts
        if selection.has_topic(topic)
        for handler in handlers
        if topic in registry.topics_of(handler)
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
        raise UsageError(f"no handler is named {', '.join(unknown)}; {did_you_mean(unknown[0], known)}")
    asked = [handler for name, handler in known.items() if not handlers or name in handlers or name in side_effects]
    chosen = [handler for handler in asked if not handler.has_side_effects or handler.name in side_effects]
    left_out = {handler.name: _HAS_EFFECTS for handler in asked if handler not in chosen}
    return chosen, left_out


def check_one_outside(registry: Registry, handlers: Sequence[EventHandler]) -> None:
    """Raise UsageError where two handlers change something outside the database by one event: a fault between them repeats one."""
    by_topic: dict[str, str] = {}
    for handler in (one for one in handlers if one.is_outside):
        for topic in registry.topics_of(handler):
            if (other := by_topic.setdefault(topic, handler.name)) != handler.name:
                raise UsageError(
                    f"{other} and {handler.name} both have effects outside the database on {topic}: replay to one after the other"
                )


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
