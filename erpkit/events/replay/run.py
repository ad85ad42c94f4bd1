"""Running a replay: it hands past events to handlers again, records each result, and can be resumed."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import psycopg

from erpkit.database import Connection, Database, Tenant
from erpkit.errors import BrokerError, DatabaseError, ErpkitError, PlanChangedError, UsageError
from erpkit.events.consumer import Consumer, raise_if_lost
from erpkit.events.dead_letters import describe_error
from erpkit.events.handling import together_or_each
from erpkit.events.log import append
from erpkit.events.message import Message
from erpkit.events.middleware import RateLimit
from erpkit.events.replay.audit import Outcome, claim, close_replay, open_replay, record
from erpkit.events.replay.plan import ReplayPlan
from erpkit.events.replay.selection import Span, read_selected
from erpkit.events.router import handle
from erpkit.modules import Registry
from erpkit.plan import Work
from erpkit.signals import stop_at_interrupt

_BATCH = 500
_CATCH_UP = 1.0  # seconds of unused rate
_FAILURES_KEPT = 1000  # in memory; all are in erpkit_replay_results

Handed = tuple[str, Message, str | None]  # handler, message, error
Pairs = Sequence[tuple[Consumer, Message]]
# Gives events to whom they are for; returns what became of each, and what was published.
Deliver = Callable[[Connection, Tenant, Sequence[Message]], tuple[list[Outcome], list[Message]]]


@dataclass(frozen=True)
class RunOptions(Work):
    """How work on events runs: `advance` and `stop` as in `Work`, and at most `rate` events a second (None: no limit).

    With `resume` a rebuild continues where an earlier one stopped; a replay's plan says that itself. A replay to handlers may have
    several `workers`, threads that take a tenant at a time: the handlers are called by several at once then. Raises UsageError
    for a rate or a number that is not above 0.
    """

    rate: float | None = None
    resume: bool = False
    workers: int = 1
    batch: int = _BATCH

    def __post_init__(self) -> None:
        if self.rate is not None and self.rate <= 0:
            raise UsageError(f"rate = {self.rate} is not a rate: give events per second, or leave it out")
        for name, number in (("workers", self.workers), ("batch", self.batch)):
            if number < 1:
                raise UsageError(f"{name} = {number}: give a number from 1")


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
    options: RunOptions | None = None,
) -> ReplayRun:
    """Carry out `plan` if `confirm` is its id; live checkpoints do not move.

    Each tenant's events go to all their handlers in the order of the log; where one of these has effects outside the database, one
    event at a time, each committed before the next, and such a handler last. An event that a handler fails on is reported and
    left behind; one that succeeds closes its dead letter. `options.stop`, or Ctrl-C, ends it after the batch in flight, and
    `plan_resume` goes on from there; so it does after a crash. Raises PlanChangedError, with nothing done, when the id is another.
    """
    if plan.target is not None:
        raise UsageError(f"plan {plan.id} goes to {plan.target}, not to handlers: nothing was done")
    tenants = {tenant.slug: tenant for tenant in plan.tenants}
    consumers: dict[tuple[str, str], list[Consumer]] = {}
    for step in plan.steps:
        consumer = Consumer(tenants[step.tenant], registry, registry.event_handlers[step.handler])
        consumers.setdefault((step.tenant, step.topic), []).append(consumer)
    for found in consumers.values():
        found.sort(key=lambda one: one.handler.is_outside)  # an effect outside is not undone with what fails after it
    if any(one.handler.is_outside for found in consumers.values() for one in found):
        options = replace(options or RunOptions(), batch=1)

    def deliver(
        connection: Connection, tenant: Tenant, messages: Sequence[Message]
    ) -> tuple[list[Outcome], list[Message]]:
        pairs = [(one, message) for message in messages for one in consumers[tenant.slug, message.topic]]
        handed, published = hand_over(connection, f"tenant {tenant.slug}: replay", pairs, pipeline=True)
        return [Outcome(name, m, "failed" if error else "handled", error) for name, m, error in handed], published

    return carry_out(database, plan, confirm, deliver, options)


def carry_out(
    database: Database, plan: ReplayPlan, confirm: str, deliver: Deliver, options: RunOptions | None
) -> ReplayRun:
    """Give the events of a plan to `deliver`, batch by batch, and write down what becomes of each: see `run_replay`."""
    PlanChangedError.check(confirm, plan.id)
    replay_id, options = plan.resumes or uuid4(), options or RunOptions()
    replay = _Replay(database, plan, replay_id, deliver, options)
    _open(database, plan, replay_id)
    try:
        with stop_at_interrupt(options.stop):
            replay.run_all()
    except BaseException as error:
        state = "cancelled" if isinstance(error, KeyboardInterrupt) else "failed"
        with suppress(ErpkitError, psycopg.Error):  # of both faults, the first one is told
            close_replay(database, plan.tenants, replay_id, state, f"{type(error).__name__}: {error}".strip())
        if isinstance(error, BrokerError | DatabaseError):
            go_on = f"erpkit events replay --resume {replay_id} --confirm {plan.id}"
            raise type(error)(f"{error}; to resume when it is back: {go_on}") from error
        raise
    if options.stop.is_set():
        close_replay(database, plan.tenants, replay_id, "cancelled")
    return replay.result()


class Pace:
    """Keeps batches of work to the rate of `options`; a stop also ends a wait."""

    def __init__(self, options: RunOptions) -> None:
        self.batch = options.batch if options.rate is None else max(1, min(options.batch, int(options.rate / 4)))
        self._stop = options.stop
        self._limit = None if options.rate is None else RateLimit(options.rate, catch_up=_CATCH_UP)

    def wait(self, events: int) -> None:
        """Wait, after `events` more were done, until the rate is kept."""
        if self._limit is not None:
            self._stop.wait(self._limit.reserve(events))


@dataclass
class _Replay:
    """One run of a plan, with what it has counted so far."""

    database: Database
    plan: ReplayPlan
    replay_id: UUID
    deliver: Deliver
    options: RunOptions
    _states: Counter[str] = field(default_factory=Counter)
    _resolved: int = 0
    _failures: list[ReplayFailure] = field(default_factory=list)
    _pace: Pace = field(init=False)
    _halt: threading.Event = field(default_factory=threading.Event)
    _counting: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self._pace = Pace(self.options)

    def result(self) -> ReplayRun:
        return ReplayRun(
            self.plan.id,
            self.replay_id,
            self._states["handled"] + self._states["sent"],
            self._resolved,
            tuple(self._failures),
            self._states["failed"],
            "cancelled" if self.options.stop.is_set() else "done",
            self._states["known"],
        )

    def run_all(self) -> None:
        """Replay all tenants, several at a time with several workers; after an error no further batch begins."""
        if self.options.workers == 1 or self.plan.target is not None:  # a broker takes one batch at a time
            for tenant in self.plan.tenants:
                self.run(tenant)
            return
        with ThreadPoolExecutor(self.options.workers, "erpkit-replay") as threads:
            done = [threads.submit(self.run, tenant) for tenant in self.plan.tenants]
            try:
                for one in done:
                    one.result()
            except BaseException:
                self._halt.set()
                raise

    def run(self, tenant: Tenant) -> None:
        """Replay all of one tenant, batch by batch, unless it is told to stop."""
        steps = self.plan.steps_by_tenant.get(tenant.slug, [])
        topics = sorted({step.topic for step in steps})
        after = self.plan.positions.get(tenant.slug, min((step.first_offset for step in steps), default=1) - 1)
        last = max((step.last_offset for step in steps), default=0)
        while not (self.options.stop.is_set() or self._halt.is_set()):
            messages = self._batch(tenant, Span(topics, after, last))
            if not messages:
                close_replay(self.database, [tenant], self.replay_id, "done")
                return
            after = messages[-1].offset or 0
            self._pace.wait(len(messages))

    def _batch(self, tenant: Tenant, span: Span) -> list[Message]:
        """Replay a batch in one transaction: effects, results, inbox and position commit together."""
        with self.database.tenant_transaction(tenant, write=True) as connection:
            messages = read_selected(connection, self.plan.selection, span, self._pace.batch, self.replay_id)
            if not messages:
                return []
            claim(connection, self.replay_id, span.after)
            outcomes, published = self.deliver(connection, tenant, messages)
            resolved = record(connection, self.replay_id, outcomes, messages[-1].offset or 0)
            append(connection, published)
        self._count(tenant, outcomes, resolved)
        return messages

    def _count(self, tenant: Tenant, outcomes: Sequence[Outcome], resolved: int) -> None:
        failures = [ReplayFailure(tenant.slug, o.handler, o.message.offset or 0, o.error) for o in outcomes if o.error]
        with self._counting:
            self._states.update(outcome.state for outcome in outcomes)
            self._resolved += resolved
            self._failures += failures[: _FAILURES_KEPT - len(self._failures)]
            self.options.advance(len(outcomes))


def hand_over(
    connection: Connection, what: str, pairs: Pairs, *, pipeline: bool = False
) -> tuple[list[Handed], list[Message]]:
    """Give each message to its consumer, in order; return what became of each, and what was published.

    All go in one savepoint; only when something fails, or a handler has side effects, which must not be tried twice, does
    each get one of its own. A `pipeline` does not wait for each answer where no handler needs one. `what` is being done.
    """
    if any(consumer.handler.has_side_effects for consumer, _ in pairs):
        return _hand_over_each(connection, what, pairs)
    without = partial(
        together_or_each,
        connection,
        what,
        partial(_hand_over_all, connection, pairs),
        partial(_hand_over_each, connection, what, pairs),
    )
    # A handler's time is not kept in a pipeline, as its statements end later.
    if not pipeline or any(consumer.handler.timeout is not None for consumer, _ in pairs):
        return without()

    def pipelined() -> tuple[list[Handed], list[Message]]:
        with _pipelined(connection):
            return _hand_over_all(connection, pairs)

    return together_or_each(connection, what, pipelined, without)


def _hand_over_all(connection: Connection, pairs: Pairs) -> tuple[list[Handed], list[Message]]:
    published = [event for consumer, message in pairs for event in handle(connection, consumer, message)]
    return [(consumer.name, message, None) for consumer, message in pairs], published


def _hand_over_each(connection: Connection, what: str, pairs: Pairs) -> tuple[list[Handed], list[Message]]:
    outcomes: list[Handed] = []
    published: list[Message] = []
    for consumer, message in pairs:
        try:
            with connection.transaction():
                published += handle(connection, consumer, message)
            outcomes.append((consumer.name, message, None))
        except Exception as error:
            raise_if_lost(connection, error, what)
            outcomes.append((consumer.name, message, describe_error(error)))
    return outcomes, published


class _Cursor(psycopg.Cursor[Any]):
    """A cursor that waits for its answer when that is read; psycopg's own reports -1 rows in a pipeline until then."""

    @property
    def rowcount(self) -> int:
        """How many rows the statement touched."""
        self._await_answer()
        return super().rowcount

    @property
    def description(self) -> list[psycopg.Column] | None:
        """The columns of the answer."""
        self._await_answer()
        return super().description

    @property
    def statusmessage(self) -> str | None:
        """What the server did."""
        self._await_answer()
        return super().statusmessage

    def _await_answer(self) -> None:
        if self.pgresult is None:
            with self.connection.pipeline() as pipeline:
                pipeline.sync()


@contextmanager
def _pipelined(connection: Connection) -> Iterator[None]:
    """Send statements without waiting, until an answer is read.

    An error is raised when the next answer is read or at the end of the block, and so does not tell which statement caused
    it. psycopg refuses what a pipeline cannot do (COPY, a server-side cursor): then do the work without one.
    """
    usual, connection.cursor_factory = connection.cursor_factory, _Cursor
    try:
        with connection.pipeline():
            yield
    finally:
        connection.cursor_factory = usual


def _open(database: Database, plan: ReplayPlan, replay_id: UUID) -> None:
    try:
        open_replay(database, plan, replay_id)
    except (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn) as error:
        raise ErpkitError(
            f"a tenant's event log lacks migrations: run `erpkit migrate up` first ({error.diag.message_primary})"
        ) from error
