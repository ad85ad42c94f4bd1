"""erpkit completion: the script with which a shell completes commands, options and their values."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from erpkit.cli.helping import Command
from erpkit.cli.output import say_script


@click.command("completion", cls=Command)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def command(context: click.Context, shell: str) -> None:
    """Print the script that completes commands and options in your shell; load it where the shell starts."""
    made = get_completion_class(shell)
    assert made is not None  # click knows these three
    say_script(made(context.find_root().command, {}, "erpkit", "_ERPKIT_COMPLETE").source().rstrip("\n"))
