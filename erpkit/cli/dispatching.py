"""erpkit events dispatch and lag: the worker that hands events to their handlers, and how far it is behind."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import psycopg

from erpkit.cli.brokers import dispatch_from_broker
from erpkit.cli.output import as_json, open_database, print_errors, print_json, print_table, say
from erpkit.config import Settings
from erpkit.database import Connection, Database, Tenant
from erpkit.errors import ErpkitError, UsageError, first_line
from erpkit.events import (
    DispatchResult,
    GroupLag,
    Watchdog,
    Worker,
    WorkerOptions,
    WorkerReport,
    consumer_groups,
    dispatch,
    read_lag,
    read_lock_holders,
)
from erpkit.modules import Registry, load_modules
from erpkit.signals import caught_signals
from erpkit.tenants import find_tenants

__all__ = ["dispatch_", "lag"]

_SECONDS = click.FloatRange(min=0, min_open=True)


@click.command("dispatch")
@click.option("--once", is_flag=True, help="End when nothing is left; exit code 3 if some became dead letters.")
@click.option("--from-broker", is_flag=True, help="Take the events from ERPKIT_BROKER instead of the logs.")
@click.option("--tenant", "slugs", multiple=True, metavar="SLUG", help="Only this tenant; may be repeated.")
@click.option(
    "--limit", type=_SECONDS, default=60, show_default=True, help="Seconds a handler may have one event in hand."
)
@click.option("--poll", type=_SECONDS, default=5, show_default=True, help="Seconds between two looks at all tenants.")
@click.option("--every", type=_SECONDS, default=60, show_default=True, help="Seconds between two reports.")
@click.option(
    "--health-file", type=click.Path(path_type=Path, dir_okay=False), help="Keep the last report there, as JSON."
)
@as_json
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

    SIGTERM or Ctrl-C lets it finish the batch in hand. Several may run at once and share the tenants. When a handler does
    not come back within --limit it ends with exit code 1, and a supervisor is to start it again.
    """
    if from_broker:
        if slugs or health_file:
            raise UsageError(
                "--from-broker serves all tenants and keeps no health file: leave out --tenant and --health-file"
            )
        return dispatch_from_broker(once=once)
    if once and health_file:
        raise UsageError("--once ends by itself and keeps no health file: leave out --health-file")
    if health_file is not None:
        _check_writable(health_file)
    registry = load_modules(Settings.from_env())
    registry.check_handlers()
    with open_database(quiet=as_json) as database:
        database.check_writable()
        if once:
            return _dispatch_once(database, registry, slugs, limit, as_json)
        with database.connection() as connection:
            find_tenants(connection, slugs)  # a wrong name is told before anything starts

        def report(one: WorkerReport) -> None:
            _print_report(one, as_json)
            if health_file is not None:
                _keep(health_file, json.dumps(_document(one), default=str))

        def tenants(connection: Connection) -> list[Tenant]:
            return find_tenants(connection, slugs)

        options = WorkerOptions(poll=poll, limit=limit, report_every=every)
        worker = Worker(database, registry, tenants, report, options)
        with caught_signals(lambda _: worker.stop(), signal.SIGTERM, signal.SIGINT):
            last = worker.run()
        if health_file is not None:
            health_file.unlink(missing_ok=True)
        say(f"stopped: {last.handled:,} handled, {last.dead:,} dead letters", err=as_json)
    return 0


@click.command()
@click.option("--tenant", "slugs", multiple=True, metavar="SLUG", help="Only this tenant; may be repeated.")
@click.option(
    "--max-lag", type=click.IntRange(0), help="Exit code 3 where more events wait for one handler of a tenant."
)
@click.option("--max-age", type=_SECONDS, help="Exit code 3 where one has waited for more seconds.")
@as_json
def lag(slugs: tuple[str, ...], max_lag: int | None, max_age: float | None, as_json: bool) -> int:
    """Tell how many events wait for each handler, since when, and what holds them back; exit code 3 if a tenant cannot be read."""
    settings = Settings.from_env()
    topics = consumer_groups(load_modules(settings))
    errors: dict[str, str] = {}
    with open_database(quiet=as_json) as database, database.connection() as connection:
        tenants = [tenant for tenant in find_tenants(connection, slugs, settings.tenants_query) if tenant.is_active]
        groups = read_lag(connection, tenants, topics, errors)
        holders = read_lock_holders(connection, tenants, topics)
    now = datetime.now(UTC)
    over = [
        g
        for g in groups
        if (max_lag is not None and g.waiting > max_lag) or (max_age is not None and g.age(now) > max_age)
    ]
    known = {g.tenant for g in groups} | errors.keys()
    without = [tenant.slug for tenant in tenants if topics and tenant.slug not in known]
    if as_json:
        figures = [_group(g, now) for g in groups]
        found = {"groups": figures, "lock_holders": [asdict(holder) for holder in holders], "without_log": without}
        print_json(found | {"errors": errors})
    else:
        _print_groups([g for g in groups if g.waiting], now)
        for slug in without:
            say(f"! {slug}: has no event log: `erpkit migrate up` first")
        for line in (*(f"{g.tenant}: {g.handler} is over the limit" for g in over), *map(str, holders)):
            say(f"! {line}")
    print_errors(errors, quiet=as_json)
    return 3 if over or errors else 0


def _dispatch_once(database: Database, registry: Registry, slugs: Sequence[str], limit: float, as_json: bool) -> int:
    with database.connection() as connection:
        tenants = find_tenants(connection, slugs)
    with Watchdog(limit) as watch:
        outcomes = [_dispatch_tenant(database, tenant, registry, watch) for tenant in tenants if tenant.is_active]
    results = [one for one in outcomes if isinstance(one, DispatchResult)]
    failures = [one for one in outcomes if isinstance(one, str)]
    if as_json:
        print_json([asdict(result) for result in results])
    else:
        print_table(["tenant", "handled", "dead", "parked"], [(r.tenant, r.handled, r.dead, r.parked) for r in results])
    for tenant in tenants:
        if not tenant.is_active:
            say(f"skipped {tenant.slug}: {tenant.status}", err=as_json)
    for failure in failures:
        say(f"! {failure}", err=as_json)
    return 1 if failures else 3 if any(r.dead for r in results) else 0


def _dispatch_tenant(database: Database, tenant: Tenant, registry: Registry, watch: Watchdog) -> DispatchResult | str:
    """Return the result, or why the tenant cannot be served: that holds up no other."""
    try:
        return dispatch(database, tenant, registry, watch=watch)
    except (ErpkitError, psycopg.Error) as error:
        reason = first_line(error)
        return reason if tenant.slug in reason else f"tenant {tenant.slug}: {reason}"


def _print_report(report: WorkerReport, as_json: bool) -> None:
    if as_json:
        print_json(_document(report), indent=None)
        return
    for news in report.news:
        say(f"{report.at:%Y-%m-%d %H:%M:%S} {news}")
    if not report.news:
        say(
            f"{report.at:%Y-%m-%d %H:%M:%S} handled {report.handled:,} ({report.per_second:,.1f}/s), dead letters {report.dead:,}, "
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


def _print_groups(groups: Sequence[GroupLag], now: datetime) -> None:
    if not groups:
        say("nothing waits")
        return
    print_table(
        ["tenant", "handler", "waiting", "oldest, s", "checkpoint"],
        [(g.tenant, g.handler, f"{g.waiting:,}", f"{g.age(now):,.0f}", g.checkpoint) for g in groups],
    )


def _check_writable(path: Path) -> None:
    if not (path.parent.is_dir() and os.access(path.parent, os.W_OK)):
        raise UsageError(f"--health-file {path}: {path.parent} is no folder that can be written to")


def _keep(path: Path, text: str) -> None:
    """Write a report; a disk that is full holds up no event, and the old file's age tells of it."""
    try:
        _replace(path, text)
    except OSError as error:
        say(f"erpkit: {path} was not written: {error.strerror}", err=True)


def _replace(path: Path, text: str) -> None:
    """Replace the file as a whole: whoever reads it meanwhile gets the old text or the new."""
    fresh = path.with_name(f"{path.name}.new")
    fresh.write_text(f"{text}\n")
    fresh.replace(path)
