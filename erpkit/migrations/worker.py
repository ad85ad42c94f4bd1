"""Taking one tenant through its plan: what waits for somebody else is tried again, what was stopped stays whole."""

from __future__ import annotations

import threading
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field

import psycopg
from tenacity import RetryCallState, Retrying, sleep_using_event, wait_random_exponential

from erpkit.database import Connection, Database, Tenant
from erpkit.errors import DatabaseError, MigrationError
from erpkit.migrations.apply import apply_step
from erpkit.migrations.faults import BUSY, describe_holders, explain, is_lost
from erpkit.migrations.files import Migration
from erpkit.migrations.history import Run, record
from erpkit.migrations.parser import Direction
from erpkit.migrations.plan import TenantPlan
from erpkit.migrations.script import Limits

__all__ = ["TenantResult", "Worker"]

_Steps = deque[tuple[Migration, Direction]]


@dataclass(frozen=True)
class TenantResult:
    """What became of one tenant: the migrations that were done before `error`, if there is one."""

    tenant: str
    done: tuple[str, ...]
    seconds: float
    error: str | None = None

    @property
    def done_briefly(self) -> str:
        """The migrations that were done, in a line: all of a few, else how many, with the first and the last."""
        few = len(self.done) <= 3
        return ", ".join(self.done) if few else f"{len(self.done)} migrations, {self.done[0]} to {self.done[-1]}"


@dataclass
class _Tries:
    """How often the migration in hand was tried for a lock, and since when the server does not answer."""

    locks: int = 0
    lost_since: float | None = None


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

    def end(self, why: str) -> None:
        """Let each tenant end at the migration in hand, and begin no other."""
        if not self.stop.is_set():
            self.why = why
            self.stop.set()

    def cancel(self) -> None:
        """Cancel the statements in hand; their migrations roll back."""
        for connection in list(self._working):
            connection.cancel_safe()

    def migrate(self, plan: TenantPlan) -> TenantResult | None:
        """Apply what one tenant is to get; None when the run was stopped before it."""
        if self.stop.is_set():
            return None
        started, left, done, error = time.perf_counter(), deque(plan.steps), list[str](), None
        tries = _Tries()
        try:
            self._retrying(left, tries)(self._go_on, plan, left, done, tries)
        except MigrationError as failure:
            error = str(failure)
        except (psycopg.Error, DatabaseError) as failure:
            if left:  # else it was lost after the last commit: everything is done
                error = explain(plan.tenant, left[0][0], failure, self.limits, tries.locks)
                if tries.lost_since is None:
                    self._record_failure(plan.tenant, *left[0], error, time.perf_counter() - started)
        if left and error is None:
            error = f"stopped before {left[0][0].name}, at a whole version: {self.why}"
        if error is not None and self.stops_on_error:
            self.end(f"{plan.tenant.slug} failed")
        return TenantResult(plan.tenant.slug, tuple(done), time.perf_counter() - started, error)

    def _go_on(self, plan: TenantPlan, left: _Steps, done: list[str], tries: _Tries) -> None:
        """Apply what is left, one migration after the other, on one connection.

        A commit whose answer was lost is found out by the next try, which sees that the migration is no longer due.
        """
        with self.database.visit([plan.tenant]) as connection:
            self._working.add(connection)
            try:
                while left and not self.stop.is_set():
                    migration, direction = left[0]
                    new_table = migration.version_table in plan.new_tables
                    if apply_step(
                        connection, plan.tenant, migration, direction, self.run, self.limits,
                        new_table=new_table, working=self._working,
                    ):  # fmt: skip
                        done.append(migration.name)
                    left.popleft()
                    tries.locks, tries.lost_since = 0, None
            except BUSY as error:
                error.add_note(describe_holders(connection, plan.tenant))
                raise
            finally:
                self._working.discard(connection)

    def _retrying(self, left: _Steps, tries: _Tries) -> Retrying:
        def is_worth_it(state: RetryCallState) -> bool:
            error = state.outcome.exception() if state.outcome else None
            if error is None or not left:
                return False
            if not is_lost(error):
                tries.lost_since = None
            if isinstance(error, BUSY):
                tries.locks += 1
                return not self.stop.is_set() and tries.locks < self.limits.attempts
            if not is_lost(error) or not left[0][0].content.use_transaction or self.stop.is_set():
                return False
            return self._has_patience(tries)

        return Retrying(
            retry=is_worth_it,
            wait=wait_random_exponential(multiplier=0.25, max=8),
            sleep=sleep_using_event(self.stop),
            reraise=True,
        )

    def _has_patience(self, tries: _Tries) -> bool:
        """Tell whether a lost server is still to be waited for; when it is not, the run ends, as no tenant would fare better."""
        now = time.perf_counter()
        tries.lost_since = now if tries.lost_since is None else tries.lost_since
        if now - tries.lost_since < self.limits.reconnect:
            return True
        self.end(f"{self.database.target} was not to be had for {now - tries.lost_since:.0f} s")
        return False

    def _record_failure(
        self, tenant: Tenant, migration: Migration, direction: Direction, error: str, seconds: float
    ) -> None:
        """Write a failure into the history; where that fails too, the run's result has to do."""
        with suppress(psycopg.Error, DatabaseError), self.database.connection() as connection:
            record(
                connection, tenant, migration, direction, self.run, "failed", milliseconds=1000 * seconds, error=error
            )
