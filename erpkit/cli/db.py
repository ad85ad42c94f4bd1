"""erpkit db: the embedded server."""

from __future__ import annotations

import click

import erpkit
from erpkit.cli.helping import Group
from erpkit.cli.output import as_json, print_json, say
from erpkit.embedded import EmbeddedServer


@click.group("db", cls=Group)
def command() -> None:
    """Start, stop and look at the embedded PostgreSQL server, which is used where no database is configured."""


def _server() -> EmbeddedServer:
    return EmbeddedServer(erpkit.open().settings.home)


@command.command()
def start() -> None:
    """Start the server, making its data folder the first time; it runs until it is stopped."""
    server = _server()
    started = server.start()
    say(f"embedded server {'started' if started else 'was running'}: {server.url()}")


@command.command()
def stop() -> None:
    """Stop the server; its data are kept."""
    say(f"embedded server {'stopped' if _server().stop() else 'was not running'}")


@command.command()
@as_json
def status(as_json: bool) -> int:
    """Tell whether the server runs, and where its data are; exit code 3 if it does not run."""
    server = _server()
    running = server.is_running()
    if as_json:
        print_json({"running": running, "data": server.data, "url": server.url()})
    else:
        say(f"embedded server {'runs' if running else 'does not run'}; data in {server.data}")
        if not erpkit.open().settings.is_embedded:
            say("it is not used: a database is configured")
    return 0 if running else 3


@command.command()
def url() -> None:
    """Print the server's connection URL; it has no password."""
    say(_server().url())
