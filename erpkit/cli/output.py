"""What commands share: opening the database, and printing tables or JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import click

from erpkit.config import Settings
from erpkit.database import Database
from erpkit.finding import Finding, group_findings
from erpkit.table import Table

__all__ = [
    "as_json",
    "open_database",
    "print_errors",
    "print_findings",
    "print_json",
    "print_table",
    "print_target",
    "show",
]

as_json: Callable[[Callable[..., Any]], Callable[..., Any]] = click.option(
    "--json", "as_json", is_flag=True, help="Print JSON."
)


@contextmanager
def open_database(*, quiet: bool = False) -> Iterator[Database]:
    """Open the configured database and name it on the first line (on standard error where the output is for machines)."""
    with Database.open(Settings.from_env()) as database:
        print_target(database.target, quiet=quiet)
        yield database


def print_target(target: str, *, quiet: bool = False) -> None:
    """Name what is about to be worked on."""
    click.echo(f"target: {target}", err=quiet)


def print_errors(errors: Mapping[str, str], *, quiet: bool = False) -> None:
    """Name the tenants that could not be read, with the reason (on standard error where the output is for machines)."""
    for slug, reason in errors.items():
        click.echo(f"! {slug}: {reason}", err=quiet)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table that fits the terminal; in a pipe it is as wide as it needs to be."""
    from rich.box import SIMPLE_HEAD  # noqa: PLC0415 - slow to import
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table(*columns, box=SIMPLE_HEAD, pad_edge=False)
    for row in rows:
        table.add_row(*(Text(str(value)) for value in row))
    Console(width=None if sys.stdout.isatty() else 200).print(table)


def show(table: Table[Any]) -> None:
    """Print a table that fits the terminal; in a pipe it is as wide as it needs to be."""
    from rich.console import Console  # noqa: PLC0415 - slow to import

    Console(width=None if sys.stdout.isatty() else 200).print(table)


def print_findings(findings: Sequence[Finding]) -> None:
    """Print findings by cause, the gravest first, each with the command that helps."""
    for cause in group_findings(findings):
        click.echo(f"{'-' if cause.severity == 'info' else '!'} {cause}")
        if cause.remedy:
            click.echo(f"    {cause.remedy}")


def print_json(value: object) -> None:
    """Print JSON; times and uuids become text."""
    click.echo(json.dumps(value, default=str, indent=2))
