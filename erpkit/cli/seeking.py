"""erpkit events seek: moving the checkpoint of a handler."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime

import click

from erpkit.cli.helping import Command
from erpkit.cli.output import as_rows, confirm_option, open_erp, read_time, tenants_option
from erpkit.cli.planning import print_or_apply, show_or_apply, this_command
from erpkit.errors import UsageError
from erpkit.events.seek import SeekPlan, SeekRun, Target

_OTHERS = "beginning, now, removed, an offset"
_WORDS: dict[str, Target] = {"beginning": "beginning", "now": "now", "removed": "removed"}


@click.command("seek", cls=Command)
@click.argument("handler")
@click.option(
    "--to",
    required=True,
    metavar="WHERE",
    help="Where to: beginning, now, the offset of the first event to handle, a time with its zone, or removed.",
)
@tenants_option()
@confirm_option()
@as_rows
def command(handler: str, to: str, slugs: tuple[str, ...], confirm: str, as_json: bool) -> int:
    """Move the checkpoint of a handler, and end its pause, also where it stays at the same place.

    Forward it passes events over, which are never handled. Backward it handles those that it has not handled yet; to handle others
    again, replay them. With --to removed a handler that no module has any more holds no events back from pruning. Without --confirm
    the plan is shown and nothing is changed.
    """
    with open_erp(quiet=as_json, own="event log") as erp:
        plan = erp.events.seek(handler, _target(to), slugs)
        if as_json:
            return print_or_apply(plan, confirm, _document, _done)
        return show_or_apply(plan, confirm, this_command())


def _target(text: str) -> Target:
    if text in _WORDS:
        return _WORDS[text]
    if text.isascii() and text.isdigit():
        return int(text)
    found: datetime | None = read_time("--to", text, _OTHERS)
    if found is None:
        raise UsageError(f"--to is empty: write {_OTHERS}, or a time as 2026-01-31T08:00:00+00:00")
    return found


def _document(plan: SeekPlan) -> dict[str, object]:
    return {
        "plan": plan.id, "handler": plan.group.name, "to": plan.to, "tenants": [asdict(one) for one in plan.steps],
        "errors": dict(plan.errors),
    }  # fmt: skip


def _done(run: SeekRun) -> dict[str, object]:
    return {"plan": run.plan.id, "moved": list(run.moved), "failures": dict(run.failures)}
