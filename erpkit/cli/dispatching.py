"""erpkit events dispatch and lag: the worker that hands events to their handlers, and how far it is behind."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from erpkit.cli.brokers import dispatch_from_broker
from erpkit.cli.output import as_json, open_erp, print_findings, print_json, say, show
from erpkit.erp import Erp
from erpkit.errors import UsageError
from erpkit.events import GroupLag, WorkerOptions, WorkerReport
from erpkit.finding import exit_code
from erpkit.signals import caught_signals

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
    with open_erp(quiet=as_json, own="event log") as erp:
        if once:
            return _dispatch_once(erp, slugs, limit, as_json)

        def report(one: WorkerReport) -> None:
            _print_report(one, as_json)
            if health_file is not None:
                _keep(health_file, json.dumps(_document(one), default=str))

        worker = erp.events.worker(slugs, report, WorkerOptions(poll=poll, limit=limit, report_every=every))
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
    """Tell how many events wait for each handler, since when, and what holds them back.

    Exit code 3 if a limit is passed, a transaction holds a log back, or a tenant has no log or cannot be read.
    """
    with open_erp(quiet=as_json, own="event log") as erp:
        found = erp.events.lag(slugs, max_lag=max_lag, max_age=max_age)
    if as_json:
        groups, holders = [_group(g, found.at) for g in found.groups], [asdict(holder) for holder in found.holders]
        print_json(
            {"groups": groups, "lock_holders": holders, "without_log": found.without_log, "errors": dict(found.errors)}
        )
    else:
        show(found.table)
    print_findings(found.findings, quiet=as_json)
    return exit_code(found.findings)


def _dispatch_once(erp: Erp, slugs: Sequence[str], limit: float, as_json: bool) -> int:
    run = erp.events.dispatch(slugs, limit=limit)
    if as_json:
        print_json([asdict(result) for result in run.results])
    else:
        show(run.table)
    for slug, status in run.skipped.items():
        say(f"skipped {slug}: {status}", err=as_json)
    print_findings(run.findings, quiet=as_json)
    return 1 if run.failures else exit_code(run.findings)


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
