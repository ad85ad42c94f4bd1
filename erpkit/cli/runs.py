"""erpkit runs: the record of what ran: listing it, one run in full, running it again, and pruning."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any

import click

import erpkit
from erpkit.cli.helping import Group
from erpkit.cli.output import (
    COMMAND,
    as_rows,
    confirm_option,
    is_for_programs,
    leave_gap,
    limit_option,
    note,
    print_findings,
    print_json,
    print_target,
    read_time,
    say,
    show,
)
from erpkit.cli.planning import print_or_apply, show_or_apply, this_command
from erpkit.cli.run import check_target, print_result
from erpkit.runs.history import RunRecord
from erpkit.runs.result import OUTCOMES

_AGO = re.compile(r"(\d+)([hdw])")
_HOURS = {"h": 1, "d": 24, "w": 168}


@click.group("runs", cls=Group, invoke_without_command=True)
@click.option("--notebook", metavar="NAME", help="Only runs of this notebook.")
@click.option("--tenant", metavar="SLUG", help="Only runs that name this tenant.")
@click.option("--outcome", type=click.Choice([*OUTCOMES, "running", "lost"]), help="Only runs that ended so.")
@click.option(
    "--since", metavar="TIME", help="Only runs that began since then: 12h, 3d, 2w, or a time such as 2026-01-31T08:00."
)
@limit_option(20)
@as_rows
@click.pass_context
def command(
    context: click.Context, notebook: str | None, tenant: str | None, outcome: str | None, since: str | None, limit: int,
    as_json: bool,
) -> int:  # fmt: skip
    """List the runs that `erpkit run` recorded, the newest first.

    `running` is a run that is under way; `lost` one whose process gave no sign of life for a minute. The runs of an ERP that erpkit
    only reads, and those of a login that may not write, are recorded in a file under ERPKIT_HOME, and listed, too.
    """
    if context.invoked_subcommand:
        return 0
    with erpkit.open() as erp:
        print_target(erp.target, quiet=as_json)
        history = erp.runs.history(
            notebook or "", tenant=tenant or "", outcome=outcome or "", since=_read_since(since), limit=limit
        )
    if as_json:
        print_json([asdict(run) for run in history.runs])
    else:
        show(history.table)
        _say_next(history.runs)
    return 0


def _say_next(runs: Sequence[RunRecord]) -> None:
    """Say how to see one of the runs in full: the newest that was not all well."""
    if runs and not is_for_programs():
        one = next((run for run in runs if run.outcome not in ("ok", "running")), runs[0])
        leave_gap()
        say("to see one in full, with what it found then:", hang=0)
        say(f"    erpkit runs show {one.id[:8]}", tone=COMMAND)


@command.command("show")
@click.argument("run")
@as_rows
def show_(run: str, as_json: bool) -> int:
    """Show one run in full: its parameters, facts and findings, and what was different from the run before.

    RUN is its id, or the beginning of it, as `erpkit runs` lists it.
    """
    with erpkit.open() as erp:
        print_target(erp.target, quiet=as_json)
        detail = erp.runs.show(run)
    if as_json:
        print_json(detail.document)
        return 0
    show(detail.table)
    for line in detail.changes.news if detail.changes else ():
        note(line)
    print_findings(detail.findings)
    if detail.findings and not is_for_programs():
        leave_gap()
        say("that was then; to look again:", hang=0)
        say(f"    erpkit runs rerun {detail.run.id[:8]}", tone=COMMAND)
    return 0


@command.command()
@click.argument("run")
@click.option("--output", default="runs", show_default=True, help="Folder or URL for output and report.")
@as_rows
def rerun(run: str, output: str, as_json: bool) -> int:
    """Run the notebook of a recorded run once more, with the same parameters.

    The exit code is that of `erpkit run`. A plan that was applied then is stale now, and is refused with exit code 2.
    """
    with erpkit.open() as erp:
        recorded = erp.runs.show(run).run
        check_target(erp, erp.runs.recorder(), list(recorded.tenants), quiet=as_json)
        result = erp.runs.rerun(recorded.id, output)
    print_result(result, as_json)
    return result.exit_code


@command.command()
@click.option("--days", type=click.IntRange(min=0), default=90, show_default=True, help="Only runs older than this.")
@click.option(
    "--keep",
    type=click.IntRange(min=0),
    default=1,
    show_default=True,
    help="Keep so many of each notebook and parameters.",
)
@confirm_option()
@as_rows
def prune(days: int, keep: int, confirm: str, as_json: bool) -> int:
    """Delete runs and their files by age and count; without --confirm, show which.

    A run goes if it is older than --days, and --keep newer ones of the same notebook with the same parameters ended; with
    `--days 0` only --keep counts. Its output and report go with it, if they are on this machine and still its own.
    """
    with erpkit.open() as erp:
        print_target(erp.target, quiet=as_json)
        plan = erp.runs.prune(days, keep)
        if not as_json:
            return show_or_apply(plan, confirm, this_command())
        return print_or_apply(
            plan, confirm, _plan_document, lambda done: {"id": confirm, **done.facts, "errors": done.failures}
        )


def _plan_document(plan: Any) -> dict[str, Any]:
    runs = [{"id": one.run.id, "notebook": one.run.notebook, "files": one.files, "left": one.left} for one in plan.old]
    return {"id": plan.id, "days": plan.days, "keep": plan.keep, "runs": runs}


def _read_since(text: str | None) -> datetime | None:
    """Return the time that `3d` or an ISO time means; without a zone it is UTC, as all times of runs are."""
    if text and (ago := _AGO.fullmatch(text)):
        return datetime.now(UTC) - timedelta(hours=int(ago[1]) * _HOURS[ago[2]])
    time = read_time("--since", text)
    return time.replace(tzinfo=UTC) if time and time.tzinfo is None else time
