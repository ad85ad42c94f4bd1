"""Showing a plan, or applying it where its id was confirmed: the same for every command that writes."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from typing import Any

import click
from click.core import ParameterSource

from erpkit.cli.output import (
    COMMAND,
    is_for_programs,
    leave_gap,
    note,
    print_findings,
    print_json,
    say,
    say_script,
    show,
    shown_as,
    whole_table,
)
from erpkit.cli.say import end_waiting
from erpkit.finding import exit_code
from erpkit.plan import Plan, Shown, Work
from erpkit.ui.progress import progress_bar


def show_or_apply(plan: Plan[Any, Any], confirm: str, again: str) -> int:
    """Print a plan with the command that applies it, `again` with its id; with `confirm`, apply it and print the result.

    Return the exit code. As JSON, it is the plan's id, whether it was applied, its rows and its findings.
    """
    if shown_as() == "json":
        return print_or_apply(plan, confirm, partial(_document, plan.id, False), partial(_document, plan.id, True))
    if not confirm:
        _show(plan.record)
        say_plan(plan, again)
        return exit_code(plan.record.findings)
    return show_result(apply_plan(plan, confirm))


def show_result(result: Shown) -> int:
    """Print the result of a plan; return the exit code."""
    _show(result)
    leave_gap()
    note(str(result))
    return exit_code(result.findings)


def print_or_apply(
    plan: Plan[Any, Any], confirm: str, planned: Callable[[Any], object], done: Callable[[Any], object]
) -> int:
    """Print JSON: what `planned` makes of a plan's record; with `confirm`, apply it and print what `done` makes of the result."""
    result = apply_plan(plan, confirm) if confirm else plan.record
    print_json((done if confirm else planned)(result))
    return exit_code(result.findings)


def _document(id: str, applied: bool, shown: Shown) -> dict[str, object]:
    return {
        "plan": id,
        "applied": applied,
        "rows": whole_table(shown).records(),
        "findings": [asdict(one) for one in shown.findings],
    }


def say_plan(plan: Plan[Any, Any], again: str) -> None:
    """Print a plan's id and size, with the command that applies it."""
    leave_gap()
    if not plan.record.size:
        note(f"plan {plan.id}: there is nothing to do", tone="" if exit_code(plan.record.findings) else "green")
        return
    note(f"plan {plan.id}: {plan.record}")
    note("dry run: nothing was changed; to apply it:")
    say(f"    {again} --confirm {plan.id}", err=is_for_programs(), tone=COMMAND)


def apply_plan(plan: Plan[Any, Any], confirm: str) -> Any:
    """Apply a plan and return its result; draw the progress in a terminal."""
    end_waiting()
    with progress_bar(plan.record.size, plan.unit) as advance:
        return plan.apply(confirm, Work(advance))


def _show(result: Shown) -> None:
    """Print the tables of a plan or result; of one that consists of SQL the script, which can be pasted.

    A program gets the first table alone.
    """
    if is_for_programs():
        show(whole_table(result))
    elif script := getattr(result, "script", ""):
        say_script(script)
    else:
        for table in result.tables:
            show(table)
    print_findings(result.findings)


def this_command() -> str:
    """Return the command line of the running command, ready to paste with more options."""
    context = click.get_current_context()
    return shlex.join(["erpkit", *context.command_path.split()[1:], *_given(context)])


def _given(context: click.Context) -> Iterator[str]:
    """Yield the arguments and options that were given, without a confirmed id and the output format."""
    for parameter in context.command.params:
        name = parameter.name or ""
        value = context.params.get(name)
        if (
            name in ("confirm", "as_json", "show_sql", "shown_as")
            or context.get_parameter_source(name) != ParameterSource.COMMANDLINE
        ):
            continue
        option = [max(parameter.opts, key=len)] if isinstance(parameter, click.Option) else []
        if value is True:
            yield from option
        elif value is not False:
            for one in value if isinstance(value, tuple) else (value,):
                yield from [*option, str(one)]
