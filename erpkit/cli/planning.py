"""Showing a plan, or applying it where its id was confirmed: the same for every command that writes."""

from __future__ import annotations

from typing import Any

from erpkit.cli.output import print_findings, say, say_script, show
from erpkit.finding import exit_code
from erpkit.plan import Plan, Shown, Work
from erpkit.ui.progress import progress_bar

__all__ = ["show_or_apply"]


def show_or_apply(plan: Plan[Any, Any], confirm: str, again: str) -> int:
    """Print a plan with the command that applies it, `again` with its id; with `confirm`, apply it and print what became of it.

    Return the exit code.
    """
    if not confirm:
        _show(plan.record)
        hint = f"dry run: nothing was changed; to apply it: {again} --confirm {plan.id}"
        say(f"plan {plan.id}: {plan.record}; {hint if plan.record.size else 'there is nothing to do'}")
        return exit_code(plan.record.findings)
    with progress_bar(plan.record.size, plan.unit) as advance:
        result = plan.apply(confirm, Work(advance))
    _show(result)
    say(str(result))
    return exit_code(result.findings)


def _show(result: Shown) -> None:
    """Print the tables of a plan or result; of one that consists of SQL the script, which can be pasted."""
    if script := getattr(result, "script", ""):
        say_script(script)
    else:
        for table in result.tables:
            show(table)
    print_findings(result.findings)
