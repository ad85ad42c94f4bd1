"""erpkit events: the log, dispatch, replay and dead letters."""

from __future__ import annotations

from collections.abc import Sequence

import click

from erpkit.cli import replaying
from erpkit.cli.output import as_json, open_database, print_json, print_table
from erpkit.config import Settings
from erpkit.database import Tenant
from erpkit.events import dispatch, list_dead_letters, list_events
from erpkit.modules import load_modules
from erpkit.tenants import find_tenants, get_tenant


@click.group("events")
def command() -> None:
    """Each tenant's event log."""


@command.command("list")
@click.argument("tenant")
@click.option("--limit", type=click.IntRange(1, 10_000), default=20, show_default=True)
@as_json
def list_(tenant: str, limit: int, as_json: bool) -> None:
    """List a tenant's newest events, without their payloads."""
    with open_database(quiet=as_json) as database:
        with database.connection() as connection:
            found = get_tenant(connection, tenant)
        with database.tenant_transaction(found) as connection:
            events = list_events(connection, limit)
    if as_json:
        print_json(
            [{"offset": e.offset, "uuid": e.uuid, "topic": e.topic, "recorded_at": e.recorded_at} for e in events]
        )
    else:
        print_table(
            ["offset", "topic", "recorded", "uuid"],
            [(e.offset, e.topic, f"{e.recorded_at:%Y-%m-%d %H:%M:%S}", e.uuid) for e in events],
        )


@command.command("dispatch")
@click.option("--tenant", "slugs", multiple=True, metavar="SLUG", help="Only this tenant; may be repeated.")
def dispatch_(slugs: tuple[str, ...]) -> int:
    """Hand events that are not handled yet to their handlers; exit code 3 if some became dead letters."""
    registry = load_modules(Settings.from_env())
    with open_database() as database:
        with database.connection() as connection:
            tenants = find_tenants(connection, slugs)
        results = [dispatch(database, tenant, registry) for tenant in tenants if tenant.is_active]
    print_table(["tenant", "handled", "dead"], [(r.tenant, r.handled, r.dead) for r in results])
    _tell_skipped(tenants)
    return 3 if any(r.dead for r in results) else 0


@command.group("dead-letters")
def dead_letters() -> None:
    """Events that a handler failed on."""


@dead_letters.command("list")
@click.option("--tenant", "slugs", multiple=True, metavar="SLUG", help="Only this tenant; may be repeated.")
@as_json
def list_dead(slugs: tuple[str, ...], as_json: bool) -> int:
    """List open dead letters; exit code 3 if there are any."""
    with open_database(quiet=as_json) as database, database.connection() as connection:
        letters = list_dead_letters(connection, find_tenants(connection, slugs))
    if as_json:
        print_json(
            [
                {"tenant": d.tenant, "offset": d.offset, "topic": d.topic, "handler": d.handler, "error": d.error}
                for d in letters
            ]
        )
    else:
        print_table(
            ["tenant", "offset", "topic", "handler", "error"],
            [(d.tenant, d.offset, d.topic, d.handler, d.error) for d in letters],
        )
    return 3 if letters else 0


def _tell_skipped(tenants: Sequence[Tenant]) -> None:
    for tenant in tenants:
        if not tenant.is_active:
            click.echo(f"skipped {tenant.slug}: {tenant.status}")


command.add_command(replaying.replay)
command.add_command(replaying.replays)
command.add_command(replaying.shadows)
command.add_command(replaying.watermill)
