"""The event logs of an installation: how handlers keep up, what they failed on, replays, and the way to a broker."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg

from erpkit import events
from erpkit.config import mask_url
from erpkit.database import IMPATIENT, Tenant
from erpkit.erp.dead_letters import DeadLetters
from erpkit.erp.installation import Installation, find_inactive
from erpkit.erp.looks import follow
from erpkit.erp.part import Part
from erpkit.errors import BrokerError, DatabaseError, ErpkitError, StoppedError, UsageError, first_line
from erpkit.events.brokers import (
    Broker,
    ConsumeOptions,
    ResendPlan,
    group_name,
    plan_resend,
    prepare,
    read_forward_findings,
    read_forward_lag,
    run_resend,
    scheme_of,
)
from erpkit.events.dispatchers import (
    DispatcherReport,
    DispatchRun,
    TakeOver,
    audit_handled,
    dispatch_all,
    list_dispatchers,
    may_be_served,
    plan_take_over,
    read_health,
    take_over,
)
from erpkit.events.health import EventHealth, read_event_health, read_event_lag
from erpkit.events.lag import MAX_AGE, MAX_LAG, EventLag
from erpkit.events.letter_edit import Edited, LetterEdit, edit_letter, plan_edit
from erpkit.events.letter_plan import read_letters
from erpkit.events.log import EVENT_COLUMNS, PAYLOAD_COLUMN, hint_topic, name_log_behind
from erpkit.events.replay.audit import ReplayHistory, read_replays
from erpkit.events.replay.files import ImportResult
from erpkit.events.replay.request import ReplayReport
from erpkit.events.replay.selection import list_selected, list_topics
from erpkit.events.replay.shadow import SHADOW_COLUMNS
from erpkit.events.replay.swap import SwapResult
from erpkit.events.replay.watermill import WatermillTopics, read_watermill_topics
from erpkit.events.retention import Pruned, PrunePlan, Retention, plan_prune, prune
from erpkit.events.seek import SeekPlan, SeekRun, Target, plan_seek, run_seek
from erpkit.events.trace import Trace, trace
from erpkit.plan import Plan, Work
from erpkit.plural import count_of
from erpkit.table import Table

_SELECTION = {one.name for one in fields(events.Selection)}


_USUAL = (MAX_LAG, MAX_AGE, 10)


class Events(Part):
    """The event log of each tenant. An ERP that erpkit only reads has none: each of these raises UsageError there."""

    _inner = frozenset({"broker", "consume", "forward", "worker"})

    def __init__(self, installation: Installation) -> None:
        self._erp = installation

    def list(self, tenant: str, limit: int = 20, *, payload: bool = False, **selection: Any) -> Table[events.Message]:
        """Return a tenant's newest events; `selection` are the fields of `Selection`: topic, since, until, correlation_id.

        `payload` adds the business data in them: ask for it only where you may see it, as a run records its output.
        """
        found, chosen = self._one(tenant), events.Selection(**selection)
        with name_log_behind(found), self._erp.database.tenant_transaction(found) as connection:
            connection.execute(IMPATIENT)
            rows = list_selected(connection, chosen, limit)
            topics = [] if rows else list_topics(connection, events.Selection())
        hint = hint_topic(chosen.topic, [*topics, *self._erp.registry.topics]) if topics else ""
        columns = (*EVENT_COLUMNS, PAYLOAD_COLUMN) if payload else EVENT_COLUMNS
        return Table(columns, rows, hint or ("no event is selected" if topics else "the log is empty"))

    def trace(self, wanted: str, names: Sequence[str] = (), *, payload: bool = False) -> Trace:
        """Tell the story of a correlation id over these tenants, all without a name: command, events, effects, dead letters.

        `wanted` may be the uuid of any event in it, too. `payload` is as in `list`. Raises UsageError for an unknown id.
        """
        erp, tenants = self._erp, self._find(names)
        with erp.database.connection() as connection:
            return replace(trace(connection, tenants, erp.registry, wanted, payload=payload), target=erp.target)

    def lag(
        self,
        names: Sequence[str] = (),
        *,
        max_lag: int | None = MAX_LAG,
        max_age: float | None = MAX_AGE,
        long: float = 10,
    ) -> EventLag:
        """Read how many events wait for each handler, since when, and what holds them back.

        More than `max_lag` events of a handler and tenant, or one that waits for more than `max_age` seconds, are findings, and None is
        no limit; so is a transaction that holds a lock of a log for more than `long` seconds. The look is kept: the next one with the
        same limits tells what moved, and how long each finding has been known.
        """
        lag = self._with_forwarder(self._lag(names, max_lag, max_age, long))
        found = follow(self._erp, _kind("lag", max_lag, max_age, long), names, datetime.now(UTC), lag)
        return replace(lag, ages=found.changes.ages, trend=found.trend)

    def health(
        self,
        names: Sequence[str] = (),
        *,
        max_lag: int | None = MAX_LAG,
        max_age: float | None = MAX_AGE,
        long: float = 10,
    ) -> EventHealth:
        """Read what waits, what arrives, what failed and who holds things back; limits and earlier looks are as in `lag`."""
        tenants = self._find(names)
        lag = self._with_forwarder(self._lag(names, max_lag, max_age, long))
        with self._erp.database.connection() as connection:
            health = read_event_health(connection, self._erp.target, tenants, lag)
            # Where a broker feeds the handlers, their dispatcher is connected to that one.
            health = replace(health, is_served=bool(scheme_of(self._erp.settings)) or may_be_served(connection))
        found = follow(self._erp, _kind("events", max_lag, max_age, long), names, datetime.now(UTC), health)
        return replace(health, ages=found.changes.ages, trend=found.trend)

    def dead_letters(self, names: Sequence[str] = (), **selection: Any) -> DeadLetters:
        """Read the open dead letters of these tenants, all without a name.

        `selection` are handler, topic, cause, uuids, offsets, since and until, as in `LetterSelection`.
        """
        chosen, erp = events.LetterSelection(**selection), self._erp
        tenants = self._find(names)
        with erp.database.connection() as connection:
            found = read_letters(connection, erp.target, tenants, chosen)
        return DeadLetters(
            **{one.name: getattr(found, one.name) for one in fields(found)}, installation=erp, named=frozenset(names)
        )

    def dead_letter(
        self, tenant: str, offset: int, handler: str = "", *, payload: bool = False
    ) -> events.DeadLetterDetail:
        """Return one dead letter, open or not, with its event's metadata.

        `handler` is needed where several failed on the event. `payload` adds the business data in the event: ask for it only
        where you may see it, as a run records its output. Raises UsageError when there is no such letter.
        """
        found = self._one(tenant)
        return events.show_dead_letter(self._erp.database, found, offset, handler, payload=payload)

    def edit_letter(
        self,
        tenant: str,
        offset: int,
        handler: str = "",
        *,
        values: Mapping[str, Any],
        reason: str,
        payload: bool = False,
    ) -> Plan[LetterEdit, Edited]:
        """Plan to retry a dead letter with other values by field, or by path (`lines.0.amount`); the event itself stays.

        Who, when, why and both payloads are kept. With `payload` the plan shows the values. Raises UsageError and PayloadError
        as `plan_edit` does.
        """
        (owner,) = self._find([tenant])
        erp = self._erp
        erp.database.check_writable()

        def make(_: Work) -> LetterEdit:
            plan = plan_edit(erp.database, erp.registry, owner, (offset, handler), (values, reason))
            return replace(plan, shows_values=payload)

        def run(plan: LetterEdit, _: Work) -> Edited:
            return edit_letter(erp.database, plan, plan.id)

        return Plan(make(Work()), make, run, erp.target, "letters", can_stop=False)

    def replay(
        self, names: Sequence[str] = (), *, rate: float | None = None, workers: int = 1, **request: Any
    ) -> Plan[events.ReplayPlan, ReplayReport]:
        """Plan to hand events of the past to handlers once more, or to publish them again.

        `request` are the fields of `Selection` (topic, first_offset, last_offset, since, until, uuids, correlation_id) and of
        `ReplayRequest` (handlers, side_effects, send_to, again, watermill, resume); `rate` is in events per second. Several
        `workers` are threads, which call handlers at once, each for another tenant.
        """
        chosen = {name: request.pop(name) for name in _SELECTION & request.keys()}
        asked = events.ReplayRequest(events.Selection(**chosen), **request)
        erp = self._erp
        erp.own("event log")
        if not asked.send_to:
            erp.registry.check_handlers()

        def make(_: Work) -> events.ReplayPlan:
            tenants = erp.find(names)
            active = [tenant for tenant in tenants if tenant.is_active]
            plan = events.plan_request(erp.database, erp.registry, active, asked, erp.settings)
            return replace(
                plan,
                letters=self._letters(tenants),
                skipped=find_inactive(tenants),
                named=frozenset(names),
                found=len(active),
            )

        def run(plan: events.ReplayPlan, work: Work) -> ReplayReport:
            options = events.RunOptions(work.advance, work.stop, rate=rate, workers=workers)
            done = events.run_request(erp.database, erp.registry, plan, erp.settings, options)
            with erp.database.connection() as connection:
                counts = events.count_replay_results(connection, plan.tenants, done.replay_id, {})
            return ReplayReport(plan, done, self._letters(erp.find(names)), counts)

        def rest(report: ReplayReport) -> Plan[events.ReplayPlan, ReplayReport] | None:
            stopped = str(report.run.replay_id)
            return self.replay(names, rate=rate, workers=workers, resume=stopped) if report.go_on else None

        return Plan(make(Work()), make, run, erp.target, "events", rest=rest)

    def rebuild(
        self, tenant: str, handler: str, *, rate: float | None = None, resume: bool = False, build: bool = True
    ) -> Plan[events.ShadowDiff, SwapResult]:
        """Make the tables that a handler keeps anew, from the first event on, beside the live ones, and plan to swap them.

        This is long work: `rate` is in events per second. With `resume`, a build that was stopped goes on; without `build`, the
        shadow that stands is compared as it is. Raises StoppedError where the build is stopped before its end.
        """
        owner = self._one(tenant)
        erp = self._erp
        erp.registry.check_handlers()
        goes_on = [resume]

        def make(work: Work) -> events.ShadowDiff:
            options = events.RunOptions(work.advance, work.stop, rate=rate, resume=goes_on[0])
            shadow = events.build_shadow(erp.database, erp.registry, owner, handler, options)
            goes_on[0] = not shadow.is_complete
            if not shadow.is_complete:
                raise StoppedError(
                    f"stopped after {count_of(shadow.events, 'event')}: plan again to resume (--resume-shadow, resume = True)"
                )
            return events.diff_shadow(erp.database, erp.registry, shadow)

        def look() -> events.ShadowDiff:
            return events.diff_shadow(
                erp.database, erp.registry, events.find_shadow(erp.database, erp.registry, owner, handler)
            )

        def run(diff: events.ShadowDiff, _: Work) -> SwapResult:
            return SwapResult(events.swap_shadow(erp.database, erp.registry, diff.shadow, diff.id))

        first = make(Work()) if build else look()
        return Plan(first, make, run, erp.target, "events", can_stop=False, look=look)

    def prune(self, names: Sequence[str] = ()) -> Plan[PrunePlan, Pruned]:
        """Plan to delete events, inbox rows and replays that are older than declared (ERPKIT_RETENTION) and that nothing needs.

        Raises UsageError where nothing is declared.
        """
        erp = self._erp
        erp.own("event log")
        groups = events.consumer_groups(erp.registry)
        retention = Retention.of(erp.settings.retention)

        def make(_: Work) -> PrunePlan:
            forwards = not erp.settings.broker.startswith("memory:")
            with erp.database.connection() as connection:
                return plan_prune(connection, erp.find(names), retention, groups, forwards=forwards)

        return Plan(make(Work()), make, lambda plan, work: prune(erp.database, plan, work), erp.target, "rows")

    def seek(self, handler: str, to: Target, names: Sequence[str] = ()) -> Plan[SeekPlan, SeekRun]:
        """Plan to move the checkpoint of a handler, and to end its pause.

        `to` is "beginning", "now", the offset of the first event to handle, or a time with its zone. Events that it has handled are
        not handled again: that is what a replay is for. "removed" is for a handler that no module has any more, or the forwarder of a
        broker that is not used any more: its checkpoint then holds no events back from pruning.
        """
        erp = self._erp
        if to == "removed" and handler == group_name(scheme_of(erp.settings)):
            raise UsageError(f"{handler} is not removed: ERPKIT_BROKER names its broker")

        def make(_: Work) -> SeekPlan:
            tenants = self._active(names)
            with erp.database.connection() as connection:
                return plan_seek(connection, tenants, erp.registry, handler, to)

        def run(plan: SeekPlan, _: Work) -> SeekRun:
            return run_seek(erp.database, plan, plan.id)

        return Plan(make(Work()), make, run, erp.target, "checkpoints", can_stop=False)

    def replays(self, names: Sequence[str] = ()) -> ReplayHistory:
        """Read who replayed what, and how it ended."""
        return read_replays(self._erp.database, self._find(names))

    def replay_results(self, replay_id: UUID, names: Sequence[str] = (), limit: int = 50) -> ReplayHistory:
        """Read what became of up to `limit` events a tenant in one replay, failures first.

        Raises UsageError where no tenant knows it.
        """
        return read_replays(self._erp.database, self._find(names), replay_id, limit)

    def shadows(self) -> Table[events.ShadowRecord]:
        """Return the shadows that stand in the database, those that a crash left behind, too."""
        self._erp.own("event log")
        with self._erp.database.connection() as connection:
            return Table(SHADOW_COLUMNS, events.list_shadows(connection), "There are no shadows.")

    def drop_shadow(self, schema: str) -> None:
        """Drop a shadow; nothing happens where there is none of that name."""
        self._erp.own("event log")
        events.drop_shadow(self._erp.database, schema)

    def watermill(self, names: Sequence[str] = ()) -> WatermillTopics:
        """Read the topics in Watermill's own tables, with the lag of each consumer group."""
        tenants = self._find(names)
        found = read_watermill_topics(self._erp.database, [tenant for tenant in tenants if tenant.is_active])
        return replace(found, skipped=find_inactive(tenants), named=frozenset(names))

    def export_to(
        self, path: Path | str, names: Sequence[str] = (), selection: events.Selection | None = None
    ) -> events.EventFile:
        """Write the chosen events of these tenants to a file, one JSON object a line, payloads and all."""
        return events.export_events(
            self._erp.database, self._active(names), selection or events.Selection(), Path(path)
        )

    def import_from(self, path: Path | str, tenant: str) -> Plan[events.ImportPlan, ImportResult]:
        """Plan to append a file's events to a tenant's log, where it does not have them yet."""
        owner = self._one(tenant)
        erp = self._erp

        def make(_: Work) -> events.ImportPlan:
            return events.plan_import(erp.database, erp.registry, owner, Path(path))

        def run(plan: events.ImportPlan, work: Work) -> ImportResult:
            return ImportResult(
                owner.slug, events.import_events(erp.database, erp.registry, plan, plan.id, work.advance)
            )

        return Plan(make(Work()), make, run, erp.target, "events", can_stop=False)

    def dispatch(self, names: Sequence[str] = (), *, limit: float = 60) -> DispatchRun:
        """Hand all that waits to its handlers, tenant after tenant.

        A handler that has had one event for more than `limit` seconds ends the process.
        """
        tenants = self._find(names)
        self._erp.registry.check_handlers()
        self._erp.database.check_writable()
        with events.Watchdog(limit) as watch:
            done = dispatch_all(self._erp.database, self._erp.registry, tenants, watch)
        return replace(done, named=frozenset(names))

    def worker(
        self,
        names: Sequence[str],
        on_report: Callable[[events.WorkerReport], Any],
        options: events.WorkerOptions | None = None,
    ) -> events.Worker:
        """Return a worker that dispatches until it is stopped: see `Worker`. A wrong name is told before anything starts."""
        erp = self._erp
        self._find(names)
        erp.registry.check_handlers()
        erp.database.check_writable()
        return events.Worker(erp.database, erp.registry, lambda _: erp.find(names), on_report, options)

    def dispatchers(
        self, names: Sequence[str] = (), *, health_file: str = "", max_age: float | None = None, audit: bool = False
    ) -> DispatcherReport:
        """Read who dispatches, what waits, and what the last dispatcher wrote into its health file.

        With `audit`, also what became of each event up to the checkpoints.
        """
        tenants = self._active(names)
        groups = events.consumer_groups(self._erp.registry)
        lag = self._lag(names, None, max_age, 10)
        with self._erp.database.connection() as connection:
            handled = audit_handled(connection, tenants, groups, {}) if audit else []
            connected = list_dispatchers(connection)
        health = read_health(health_file) if health_file else None
        return DispatcherReport(self._erp.target, lag, connected, health, handled)

    def take_over(self, names: Sequence[str] = ()) -> Plan[TakeOver, DispatchRun]:
        """Plan to hand all that waits to its handlers from here, as a dispatcher would that is not there."""
        erp = self._erp

        def make(_: Work) -> TakeOver:
            lag = self._lag(names, None, None, 10)
            return replace(plan_take_over(lag.groups), unseen=tuple(lag.unseen))

        def run(plan: TakeOver, _: Work) -> DispatchRun:
            results = take_over(erp.database, erp.registry, self._active(names), plan.id)
            return DispatchRun(results, waiting=self.lag(names).waiting)

        return Plan(make(Work()), make, run, erp.target, "events", can_stop=False)

    def forward(
        self,
        broker: Broker,
        names: Sequence[str] = (),
        stop: threading.Event | None = None,
        errors: dict[str, str] | None = None,
    ) -> Iterator[events.Forwarded]:
        """Forward what the logs have to the broker, until all is there or `stop` is set; yield a record a tenant.

        A tenant that cannot be read does not stop the others: `errors` gets the reason. A broker that has lost what it was sent is
        noted with each tenant, with a record of its own, before anything new is sent.
        """
        tenants, errors = self._active(names), {} if errors is None else errors
        yield from prepare(
            self._erp.database, self._find(()), events.consumer_groups(self._erp.registry), broker, errors
        )
        for tenant in tenants:
            if stop is None or not stop.is_set():
                with _note_unless_lost(tenant, errors):
                    yield events.forward(self._erp.database, tenant, broker)

    def send_again(
        self, names: Sequence[str] = (), *, offset: int = 1, since: datetime | None = None
    ) -> Plan[ResendPlan, ResendPlan]:
        """Plan to forward again what was forwarded from an offset on, or what was recorded since a time.

        For a broker that was wiped, or that takes by now what it refused.
        """
        erp = self._erp
        scheme = scheme_of(erp.settings)
        if not scheme:
            raise UsageError("ERPKIT_BROKER is memory:, which keeps nothing: set it to nats://host:4222, say")

        def make(_: Work) -> ResendPlan:
            return plan_resend(erp.database, self._active(names), group_name(scheme), offset, since)

        def run(plan: ResendPlan, _: Work) -> ResendPlan:
            return run_resend(erp.database, plan, plan.id)

        return Plan(make(Work()), make, run, f"{erp.target}, {mask_url(erp.settings.broker)}", "events", can_stop=False)

    def consume(
        self, broker: Broker, *, stop: threading.Event | None = None, idle: float | None = None, limit: float = 60
    ) -> events.Consumed:
        """Hand what comes from the broker to its handlers until `stop` is set, or nothing came for `idle` seconds.

        A handler that has had one event for more than `limit` seconds ends the process.
        """
        erp = self._erp
        erp.own("event log")
        erp.registry.check_handlers()
        options = ConsumeOptions(stop or threading.Event(), idle, limit)
        return events.consume(erp.database, erp.registry, broker, erp.find, options)

    def broker(self) -> closing[Broker]:
        """Open the configured broker, as a context manager."""
        self._erp.own("event log")
        return closing(events.open_broker(self._erp.settings, lasting=True))

    def _one(self, tenant: str) -> Tenant:
        self._erp.own("event log")
        return self._erp.one(tenant)

    def _find(self, names: Sequence[str]) -> Sequence[Tenant]:
        self._erp.own("event log")
        return self._erp.find(names)

    def _active(self, names: Sequence[str]) -> Sequence[Tenant]:
        return [tenant for tenant in self._find(names) if tenant.is_active]

    def _lag(self, names: Sequence[str], max_lag: int | None, max_age: float | None, long: float) -> EventLag:
        tenants = self._find(names)
        active = [tenant for tenant in tenants if tenant.is_active]
        groups = events.consumer_groups(self._erp.registry)
        with self._erp.database.connection() as connection:
            lag = read_event_lag(connection, active, groups, long)
        return replace(lag, max_lag=max_lag, max_age=max_age, skipped=find_inactive(tenants), named=frozenset(names))

    def _with_forwarder(self, lag: EventLag) -> EventLag:
        """Add how far the forwarder is behind, and what the broker has lost or refused, where one is configured."""
        scheme = scheme_of(self._erp.settings)
        if not scheme:
            return lag
        active = [tenant for tenant in lag.tenants if tenant.slug not in lag.errors]
        errors = dict(lag.errors)
        with self._erp.database.connection() as connection:
            groups = read_forward_lag(connection, active, scheme, errors)
            forwarding = read_forward_findings(connection, active, scheme, errors)
        return replace(lag, groups=[*lag.groups, *groups], forwarding=forwarding, errors=errors)

    def _letters(self, tenants: Sequence[Tenant]) -> tuple[Any, ...]:
        with self._erp.database.connection() as connection:
            return tuple(events.list_dead_letters(connection, tenants, {}))


@contextmanager
def _note_unless_lost(tenant: Tenant, errors: dict[str, str]) -> Iterator[None]:
    """Add a fault of this tenant's to `errors`; raise one of the broker's or of the connection, which is everybody's."""
    own = (
        psycopg.errors.InsufficientPrivilege,
        psycopg.errors.LockNotAvailable,
        psycopg.errors.InvalidParameterValue,  # its role is gone, as the tenant was dropped or renamed meanwhile
    )
    try:
        with name_log_behind(tenant):
            yield
    except (ErpkitError, psycopg.Error) as error:
        is_lost = isinstance(error, BrokerError | DatabaseError | psycopg.OperationalError)
        if is_lost and not isinstance(error.__cause__, own):
            raise
        errors[tenant.slug] = first_line(error).removeprefix(f"tenant {tenant.slug}: ")


def _kind(kind: str, *limits: float | None) -> str:
    """Return the kind of a look with these limits: one with others has not looked for the same."""
    return kind if limits == _USUAL else f"{kind} {' '.join(map(str, limits))}"
