"""Handing events of the past to chosen handlers once more: planned, confirmed, recorded, and resumed where it stopped."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from uuid import UUID, uuid4

import psycopg

from erpkit.database import Connection, Database, Tenant
from erpkit.errors import BrokerError, DatabaseError, ErpkitError, PlanChangedError, UsageError
from erpkit.events.faults import raise_if_lost
from erpkit.events.log import append
from erpkit.events.message import Message
from erpkit.events.replay.audit import Outcome, claim, close_replay, open_replay, record
from erpkit.events.replay.plan import ReplayPlan
from erpkit.events.replay.selection import read_selected
from erpkit.events.router import handle
from erpkit.modules import EventHandler, Registry
from erpkit.signals import stop_at_interrupt

__all__ = ["Pace", "ReplayFailure", "ReplayRun", "carry_out", "run_replay"]

_BATCH = 500
_FAILURES_KEPT = 1000  # in memory; all are in erpkit_replay_results

Handed = tuple[str, Message, str | None]  # handler, message, error
# Gives events to whom they are for; returns what became of each, and what was published.
Deliver = Callable[[Connection, Tenant, Sequence[Message]], tuple[list[Outcome], list[Message]]]


@dataclass(frozen=True)
class ReplayFailure:
    """One event that a handler failed on during a replay."""

    tenant: str
    handler: str
    offset: int
    error: str


@dataclass(frozen=True)
class ReplayRun:
    """The result of a replay: how many events each handler handled, what failed, and the dead letters that it resolved.

    `state` is done or cancelled. `failures` are the first thousand of `failed`. Where events went to a broker, `handled` were
    sent, and `known` dropped by it as it had them already.
    """

    plan_id: str
    replay_id: UUID
    handled: int
    resolved: int
    failures: tuple[ReplayFailure, ...]
    failed: int = 0
    state: str = "done"
    known: int = 0


def run_replay(
    database: Database,
    registry: Registry,
    plan: ReplayPlan,
    confirm: str,
    progress: Callable[[int], object] | None = None,
    *,
    rate: float | None = None,
    stop: threading.Event | None = None,
) -> ReplayRun:
    """Carry out `plan` if `confirm` is its id; live checkpoints stay where they are.

    Each tenant's events go to all their handlers in the order of the log. An event that a handler fails on is reported and
    left behind; one that succeeds closes its dead letter. `rate` is in events per second. `stop`, or Ctrl-C, ends it after the
    batch in hand, and `plan_resume` goes on from there; so it does after a crash. Raises PlanChangedError, with nothing done,
    when the id is another.
    """
    if plan.target is not None:
        raise UsageError(f"plan {plan.id} goes to {plan.target}, not to handlers: nothing was done")
    handlers: dict[tuple[str, str], list[EventHandler]] = {}
    for step in plan.steps:
        handlers.setdefault((step.tenant, step.topic), []).append(registry.event_handlers[step.handler])

    def deliver(
        connection: Connection, tenant: Tenant, messages: Sequence[Message]
    ) -> tuple[list[Outcome], list[Message]]:
        pairs = [(handler, message) for message in messages for handler in handlers[tenant.slug, message.topic]]
        handed, published = hand_over(connection, tenant, registry, pairs)
        return [Outcome(name, m, "failed" if error else "handled", error) for name, m, error in handed], published

    return carry_out(database, plan, confirm, deliver, progress, rate=rate, stop=stop)


def carry_out(
    database: Database,
    plan: ReplayPlan,
    confirm: str,
    deliver: Deliver,
    progress: Callable[[int], object] | None = None,
    *,
    rate: float | None = None,
    stop: threading.Event | None = None,
) -> ReplayRun:
    """Give the events of a plan to `deliver`, batch by batch, and write down what becomes of each: see `run_replay`."""
    if confirm != plan.id:
        raise PlanChangedError(f"confirm={confirm!r} is not the id of the present plan, {plan.id}: nothing was done")
    replay_id = plan.resumes or uuid4()
    stop = stop or threading.Event()
    work = _Work(database, plan, replay_id, deliver, Pace(rate, stop), stop, progress or (lambda _: None))
    _open(database, plan, replay_id)
    try:
        with stop_at_interrupt(stop):
            for tenant in plan.tenants:
                work.replay(tenant)
    except BaseException as error:
        state = "cancelled" if isinstance(error, KeyboardInterrupt) else "failed"
        with suppress(ErpkitError, psycopg.Error):  # of both faults, the first one is told
            close_replay(database, plan.tenants, replay_id, state, f"{type(error).__name__}: {error}".strip())
        if isinstance(error, BrokerError | DatabaseError):
            go_on = f"erpkit events replay --resume {replay_id} --confirm {plan.id}"
            raise type(error)(f"{error}; to go on when it is back: {go_on}") from error
        raise
    if stop.is_set():
        close_replay(database, plan.tenants, replay_id, "cancelled")
    return work.result()


class Pace:
    """Holds work back to a rate; `stop` wakes it."""

    def __init__(self, rate: float | None, stop: threading.Event) -> None:
        if rate is not None and rate <= 0:
            raise UsageError(f"rate = {rate} is no rate: give events per second, or leave it out")
        self._rate, self._stop, self._due = rate, stop, time.monotonic()
        self.batch = _BATCH if rate is None else max(1, min(_BATCH, int(rate / 4)))

    def wait(self, events: int) -> None:
        """Wait until `events` more may have been done."""
        if self._rate is None:
            return
        self._due = max(self._due, time.monotonic() - 1) + events / self._rate
        self._stop.wait(max(0.0, self._due - time.monotonic()))


class _Work:
    """One run of a plan, with what it has counted so far."""

    def __init__(
        self, database: Database, plan: ReplayPlan, replay_id: UUID, deliver: Deliver, pace: Pace, stop: threading.Event,
        progress: Callable[[int], object],
    ) -> None:  # fmt: skip
        self._database, self._plan, self._replay_id, self._deliver = database, plan, replay_id, deliver
        self._pace, self._stop, self._progress = pace, stop, progress
        self._states, self._resolved = Counter[str](), 0
        self._failures: list[ReplayFailure] = []

    def result(self) -> ReplayRun:
        return ReplayRun(
            self._plan.id,
            self._replay_id,
            self._states["handled"] + self._states["sent"],
            self._resolved,
            tuple(self._failures),
            self._states["failed"],
            "cancelled" if self._stop.is_set() else "done",
            self._states["known"],
        )

    def replay(self, tenant: Tenant) -> None:
        """Replay all of one tenant, batch by batch, unless it is told to stop."""
        steps = [step for step in self._plan.steps if step.tenant == tenant.slug]
        topics = sorted({step.topic for step in steps})
        after = self._plan.positions.get(tenant.slug, min((step.first_offset for step in steps), default=1) - 1)
        last = max((step.last_offset for step in steps), default=0)
        while not self._stop.is_set():
            messages = self._batch(tenant, topics, after, last)
            if not messages:
                close_replay(self._database, [tenant], self._replay_id, "done")
                return
            after = messages[-1].offset or 0
            self._pace.wait(len(messages))

    def _batch(self, tenant: Tenant, topics: Sequence[str], after: int, last: int) -> list[Message]:
        """Replay a batch in one transaction: effects, results, inbox and position become true together."""
        with self._database.tenant_transaction(tenant, write=True) as connection:
            messages = read_selected(
                connection, self._plan.selection, topics, after, last, self._pace.batch, self._replay_id
            )
            if not messages:
                return []
            claim(connection, self._replay_id, after)
            outcomes, published = self._deliver(connection, tenant, messages)
            resolved = record(connection, self._replay_id, outcomes, messages[-1].offset or 0)
            append(connection, published)
        self._count(tenant, outcomes, resolved)
        return messages

    def _count(self, tenant: Tenant, outcomes: Sequence[Outcome], resolved: int) -> None:
        failures = [ReplayFailure(tenant.slug, o.handler, o.message.offset or 0, o.error) for o in outcomes if o.error]
        self._states.update(outcome.state for outcome in outcomes)
        self._resolved += resolved
        self._failures += failures[: _FAILURES_KEPT - len(self._failures)]
        self._progress(len(outcomes))


def hand_over(
    connection: Connection, tenant: Tenant, registry: Registry, pairs: Sequence[tuple[EventHandler, Message]]
) -> tuple[list[Handed], list[Message]]:
    """Run each handler on its message, in order; return what became of each, and what was published.

    All go in one savepoint; only when something fails, or a handler has side effects, which must not be tried twice, does
    each get one of its own.
    """
    if all(handler.replayable for handler, _ in pairs):
        try:
            with connection.transaction():
                published = [
                    event
                    for handler, message in pairs
                    for event in handle(connection, tenant, registry, handler, message)
                ]
            return [(handler.name, message, None) for handler, message in pairs], published
        except Exception as error:
            raise_if_lost(connection, error, f"tenant {tenant.slug}: replay")
    return _one_by_one(connection, tenant, registry, pairs)


def _one_by_one(
    connection: Connection, tenant: Tenant, registry: Registry, pairs: Sequence[tuple[EventHandler, Message]]
) -> tuple[list[Handed], list[Message]]:
    outcomes: list[Handed] = []
    published: list[Message] = []
    for handler, message in pairs:
        try:
            with connection.transaction():
                published += handle(connection, tenant, registry, handler, message)
            outcomes.append((handler.name, message, None))
        except Exception as error:
            raise_if_lost(connection, error, f"tenant {tenant.slug}: replay")
            outcomes.append((handler.name, message, f"{type(error).__name__}: {error}".strip()))
    return outcomes, published


def _open(database: Database, plan: ReplayPlan, replay_id: UUID) -> None:
    try:
        open_replay(database, plan, replay_id)
    except (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn) as error:
        raise ErpkitError(
            f"a tenant's event log is behind: `erpkit migrate up` first ({error.diag.message_primary})"
        ) from error
