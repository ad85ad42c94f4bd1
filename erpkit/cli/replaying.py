"""erpkit events replay: events of the past to handlers, a file or a shadow; and what became of earlier replays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import click

from erpkit.cli.output import as_json, open_database, print_json, print_table
from erpkit.config import Settings
from erpkit.database import Database, Tenant
from erpkit.errors import UsageError
from erpkit.events import (
    ReplayPlan,
    ReplayRun,
    Selection,
    ShadowDiff,
    build_shadow,
    diff_shadow,
    drop_shadow,
    export_events,
    find_shadow,
    import_events,
    inspect_watermill,
    list_replays,
    list_shadows,
    plan_import,
    plan_replay,
    plan_resume,
    plan_watermill,
    replay_watermill,
    run_replay,
    swap_shadow,
)
from erpkit.modules import Registry, load_modules
from erpkit.tenants import find_tenants

__all__ = ["replay", "replays", "shadows", "watermill"]

_tenants = click.option("--tenant", "slugs", multiple=True, metavar="SLUG", help="Only this tenant; may be repeated.")


@click.command()
@_tenants
@click.option("--topic", default="*", show_default=True, help="Pattern of topics, such as billing.*")
@click.option("--from-offset", type=int, help="First offset in the log.")
@click.option("--to-offset", type=int, help="Last offset.")
@click.option("--since", help="Recorded at or after: 2026-01-31T08:00:00+00:00")
@click.option("--until", help="Recorded before.")
@click.option("--uuid", "uuids", multiple=True, type=click.UUID, help="Only this event; may be repeated.")
@click.option("--correlation-id", metavar="ID", help="Only what goes back to this command.")
@click.option("--handler", "handlers", multiple=True, help="Only this handler; may be repeated.")
@click.option("--side-effects", multiple=True, metavar="HANDLER", help="Use this handler though it has side effects.")
@click.option("--rate", type=click.FloatRange(0, min_open=True), help="Events per second at most.")
@click.option("--resume", "resumed", type=click.UUID, metavar="REPLAY_ID", help="Go on with a replay that was stopped.")
@click.option("--to", "target", metavar="file:PATH", help="Write the events to a file of JSON lines.")
@click.option("--from", "source", metavar="file:PATH", help="Append a file's events to the tenant's log.")
@click.option("--watermill", "from_watermill", is_flag=True, help="Read Watermill's own tables in place of the log.")
@click.option("--shadow", is_flag=True, help="Rebuild the handler's projection beside the live one, and compare.")
@click.option("--resume-shadow", is_flag=True, help="With --shadow: go on with one that was stopped.")
@click.option("--swap", is_flag=True, help="Put the shadow in the live projection's place.")
@click.option("--confirm", default="", metavar="PLAN_ID", help="Apply the plan with this id; without it, show it.")
@as_json
def replay(
    slugs: tuple[str, ...], topic: str, from_offset: int | None, to_offset: int | None, since: str | None, until: str | None,
    uuids: tuple[UUID, ...], correlation_id: str | None, handlers: tuple[str, ...], side_effects: tuple[str, ...],
    rate: float | None, resumed: UUID | None, target: str | None, source: str | None, from_watermill: bool, shadow: bool,
    resume_shadow: bool, swap: bool, confirm: str, as_json: bool,
) -> int:  # fmt: skip
    """Hand events of the past to handlers once more, or elsewhere; Ctrl-C ends it after the batch in hand."""
    if sum(map(bool, (resumed, target, source, from_watermill, shadow or swap))) > 1:
        raise UsageError("--resume, --to, --from, --watermill and --shadow or --swap exclude one another")
    registry = load_modules(Settings.from_env())
    if not (target or source):
        registry.check_handlers()
    moments = (_moment("--since", since), _moment("--until", until))
    selection = Selection(topic, from_offset, to_offset, *moments, uuids, correlation_id)
    with open_database(quiet=as_json) as database:
        tenants = _active(database, slugs, as_json)
        if target:
            return _export(database, tenants, selection, _path("--to", target), as_json)
        if source:
            return _import(database, registry, _one("--from", "--tenant", tenants), _path("--from", source), confirm)
        if from_watermill:
            tenant = _one("--watermill", "--tenant", tenants)
            source_plan = plan_watermill(database, registry, tenant, selection, handlers, side_effects)
            if not confirm:
                return _show_plan(source_plan.replay, as_json, source_plan.id)
            return _show_run(replay_watermill(database, registry, source_plan, confirm, rate=rate), as_json)
        if shadow or swap:
            tenant = _one("--shadow", "--tenant", tenants)
            handler = _one("--shadow", "--handler", handlers)
            return _shadow(database, registry, tenant, handler, confirm if swap else None, resume_shadow, rate, as_json)
        with database.connection() as connection:
            if resumed is not None:
                plan = plan_resume(connection, tenants, registry, resumed)
            else:
                plan = plan_replay(connection, tenants, registry, selection, handlers, side_effects)
        if not confirm:
            return _show_plan(plan, as_json)
        with _bar(plan.event_count) as progress:
            run = run_replay(database, registry, plan, confirm, progress, rate=rate)
    return _show_run(run, as_json)


@click.command()
@_tenants
@as_json
def replays(slugs: tuple[str, ...], as_json: bool) -> None:
    """List earlier replays: who asked, what came of them, and which can be resumed."""
    with open_database(quiet=as_json) as database, database.connection() as connection:
        records = list_replays(connection, find_tenants(connection, slugs))
    if as_json:
        print_json([asdict(record) for record in records])
        return
    print_table(
        ["tenant", "replay", "state", "handled", "failed", "planned", "by", "started"],
        [
            (
                r.tenant,
                r.replay_id,
                r.state,
                r.handled,
                r.failed,
                r.planned,
                r.requested_by,
                f"{r.started_at:%Y-%m-%d %H:%M}",
            )
            for r in records
        ],
    )


@click.command()
@click.option("--drop", metavar="SCHEMA", help="Drop this one.")
@as_json
def shadows(drop: str | None, as_json: bool) -> None:
    """List the shadows that stand in the database, those that a crash left behind too."""
    with open_database(quiet=as_json) as database:
        if drop:
            drop_shadow(database, drop)
        with database.connection() as connection:
            found = list_shadows(connection)
    if as_json:
        print_json([asdict(shadow) for shadow in found])
        return
    rows = [(s.schema, s.tenant, ", ".join(s.handlers), s.events, f"{s.started_at:%Y-%m-%d %H:%M}") for s in found]
    print_table(["schema", "tenant", "handlers", "events", "started"], rows)


@click.command()
@_tenants
@as_json
def watermill(slugs: tuple[str, ...], as_json: bool) -> None:
    """List the topics in Watermill's own tables, with the lag of each consumer group."""
    with open_database(quiet=as_json) as database:
        topics = [
            topic for tenant in _active(database, slugs, as_json) for topic in inspect_watermill(database, tenant)
        ]
    if as_json:
        print_json([asdict(topic) for topic in topics])
        return
    rows = [(t.tenant, t.topic, t.events, ", ".join(f"{g.name}: {g.lag}" for g in t.groups)) for t in topics]
    print_table(["tenant", "topic", "events", "waiting, by group"], rows)


def _show_plan(plan: ReplayPlan, as_json: bool, plan_id: str = "") -> int:
    plan_id = plan_id or plan.id
    if as_json:
        steps = [asdict(step) for step in plan.steps]
        facts = {
            "plan": plan.id,
            "events": plan.event_count,
            "side_effects": plan.side_effects,
            "left_out": plan.left_out,
        }
        print_json({**facts, "steps": steps})
        return 0
    print_table(
        ["tenant", "topic", "handler", "events", "offsets", "what it does"],
        [(s.tenant, s.topic, s.handler, s.events, f"{s.first_offset}–{s.last_offset}", s.does) for s in plan.steps],
    )
    for name, reason in plan.left_out.items():
        click.echo(f"left out {name}: {reason}")
    for name in plan.side_effects:
        click.echo(f"! {name} has side effects: {plan.handlers[name] or 'it does not say which'}")
    click.echo(f"plan {plan_id}: {plan.event_count} events; dry run: to apply it, add --confirm {plan_id}")
    return 0


def _show_run(run: ReplayRun, as_json: bool) -> int:
    if as_json:
        print_json(asdict(run))
    else:
        click.echo(
            f"replay {run.replay_id} {run.state}: {run.handled} handled, {run.failed} failed, "
            f"{run.resolved} dead letters resolved"
        )
        for failure in run.failures:
            click.echo(f"! {failure.tenant}: {failure.handler} failed on offset {failure.offset}: {failure.error}")
    if run.state == "cancelled" and run.plan_id.startswith("replay-"):
        click.echo(f"to go on: erpkit events replay --resume {run.replay_id} --confirm {run.plan_id}", err=True)
    if run.state == "cancelled":
        return 130
    return 3 if run.failed else 0


def _export(database: Database, tenants: Sequence[Tenant], selection: Selection, path: Path, as_json: bool) -> int:
    written = export_events(database, tenants, selection, path)
    if as_json:
        print_json({"path": path, "events": written.events})
    else:
        click.echo(f"{path}: {written.event_count} events of {len(written.events)} tenant(s)")
    return 0


def _import(database: Database, registry: Registry, tenant: Tenant, path: Path, confirm: str) -> int:
    plan = plan_import(database, registry, tenant, path)
    if confirm:
        with _bar(plan.event_count + plan.known) as progress:
            count = import_events(database, registry, plan, confirm, progress)
        click.echo(f"{count} events appended to the log of {tenant.slug}")
        return 0
    print_table(["topic", "new events"], sorted(plan.new.items()))
    click.echo(f"{plan.known} are in the log of {tenant.slug} already; the new ones will be dispatched to all handlers")
    click.echo(f"plan {plan.id}: {plan.event_count} events; dry run: to apply it, add --confirm {plan.id}")
    return 0


def _shadow(
    database: Database, registry: Registry, tenant: Tenant, handler: str, confirm: str | None, resume: bool,
    rate: float | None, as_json: bool,
) -> int:  # fmt: skip
    if confirm:
        diff = swap_shadow(database, registry, find_shadow(database, registry, tenant, handler), confirm)
        click.echo(f"swapped: {diff.count} rows of {tenant.slug} written or deleted", err=as_json)
        return 0
    if confirm is None:
        shadow = build_shadow(database, registry, tenant, handler, resume=resume, rate=rate)
        if not shadow.is_complete:
            click.echo(f"stopped after {shadow.events} events: to go on, add --resume-shadow", err=True)
            return 130
    else:
        shadow = find_shadow(database, registry, tenant, handler)
    return _show_diff(diff_shadow(database, registry, shadow), as_json)


def _show_diff(diff: ShadowDiff, as_json: bool) -> int:
    if as_json:
        print_json({"swap": diff.id, "shadow": diff.shadow.schema, "tables": [asdict(table) for table in diff.tables]})
        return 3 if diff.count else 0
    print_table(
        ["table", "live rows", "shadow rows", "only live", "only shadow", "differ"],
        [(t.table, t.live_rows, t.shadow_rows, t.only_live, t.only_shadow, t.differing) for t in diff.tables],
    )
    click.echo(f"{diff.shadow.events} events in {diff.shadow.schema}, {diff.shadow.failed} failed")
    click.echo(f"swap {diff.id}: {diff.count} rows; to apply it: --swap --confirm {diff.id}")
    return 3 if diff.count else 0


def _active(database: Database, slugs: Sequence[str], quiet: bool) -> list[Tenant]:
    with database.connection() as connection:
        found = find_tenants(connection, slugs)
    for tenant in found:
        if not tenant.is_active:
            click.echo(f"skipped {tenant.slug}: {tenant.status}", err=quiet)
    return [tenant for tenant in found if tenant.is_active]


def _one(what: str, option: str, values: Sequence[Any]) -> Any:
    if len(values) != 1:
        raise UsageError(f"{what} needs exactly one {option}, not {len(values)}")
    return values[0]


def _path(option: str, text: str) -> Path:
    kind, _, path = text.partition(":")
    if kind != "file" or not path:
        raise UsageError(f"{option} {text!r} is no file: write it as file:PATH")
    return Path(path)


def _bar(total: int) -> Any:
    from erpkit.ui.progress import progress_bar  # noqa: PLC0415 - slow to import

    return progress_bar(total, "events")


def _moment(option: str, text: str | None) -> datetime | None:
    try:
        return datetime.fromisoformat(text) if text else None
    except ValueError:
        raise UsageError(f"{option} {text!r} is no time: write it as 2026-01-31T08:00:00+00:00") from None
