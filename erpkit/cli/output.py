"""What commands share: their options, opening the ERP, and printing tables, findings or JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from operator import itemgetter
from typing import Any

import click

import erpkit
from erpkit.cli.say import say as say
from erpkit.cli.say import say_script as say_script
from erpkit.cli.say import say_text as say_text
from erpkit.erp import Erp
from erpkit.errors import UsageError
from erpkit.finding import Finding, group_findings, marked
from erpkit.table import Column, Table

_Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

as_json: _Decorator = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def tenants_option(help: str = "Only this tenant; may be repeated.") -> _Decorator:
    """Take `--tenant` any number of times, as `slugs`; a pattern such as `a*` stands for several tenants."""
    return click.option("--tenant", "slugs", multiple=True, metavar="SLUG", help=help)


def confirm_option(help: str = "Apply the plan with this id; without it, show it.") -> _Decorator:
    """Take the id of a plan, as `confirm`; "" without it."""
    return click.option("--confirm", default="", metavar="PLAN_ID", help=help)


def limit_option(default: int, help: str = "How many, the newest first.", *, most: int | None = None) -> _Decorator:
    """Take a number of lines from 1, as `limit`."""
    return click.option("--limit", type=click.IntRange(1, most), default=default, show_default=True, help=help)


def read_time(option: str, text: str | None) -> datetime | None:
    """Return the time that an option was given in ISO 8601; raises UsageError, naming the option, for any other text."""
    try:
        return datetime.fromisoformat(text) if text else None
    except ValueError:
        raise UsageError(f"{option} {text!r} is not a time: write it as 2026-01-31T08:00:00+00:00") from None


@contextmanager
def open_erp(*, quiet: bool = False, own: str = "") -> Iterator[Erp]:
    """Open the configured ERP and name it on the first line (on standard error where the output is for machines).

    Raises UsageError, before anything else, where the ERP is one that erpkit only reads, and has no `own` of erpkit's.
    """
    with erpkit.open() as erp:
        if own:
            erp.own(own)
        print_target(erp.target, quiet=quiet)
        yield erp


def print_target(target: str, *, quiet: bool = False) -> None:
    """Print what the command works on."""
    say(f"target: {target}", err=quiet)


def print_errors(errors: Mapping[str, str], *, quiet: bool = False) -> None:
    """Name the tenants that could not be read, with the reason (on standard error where the output is for machines)."""
    for slug, reason in errors.items():
        say(f"! {slug}: {reason}", err=quiet)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print rows under the names of their columns."""
    show(Table([Column(name, itemgetter(number)) for number, name in enumerate(columns)], rows))


def show(table: Table[Any]) -> None:
    """Print a table that fits the terminal; in a pipe it is as wide as needed, so that each row is one line."""
    from rich.console import Console  # noqa: PLC0415 - slow to import
    from rich.measure import Measurement  # noqa: PLC0415

    if sys.stdout.isatty():
        Console().print(table, crop=False)
        return
    drawn = table.rich()
    endless = Console().options.update(width=1_000_000)
    console = Console(width=max(200, Measurement.get(Console(), endless, drawn).maximum))
    console.print(drawn, crop=False)


def print_findings(findings: Sequence[Finding], *, quiet: bool = False) -> None:
    """Print findings by cause, the gravest first, each with the command that helps (`quiet`: on standard error)."""
    for cause in group_findings(findings):
        say(marked(cause), err=quiet)
        if cause.remedy:
            say(f"    {cause.remedy}", err=quiet)


def print_json(value: object, *, indent: int | None = 2) -> None:
    """Print JSON; times and uuids become text."""
    # JSON leaves DEL as it is; every other character that acts is not ASCII, or a control character that it escapes.
    say_text(json.dumps(value, default=str, indent=indent).replace("\x7f", "\\u007f"))
