"""Printing: the only place that writes text from elsewhere to a terminal."""

from __future__ import annotations

import sys

import click

from erpkit.visible import visible


def say(text: object = "", *, err: bool = False) -> None:
    r"""Print one line; whatever in it would act on a terminal, or begin another line, is shown as `\x1b` or `\n`."""
    say_text(visible(text), err=err)


def say_text(text: str, *, err: bool = False) -> None:
    """Print a text of several lines, such as a script, with what would act on a terminal shown."""
    click.echo(visible(text, keep="\n\t"), err=err)  # noqa: TID251 - the one place


def say_script(text: str) -> None:
    """Print what another program may read: exactly as it is in a pipe, and as `say_text` on a terminal."""
    if sys.stdout.isatty():
        say_text(text)
    else:
        click.echo(text, color=True)  # noqa: TID251 - color: nothing is stripped
