"""What commands share: opening the database, and printing tables or JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import click

from erpkit.cli.say import say, say_script, say_text
from erpkit.config import Settings
from erpkit.database import Database
from erpkit.visible import visible

__all__ = ["as_json", "open_database", "print_json", "print_table", "print_target", "say", "say_script", "say_text"]

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
    say(f"target: {target}", err=quiet)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table that fits the terminal; in a pipe it is as wide as it needs to be, so that a row is a line."""
    from rich.box import SIMPLE_HEAD  # noqa: PLC0415 - slow to import
    from rich.console import Console  # noqa: PLC0415
    from rich.measure import Measurement  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in columns:
        table.add_column(Text(visible(name)))
    for row in rows:
        table.add_row(*(Text(visible(value)) for value in row))
    console = Console()
    if not sys.stdout.isatty():
        endless = console.options.update(width=1_000_000)
        console = Console(width=max(200, Measurement.get(console, endless, table).maximum))
    console.print(table)


def print_json(value: object, *, indent: int | None = 2) -> None:
    """Print JSON; times and uuids become text."""
    # JSON leaves DEL as it is; every other character that acts is not ASCII, or a control character that it escapes.
    say_text(json.dumps(value, default=str, indent=indent).replace("\x7f", "\\u007f"))
