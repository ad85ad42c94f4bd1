"""erpkit events: the log, dispatch, replay and dead letters."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import click
import psycopg

import erpkit
from erpkit.cli import dead_letters, replaying, seeking
from erpkit.cli.helping import Group
from erpkit.cli.output import (
    as_rows,
    as_table,
    confirm_option,
    is_for_programs,
    limit_option,
    note,
    open_erp,
    print_findings,
    print_json,
    print_target,
    read_time,
    say,
    show,
    show_done,
    tenants_option,
)
from erpkit.cli.planning import print_or_apply, show_or_apply, this_command
from erpkit.cli.say import end_waiting
from erpkit.config import Settings
from erpkit.erp import Erp
from erpkit.errors import BrokerError, DatabaseError, UsageError
from erpkit.events import GroupLag, WorkerOptions, WorkerReport
from erpkit.events.brokers import Broker, Forwarded, ResendPlan
from erpkit.events.lag import MAX_AGE, MAX_LAG, EventLag
from erpkit.events.retention import Pruned
from erpkit.finding import Finding, exit_code, find_unserved, not_read
from erpkit.nats import NatsServer
from erpkit.plural import count_of
from erpkit.signals import caught_signals, stop_at_signals
from erpkit.table import Column, Table

_SECONDS = click.FloatRange(min=0, min_open=True)
_EVERY = 1.0  # seconds between two looks at the logs
_PATIENCE = 30.0  # seconds, the longest wait after a fault
_IDLE = 5.0  # seconds without a delivery that end --once


_payload = click.option("--payload", is_flag=True, help="Show the business data in the events, too.")


@click.group("events", cls=Group)
def command() -> None:
    """Look at each tenant's event log, and have its events handled, again if need be."""


@command.command("list")
@click.argument("tenant")
@limit_option(20, most=10_000)
@click.option("--topic", default="*", show_default=True, help="Only these topics: a pattern, such as 'billing.*'.")
@click.option("--since", help="Only those recorded at or after this time, such as 2026-01-31T08:00:00+00:00.")
@click.option("--until", help="Only those recorded before this time.")
@click.option("--correlation-id", metavar="ID", help="Only events that this command caused.")
@_payload
@as_rows
def list_(
    tenant: str, limit: int, topic: str, since: str | None, until: str | None, correlation_id: str | None, payload: bool,
    as_json: bool,
) -> None:  # fmt: skip
    """List a tenant's newest events."""
    selection = {
        "topic": topic, "since": read_time("--since", since), "until": read_time("--until", until),
        "correlation_id": correlation_id,
    }  # fmt: skip
    with open_erp(quiet=as_json, own="event log") as erp:
        events = erp.events.list(tenant, limit, payload=payload, **selection)
    if as_json:
        print_json(
            [
                {"offset": e.offset, "uuid": e.uuid, "topic": e.topic, "recorded_at": e.recorded_at}
                | ({"payload": e.payload} if payload else {})
                for e in events.rows
            ]
        )
    else:
        show(events)


@command.command()
@click.argument("wanted", metavar="ID")
@tenants_option()
@_payload
@as_rows
def trace(wanted: str, slugs: tuple[str, ...], payload: bool, as_json: bool) -> int:
    """Tell what a command led to: its events, their effects and dead letters, with times.

    ID is a correlation id, or the uuid of any event. Exit code 3 if a dead letter is open, an event is parked, or a tenant cannot
    be read.
    """
    with open_erp(quiet=as_json, own="event log") as erp:
        found = erp.events.trace(wanted, slugs, payload=payload)
    if as_json:
        print_json(
            {
                "correlation_id": found.correlation_id,
                "entries": [*map(asdict, found.entries)],
                "errors": dict(found.errors),
            }
        )
    else:
        show(found.table)
    print_findings(found.findings, quiet=as_json)
    return exit_code(found.findings)


@command.command("dispatch")
@click.option("--once", is_flag=True, help="End when nothing is left; exit code 3 if some became dead letters.")
@click.option("--from-broker", is_flag=True, help="Take the events from ERPKIT_BROKER instead of the logs.")
@tenants_option()
@click.option(
    "--limit", type=_SECONDS, default=60, show_default=True, help="Seconds that a handler may take for one event."
)
@click.option("--poll", type=_SECONDS, default=5, show_default=True, help="Seconds between two polls of all tenants.")
@click.option("--every", type=_SECONDS, default=60, show_default=True, help="Seconds between two reports.")
@click.option(
    "--health-file", type=click.Path(path_type=Path, dir_okay=False), help="Keep the last report there, as JSON."
)
@as_rows
def dispatch_(
    once: bool,
    from_broker: bool,
    slugs: tuple[str, ...],
    limit: float,
    poll: float,
    every: float,
    health_file: Path | None,
    as_json: bool,
) -> int:
    """Hand events that are not handled yet to their handlers, and go on until stopped.

    SIGTERM or Ctrl-C lets it finish the batch in flight. Several may run at once and share the tenants. When a handler does
    not come back within --limit it ends with exit code 1, and a supervisor is to start it again.
    """
    _check_options(once, from_broker, slugs, health_file)
    if from_broker:
        return dispatch_from_broker(once=once, limit=limit, as_json=as_json)
    with open_erp(quiet=as_json, own="event log") as erp:
        if once:
            return _dispatch_once(erp, slugs, limit, as_json)

        def report(one: WorkerReport) -> None:
            _print_report(one, as_json)
            if health_file is not None:
                _keep(health_file, json.dumps(_document(one), default=str))

        end_waiting()
        worker = erp.events.worker(slugs, report, WorkerOptions(poll=poll, limit=limit, report_every=every))
        with caught_signals(lambda _: worker.stop(), signal.SIGTERM, signal.SIGINT):
            last = worker.run()
        if health_file is not None:
            health_file.unlink(missing_ok=True)
        note(f"stopped: {last.handled:,} handled, {count_of(last.dead, 'dead letter')}")
    return 0


@command.command()
@tenants_option()
@click.option(
    "--max-lag",
    type=click.IntRange(0),
    default=MAX_LAG,
    show_default=True,
    help="Exit code 3 where more events wait for one handler of a tenant.",
)
@click.option(
    "--max-age",
    type=_SECONDS,
    default=MAX_AGE,
    show_default=True,
    help="Exit code 3 where one has waited for more seconds.",
)
@as_rows
def lag(slugs: tuple[str, ...], max_lag: int, max_age: float, as_json: bool) -> int:
    """Tell how many events wait for each handler, since when, and what holds them back.

    Exit code 3 if a limit is passed, a transaction holds a log back, or a tenant has no log or cannot be read.
    """
    with open_erp(quiet=as_json, own="event log") as erp:
        found = erp.events.lag(slugs, max_lag=max_lag, max_age=max_age)
    if as_json:
        groups, holders = [_group(g, found.at) for g in found.groups], [asdict(holder) for holder in found.holders]
        print_json(
            {
                "groups": groups,
                "lock_holders": holders,
                "orphans": [asdict(orphan) for orphan in found.orphans],
                "without_log": found.without_log,
                "errors": dict(found.errors),
            }
        )
    else:
        show(found.table)
        if found.trend.rows and not is_for_programs():
            show(found.trend)
    print_findings(found.findings, quiet=as_json)
    return exit_code(found.findings)


@command.command()
@tenants_option()
@confirm_option()
@as_rows
def prune(slugs: tuple[str, ...], confirm: str, as_json: bool) -> int:
    """Delete events, inbox rows and replays that are older than declared in ERPKIT_RETENTION and that nothing needs.

    What a checkpoint, a shadow, an unfinished replay or an open dead letter still needs is kept, and named. It works in small
    transactions beside everything else.
    """
    with open_erp(quiet=as_json, own="event log") as erp:
        plan = erp.events.prune(slugs)
        if not as_json:
            return show_or_apply(plan, confirm, this_command())
        steps = [asdict(step) for step in plan.steps]
        document = {
            "id": plan.id,
            "limits": plan.limits,
            "steps": steps,
            "left_out": plan.left_out,
            "errors": plan.errors,
        }

        def done(result: Pruned) -> dict[str, object]:
            counts = [{"tenant": slug, "kind": kind, "rows": rows} for (slug, kind), rows in result.counts.items()]
            return {"id": confirm, "pruned": counts, "errors": dict(result.failures)}

        return print_or_apply(plan, confirm, lambda _: document, done)


def _dispatch_once(erp: Erp, slugs: Sequence[str], limit: float, as_json: bool) -> int:
    run = erp.events.dispatch(slugs, limit=limit)
    if as_json:
        print_json([asdict(result) for result in run.results])
    else:
        show(run.table)
    for slug, status in run.skipped.items():
        note(f"skipped {slug}: {status}")
    print_findings(run.findings, quiet=as_json)
    return 1 if run.failures else exit_code(run.findings)


def _print_report(report: WorkerReport, as_json: bool) -> None:
    if as_json:
        print_json(_document(report), indent=None)
        return
    at = f"{report.at:%Y-%m-%d %H:%M:%S}"
    for news in report.news:
        note(f"{at} {news}")
    if is_for_programs():
        show(Table(_REPORTED, [report]))
    elif not report.news:
        say(
            f"{at} handled {report.handled:,} ({report.per_second:,.1f}/s), dead letters {report.dead:,}, "
            f"waiting {report.waiting:,}, the oldest for {report.oldest_age:,.0f} s"
        )


def _document(report: WorkerReport) -> dict[str, Any]:
    return {
        "at": report.at, "handled": report.handled, "per_second": round(report.per_second, 1), "dead_letters": report.dead,
        "waiting": report.waiting, "oldest_age": round(report.oldest_age, 1), "skipped": report.skipped,
        "failing": report.failing, "news": report.news, "groups": [_group(one, report.at) for one in report.lag],
    }  # fmt: skip


def _group(one: GroupLag, now: datetime) -> dict[str, Any]:
    return asdict(one) | {"oldest_age": round(one.age(now), 1)}


def _check_options(once: bool, from_broker: bool, slugs: Sequence[str], health_file: Path | None) -> None:
    """Raise UsageError for options that do not go together, and for a health file that cannot be written."""
    if from_broker and (slugs or health_file):
        raise UsageError(
            "--from-broker serves all tenants and keeps no health file: leave out --tenant and --health-file"
        )
    if once and health_file:
        raise UsageError("--once ends by itself and keeps no health file: leave out --health-file")
    folder = health_file.parent if health_file else None
    if folder and not (folder.is_dir() and os.access(folder, os.W_OK)):
        raise UsageError(f"--health-file {health_file}: cannot write to the folder {folder}")


def _keep(path: Path, text: str) -> None:
    """Write a report; an error of the disk stops no event, and shows in the old file's age."""
    try:
        _replace(path, text)
    except OSError as error:
        say(f"erpkit: {path} was not written: {error.strerror}", err=True)


def _replace(path: Path, text: str) -> None:
    """Replace the file as a whole: a reader sees the old text or the new one, never a part."""
    fresh = path.with_name(f"{path.name}.new")
    fresh.write_text(f"{text}\n")
    fresh.replace(path)


@command.command("forward")
@tenants_option()
@click.option("--once", is_flag=True, help="End when everything is forwarded; without it, go on until SIGTERM.")
@click.option(
    "--from",
    "point",
    metavar="POINT",
    help="Plan to send again from an offset, a time such as 2026-01-31T08:00:00+00:00, or the beginning.",
)
@confirm_option()
@as_rows
def forward_(slugs: tuple[str, ...], once: bool, point: str | None, confirm: str, as_json: bool) -> int:
    """Forward the logs to the broker (ERPKIT_BROKER): at least once, in order, from a checkpoint of their own.

    What the broker refuses for good, as it is too large, becomes a dead letter of the forwarder, and the rest goes on: exit code 3.
    With --from and a plan's id the checkpoint is moved back, and a forwarder sends from there.
    """
    if point is not None:
        return _send_again(slugs, point, confirm, as_json)
    if confirm:
        raise UsageError("--confirm is the id of a plan: say --from POINT, too")
    with _open(quiet=as_json) as (erp, broker), stop_at_signals() as stop:
        work = _Forwarding(erp, broker, slugs, stop)
        results = work.once() if once else work.until_stopped()
        skipped = [] if results else [tenant.slug for tenant in erp.find(slugs) if not tenant.is_active]
    if as_json:
        print_json([asdict(result) for result in results])
    else:
        show(Table(_FORWARDED, results, "There was nothing to forward."))
    is_idle = not (results or work.errors or stop.is_set())
    findings = [find_unserved(skipped)] if is_idle else not_read(work.errors)
    print_findings(findings, quiet=as_json)
    return 3 if findings or any(result.refused or result.lost for result in results) else 0


def _send_again(slugs: Sequence[str], point: str, confirm: str, as_json: bool) -> int:
    with open_erp(quiet=as_json, own="event log") as erp:
        plan = erp.events.send_again(slugs, **_point(point))
        if as_json:
            return print_or_apply(plan, confirm, _resend, _resend)
        return show_or_apply(plan, confirm, this_command())


def _point(point: str) -> dict[str, Any]:
    if point == "beginning" or point.isdecimal():
        return {"offset": 1 if point == "beginning" else int(point)}
    if not point:
        raise UsageError("--from is empty: write beginning, an offset, or a time as 2026-01-31T08:00:00+00:00")
    return {"since": read_time("--from", point, "beginning, an offset")}


def _resend(plan: ResendPlan) -> dict[str, Any]:
    rewinds = [
        {"tenant": r.tenant.slug, "from": r.first_offset, "to": r.checkpoint, "events": r.events} for r in plan.rewinds
    ]
    return {"plan": plan.id, "done": plan.done, "tenants": rewinds, "errors": dict(plan.errors)}


@command.group("nats")
def nats() -> None:
    """Start and stop a NATS server of your own, for laptops and tests; its data lie under ERPKIT_HOME."""


@nats.command()
@as_table
def start() -> None:
    """Start the server; it runs until it is stopped, on this machine only."""
    server = NatsServer(Settings.from_env().home)
    started = server.start()
    state = "started" if started else "was running"
    show_done(f"NATS server {state}: export ERPKIT_BROKER={server.url}", {"state": state, "url": server.url})


@nats.command("stop")
@as_table
def stop_() -> None:
    """Stop the server; its streams stay."""
    state = "stopped" if NatsServer(Settings.from_env().home).stop() else "was not running"
    show_done(f"NATS server {state}", {"state": state})


def dispatch_from_broker(*, once: bool, limit: float, as_json: bool = False) -> int:
    """Run the handlers on what comes from the broker, until SIGTERM, or with `once` until nothing comes for five seconds."""
    with _open(quiet=as_json) as (erp, broker), stop_at_signals() as stop:
        result = erp.events.consume(broker, stop=stop, idle=_IDLE if once else None, limit=limit)
        findings = _find_waiting(erp.events.lag(max_lag=None, max_age=None)) if once else []
    if as_json:
        print_json(asdict(result))
    else:
        unknown = count_of(result.unknown, "event")
        more = f", {result.unreadable:,} that are no events" if result.unreadable else ""
        more += f", {result.left:,} left in the logs of tenants that are not active" if result.left else ""
        counts = {name.replace("_", " "): value for name, value in asdict(result).items()}
        show_done(
            f"{result.handled:,} handled, {result.dead:,} dead, {unknown} for tenants that do not exist{more}",
            counts,
        )
    print_findings(findings, quiet=as_json)
    return 3 if findings or result.dead or result.unknown or result.unreadable else 0


def _find_waiting(lag: EventLag) -> list[Finding]:
    """Return a finding for each tenant that has events left: a broker delivers again only later what a consumer held as it ended."""
    waiting: Counter[str] = Counter()
    for one in lag.behind:
        if not one.handler.startswith("forward."):
            waiting[one.tenant] += one.waiting
    problem = "events still wait for their handlers: they were not forwarded, or the broker delivers them again later"
    return [
        *(one for one in lag.unseen if one.severity != "info"),
        *(
            Finding("waiting", slug, problem, remedy="erpkit events dispatch --once", evidence=(f"{events:,} waiting",))
            for slug, events in waiting.items()
        ),
        *not_read(lag.errors),
    ]


class _Forwarding:
    """The logs of some tenants on their way to a broker."""

    def __init__(self, erp: Erp, broker: Broker, slugs: Sequence[str], stop: threading.Event) -> None:
        self._erp = erp
        self._broker = broker
        self._slugs = slugs
        self._stop = stop
        self._results: dict[str, Forwarded] = {}
        self.errors: dict[str, str] = {}  # by tenant, of the last round

    def once(self) -> list[Forwarded]:
        """Forward all there is, unless it is to stop between two tenants."""
        before, self.errors = self.errors, {}
        for result in self._erp.events.forward(self._broker, self._slugs, self._stop, self.errors):
            self._add(result)
        for slug, reason in self.errors.items() - before.items():
            say(f"! {slug}: {reason}", err=True)
        return list(self._results.values())

    def until_stopped(self) -> list[Forwarded]:
        """Forward what comes until it is to stop; after an error of the broker or the database, print it and try again later."""
        wait = _EVERY
        while True:
            wait = self._round(wait)
            if self._stop.wait(wait):
                return list(self._results.values())

    def _round(self, wait: float) -> float:
        """Forward all there is; return how long to wait then: after an error, twice as long as before."""
        try:
            self.once()
        except (BrokerError, DatabaseError, psycopg.OperationalError) as error:
            wait = min(2 * wait, _PATIENCE)
            say(f"erpkit: {' '.join(str(error).split())}; next attempt in {wait:.0f} s", err=True)
            with suppress(DatabaseError):
                self._erp.database.renew()
            return wait
        return _EVERY

    def _add(self, result: Forwarded) -> None:
        if result.refused:
            refused = count_of(result.refused, "event was", "events were")
            say(f"! {result.tenant}: {refused} refused by the broker: see `erpkit events lag`", err=True)
        if result.lost:
            lost = f"the broker has lost what was forwarded up to offset {result.offset}"
            say(f"! {result.tenant}: {lost}: see `erpkit events lag`", err=True)
        before = self._results.get(result.tenant, Forwarded(result.tenant, 0, 0))
        self._results[result.tenant] = replace(
            result,
            events=before.events + result.events,
            refused=before.refused + result.refused,
            lost=before.lost or result.lost,
        )


@contextmanager
def _open(*, quiet: bool) -> Iterator[tuple[Erp, Broker]]:
    with erpkit.open() as erp, erp.events.broker() as broker:
        print_target(erp.target, quiet=quiet)
        print_target(f"broker {broker.name}", quiet=quiet)
        note(f"order: {broker.order}")
        yield erp, broker


_REPORTED = (
    Column[WorkerReport]("at", lambda one: one.at),
    Column[WorkerReport]("handled", lambda one: one.handled),
    Column[WorkerReport]("per second", lambda one: one.per_second, places=1),
    Column[WorkerReport]("dead letters", lambda one: one.dead),
    Column[WorkerReport]("waiting", lambda one: one.waiting),
    Column[WorkerReport]("oldest", lambda one: one.oldest_age, "s", places=1),
)

_FORWARDED = (
    Column[Forwarded]("tenant", lambda one: one.tenant),
    Column[Forwarded]("forwarded", lambda one: one.events),
    Column[Forwarded]("up to offset", lambda one: one.offset),
    Column[Forwarded]("refused", lambda one: one.refused),
)


command.add_command(dead_letters.command)
command.add_command(seeking.command)
command.add_command(replaying.replay)
command.add_command(replaying.replays)
command.add_command(replaying.shadows)
command.add_command(replaying.watermill)
