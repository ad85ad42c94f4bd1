"""erpkit db: the embedded server."""

from __future__ import annotations

import click

import erpkit
from erpkit.cli.helping import Group
from erpkit.cli.output import as_rows, as_table, note, print_json, say_script, show_done
from erpkit.embedded import EmbeddedServer


@click.group("db", cls=Group)
def command() -> None:
    """Start, stop and look at the embedded PostgreSQL server, which is used where no database is configured."""


def _server() -> EmbeddedServer:
    return EmbeddedServer(erpkit.open().settings.home)


@command.command()
@as_table
def start() -> None:
    """Start the server, making its data folder the first time; it runs until it is stopped."""
    server = _server()
    started = server.start()
    _tell(server, "started" if started else "was running", server.url())


@command.command()
@as_table
def stop() -> None:
    """Stop the server; its data are kept."""
    server = _server()
    _tell(server, "stopped" if server.stop() else "was not running")


@command.command()
@as_rows
def status(as_json: bool) -> int:
    """Tell whether the server runs, and where its data are; exit code 3 if it does not run."""
    server = _server()
    running = server.is_running()
    if as_json:
        print_json({"running": running, "data": server.data, "url": server.url()})
    else:
        _tell(server, "runs" if running else "does not run", f"data in {server.data}")
        if not erpkit.open().settings.is_embedded:
            note("it is not used: a database is configured")
    return 0 if running else 3


def _tell(server: EmbeddedServer, state: str, more: str = "") -> None:
    told = f"embedded server {state}{':' if '://' in more else ';' if more else ''} {more}".rstrip()
    show_done(told, {"state": state, "url": server.url(), "data": str(server.data)})


@command.command()
def url() -> None:
    """Print the server's connection URL; it has no password."""
    say_script(_server().url())
