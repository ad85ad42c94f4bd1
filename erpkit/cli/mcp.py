"""erpkit mcp: the modules' tools for AI assistants."""

from __future__ import annotations

import threading
from typing import Any

import click

from erpkit.app import compose
from erpkit.app.extras import import_optional
from erpkit.cli.output import as_json, print_json, print_table, print_target, say
from erpkit.cli.serve import behind_lines, exit_at_sigterm
from erpkit.config import Settings
from erpkit.errors import UsageError


@click.command("mcp")
@click.option("--allow-writes", is_flag=True, help="Offer the tools that change something, too.")
@click.option("--tenant", "slugs", multiple=True, metavar="SLUG", help="Serve only this tenant; may be repeated.")
@click.option("--list", "only_list", is_flag=True, help="Show the tools instead of serving them.")
@as_json
def command(allow_writes: bool, slugs: tuple[str, ...], only_list: bool, as_json: bool) -> None:
    """Offer the modules' tools to an AI assistant over the Model Context Protocol, on standard input and output.

    Each call names a tenant and works in a transaction of it, which only reads unless --allow-writes is given and the tool
    says that it writes.
    """
    tools = import_optional("erpkit.app.tools", "mcp")
    exit_at_sigterm()
    with compose(Settings.from_env()) as application:
        print_target(application.database.target, quiet=as_json or not only_list)
        if unknown := [slug for slug in slugs if application.find_tenant(slug) is None]:
            raise UsageError(f"there is no tenant {unknown[0]!r}")
        server = tools.build(application, allow_writes=allow_writes, tenants=slugs)
        if only_list:
            offered = {name: tool for name, tool in application.tools.items() if allow_writes or not tool.writes}
            rows = [(name, "writes" if t.writes else "reads", _first_line(t.function)) for name, t in offered.items()]
            if as_json:
                print_json([dict(zip(("tool", "access", "what"), row, strict=True)) for row in rows])
            else:
                print_table(["tool", "access", "what it does"], rows)
            return
        for line in behind_lines(application):
            say(f"! {line}", err=True)
        _serve(server)


def _serve(server: Any) -> None:
    """Serve until standard input ends, or SIGTERM.

    In a thread: the one that waits for standard input cannot be interrupted, and this one must go on to stop the modules.
    """
    failed: list[BaseException] = []

    def run() -> None:
        try:
            server.run("stdio")
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run, name="erpkit-mcp", daemon=True)
    thread.start()
    thread.join()
    for error in failed:
        raise error


def _first_line(function: object) -> str:
    return (function.__doc__ or "").strip().partition("\n")[0]
