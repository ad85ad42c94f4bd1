"""Carrying out migration plans: several tenants at a time, wave after wave, to a whole version each."""

from __future__ import annotations

import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Literal

import psycopg

from erpkit.database import Database
from erpkit.errors import DatabaseError
from erpkit.finding import Finding
from erpkit.migrations.apply import check_own_sessions
from erpkit.migrations.history import STILL_RUNNING, Run, any_dirty, ensure_history, newest_entry
from erpkit.migrations.plan import CANARIES, MigrationPlan, TenantPlan, Wave
from erpkit.migrations.script import Limits, check_statements
from erpkit.migrations.status import MOST_LINES, read_applied
from erpkit.migrations.worker import TenantResult, Worker, WorkerConnection
from erpkit.plural import count_of
from erpkit.result import Result
from erpkit.signals import caught_signals
from erpkit.table import Column, Table, Tone

OnError = Literal["continue", "stop"]

_INTERRUPTS = (signal.SIGINT, signal.SIGTERM)


@dataclass(frozen=True)
class MigrationRun(Result):
    """The results of a run in the order in which tenants were done; `not_started` maps the others to the reason.

    `plan` is what was applied, and `left` what the same choice plans after it: the verification. `not_verified` says why that
    could not be read.
    """

    plan_id: str
    results: tuple[TenantResult, ...]
    not_started: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    plan: MigrationPlan | None = field(default=None, compare=False, repr=False)
    left: MigrationPlan | None = field(default=None, compare=False, repr=False)
    not_verified: str = ""

    @property
    def done_count(self) -> int:
        """How many migrations ran, over all tenants."""
        return sum(len(result.done) for result in self.results)

    @property
    def failed(self) -> tuple[TenantResult, ...]:
        """The tenants that did not get all of their migrations."""
        return tuple(result for result in self.results if result.error is not None)

    @property
    def is_complete(self) -> bool:
        """Whether everything that was planned was done."""
        return not self.failed and not self.not_started

    @property
    def behind(self) -> tuple[str, ...]:
        """The tenants that still lack what was planned, although they neither failed nor were left out."""
        if self.left is None or self.left.direction == "redo":  # which can always be done again
            return ()
        return tuple(p.tenant.slug for p in self.left.tenants if p.tenant.slug not in self._named)

    @property
    def _named(self) -> set[str]:
        return {*(result.tenant for result in self.failed), *self.not_started}

    @property
    def facts(self) -> dict[str, object]:
        """What became of the plan."""
        return {"applied": self.done_count, "failed": len(self.failed), "not started": len(self.not_started)}

    @property
    def findings(self) -> list[Finding]:
        """Who failed and why, who was not started, and who is still behind."""
        remedy = "erpkit run runbooks/failed_migration -p rehearse false"
        return [
            *(
                Finding("failed", r.tenant, r.reason, "error", remedy)
                for r in sorted(self.failed, key=lambda r: r.tenant)
            ),
            *(
                Finding("not started", slug, f"not started: {why}", remedy=self._again)
                for slug, why in self.not_started.items()
            ),
            *([Finding("not read", "", f"not verified: {self.not_verified}")] if self.not_verified else []),
            *self._found_after(),
        ]

    @property
    def _again(self) -> str:
        """The command that goes on, with the same canaries: without them the others would not wait for those."""
        waves = self.plan.waves if self.plan else ()
        if self.plan and self.plan.direction != "up":
            return ""
        canaries = [plan.tenant.slug for wave in waves if wave.name == CANARIES for plan in wave.tenants]
        return " ".join(["erpkit migrate up", *(f"--canary {slug}" for slug in canaries)])

    def _found_after(self) -> Iterator[Finding]:
        after = self.left or self.plan
        if self.left is not None and self.left.direction == "down":
            yield from (Finding("behind", slug, "was not taken down") for slug in self.behind)
        for finding in after.findings if after else ():
            if finding.kind not in ("lint", "not linted") and finding.subject not in self._named:
                yield finding

    @property
    def table(self) -> Table[TenantResult]:
        """One line a tenant, the failed ones first; with more than 40 tenants these alone."""
        results = self.failed if len(self.results) > MOST_LINES else sorted(self.results, key=lambda r: r.error is None)
        empty = "No tenant failed." if self.results else "There was nothing to do."
        return Table(_COLUMNS, results, empty)

    @property
    def whole_table(self) -> Table[TenantResult]:
        """The table for a program: one line a tenant, however many there are."""
        return Table(_COLUMNS, sorted(self.results, key=lambda r: r.error is None), "There was nothing to do.")

    @property
    def tables(self) -> list[Table[TenantResult]]:
        """What became of each tenant."""
        return [self.table]

    def __str__(self) -> str:
        done = f"{count_of(self.done_count, 'migration')} applied in {self.seconds:.1f} s"
        left = ""
        if self.not_started:
            why = next(iter(self.not_started.values()))
            left = f", {count_of(len(self.not_started), 'tenant')} not started: {why}; run it again to go on"
        return f"{done}, {count_of(len(self.failed), 'tenant')} failed{left}"


def _tone(result: TenantResult) -> Tone:
    return "error" if result.error else "good"


_COLUMNS = (
    Column[TenantResult]("tenant", lambda r: r.tenant, tone=_tone),
    Column[TenantResult]("done", lambda r: r.done_briefly),
    Column[TenantResult]("time", lambda r: r.seconds * 1000, unit="ms", places=1, bar=True),
    Column[TenantResult]("error", lambda r: r.error or ""),
)


def run_plan(
    database: Database,
    plan: MigrationPlan,
    confirm: str,
    progress: Callable[[TenantResult], object] | None = None,
    *,
    workers: int = 3,
    on_error: OnError = "continue",
    threshold: float = 0.0,
    limits: Limits | None = None,
    stop: threading.Event | None = None,
) -> MigrationRun:
    """Carry out `plan` if `confirm` is its id.

    Tenants of a wave are migrated by `workers` side by side; each migration is a transaction of its own. A tenant that fails
    does not stop the others, unless `on_error` is "stop"; where more than the share `threshold` of a wave fails, later waves
    are not begun. An interrupt (Ctrl-C), or `stop`, lets each worker finish its present migration, a second interrupt cancels
    these, too: every tenant is left at a whole version, and the run is returned with the tenants that were not started. Raises
    PlanChangedError, with nothing done, when the id is another, and MigrationError for a file that must not be run.
    """
    database.check_writable()
    plan.check(confirm)
    for migration in plan.migrations:
        check_statements(migration)
    with database.connection() as connection:
        check_own_sessions(connection, plan.migrations)
        ensure_history(connection)
        known = newest_entry(connection) if plan.retries_dirty else 0
    worker = Worker(
        database, Run(plan.id, retries_up_to=known), limits or Limits(), stops_on_error=on_error == "stop",
        stop=stop or threading.Event(), why="stopped",
    )  # fmt: skip
    results: list[TenantResult] = []
    started = time.perf_counter()

    def take(result: TenantResult) -> None:
        results.append(result)
        if progress is not None:
            progress(result)

    workers = min(workers, database.max_connections)  # more would wait for a connection until they time out
    with (
        interruptible(worker),
        ThreadPoolExecutor(workers, thread_name_prefix="erpkit-migrate") as threads,
        _ending(worker),
    ):
        for wave in plan.waves:
            if worker.stop.is_set():
                break
            sound = _leave_out_dirty(worker, plan, wave, take)
            failed = len(wave.tenants) - len(sound) + _run_wave(worker, threads, workers, sound, take)
            if failed > threshold * len(wave.tenants):
                worker.end(f"{failed:,} of {len(wave.tenants):,} failed in the wave {wave.name}")
    reached = {result.tenant for result in results}
    left = {p.tenant.slug: worker.why for p in plan.tenants if p.tenant.slug not in reached}
    return MigrationRun(plan.id, tuple(results), left, time.perf_counter() - started)


def _leave_out_dirty(
    worker: Worker, plan: MigrationPlan, wave: Wave, take: Callable[[TenantResult], object]
) -> list[TenantPlan]:
    """Return the tenants of a wave but those that another runner has left dirty since the plan was made: these fail."""
    found: dict[str, str] = {}
    if plan.direction == "up" and not plan.retries_dirty:
        found = worker.patiently(lambda: _find_dirty(worker.database, plan, wave)) or {}
    for slug, dirty in found.items():
        take(TenantResult(slug, (), 0, f"tenant {slug}: dirty: {dirty}"))
    return [one for one in wave.tenants if one.tenant.slug not in found]


def _find_dirty(database: Database, plan: MigrationPlan, wave: Wave) -> dict[str, str]:
    """Return what stopped half way in the tenants of a wave; what still runs is waited for, and looked at again then."""
    tenants = [one.tenant for one in wave.tenants]
    with database.connection() as connection:
        if not any_dirty(connection, [tenant.schema for tenant in tenants]):
            return {}
        applied = read_applied(connection, tenants, plan.migrations)
    stopped = {
        tenant.slug: "; ".join(text for text in applied.dirty_in(tenant.schema) if not text.endswith(STILL_RUNNING))
        for tenant in tenants
    }
    return {slug: text for slug, text in stopped.items() if text}


def _run_wave(
    worker: Worker,
    threads: ThreadPoolExecutor,
    width: int,
    tenants: Sequence[TenantPlan],
    take: Callable[[TenantResult], object],
) -> int:
    """Migrate the tenants of a wave, `width` at a time; return how many failed. `take` is called in this thread."""
    plans: deque[TenantPlan] = deque(tenants)
    results: SimpleQueue[TenantResult | None] = SimpleQueue()
    running = [threads.submit(_run_tenants, worker, plans, results) for _ in range(min(width, len(plans)))]
    failed, ended = 0, 0
    while ended < len(running):
        # Python runs signal handlers in this thread, which must wake up when the system delivers a signal to another one.
        with suppress(Empty):
            if (result := results.get(timeout=0.2)) is None:
                ended += 1
            else:
                failed += result.error is not None
                take(result)
    for one in running:
        one.result()
    return failed


def _run_tenants(worker: Worker, plans: deque[TenantPlan], results: SimpleQueue[TenantResult | None]) -> None:
    """Migrate tenant after tenant until none is left or the run is to stop; put None at the end."""
    try:
        # Only giving the connection back can fail here.
        with suppress(psycopg.Error, DatabaseError), WorkerConnection(worker.database) as held:
            while not worker.stop.is_set() and (plan := _pop(plans)) is not None:
                results.put(worker.migrate(plan, held))
    finally:
        results.put(None)


def _pop(plans: deque[TenantPlan]) -> TenantPlan | None:
    """Take the next tenant, or None; another thread may empty the queue between a check and the pop."""
    try:
        return plans.popleft()
    except IndexError:
        return None


@contextmanager
def _ending(worker: Worker) -> Iterator[None]:
    """Stop the threads from beginning another tenant when the run breaks off, as when `progress` raises."""
    try:
        yield
    except BaseException as error:
        worker.end(f"the run broke off: {error!r}")
        raise


@contextmanager
def interruptible(worker: Worker) -> Iterator[None]:
    """At SIGINT or SIGTERM let the migrations that have begun end; at a second one cancel them. Only the main thread gets signals."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    # A handler can interrupt another one, and so must not take a lock; SimpleQueue.put() takes none.
    signals: SimpleQueue[int | None] = SimpleQueue()

    def listen() -> None:
        for earlier, _ in enumerate(iter(signals.get, None)):
            worker.end("interrupted")
            if earlier:
                worker.cancel()

    listener = threading.Thread(target=listen, name="erpkit-interrupts", daemon=True)
    listener.start()
    try:
        with caught_signals(signals.put, *_INTERRUPTS):
            yield
    finally:
        signals.put(None)
        listener.join()
