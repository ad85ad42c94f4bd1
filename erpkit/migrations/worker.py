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

_RECONNECTS = 12  # times that a lost connection is tried again: half a minute to a minute in all


@dataclass(frozen=True)
class TenantResult:
    """What became of one tenant: the migrations that were done before `error`, if there is one."""

    tenant: str
    done: tuple[str, ...]
    seconds: float
    error: str | None = None


@dataclass
class Worker:
    """What the threads of one run share: whether to stop and why, and which connections are at work."""

    database: Database
    run: Run
    limits: Limits
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
        try:
            self._retrying(left)(self._go_on, plan, left, done)
        except MigrationError as failure:
            error = str(failure)
        except (psycopg.Error, DatabaseError) as failure:
            error = explain(plan.tenant, left[0][0], failure, self.limits)
            self._record_failure(plan.tenant, *left[0], error, time.perf_counter() - started)
        if left and error is None:
            error = f"stopped before {left[0][0].name}, at a whole version: {self.why}"
        return TenantResult(plan.tenant.slug, tuple(done), time.perf_counter() - started, error)

    def _go_on(self, plan: TenantPlan, left: deque[tuple[Migration, Direction]], done: list[str]) -> None:
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
                        connection, plan.tenant, migration, direction, self.run, self.limits, new_table=new_table
                    ):
                        done.append(migration.name)
                    left.popleft()
            except BUSY as error:
                error.add_note(describe_holders(connection, plan.tenant))
                raise
            finally:
                self._working.discard(connection)

    def _retrying(self, left: deque[tuple[Migration, Direction]]) -> Retrying:
        def is_worth_it(state: RetryCallState) -> bool:
            error = state.outcome.exception() if state.outcome else None
            if error is None or self.stop.is_set():
                return False
            if isinstance(error, BUSY):
                return state.attempt_number < self.limits.attempts
            return is_lost(error) and left[0][0].content.use_transaction and state.attempt_number < _RECONNECTS

        return Retrying(
            retry=is_worth_it,
            wait=wait_random_exponential(multiplier=0.25, max=8),
            sleep=sleep_using_event(self.stop),
            reraise=True,
        )

    def _record_failure(
        self, tenant: Tenant, migration: Migration, direction: Direction, error: str, seconds: float
    ) -> None:
        """Write a failure into the history; where the server is gone, the run's result has to do."""
        with suppress(psycopg.Error, DatabaseError), self.database.connection() as connection:
            record(
                connection, tenant, migration, direction, self.run, "failed", milliseconds=1000 * seconds, error=error
            )
