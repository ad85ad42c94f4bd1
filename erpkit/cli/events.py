"""erpkit events: the log, dispatch, replay and dead letters."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import click

from erpkit.cli import dead_letters
from erpkit.cli.dispatching import dispatch_, lag
from erpkit.cli.output import as_json, open_database, print_json, print_table
from erpkit.config import Settings
from erpkit.database import Tenant
from erpkit.errors import UsageError
from erpkit.events import Selection, list_events, plan_replay, run_replay
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


@command.command()
@click.option("--tenant", "slugs", multiple=True, metavar="SLUG", help="Only this tenant; may be repeated.")
@click.option("--topic", default="*", show_default=True, help="Pattern of topics, such as billing.*")
@click.option("--from-offset", type=int, help="First offset in the log.")
@click.option("--to-offset", type=int, help="Last offset.")
@click.option("--since", help="Recorded at or after: 2026-01-31T08:00:00+00:00")
@click.option("--until", help="Recorded before.")
@click.option("--handler", "handlers", multiple=True, help="Only this handler; may be repeated.")
@click.option("--side-effects", multiple=True, metavar="HANDLER", help="Use this handler though it has side effects.")
@click.option("--confirm", default="", metavar="PLAN_ID", help="Apply the plan with this id; without it, show it.")
def replay(
    slugs: tuple[str, ...], topic: str, from_offset: int | None, to_offset: int | None, since: str | None, until: str | None,
    handlers: tuple[str, ...], side_effects: tuple[str, ...], confirm: str,
) -> int:  # fmt: skip
    """Hand events of the past to handlers once more."""
    registry = load_modules(Settings.from_env())
    selection = Selection(topic, from_offset, to_offset, _moment("--since", since), _moment("--until", until))
    with open_database() as database:
        with database.connection() as connection:
            found = find_tenants(connection, slugs)
            tenants = [tenant for tenant in found if tenant.is_active]
            plan = plan_replay(connection, tenants, registry, selection, handlers, side_effects)
        _tell_skipped(found)
        if not confirm:
            print_table(
                ["tenant", "topic", "handler", "events"], [(s.tenant, s.topic, s.handler, s.events) for s in plan.steps]
            )
            for name, reason in plan.left_out.items():
                click.echo(f"left out {name}: {reason}")
            click.echo(f"plan {plan.id}: {plan.event_count} events; dry run: to apply it, add --confirm {plan.id}")
            return 0
        run = run_replay(database, registry, plan, confirm)
    click.echo(
        f"replay {run.replay_id}: {run.handled} handled, {len(run.failures)} failed, {run.resolved} dead letters resolved"
    )
    for failure in run.failures:
        click.echo(f"! {failure.tenant}: {failure.handler} failed on offset {failure.offset}: {failure.error}")
    return 3 if run.failures else 0


def _tell_skipped(tenants: Sequence[Tenant]) -> None:
    for tenant in tenants:
        if not tenant.is_active:
            click.echo(f"skipped {tenant.slug}: {tenant.status}")


def _moment(option: str, text: str | None) -> datetime | None:
    try:
        return datetime.fromisoformat(text) if text else None
    except ValueError:
        raise UsageError(f"{option} {text!r} is no time: write it as 2026-01-31T08:00:00+00:00") from None


command.add_command(dead_letters.command)
command.add_command(dispatch_)
command.add_command(lag)
