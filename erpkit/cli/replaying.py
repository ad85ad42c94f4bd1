"""erpkit events replay: events of the past to handlers, a broker, a file or a shadow; and what became of earlier replays."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import click

from erpkit.cli.output import as_json, open_database, print_errors, print_json, print_table, say
from erpkit.cli.replay_output import (
    bar,
    show_diff,
    show_plan,
    show_records,
    show_results,
    show_run,
    show_shadows,
    show_topics,
)
from erpkit.config import Settings
from erpkit.database import Database, Tenant, note_failure
from erpkit.errors import PlanChangedError, UsageError
from erpkit.events import (
    ReplayRequest,
    ReplayResult,
    RunOptions,
    Selection,
    WatermillTopic,
    build_shadow,
    diff_shadow,
    drop_shadow,
    export_events,
    find_shadow,
    import_events,
    inspect_watermill,
    list_replay_results,
    list_replays,
    list_shadows,
    plan_import,
    plan_request,
    run_request,
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
@click.option(
    "--to", "target", metavar="TARGET", help="broker, broker:SUBJECT (publish them), or file:PATH (JSON lines)."
)
@click.option("--again", is_flag=True, help="With --to broker: also what it has already, under other message ids.")
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
    rate: float | None, resumed: UUID | None, target: str | None, again: bool, source: str | None, from_watermill: bool,
    shadow: bool, resume_shadow: bool, swap: bool, confirm: str, as_json: bool,
) -> int:  # fmt: skip
    """Hand events of the past to handlers once more, or elsewhere; Ctrl-C ends it after the batch in hand."""
    if sum(map(bool, (resumed, target, source, from_watermill, shadow or swap))) > 1:
        raise UsageError("--resume, --to, --from, --watermill and --shadow or --swap exclude one another")
    if resume_shadow and not shadow:
        raise UsageError("--resume-shadow goes with --shadow")
    settings = Settings.from_env()
    registry = load_modules(settings)
    if not (target or source):
        registry.check_handlers()
    moments = (_moment("--since", since), _moment("--until", until))
    selection = Selection(topic, from_offset, to_offset, *moments, uuids, correlation_id)
    if target and target.partition(":")[0] not in {"broker", "file"}:
        raise UsageError(f"--to {target!r} is no target: write broker, broker:SUBJECT or file:PATH")
    is_file = (target or "").startswith("file:")
    send_to = "" if is_file else target or ""
    resume = str(resumed or "")
    request = ReplayRequest(selection, handlers, side_effects, send_to, again, from_watermill, resume)
    with open_database(quiet=as_json) as database:
        tenants = _active(database, slugs, as_json)
        if is_file:
            return _export(database, tenants, selection, _path("--to", target or ""), as_json)
        if source:
            tenant = _one("--from", "--tenant", tenants)
            return _import(database, registry, tenant, _path("--from", source), confirm, as_json)
        if shadow or swap:
            tenant = _one("--shadow", "--tenant", tenants)
            handler = _one("--shadow", "--handler", handlers)
            return _shadow(database, registry, tenant, handler, confirm if swap else None, resume_shadow, rate, as_json)
        plan = plan_request(database, registry, tenants, request, settings)
        if not confirm:
            return show_plan(plan, as_json)
        PlanChangedError.check(confirm, plan.id)
        with bar(plan.event_count) as progress:
            run = run_request(database, registry, plan, settings, RunOptions(progress, rate=rate))
    return show_run(run, plan, as_json)


@click.command()
@_tenants
@click.option("--results", "of", type=click.UUID, metavar="REPLAY_ID", help="What became of each event of this one.")
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="With --results: of each tenant.")
@as_json
def replays(slugs: tuple[str, ...], of: UUID | None, limit: int, as_json: bool) -> int:
    """List earlier replays: who asked, what came of them, and which can be resumed; or the events of one, failures first."""
    with open_database(quiet=as_json) as database:
        with database.connection() as connection:
            tenants = find_tenants(connection, slugs)
            errors: dict[str, str] = {}
            records = list_replays(connection, tenants, of, errors)
        print_errors(errors, quiet=True)
        if of is None:
            show_records(records, errors, as_json)
            return 3 if errors else 0
        if not records and not errors:
            raise UsageError(f"no tenant knows a replay {of}: see `erpkit events replays`")
        results: dict[str, list[ReplayResult]] = {}
        for tenant in (tenant for tenant in tenants if tenant.slug in {record.tenant for record in records}):
            with database.tenant_transaction(tenant) as connection:
                results[tenant.slug] = list_replay_results(connection, of, limit)
    show_results(results, as_json)
    return 3 if errors else 0


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
    show_shadows(found, as_json)


@click.command()
@_tenants
@as_json
def watermill(slugs: tuple[str, ...], as_json: bool) -> int:
    """List the topics in Watermill's own tables, with the lag of each consumer group."""
    errors: dict[str, str] = {}
    topics: list[WatermillTopic] = []
    with open_database(quiet=as_json) as database:
        for tenant in _active(database, slugs, as_json):
            with note_failure(tenant, errors):
                topics += inspect_watermill(database, tenant)
    show_topics(topics, as_json)
    print_errors(errors, quiet=as_json)
    return 3 if errors else 0


def _export(database: Database, tenants: Sequence[Tenant], selection: Selection, path: Path, as_json: bool) -> int:
    written = export_events(database, tenants, selection, path)
    if as_json:
        print_json({"path": path, "events": written.events})
    else:
        say(f"{path}: {written.event_count} events of {len(written.events)} tenant(s)")
    return 0


def _import(database: Database, registry: Registry, tenant: Tenant, path: Path, confirm: str, as_json: bool) -> int:
    plan = plan_import(database, registry, tenant, path)
    if confirm:
        with bar(plan.event_count + plan.known) as progress:
            count = import_events(database, registry, plan, confirm, progress)
        if as_json:
            print_json({"plan": plan.id, "appended": count})
        else:
            say(f"{count} events appended to the log of {tenant.slug}")
        return 0
    if as_json:
        print_json({"plan": plan.id, "events": plan.event_count, "new": plan.new, "known": plan.known})
        return 0
    print_table(["topic", "new events"], sorted(plan.new.items()))
    say(f"{plan.known} are in the log of {tenant.slug} already; the new ones will be dispatched to all handlers")
    say(f"plan {plan.id}: {plan.event_count} events; dry run: to apply it, add --confirm {plan.id}")
    return 0


def _shadow(
    database: Database, registry: Registry, tenant: Tenant, handler: str, confirm: str | None, resume: bool,
    rate: float | None, as_json: bool,
) -> int:  # fmt: skip
    if confirm:
        diff = swap_shadow(database, registry, find_shadow(database, registry, tenant, handler), confirm)
        say(f"swapped: {diff.count} rows of {tenant.slug} written or deleted", err=as_json)
        return 0
    if confirm is None:
        shadow = build_shadow(database, registry, tenant, handler, RunOptions(rate=rate, resume=resume))
        if not shadow.is_complete:
            say(f"stopped after {shadow.events} events: to go on, add --resume-shadow", err=True)
            return 130
    else:
        shadow = find_shadow(database, registry, tenant, handler)
    return show_diff(diff_shadow(database, registry, shadow), as_json)


def _active(database: Database, slugs: Sequence[str], quiet: bool) -> list[Tenant]:
    with database.connection() as connection:
        found = find_tenants(connection, slugs)
    for tenant in found:
        if not tenant.is_active:
            say(f"skipped {tenant.slug}: {tenant.status}", err=quiet)
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


def _moment(option: str, text: str | None) -> datetime | None:
    try:
        return datetime.fromisoformat(text) if text else None
    except ValueError:
        raise UsageError(f"{option} {text!r} is no time: write it as 2026-01-31T08:00:00+00:00") from None
