"""erpkit events: the log, dispatch, replay and dead letters."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import click

from erpkit.cli.brokers import dispatch_from_broker, forward_, nats
from erpkit.cli.output import as_json, open_database, print_json, print_table
from erpkit.config import Settings
from erpkit.database import Tenant
from erpkit.errors import UsageError
from erpkit.events import Selection, dispatch, list_dead_letters, list_events, plan_replay, run_replay
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
@click.option("--from-broker", is_flag=True, help="Take events from the broker (ERPKIT_BROKER) until SIGTERM.")
@click.option("--once", is_flag=True, help="With --from-broker: end when nothing came for five seconds.")
def dispatch_(slugs: tuple[str, ...], from_broker: bool, once: bool) -> int:
    """Hand events that are not handled yet to their handlers; exit code 3 if some became dead letters."""
    if from_broker:
        if slugs:
            raise UsageError("--from-broker takes the events of all tenants: leave out --tenant")
        return dispatch_from_broker(once=once)
    registry = load_modules(Settings.from_env())
    with open_database() as database:
        with database.connection() as connection:
            tenants = find_tenants(connection, slugs)
        results = [dispatch(database, tenant, registry) for tenant in tenants if tenant.is_active]
    print_table(["tenant", "handled", "dead"], [(r.tenant, r.handled, r.dead) for r in results])
    _tell_skipped(tenants)
    return 3 if any(r.dead for r in results) else 0


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


def _moment(option: str, text: str | None) -> datetime | None:
    try:
        return datetime.fromisoformat(text) if text else None
    except ValueError:
        raise UsageError(f"{option} {text!r} is no time: write it as 2026-01-31T08:00:00+00:00") from None


command.add_command(forward_)
command.add_command(nats)
