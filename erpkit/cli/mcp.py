"""erpkit mcp: the modules' tools for AI assistants."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import click

import erpkit
from erpkit.app.application import import_optional
from erpkit.cli.options import as_json, tenants_option
from erpkit.cli.output import print_json, print_target, say, show
from erpkit.cli.serve import behind_lines
from erpkit.errors import UsageError
from erpkit.modules import Tool
from erpkit.signals import exit_at_sigterm
from erpkit.table import Column, Table


@click.command("mcp")
@click.option("--allow-writes", is_flag=True, help="Offer the tools that change something, too.")
@tenants_option("Serve only this tenant; may be repeated.")
@click.option("--list", "only_list", is_flag=True, help="Show the tools instead of serving them.")
@as_json
def command(allow_writes: bool, slugs: tuple[str, ...], only_list: bool, as_json: bool) -> None:
    """Offer the modules' tools to an AI assistant over the Model Context Protocol, on standard input and output.

    Each call names a tenant and works in a transaction of it, which only reads unless --allow-writes is given and the tool
    says that it writes.
    """
    tools = import_optional("erpkit.app.tools", "mcp")
    exit_at_sigterm()
    with erpkit.open() as erp:
        print_target(erp.target, quiet=as_json or not only_list)
        if only_list and not erp.modules:
            _list({}, as_json)
            return
        with erp.compose() as application:
            if unknown := [slug for slug in slugs if application.find_tenant(slug) is None]:
                raise UsageError(f"there is no tenant {unknown[0]!r}")
            server = tools.build(application, allow_writes=allow_writes, tenants=slugs)
            if only_list:
                _list(application.tools, as_json, allow_writes=allow_writes)
                return
            for line in behind_lines(application):
                say(f"! {line}", err=True)
            _serve(server)


def _list(tools: Mapping[str, Tool], as_json: bool, *, allow_writes: bool = False) -> None:
    offered = [(name, tool) for name, tool in tools.items() if allow_writes or not tool.writes]
    if as_json:
        print_json([{"tool": name, "access": _access(tool), "what": _what(tool)} for name, tool in offered])
        return
    writing = "No tool only reads: --allow-writes offers those that write."
    show(Table(_COLUMNS, offered, writing if tools else "No module offers a tool: see Module(tools=…) in the README."))


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


def _access(tool: Tool) -> str:
    return "writes" if tool.writes else "reads"


def _what(tool: Tool) -> str:
    return (tool.function.__doc__ or "").strip().partition("\n")[0]


_COLUMNS = (
    Column[tuple[str, Tool]]("tool", lambda row: row[0]),
    Column[tuple[str, Tool]]("access", lambda row: _access(row[1])),
    Column[tuple[str, Tool]]("what it does", lambda row: _what(row[1])),
)
