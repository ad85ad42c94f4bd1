"""A dispatcher that goes on: it hands events of all tenants to their handlers until it is stopped."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import psycopg

from erpkit.database import Connection, Database, Tenant
from erpkit.errors import DatabaseError, first_line
from erpkit.events.checkpoints import read_waiting
from erpkit.events.consumer import Consumer, consumer_groups
from erpkit.events.dispatch import BATCH, dispatch_batch
from erpkit.events.lag import GroupLag, read_lag
from erpkit.events.listener import Listener, StopSignal
from erpkit.events.watchdog import Watchdog
from erpkit.modules import Registry

_LONGEST_PAUSE = 5.0  # seconds between two attempts to reach the server again


@dataclass(frozen=True)
class WorkerReport:
    """What a worker did since it began, and how it stands; `news` is what changed since its last report.

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
    """Serves all active tenants that `tenants` lists, in turn, one batch a group and tenant: a busy one holds up no other.

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
        self._handled = self._dead = 0
        self._reported = (time.monotonic(), 0)  # when, and how many were handled by then

    def stop(self) -> None:
        """Ask it to finish the batch in flight and return from `run`; may be called by a signal's handler."""
        self._stop.set()

    def run(self) -> WorkerReport:
        """Serve until `stop` is called; return the last report. It survives a restart of the server."""
        with self._watchdog:
            while not self._stop.is_set:
                try:
                    self._serve()
                except (psycopg.OperationalError, DatabaseError) as error:
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
        """Read which tenants there are, and forget who could not be served."""
        with self._database.connection() as connection:
            tenants = self._list(connection)
        self._tenants = {tenant.schema: tenant for tenant in tenants if tenant.is_active}
        skipped = {tenant.slug: tenant.status for tenant in tenants if not tenant.is_active}
        news = [
            f"leaves {slug} alone: {status}" for slug, status in skipped.items() if self._skipped.get(slug) != status
        ]
        news += [f"serves {slug} again" for slug in self._skipped.keys() - skipped.keys()]
        self._skipped = skipped
        self._left.clear()
        if news:
            self._report(news)
        return set(self._tenants)

    def _run_round(self, schemas: set[str]) -> set[str]:
        """Hand one batch to each handler for which events wait; return the schemas that are worth another look at once."""
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
        """Return whether it got on; where it did not, another has the group or the tenant cannot be served for now."""
        consumer = Consumer(tenant, self._registry, self._registry.event_handlers[group], self._watchdog)
        try:
            handled, dead, parked = dispatch_batch(self._database, consumer, self._options.batch)
        except Exception as error:  # of the tenant or of the server, as those of handlers are dealt with
            self._left.add((tenant.schema, group))
            self._note_failure(tenant.slug, group, error)
            return False
        self._handled, self._dead = self._handled + handled, self._dead + dead
        if dead:
            self._report([f"{tenant.slug}: {dead} event(s) of {group} became dead letters"])
        if handled + dead + parked == 0:
            self._left.add((tenant.schema, group))
        elif self._failing.pop(f"{tenant.slug}, {group}", None):
            self._report([f"{tenant.slug}: {group} goes on"])
        return handled + dead + parked > 0

    def _note_unread(self, asked: Sequence[Tenant], errors: Mapping[str, str]) -> None:
        """Tell of tenants whose log cannot be read, and of those whose can be again."""
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
        self._tell([f"lost the database, and tries again: {first_line(error)}"])
        pause = 0.1
        while not self._stop.is_set:
            try:
                self._database.renew()
            except DatabaseError:
                self._stop.wait(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
            else:
                self._tell(["has the database again"])
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
