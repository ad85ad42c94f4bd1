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
from erpkit.cli.helping import Group
from erpkit.cli.say import end_waiting, say, say_text
from erpkit.errors import ErpkitError, first_line

__all__ = ["main"]

_COMMANDS = {
    "demo": ("demo", "Show the whole kit on sample data, from nothing."),
    "doctor": ("doctor", "Tell what any database is to erpkit, and what to do next."),
    "lab": ("lab", "Open JupyterLab on the notebooks."),
    "run": ("run", "Run a notebook headlessly, once or for each tenant."),
    "runs": ("runs", "List the runs that were recorded, show what changed, and run one again."),
    "kernels": ("kernels", "Look at the warm processes that kernels and runs are forked from, and stop them."),
    "tenants": ("tenants", "Look at the tenants, and lead them from creation to removal."),
    "migrate": ("migrate", "Plan and run the migrations of all tenants."),
    "modules": ("modules", "Check how the modules of the ERP depend on each other."),
    "queries": ("queries", "Generate typed code from the modules' SQL, and check it in each tenant."),
    "events": ("events", "Look at the event log of each tenant, and have its events handled, again if need be."),
    "serve": ("serve", "Serve the modules' routes over HTTP, each request inside a tenant's transaction."),
    "mcp": ("serve:mcp", "Offer the modules' tools to AI assistants, over the Model Context Protocol."),
    "db": ("db", "Start, stop and look at the embedded server."),
    "completion": ("completion", "Print the script that completes commands and options in your shell."),
}


class _Lazy(Group):
    """Imports a command's file only when that command is called, so that --help is quick."""

    def list_commands(self, context: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in _COMMANDS:
            return None
        file, _, attribute = _COMMANDS[name][0].partition(":")
        command: click.Command = getattr(import_module(f"erpkit.cli.{file}"), attribute or "command")
        return command

    def sentence(self, context: click.Context, name: str) -> str:
        return _COMMANDS[name][1]


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
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
        say(f"erpkit: {error}", err=True, tone="red")
        sys.exit(error.exit_code)
    except Exception as error:
        if not _is_database_error(error):
            say_text(
                traceback.format_exc().rstrip("\n"), err=True
            )  # as Python shows it, which sends on what is in a message
            sys.exit(1)
        said_by_server = "; ".join([first_line(error), *getattr(error, "__notes__", [])])
        say(f"erpkit: the database said: {said_by_server}", err=True, tone="red")
        sys.exit(1)
    finally:
        end_waiting()
    sys.exit(code if isinstance(code, int) else 0)


def _is_database_error(error: Exception) -> bool:
    psycopg = sys.modules.get("psycopg")  # where it was not imported it raised nothing
    return psycopg is not None and isinstance(error, psycopg.Error)
