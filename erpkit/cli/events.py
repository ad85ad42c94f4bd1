"""erpkit events: the log, dispatch, replay and dead letters."""

from __future__ import annotations

import click

from erpkit.cli import brokers, dead_letters, replaying
from erpkit.cli.dispatching import dispatch_, lag
from erpkit.cli.output import as_json, open_database, print_json, print_table, say
from erpkit.config import Settings
from erpkit.database import IMPATIENT
from erpkit.events import list_events
from erpkit.events.log import name_log_behind
from erpkit.tenants import find_tenants


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
            (found,) = find_tenants(connection, [tenant], Settings.from_env().tenants_query)
        with name_log_behind(found), database.tenant_transaction(found) as connection:
            connection.execute(IMPATIENT)
            events = list_events(connection, limit)
    if as_json:
        print_json(
            [{"offset": e.offset, "uuid": e.uuid, "topic": e.topic, "recorded_at": e.recorded_at} for e in events]
        )
    elif not events:
        say("the log is empty")
    else:
        print_table(
            ["offset", "topic", "recorded", "uuid"],
            [(e.offset, e.topic, f"{e.recorded_at:%Y-%m-%d %H:%M:%S}", e.uuid) for e in events],
        )


command.add_command(dead_letters.command)
command.add_command(dispatch_)
command.add_command(lag)
command.add_command(replaying.replay)
command.add_command(replaying.replays)
command.add_command(replaying.shadows)
command.add_command(replaying.watermill)
command.add_command(brokers.forward_)
command.add_command(brokers.nats)
