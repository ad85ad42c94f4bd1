"""Showing a plan, or applying it where its id was confirmed: the same for every command that writes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from erpkit.cli.output import print_findings, print_json, say, say_script, show
from erpkit.finding import exit_code
from erpkit.plan import Plan, Shown, Work
from erpkit.ui.progress import progress_bar

__all__ = ["THE_SAME", "apply_plan", "print_or_apply", "show_or_apply", "show_result"]

THE_SAME = "the same command with"  # as `again`, of a command whose options choose much


def show_or_apply(plan: Plan[Any, Any], confirm: str, again: str) -> int:
    """Print a plan with the command that applies it, `again` with its id; with `confirm`, apply it and print what became of it.

    Return the exit code.
    """
    if confirm:
        return show_result(apply_plan(plan, confirm))
    _show(plan.record)
    hint = f"dry run: nothing was changed; to apply it: {again} --confirm {plan.id}"
    say(f"plan {plan.id}: {plan.record}; {hint if plan.record.size else 'there is nothing to do'}")
    return exit_code(plan.record.findings)


def print_or_apply(
    plan: Plan[Any, Any], confirm: str, planned: Callable[[Any], object], done: Callable[[Any], object]
) -> int:
    """Do the same, and print JSON: what `planned` makes of the plan's record, or `done` of the result."""
    result = apply_plan(plan, confirm) if confirm else plan.record
    print_json((done if confirm else planned)(result))
    return exit_code(result.findings)


def apply_plan(plan: Plan[Any, Any], confirm: str) -> Any:
    """Apply a plan, with a progress bar where a person watches; return the result."""
    with progress_bar(plan.record.size, plan.unit) as advance:
        return plan.apply(confirm, Work(advance))


def show_result(result: Shown) -> int:
    """Print what became of a plan; return the exit code."""
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
