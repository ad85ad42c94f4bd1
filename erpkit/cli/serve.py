"""erpkit serve: the modules' routes over HTTP; and erpkit mcp: their tools for AI assistants."""

from __future__ import annotations

import sys
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import click

import erpkit
from erpkit.app import Application
from erpkit.app.application import import_optional
from erpkit.app.http import check_domain
from erpkit.cli.helping import Command
from erpkit.cli.output import as_rows, note, print_json, print_target, say, show, show_done, tenants_option, tone_of
from erpkit.cli.say import end_waiting
from erpkit.errors import UsageError
from erpkit.events import WorkerReport
from erpkit.near import did_you_mean
from erpkit.plural import count_of
from erpkit.signals import exit_at_sigterm
from erpkit.table import Column, Table


@click.command("serve", cls=Command)
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8000,
    show_default=True,
    help="The port; 0 takes a free one.",
)
@click.option("--domain", help="Take the tenant from the host: acme.DOMAIN is acme. X-Tenant works as well.")
@click.option("--migrate", is_flag=True, help="Apply pending migrations first; without it, tenants behind are named.")
@click.option("--dispatch", is_flag=True, help="Hand events to their handlers, too: for a laptop.")
@as_rows
def command(host: str, port: int, domain: str | None, migrate: bool, dispatch: bool, as_json: bool) -> None:
    """Serve the modules' routes, each request inside a transaction of its tenant, until SIGTERM or Ctrl-C.

    The tenant is named by the header X-Tenant, or by the host with --domain. Who may ask for which tenant is not checked here:
    put a proxy that authenticates in front of it.
    """
    http = import_optional("erpkit.app.http", "http")
    domain = check_domain(domain) if domain is not None else None
    exit_at_sigterm()
    with (
        http.listen(host, port) as listening,  # before anything is changed
        erpkit.open() as erp,
        erp.compose(migrate=migrate, dispatch=dispatch, on_report=_tell) as application,
    ):
        if not application.routes:
            raise UsageError("no module has routes: see `Module(routes=…)` in the notebook guide/own_erp")
        asgi = http.build(application, domain)
        _show(application, http.url_of(listening, host), as_json)
        http.serve(asgi, listening)
    note("stopped")


def _show(application: Application, url: str, as_json: bool) -> None:
    print_target(application.database.target, quiet=as_json)
    if as_json:
        print_json({"url": url, "modules": list(application.routes), "behind": application.behind})
    else:
        routes = [{"module": name, "url": f"{url}/{name}"} for name in application.routes]
        show_done(f"{url}: {', '.join(f'/{name}' for name in application.routes)}, /health, /docs", *routes)
        for line in behind_lines(application):
            note(f"! {line}", tone=tone_of("warning"))
    sys.stdout.flush()


def behind_lines(application: Application) -> list[str]:
    """Return what to say of tenants that lack migrations."""
    behind = application.behind
    if not behind:
        return []
    names = ", ".join(behind[:5]) + (", …" if len(behind) > 5 else "")
    return [
        f"{count_of(len(behind), 'tenant is', 'tenants are')} behind on migrations ({names}): `erpkit migrate plan` tells"
    ]


def _tell(report: WorkerReport) -> None:
    for line in report.news:
        say(f"dispatch: {line}", err=True)


@click.command("mcp", cls=Command)
@click.option("--allow-writes", is_flag=True, help="Offer the tools that change something, too.")
@tenants_option("Serve only this tenant; may be repeated.")
@click.option("--list", "only_list", is_flag=True, help="Show the tools instead of serving them.")
@as_rows
def mcp(allow_writes: bool, slugs: tuple[str, ...], only_list: bool, as_json: bool) -> None:
    """Offer the modules' tools to an AI assistant over the Model Context Protocol, on standard input and output.

    Each call names a tenant and works in a transaction of it, which only reads unless --allow-writes is given and the tool
    says that it writes.
    """
    tools = import_optional("erpkit.app.tools", "mcp")
    exit_at_sigterm()
    with erpkit.open() as erp:
        print_target(erp.target, quiet=as_json or not only_list)
        if only_list and not erp.modules:
            _list([], as_json, offers=False)
            return
        with erp.compose() as application:
            if unknown := [slug for slug in slugs if application.find_tenant(slug) is None]:
                known = [tenant.slug for tenant in erp.find()]
                raise UsageError(f"there is no tenant {unknown[0]!r}; {did_you_mean(unknown[0], known, listed=8)}")
            if not only_list:
                application.database.name_login([one for one in application.list_tenants() if one.is_active])
            server = tools.build(application, allow_writes=allow_writes, tenants=slugs)
            if only_list:
                _list(_rows(server.offered), as_json, offers=bool(application.tools))
                return
            for line in (*behind_lines(application), *_undescribed(server.undescribed)):
                say(f"! {line}", err=True)
            end_waiting()
            _serve(server)


def _rows(offered: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return name, access and purpose of each tool; none if erpkit's own, which lists the tenants, would be alone."""
    rows = [
        (name, "reads" if tool.annotations.read_only_hint else "writes", tool.description.partition("\n")[0])
        for name, tool in offered.items()
    ]
    return rows if len(rows) > 1 else []


def _list(rows: Sequence[tuple[str, str, str]], as_json: bool, *, offers: bool) -> None:
    if as_json:
        print_json([{"tool": name, "access": access, "what": what} for name, access, what in rows])
        return
    writing = "No tool only reads: --allow-writes offers those that write."
    show(
        Table(
            _COLUMNS,
            rows,
            writing if offers else "No module offers a tool: see Module(tools=…) in the notebook guide/own_erp.",
        )
    )


def _undescribed(parameters: Sequence[str]) -> list[str]:
    """Return what to say of parameters of which an assistant learns the type only."""
    if not parameters:
        return []
    names = "; ".join(parameters[:5]) + ("; …" if len(parameters) > 5 else "")
    return [f'no description ({names}): write Annotated[TYPE, "what it is"], or an Args: section in the docstring']


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


_COLUMNS = (
    Column[tuple[str, str, str]]("tool", lambda row: row[0]),
    Column[tuple[str, str, str]]("access", lambda row: row[1]),
    Column[tuple[str, str, str]]("what it does", lambda row: row[2]),
)
