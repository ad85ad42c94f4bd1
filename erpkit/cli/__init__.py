"""The command line: argument parsing and printing only. One file per group of commands, loaded when it is used."""

from __future__ import annotations

import gc
import io
import sys
import traceback
from importlib import import_module
from typing import NoReturn

import click

from erpkit import __version__
from erpkit.cli.say import say, say_text
from erpkit.errors import ErpkitError, first_line

__all__ = ["main"]

_COMMANDS = {
    "demo": ("demo", "The whole kit on sample data, from nothing."),
    "doctor": (
        "doctor",
        "What any database is to erpkit: its tenants, who lists and migrates them, and what to do next.",
    ),
    "lab": ("lab", "JupyterLab on the notebooks."),
    "db": ("db", "The embedded server."),
    "run": ("run", "Run a notebook headlessly, once or for each tenant."),
    "runs": ("runs", "The record of runs: what ran, what changed, running it again."),
    "kernels": ("kernels", "The warm processes that kernels and runs are forked from."),
    "tenants": ("tenants", "The tenants: their state, their life from creation to removal, drift."),
    "migrate": ("migrate", "The migrations of all tenants, planned and run."),
    "modules": ("modules", "The modules of the ERP, and how they depend on each other."),
    "queries": ("queries", "The typed queries of the modules."),
    "serve": ("serve", "The modules' routes over HTTP, each request inside a tenant's transaction."),
    "mcp": ("serve:mcp", "The modules' tools for AI assistants, over the Model Context Protocol."),
    "events": ("events", "The event log of each tenant, its handlers, and what they failed on."),
}


class _Lazy(click.Group):
    """Imports a command's file only when that command is called, so that --help is quick."""

    def list_commands(self, context: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in _COMMANDS:
            return None
        file, _, attribute = _COMMANDS[name][0].partition(":")
        command: click.Command = getattr(import_module(f"erpkit.cli.{file}"), attribute or "command")
        return command

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in _COMMANDS.items()])


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="erpkit")
def erpkit() -> None:
    """Operate an ERP that keeps each tenant in a PostgreSQL schema of its own.

    The database is ERPKIT_DATABASE, else libpq's PG* variables, else an embedded server under ERPKIT_HOME.
    Exit codes: 0 fine, 1 failed, 2 bad usage (nothing was started), 3 it ran and found a problem, 124 timed out,
    130 interrupted, 137 killed.
    """


def main() -> NoReturn:
    """Run the command line, `erpkit run` in a fork of the warm process where there is one: it has all imported that a run needs."""
    if sys.argv[1:2] == ["run"] and sys.platform == "linux":
        from erpkit.kernels.link import call  # noqa: PLC0415 - for this command alone
        from erpkit.kernels.place import NoWarmKernelError  # noqa: PLC0415

        try:
            sys.exit(call("erpkit.cli:run_here", sys.argv[1:]))
        except NoWarmKernelError as reason:
            if not reason.is_expected:
                say(f"note: a cold start: {reason}", err=True)
    run_here()


def run_here() -> NoReturn:
    """Run the command line in this process; print an error of erpkit in one line, without a traceback."""
    # What is imported stays: looking through it again and again takes a tenth of a short command.
    gc.set_threshold(50_000, 20, 20)
    try:
        code = erpkit.main(standalone_mode=False)
    except click.ClickException as error:
        said = io.StringIO()
        error.show(said)
        say_text(said.getvalue().rstrip("\n"), err=True)
        sys.exit(error.exit_code)
    except click.Abort:
        say("interrupted", err=True)
        sys.exit(130)
    except ErpkitError as error:
        say(f"erpkit: {error}", err=True)
        sys.exit(error.exit_code)
    except Exception as error:
        if not _is_database_error(error):
            say_text(
                traceback.format_exc().rstrip("\n"), err=True
            )  # as Python shows it, which sends on what is in a message
            sys.exit(1)
        say(f"erpkit: the database said: {'; '.join([first_line(error), *getattr(error, '__notes__', [])])}", err=True)
        sys.exit(1)
    sys.exit(code if isinstance(code, int) else 0)


def _is_database_error(error: Exception) -> bool:
    psycopg = sys.modules.get("psycopg")  # where it was not imported it raised nothing
    return psycopg is not None and isinstance(error, psycopg.Error)
