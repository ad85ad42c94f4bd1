"""erpkit serve: the modules' routes over HTTP."""

from __future__ import annotations

import sys

import click

import erpkit
from erpkit.app import Application
from erpkit.app.application import import_optional
from erpkit.app.http import check_domain
from erpkit.cli.options import as_json
from erpkit.cli.output import print_json, print_target, say
from erpkit.errors import UsageError
from erpkit.events import WorkerReport
from erpkit.signals import exit_at_sigterm


@click.command("serve")
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0 takes a free one.")
@click.option("--domain", help="Take the tenant from the host: acme.DOMAIN is acme. X-Tenant works as well.")
@click.option("--migrate", is_flag=True, help="Apply pending migrations first; without it, tenants behind are named.")
@click.option("--dispatch", is_flag=True, help="Hand events to their handlers, too: for a laptop.")
@as_json
def command(host: str, port: int, domain: str | None, migrate: bool, dispatch: bool, as_json: bool) -> None:
    """Serve the modules' routes, each request inside a transaction of its tenant, until SIGTERM or Ctrl-C.

    The tenant is named by the header X-Tenant, or by the host with --domain. Who may ask for which tenant is not checked here:
    put a proxy that authenticates in front of it.
    """
    http, server = import_optional("erpkit.app.http", "http"), import_optional("erpkit.app.http", "http")
    domain = check_domain(domain) if domain is not None else None
    exit_at_sigterm()
    with (
        server.listen(host, port) as listening,  # before anything is changed
        erpkit.open() as erp,
        erp.compose(migrate=migrate, dispatch=dispatch, on_report=_tell) as application,
    ):
        if not application.routes:
            raise UsageError("no module has routes: see `Module(routes=…)` in the README")
        asgi = http.build(application, domain)
        _show(application, server.url_of(listening, host), as_json)
        server.serve(asgi, listening)
    say("stopped", err=as_json)


def _show(application: Application, url: str, as_json: bool) -> None:
    print_target(application.database.target, quiet=as_json)
    if as_json:
        print_json({"url": url, "modules": list(application.routes), "behind": application.behind})
    else:
        say(f"{url}: {', '.join(f'/{name}' for name in application.routes)}, /health, /docs")
        for line in behind_lines(application):
            say(f"! {line}")
    sys.stdout.flush()


def behind_lines(application: Application) -> list[str]:
    """Return what to say of tenants that lack migrations."""
    behind = application.behind
    if not behind:
        return []
    names = ", ".join(behind[:5]) + (", …" if len(behind) > 5 else "")
    return [f"{len(behind)} behind on migrations ({names}): `erpkit migrate plan` tells"]


def _tell(report: WorkerReport) -> None:
    for line in report.news:
        say(f"dispatch: {line}", err=True)
