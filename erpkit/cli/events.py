"""erpkit events: the log, dispatch, replay and dead letters."""

from __future__ import annotations

import click

from erpkit.cli import brokers, dead_letters, dispatching, replaying
from erpkit.cli.output import as_json, open_erp, print_json, show


@click.group("events")
def command() -> None:
    """Each tenant's event log."""


@command.command("list")
@click.argument("tenant")
@click.option("--limit", type=click.IntRange(1, 10_000), default=20, show_default=True)
@as_json
def list_(tenant: str, limit: int, as_json: bool) -> None:
    """List a tenant's newest events, without their payloads."""
    with open_erp(quiet=as_json, own="event log") as erp:
        events = erp.events.list(tenant, limit)
    if as_json:
        print_json(
            [{"offset": e.offset, "uuid": e.uuid, "topic": e.topic, "recorded_at": e.recorded_at} for e in events.rows]
        )
    else:
        show(events)


command.add_command(dead_letters.command)
command.add_command(dispatching.dispatch_)
command.add_command(dispatching.lag)
command.add_command(replaying.replay)
command.add_command(replaying.replays)
command.add_command(replaying.shadows)
command.add_command(replaying.watermill)
command.add_command(brokers.forward_)
command.add_command(brokers.nats)
