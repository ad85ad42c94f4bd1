"""Handing events of the past to chosen handlers once more: planned, confirmed, recorded, and resumed where it stopped."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType
from uuid import UUID, uuid4

import psycopg

from erpkit.database import Connection, Database, Tenant
from erpkit.errors import ErpkitError, PlanChangedError, UsageError
from erpkit.events.faults import raise_if_lost
from erpkit.events.log import append
from erpkit.events.message import Message
from erpkit.events.replay_audit import Outcome, claim, close_replay, open_replay, record
from erpkit.events.replay_plan import ReplayPlan
from erpkit.events.router import handle
from erpkit.events.selection import read_selected
from erpkit.modules import EventHandler, Registry

__all__ = ["Pace", "ReplayFailure", "ReplayRun", "run_replay", "stop_on_interrupt"]

_BATCH = 500
_FAILURES_KEPT = 1000  # in memory; all are in erpkit_replay_results

Handlers = Mapping[str, Sequence[EventHandler]]  # by topic


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

    `state` is done or cancelled. `failures` are the first thousand of `failed`.
    """

    plan_id: str
    replay_id: UUID
    handled: int
    resolved: int
    failures: tuple[ReplayFailure, ...]
    failed: int = 0
    state: str = "done"


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
    if confirm != plan.id:
        raise PlanChangedError(f"confirm={confirm!r} is not the id of the present plan, {plan.id}: nothing was done")
    replay_id = plan.resumes or uuid4()
    stop = stop or threading.Event()
    work = _Work(database, registry, plan, replay_id, Pace(rate, stop), stop, progress or (lambda _: None))
    _open(database, plan, replay_id)
    try:
        with stop_on_interrupt(stop):
            for tenant in plan.tenants:
                work.replay(tenant)
    except BaseException as error:
        state = "cancelled" if isinstance(error, KeyboardInterrupt) else "failed"
        with suppress(ErpkitError, psycopg.Error):  # of both faults, the first one is told
            close_replay(database, plan.tenants, replay_id, state, f"{type(error).__name__}: {error}".strip())
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


@contextmanager
def stop_on_interrupt(stop: threading.Event) -> Iterator[None]:
    """Let the first Ctrl-C set `stop`, so that what is in hand is finished; the second one interrupts at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    usual = signal.getsignal(signal.SIGINT) or signal.SIG_DFL

    def ask(_number: int, _frame: FrameType | None) -> None:
        stop.set()
        signal.signal(signal.SIGINT, usual)

    signal.signal(signal.SIGINT, ask)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, usual)


class _Work:
    """One run of a plan, with what it has counted so far."""

    def __init__(
        self, database: Database, registry: Registry, plan: ReplayPlan, replay_id: UUID, pace: Pace, stop: threading.Event,
        progress: Callable[[int], object],
    ) -> None:  # fmt: skip
        self._database, self._registry, self._plan, self._replay_id = database, registry, plan, replay_id
        self._pace, self._stop, self._progress = pace, stop, progress
        self._handled = self._failed = self._resolved = 0
        self._failures: list[ReplayFailure] = []

    def result(self) -> ReplayRun:
        state = "cancelled" if self._stop.is_set() else "done"
        return ReplayRun(
            self._plan.id, self._replay_id, self._handled, self._resolved, tuple(self._failures), self._failed, state
        )

    def replay(self, tenant: Tenant) -> None:
        """Replay all of one tenant, batch by batch, unless it is told to stop."""
        steps = [step for step in self._plan.steps if step.tenant == tenant.slug]
        handlers: dict[str, list[EventHandler]] = {}
        for step in steps:
            handlers.setdefault(step.topic, []).append(self._registry.event_handlers[step.handler])
        after = self._plan.positions.get(tenant.slug, min((step.first_offset for step in steps), default=1) - 1)
        last = max((step.last_offset for step in steps), default=0)
        while not self._stop.is_set():
            messages = self._batch(tenant, handlers, after, last)
            if not messages:
                close_replay(self._database, [tenant], self._replay_id, "done")
                return
            after = messages[-1].offset or 0
            self._pace.wait(len(messages))

    def _batch(self, tenant: Tenant, handlers: Handlers, after: int, last: int) -> list[Message]:
        """Replay a batch in one transaction: effects, results, inbox and position become true together."""
        with self._database.tenant_transaction(tenant, write=True) as connection:
            messages = read_selected(
                connection, self._plan.selection, list(handlers), after, last, self._pace.batch, self._replay_id
            )
            if not messages:
                return []
            claim(connection, self._replay_id, after)
            pairs = [(handler, message) for message in messages for handler in handlers[message.topic]]
            outcomes, published = hand_over(connection, tenant, self._registry, pairs)
            resolved = record(connection, self._replay_id, outcomes, messages[-1].offset or 0)
            append(connection, published)
        self._count(tenant, outcomes, resolved)
        return messages

    def _count(self, tenant: Tenant, outcomes: Sequence[Outcome], resolved: int) -> None:
        failures = [ReplayFailure(tenant.slug, name, m.offset or 0, error) for name, m, error in outcomes if error]
        self._handled += len(outcomes) - len(failures)
        self._failed += len(failures)
        self._resolved += resolved
        self._failures += failures[: _FAILURES_KEPT - len(self._failures)]
        self._progress(len(outcomes))


def hand_over(
    connection: Connection, tenant: Tenant, registry: Registry, pairs: Sequence[tuple[EventHandler, Message]]
) -> tuple[list[Outcome], list[Message]]:
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
) -> tuple[list[Outcome], list[Message]]:
    outcomes: list[Outcome] = []
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
