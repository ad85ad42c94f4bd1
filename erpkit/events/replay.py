"""Handing events of the past to chosen handlers once more: planned, confirmed, recorded."""

from __future__ import annotations

import fnmatch
import getpass
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

from erpkit.database import Connection, Database, Tenant, fetch_union, schemas_with_table
from erpkit.errors import PlanChangedError, UsageError
from erpkit.events.dispatch import handle
from erpkit.events.log import COLUMNS, append, to_message
from erpkit.events.message import Message
from erpkit.modules import EventHandler, Registry

__all__ = ["ReplayPlan", "ReplayRun", "ReplayStep", "Selection", "plan_replay", "run_replay"]

_BATCH = 500


@dataclass(frozen=True)
class Selection:
    """Which events of the log: all conditions hold together, and None or "*" means no limit.

    `topic` is a pattern such as `billing.*`; offsets are inclusive; `since` is inclusive and `until` is not, and both need
    a time zone.
    """

    topic: str = "*"
    first_offset: int | None = None
    last_offset: int | None = None
    since: datetime | None = None
    until: datetime | None = None

    def __post_init__(self) -> None:
        for name, moment in (("since", self.since), ("until", self.until)):
            if moment is not None and moment.tzinfo is None:
                raise UsageError(f"{name} = {moment.isoformat()} has no time zone: add one, +00:00 for UTC")

    def condition(self) -> sql.Composed:
        """Return the selection as the condition of a WHERE clause, without the topic."""
        limits = [('"offset" >=', self.first_offset), ('"offset" <=', self.last_offset)]
        times = [("recorded_at >=", self.since), ("recorded_at <", self.until)]
        parts = [
            sql.SQL(left + " {}").format(sql.Literal(value)) for left, value in limits + times if value is not None
        ]
        return sql.SQL(" AND ").join([sql.SQL("true"), *parts])


@dataclass(frozen=True)
class ReplayStep:
    """The events of one topic of one tenant that one handler would see again."""

    tenant: str
    topic: str
    handler: str
    events: int
    first_offset: int
    last_offset: int
    first_time: datetime
    last_time: datetime


@dataclass(frozen=True)
class ReplayPlan:
    """What a replay would do. `left_out` maps handlers that it leaves alone to the reason; `id` changes with the world."""

    selection: Selection
    tenants: tuple[Tenant, ...]
    steps: tuple[ReplayStep, ...]
    left_out: dict[str, str]

    @property
    def id(self) -> str:
        """`replay-` and ten hexadecimal digits that stand for exactly this plan."""
        facts = [asdict(self.selection), [asdict(step) for step in self.steps]]
        return f"replay-{hashlib.sha256(json.dumps(facts, default=str).encode()).hexdigest()[:10]}"

    @property
    def event_count(self) -> int:
        """How many times a handler would be called."""
        return sum(step.events for step in self.steps)

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to replay."""
        return not self.steps


@dataclass(frozen=True)
class ReplayFailure:
    """One event that a handler failed on during a replay."""

    tenant: str
    handler: str
    offset: int
    error: str


@dataclass(frozen=True)
class ReplayRun:
    """The result of a replay: how many events each handler handled, what failed, and the dead letters that it resolved."""

    plan_id: str
    replay_id: UUID
    handled: int
    resolved: int
    failures: tuple[ReplayFailure, ...]


def plan_replay(
    connection: Connection,
    tenants: Sequence[Tenant],
    registry: Registry,
    selection: Selection,
    handlers: Sequence[str] = (),
    side_effects: Sequence[str] = (),
) -> ReplayPlan:
    """Plan to replay what `selection` holds in the logs of `tenants`.

    `handlers` names those to use; without it all replayable ones are. A handler with side effects is left out unless
    `side_effects` names it. Raises UsageError for a handler that does not exist.
    """
    chosen, left_out = choose_handlers(registry, handlers, side_effects)
    counts = _count_events(connection, tenants, selection)
    steps = [
        ReplayStep(slug, topic, handler.name, *facts)
        for slug, topic, *facts in counts
        if fnmatch.fnmatchcase(topic, selection.topic)
        for handler in chosen
        if registry.topic(handler.event) == topic
    ]
    with_steps = {step.tenant for step in steps}
    return ReplayPlan(selection, tuple(t for t in tenants if t.slug in with_steps), tuple(steps), left_out)


def choose_handlers(
    registry: Registry, handlers: Sequence[str], side_effects: Sequence[str]
) -> tuple[list[EventHandler], dict[str, str]]:
    """Return the handlers that a replay may use, and those that it leaves out with the reason. Pure."""
    known = registry.event_handlers
    if unknown := sorted({*handlers, *side_effects} - set(known)):
        raise UsageError(f"no handler is named {', '.join(unknown)}; there are {', '.join(known)}")
    asked = [handler for name, handler in known.items() if not handlers or name in handlers or name in side_effects]
    chosen = [handler for handler in asked if handler.replayable or handler.name in side_effects]
    left_out = {handler.name: "has side effects" for handler in asked if handler not in chosen}
    return chosen, left_out


def run_replay(
    database: Database,
    registry: Registry,
    plan: ReplayPlan,
    confirm: str,
    progress: Callable[[int], None] | None = None,
) -> ReplayRun:
    """Carry out `plan` if `confirm` is its id; live checkpoints stay where they are.

    An event that a handler fails on is reported and left behind; one that succeeds closes its dead letter. Raises
    PlanChangedError, with nothing done, when the id is another.
    """
    if confirm != plan.id:
        raise PlanChangedError(f"confirm={confirm!r} is not the id of the present plan, {plan.id}: nothing was done")
    replay_id = uuid4()
    handled = resolved = 0
    failures: list[ReplayFailure] = []
    for tenant in plan.tenants:
        steps = [step for step in plan.steps if step.tenant == tenant.slug]
        _open_audit(database, tenant, plan, replay_id, steps)
        done, failed = 0, len(failures)
        for step in steps:
            ok, closed, bad = _replay_step(database, tenant, registry, plan, step, replay_id, progress)
            done, resolved, failures = done + ok, resolved + closed, failures + bad
        _close_audit(database, tenant, replay_id, done, len(failures) - failed)
        handled += done
    return ReplayRun(plan.id, replay_id, handled, resolved, tuple(failures))


def _count_events(connection: Connection, tenants: Sequence[Tenant], selection: Selection) -> list[tuple[Any, ...]]:
    found = schemas_with_table(connection, "erpkit_events", [tenant.schema for tenant in tenants])
    queries = [
        sql.SQL(
            'SELECT {}, topic, count(*), min("offset"), max("offset"), min(recorded_at), max(recorded_at) '
            "FROM {} WHERE {} GROUP BY topic"
        ).format(sql.Literal(t.slug), sql.Identifier(t.schema, "erpkit_events"), selection.condition())
        for t in tenants
        if t.schema in found
    ]
    return sorted(fetch_union(connection, queries))


def _replay_step(
    database: Database, tenant: Tenant, registry: Registry, plan: ReplayPlan, step: ReplayStep, replay_id: UUID,
    progress: Callable[[int], None] | None,
) -> tuple[int, int, list[ReplayFailure]]:  # fmt: skip
    handler = registry.event_handlers[step.handler]
    handled = resolved = 0
    failures: list[ReplayFailure] = []
    after = step.first_offset - 1
    while messages := _replay_batch(database, tenant, registry, plan, step, handler, replay_id, after):
        after = messages[-1][0].offset or 0
        handled += sum(error is None for _, error, _ in messages)
        resolved += sum(closed for _, _, closed in messages)
        failures += [
            ReplayFailure(tenant.slug, handler.name, m.offset or 0, error) for m, error, _ in messages if error
        ]
        if progress is not None:
            progress(len(messages))
    return handled, resolved, failures


def _replay_batch(
    database: Database, tenant: Tenant, registry: Registry, plan: ReplayPlan, step: ReplayStep, handler: EventHandler,
    replay_id: UUID, after: int,
) -> list[tuple[Message, str | None, int]]:  # fmt: skip
    """Replay up to 500 events in one transaction; return each with its error, and the dead letters that it closed."""
    published: list[Message] = []
    results: list[tuple[Message, str | None, int]] = []
    with database.tenant_transaction(tenant, write=True) as connection:
        for message in _read(connection, plan.selection, step, after, replay_id):
            try:
                with connection.transaction():
                    published += handle(connection, tenant, registry, handler, message)
                    closed = _close_dead_letter(connection, handler.name, message)
                results.append((message, None, closed))
            except psycopg.OperationalError:
                raise  # a lost connection or a statement timeout is no fault of this event
            except Exception as error:
                results.append((message, f"{type(error).__name__}: {error}", 0))
        append(connection, published)
    return results


def _read(connection: Connection, selection: Selection, step: ReplayStep, after: int, replay_id: UUID) -> list[Message]:
    rows = connection.execute(
        sql.SQL(
            "SELECT {columns} FROM erpkit_events WHERE topic = {topic} AND {condition} "
            'AND "offset" > {after} AND "offset" <= {last} ORDER BY "offset" LIMIT {limit}'
        ).format(
            columns=sql.SQL(COLUMNS),
            topic=sql.Literal(step.topic),
            condition=selection.condition(),
            after=sql.Literal(after),
            last=sql.Literal(step.last_offset),
            limit=sql.Literal(_BATCH),
        )
    ).fetchall()
    messages = (to_message(row) for row in rows)
    return [Message(m.topic, m.payload, m.uuid, m.metadata, m.offset, m.recorded_at, replay_id) for m in messages]


def _close_dead_letter(connection: Connection, handler: str, message: Message) -> int:
    """Note that the handler has done its work on the message after all."""
    with connection.pipeline():
        connection.execute(
            "INSERT INTO erpkit_inbox (handler, uuid) VALUES (%s, %s) ON CONFLICT DO NOTHING", [handler, message.uuid]
        )
        cursor = connection.execute(
            "UPDATE erpkit_dead_letters SET status = 'resolved' WHERE handler = %s AND uuid = %s AND status = 'open'",
            [handler, message.uuid],
        )
    return cursor.rowcount


def _open_audit(
    database: Database, tenant: Tenant, plan: ReplayPlan, replay_id: UUID, steps: Sequence[ReplayStep]
) -> None:
    selection = json.loads(json.dumps(asdict(plan.selection), default=str))
    with database.tenant_transaction(tenant, write=True) as connection:
        connection.execute(
            "INSERT INTO erpkit_replays (replay_id, plan_id, selection, handlers, requested_by) VALUES (%s, %s, %s, %s, %s)",
            [replay_id, plan.id, Jsonb(selection), sorted({step.handler for step in steps}), getpass.getuser()],
        )


def _close_audit(database: Database, tenant: Tenant, replay_id: UUID, handled: int, failed: int) -> None:
    with database.tenant_transaction(tenant, write=True) as connection:
        connection.execute(
            "UPDATE erpkit_replays SET finished_at = now(), handled = %s, failed = %s WHERE replay_id = %s",
            [handled, failed, replay_id],
        )
