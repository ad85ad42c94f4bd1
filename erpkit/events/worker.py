"""A worker: it waits for the events of all tenants and hands them to their handlers until it is stopped."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

import psycopg

from erpkit.database import Connection, Database, Tenant
from erpkit.errors import DatabaseError, TenantNotActiveError, first_line
from erpkit.events.checkpoints import read_waiting
from erpkit.events.consumer import Consumer, consumer_groups
from erpkit.events.dispatch import BATCH, dispatch_batch
from erpkit.events.lag import GroupLag, read_lag
from erpkit.events.log import CHANNEL, append_lock, polled_lock
from erpkit.events.starts import start_handlers
from erpkit.events.timeout import Watchdog
from erpkit.modules import Registry
from erpkit.plural import count_of

_FIRST, _LONGEST = 0.01, 0.1  # seconds between two looks at a tenant
_LINGER = 0.5  # seconds for which a tenant is looked at after something was found
_MOST = 500  # tenants at a time, a lock each

# An append that could take the lock before its commit notifies; while one is under way the tenant is polled on.
_RELEASE = "SELECT s FROM unnest(%s::text[]) s WHERE CASE WHEN pg_try_advisory_xact_lock({}) THEN pg_advisory_unlock_shared({}) END"


class StopSignal:
    """Ends a wait from outside, such as from a signal handler, which must not take a lock."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        self.is_set = False

    def set(self) -> None:
        """End the present wait and every later one."""
        self.is_set = True
        os.write(self._write, b"!")

    def wait(self, seconds: float, *files: int) -> None:
        """Wait until it is set, one of `files` has something to read, or the time is over."""
        select.select([self._read, *files], [], [], max(0.0, seconds))

    def close(self) -> None:
        """Close its pipe."""
        os.close(self._read)
        os.close(self._write)


class Listener:
    """A connection that listens for appends; use it in a `with` block. It raises psycopg.OperationalError once it is lost.

    Appends to the tenants in `polled` do not notify: poll those when they are due.
    """

    def __init__(self, conninfo: str, stop: StopSignal) -> None:
        self._stop = stop
        self._connection = psycopg.connect(
            conninfo, autocommit=True, application_name="erpkit dispatch", connect_timeout=10
        )
        self._connection.execute(f"LISTEN {CHANNEL}")
        self.polled = PolledTenants(self._connection)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()

    def schemas(self, seconds: float, served: Container[str]) -> set[str]:
        """Wait until something was appended to a `served` schema, or one is due, for at most `seconds`.

        Return the schemas to read now.
        """
        heard = self._heard()
        if not heard and seconds > 0:
            self._stop.wait(min(seconds, self.polled.wait_time()), self._connection.fileno())
            heard = self._heard()
        heard = {schema for schema in heard if schema in served}
        self.polled.add(heard)
        return heard | self.polled.due()

    def _heard(self) -> set[str]:
        return {notify.payload for notify in self._connection.notifies(timeout=0)}


@dataclass
class _Turn:
    """When a tenant is polled next, the pause before that, and when polling ends unless something is found."""

    next: float
    pause: float
    end: float


class PolledTenants:
    """The schemas that a worker polls, each for half a second after something was found in it.

    For each it shares an advisory lock: an append that meets it does not notify. NOTIFY lets PostgreSQL commit one transaction
    at a time, with the wait for the disk, so that appends of all tenants would queue up; so a tenant's appends
    notify twice a second at most. `connection` is the worker's own, in autocommit mode, and stays open; its end frees the locks.
    Behind a pooler a session's locks would stay with another client: there it polls nothing, and each append notifies.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._turns: dict[str, _Turn] = {}
        row = connection.execute("SELECT pg_backend_pid()").fetchone()
        self._may_lock = row == (connection.info.backend_pid,)

    def add(self, schemas: Iterable[str]) -> None:
        """Poll these schemas for a while: something was found or announced there. Call it before the next read."""
        now = time.monotonic()
        fresh = [schema for schema in schemas if schema not in self._turns]
        for schema in self._lock(fresh):
            self._turns[schema] = _Turn(0, 0, 0)
        for schema in schemas:
            if schema in self._turns:
                self._turns[schema] = _Turn(now + _FIRST, _FIRST, now + _LINGER)

    def due(self) -> set[str]:
        """Return the schemas to read now, a last time where nothing was found for long: from then on appends there notify."""
        now = time.monotonic()
        due = {schema for schema, turn in self._turns.items() if turn.next <= now}
        for schema in self._release([schema for schema in due if self._turns[schema].end <= now]):
            del self._turns[schema]
        for schema in due & self._turns.keys():
            turn = self._turns[schema]
            turn.pause = min(2 * turn.pause, _LONGEST)
            turn.next = now + turn.pause
        return due

    def wait_time(self) -> float:
        """Return the seconds until a tenant is due."""
        return max(0.0, min((turn.next for turn in self._turns.values()), default=float("inf")) - time.monotonic())

    def _lock(self, schemas: list[str]) -> list[str]:
        """Share the locks of these schemas; leave out one whose append is about to notify."""
        schemas = schemas[: _MOST - len(self._turns)]
        if not (schemas and self._may_lock):
            return []
        query = f"SELECT s FROM unnest(%s::text[]) s WHERE pg_try_advisory_lock_shared({polled_lock('s')})"  # noqa: S608
        return [schema for (schema,) in self._connection.execute(query.encode(), [schemas])]

    def _release(self, schemas: list[str]) -> list[str]:
        if not schemas:
            return []
        query = _RELEASE.format(append_lock("s"), polled_lock("s"))
        return [schema for (schema,) in self._connection.execute(query.encode(), [schemas])]


_LONGEST_PAUSE = 5.0  # seconds between two attempts to reach the server again


@dataclass(frozen=True)
class WorkerReport:
    """What a worker did since it started, and its state; `news` is what changed since its last report.

    `per_second` is over the time since the last report. `skipped` maps tenants that are left alone to their status,
    `failing` those that could not be served to the reason. `lag` holds the groups with events that wait, as of `at`.
    """

    at: datetime
    handled: int
    dead: int
    per_second: float
    lag: tuple[GroupLag, ...] = ()
    skipped: dict[str, str] = field(default_factory=dict)
    failing: dict[str, str] = field(default_factory=dict)
    news: tuple[str, ...] = ()

    @property
    def waiting(self) -> int:
        """How many events wait for a handler, over all groups and tenants."""
        return sum(one.waiting for one in self.lag)

    @property
    def oldest_age(self) -> float:
        """The age of the oldest event that waits, in seconds; 0 where none does."""
        return max((one.age(self.at) for one in self.lag), default=0.0)


@dataclass(frozen=True)
class WorkerOptions:
    """How a worker works: `batch` events at a time, with a report every `report_every` seconds.

    Every `poll` seconds it looks at all tenants, for what it did not hear of. An event that a handler has in flight for more
    than `limit` seconds ends the process (see `Watchdog`).
    """

    batch: int = BATCH
    poll: float = 5.0
    limit: float = 60.0
    report_every: float = 60.0


class Worker:
    """Serves all active tenants that `tenants` lists in turn, one batch per group and tenant, so that a busy one delays no other.

    Several may run at once, on one machine or many: an advisory lock leaves each group of a tenant to one of them. It wakes
    when something is appended. `on_report` gets a report now and then, and whenever something changes.
    """

    def __init__(
        self,
        database: Database,
        registry: Registry,
        tenants: Callable[[Connection], Sequence[Tenant]],
        on_report: Callable[[WorkerReport], Any],
        options: WorkerOptions | None = None,
    ) -> None:
        self._database = database
        self._registry = registry
        self._list = tenants
        self._on_report = on_report
        self._options = options or WorkerOptions()
        self._groups = consumer_groups(registry)
        self._topics = consumer_groups(registry)
        self._stop = StopSignal()
        self._watchdog = Watchdog(self._options.limit)
        self._tenants: dict[str, Tenant] = {}  # those that are active, by schema
        self._skipped: dict[str, str] = {}
        self._failing: dict[str, str] = {}
        self._left: set[tuple[str, str]] = set()  # schema and group, until the next look at all tenants
        self._started: set[str] = set()  # schemas in which all handlers have started
        self._handled = self._dead = 0
        self._reported = (time.monotonic(), 0)  # when, and how many were handled by then

    def stop(self) -> None:
        """Ask it to finish the batch in flight and return from `run`; may be called by a signal's handler."""
        self._stop.set()

    def run(self) -> WorkerReport:
        """Serve until `stop` is called; return the last report. It reconnects after a restart of the server."""
        with self._watchdog:
            while not self._stop.is_set:
                try:
                    self._serve()
                except (psycopg.OperationalError, psycopg.InternalError, DatabaseError) as error:
                    self._return_to_server(error)
        self._stop.close()
        return self._describe(())

    def _serve(self) -> None:
        with Listener(self._database.conninfo, self._stop) as listener:
            due: set[str] = set()
            next_poll = next_report = time.monotonic()
            while not self._stop.is_set:
                now = time.monotonic()
                if now >= next_poll:
                    due, next_poll = self._look_at_all(), now + self._options.poll
                if now >= next_report:
                    self._report(())
                    next_report = now + self._options.report_every
                due = self._run_round(due & self._tenants.keys())
                listener.polled.add(due)
                due |= listener.schemas(0 if due else min(next_poll, next_report) - time.monotonic(), self._tenants)

    def _look_at_all(self) -> set[str]:
        """Read which tenants there are, and forget which could not be served."""
        with self._database.connection() as connection:
            tenants = self._list(connection)
        self._tenants = {tenant.schema: tenant for tenant in tenants if tenant.is_active}
        skipped = {tenant.slug: tenant.status for tenant in tenants if not tenant.is_active}
        news = [f"skips {slug}: {status}" for slug, status in skipped.items() if self._skipped.get(slug) != status]
        active = {tenant.slug for tenant in self._tenants.values()}  # one that was skipped may be dropped by now
        news += [f"serves {slug} again" for slug in sorted(self._skipped.keys() & active)]
        self._skipped = skipped
        self._left.clear()
        self._start_handlers()
        self._failing = {name: why for name, why in self._failing.items() if name.partition(",")[0] in active}
        if news:
            self._report(news)
        return set(self._tenants)

    def _start_handlers(self) -> None:
        """Note where new handlers start; what fails for a tenant is tried again, and reported, with its first batch."""
        fresh = [tenant for schema, tenant in self._tenants.items() if schema not in self._started]
        errors: dict[str, str] = {}
        start_handlers(self._database, self._registry, fresh, errors)
        self._started |= {tenant.schema for tenant in fresh if tenant.slug not in errors}

    def _run_round(self, schemas: set[str]) -> set[str]:
        """Hand one batch to each handler for which events wait; return the schemas to read again at once."""
        if not schemas:
            return set()
        asked = [self._tenants[schema] for schema in sorted(schemas)]
        errors: dict[str, str] = {}
        with self._database.connection() as connection:
            waiting = read_waiting(connection, asked, self._groups, errors)
        self._note_unread(asked, errors)
        again = set()
        for tenant, group in waiting:
            if self._stop.is_set:
                break
            if (tenant.schema, group) not in self._left and self._run_batch(tenant, group):
                again.add(tenant.schema)
        return again

    def _run_batch(self, tenant: Tenant, group: str) -> bool:
        """Return whether it made progress; otherwise another worker has the group, or the tenant cannot be served for now."""
        consumer = Consumer(tenant, self._registry, self._registry.event_handlers[group], self._watchdog)
        try:
            done = dispatch_batch(self._database, consumer, self._options.batch)
        except TenantNotActiveError:  # since the last look at all tenants
            self._left.add((tenant.schema, group))
            return False
        except Exception as error:  # of the tenant or of the server, as those of handlers are dealt with
            self._left.add((tenant.schema, group))
            self._note_failure(tenant.slug, group, error)
            return False
        self._handled, self._dead = self._handled + done.handled, self._dead + done.dead
        if done.dead:
            self._report([f"{tenant.slug}: {count_of(done.dead, 'dead letter')} of {group}"])
        if not any(done):
            self._left.add((tenant.schema, group))
        elif self._failing.pop(f"{tenant.slug}, {group}", None):
            self._report([f"{tenant.slug}: {group} goes on"])
        return any(done)

    def _note_unread(self, asked: Sequence[Tenant], errors: Mapping[str, str]) -> None:
        """Report tenants whose log cannot be read, and those whose log can be read again."""
        news = [
            f"{slug}: cannot be read: {error}" for slug, error in errors.items() if self._failing.get(slug) != error
        ]
        again = [tenant.slug for tenant in asked if tenant.slug in self._failing and tenant.slug not in errors]
        for slug in again:
            del self._failing[slug]
        self._failing |= errors
        if news or again:
            self._report([*news, *(f"{slug}: can be read again" for slug in again)])

    def _note_failure(self, slug: str, group: str, error: Exception) -> None:
        reason = first_line(error)
        if self._failing.get(f"{slug}, {group}") != reason:
            self._failing[f"{slug}, {group}"] = reason
            self._report([f"{slug}: {group} cannot be served: {reason}"])

    def _return_to_server(self, error: Exception) -> None:
        self._tell([f"lost the database connection, and retries: {first_line(error)}"])
        pause = 0.1
        while not self._stop.is_set:
            try:
                self._database.renew()
            except DatabaseError:
                self._stop.wait(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
            else:
                self._tell(["has reconnected to the database"])
                return

    def _report(self, news: Sequence[str]) -> None:
        with self._database.connection() as connection:
            lag = read_lag(connection, list(self._tenants.values()), self._topics, dict(self._failing))
        self._tell(news, tuple(one for one in lag if one.waiting))

    def _tell(self, news: Sequence[str], lag: tuple[GroupLag, ...] = ()) -> None:
        self._on_report(self._describe(news, lag))
        self._reported = (time.monotonic(), self._handled)

    def _describe(self, news: Sequence[str], lag: tuple[GroupLag, ...] = ()) -> WorkerReport:
        since, before = self._reported
        rate = (self._handled - before) / max(time.monotonic() - since, 0.001)
        return WorkerReport(
            datetime.now(UTC),
            self._handled,
            self._dead,
            rate,
            lag,
            dict(self._skipped),
            dict(self._failing),
            tuple(news),
        )
