"""Migrating one tenant after the other on a connection: locks and lost servers are tried again, every stop is at a whole version."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field
from itertools import takewhile
from types import TracebackType
from typing import Self, TypeVar

import psycopg
from tenacity import RetryCallState, Retrying, sleep_using_event, wait_random_exponential

from erpkit.database import Connection, Database, PooledConnection, Tenant
from erpkit.errors import DatabaseError, MigrationError, first_line
from erpkit.migrations.apply import BUSY, apply_without_transaction, pauses, send_steps
from erpkit.migrations.failures import describe_holders, explain, is_lost
from erpkit.migrations.files import Migration, Step
from erpkit.migrations.history import Run, record
from erpkit.migrations.parser import Direction
from erpkit.migrations.plan import TenantPlan
from erpkit.migrations.script import Limits
from erpkit.plural import count_of

_T = TypeVar("_T")

# Seconds that the migrations of one message may take together: an interrupt may have to wait that long.
_MESSAGE = 0.5
# After so many the pool may replace the connection: its backend caches the catalog of every tenant it has seen.
_TENANTS = 50


class WorkerConnection:
    """One worker's connection, kept from tenant to tenant while its session is as new: borrowing and resetting one for each
    costs a round trip and a third of a message.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._stack = ExitStack()
        self._connection: PooledConnection | None = None
        self._visits = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.give_back()

    def take(self, tenant: Tenant) -> PooledConnection:
        """Return the connection, for `tenant`; raises DatabaseError where there is none."""
        self._visits += 1
        if self._connection is None:
            self._connection = self._stack.enter_context(self._database.visit([tenant]))
        self._connection.visited.add(tenant.schema)
        return self._connection

    def leave(self, *, is_clean: bool) -> None:
        """End with a tenant; without `is_clean` its session may have settings or a transaction that the next one must not see."""
        if not is_clean or self._visits >= _TENANTS:
            self.give_back()

    def give_back(self) -> None:
        """Give the connection back to the pool, which resets it."""
        self._connection, self._visits = None, 0
        self._stack.close()


@dataclass(frozen=True)
class TenantResult:
    """What became of one tenant: the migrations that were done before `error`, if there is one."""

    tenant: str
    done: tuple[str, ...]
    seconds: float
    error: str | None = None

    @property
    def reason(self) -> str:
        """The error without the tenant's name, so that what fails alike in many tenants reads alike."""
        return (self.error or "").removeprefix(f"tenant {self.tenant}: ")

    @property
    def done_briefly(self) -> str:
        """The migrations that were done, in a line: all of a few, else how many, with the first and the last."""
        few = len(self.done) <= 3
        return (
            ", ".join(self.done)
            if few
            else f"{count_of(len(self.done), 'migration')}, {self.done[0]} to {self.done[-1]}"
        )


@dataclass
class _Progress:
    """How far one tenant is: which steps are left, how often the present one was tried for a lock, what became of the others.

    `lost_since` is when the server ceased to answer, `losses` how often it did during the present step;
    `new_tables` are the version tables still to be made.
    """

    tenant: Tenant
    left: deque[Step]
    new_tables: set[str]
    done: list[str] = field(default_factory=list)
    locks: int = 0
    losses: int = 0
    lost_since: float | None = None
    is_clean: bool = False

    @classmethod
    def of(cls, plan: TenantPlan) -> _Progress:
        return cls(plan.tenant, deque(plan.steps), set(plan.new_tables))

    def pop(self, count: int = 1, *, done: bool = True) -> None:
        """Go on to the next steps; those that another runner did are not `done`."""
        for migration, _ in [self.left.popleft() for _ in range(count)]:
            self.new_tables.discard(migration.version_table)
            self.done += [migration.name] if done else []
            self.locks, self.losses, self.lost_since = 0, 0, None


@dataclass
class Worker:
    """What the threads of one run share: whether to stop and why, and which connections are at work."""

    database: Database
    run: Run
    limits: Limits
    stops_on_error: bool = False
    stop: threading.Event = field(default_factory=threading.Event)
    why: str = ""
    _working: set[Connection] = field(default_factory=set)
    _seconds: dict[Step, float] = field(default_factory=dict)  # what each step took, where it was done last
    _retrying: Retrying = field(init=False)

    def __post_init__(self) -> None:
        self._retrying = Retrying(
            retry=self._is_worth_a_try,
            wait=wait_random_exponential(multiplier=0.25, max=8),
            sleep=sleep_using_event(self.stop),
            reraise=True,
        )

    def end(self, why: str) -> None:
        """Let the migrations that have begun end, and begin no other."""
        if not self.stop.is_set():
            self.why = why
            self.stop.set()

    def cancel(self) -> None:
        """Cancel the running statements; their migrations roll back."""
        for connection in list(self._working):
            connection.cancel_safe()

    def patiently(self, look: Callable[[], _T]) -> _T | None:
        """Return what `look` returns; a server that does not answer is waited for, and ends the run in the end."""
        reason = ""
        for _ in pauses(max(self.limits.reconnect, 0.01), self.stop):
            try:
                return look()
            except (psycopg.OperationalError, DatabaseError) as error:
                reason = first_line(error)
        self.end(reason)
        return None

    def migrate(self, plan: TenantPlan, held: WorkerConnection) -> TenantResult:
        """Apply what one tenant is to get, on the connection that the worker holds."""
        started, progress, error = time.perf_counter(), _Progress.of(plan), None
        try:
            self._retrying(self._go_on, progress, held)
        except MigrationError as failure:
            error = str(failure)
        except (psycopg.Error, DatabaseError) as failure:
            gave_up = self.stop.is_set() and isinstance(failure, psycopg.errors.LockNotAvailable)
            if progress.left and not gave_up:  # else the connection was lost after the last commit: everything is done
                error = explain(plan.tenant, progress.left[0][0], failure, self.limits, progress.locks)
                if progress.lost_since is None:
                    self._record_failure(plan.tenant, *progress.left[0], error, time.perf_counter() - started)
        if progress.left and error is None:
            error = f"stopped before {progress.left[0][0].name}, at a whole version: {self.why}"
        if error is not None and self.stops_on_error:
            self.end(f"{plan.tenant.slug} failed")
        return TenantResult(plan.tenant.slug, tuple(progress.done), time.perf_counter() - started, error)

    def _go_on(self, progress: _Progress, held: WorkerConnection) -> None:
        """Apply what is left, on one connection.

        Where the answer to a commit was lost, the next try sees that the migration is done.
        """
        progress.is_clean = False
        try:
            connection = held.take(progress.tenant)
            self._working.add(connection)
            try:
                while progress.left and not self.stop.is_set():
                    self._step(connection, progress)
            except BUSY as error:
                error.add_note(describe_holders(connection, progress.tenant))
                raise
            finally:
                self._working.discard(connection)
        finally:
            held.leave(is_clean=progress.is_clean)

    def _step(self, connection: Connection, progress: _Progress) -> None:
        """Apply the next step without a transaction, or all those that may go in one message."""
        started, steps = time.perf_counter(), self._next(progress)
        if not steps:
            self._go_alone(connection, progress)
            return
        is_last = len(steps) == len(progress.left)
        sent = send_steps(
            connection, progress.tenant, steps, self.run, self.limits, new_tables=progress.new_tables, is_last=is_last,
            stop=self.stop,
        )  # fmt: skip
        progress.is_clean = sent.is_clean
        progress.pop(sent.done)
        self._seconds |= dict.fromkeys(steps[: sent.done], (time.perf_counter() - started) / len(steps))
        if sent.not_due:
            progress.pop(done=False)
        if sent.error is not None:
            raise sent.error

    def _go_alone(self, connection: Connection, progress: _Progress) -> None:
        """Apply the next step, or the next ones of golang-migrate's with one table, in a session of their own."""
        (first, _), *_ = progress.left
        alike = takewhile(lambda step: step[0].version_table == first.version_table, progress.left)
        steps = list(alike) if first.golang is not None else [progress.left[0]]
        applying = apply_without_transaction(
            connection, progress.tenant, steps, self.run, self.limits, self._working, self.stop
        )
        with closing(applying) as outcomes:  # the session ends with the block
            for done in outcomes:
                progress.pop(done=done)
                if self.stop.is_set():
                    break

    def _next(self, progress: _Progress) -> list[Step]:
        """Return the steps for one message: one, or as many as are known from other tenants to be quick together."""
        steps, seconds = list[Step](), 0.0
        for step in progress.left:
            seconds += self._seconds.get(step, _MESSAGE)
            if not step[0].content.use_transaction or (steps and seconds > _MESSAGE):
                break
            steps.append(step)
        return steps

    def _is_worth_a_try(self, state: RetryCallState) -> bool:
        error = state.outcome.exception() if state.outcome else None
        progress: _Progress = state.args[0]
        if error is None or not progress.left:
            return False
        if not is_lost(error):
            progress.lost_since = None
        if isinstance(error, BUSY):
            progress.locks += 1
            return not self.stop.is_set() and progress.locks < self.limits.attempts
        if not is_lost(error) or not progress.left[0][0].content.use_transaction or self.stop.is_set():
            return False
        return not self._is_to_blame(progress, error) and self._has_patience(progress)

    def _is_to_blame(self, progress: _Progress, error: BaseException) -> bool:
        """Tell whether the server was lost too often in the same migration, which would crash it again: then the run ends."""
        progress.losses += not isinstance(
            error, DatabaseError
        )  # a DatabaseError says that there was no connection in the first place
        if progress.losses < self.limits.attempts:
            return False
        progress.lost_since = None
        self.end(
            f"the server was lost {count_of(progress.losses, 'time')} in {progress.left[0][0].name} of {progress.tenant.slug}"
        )
        return True

    def _has_patience(self, progress: _Progress) -> bool:
        """Tell whether to go on waiting for a lost server; where not, the run ends, as the other tenants would fail, too."""
        now = time.perf_counter()
        progress.lost_since = now if progress.lost_since is None else progress.lost_since
        if now - progress.lost_since < self.limits.reconnect:
            return True
        self.end(f"{self.database.target} did not answer for {now - progress.lost_since:.0f} s")
        return False

    def _record_failure(
        self, tenant: Tenant, migration: Migration, direction: Direction, error: str, seconds: float
    ) -> None:
        """Write a failure into the history; where that fails, too, only the run's result tells of it."""
        with suppress(psycopg.Error, DatabaseError), self.database.connection() as connection:
            record(
                connection, tenant, migration, direction, self.run, "failed", milliseconds=1000 * seconds, error=error
            )
