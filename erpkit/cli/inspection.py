"""erpkit tenants inspect: all tenants in one table, one in depth, and how they grew."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import click

from erpkit.cli.output import as_json, open_database, print_json, print_table, say
from erpkit.config import Settings
from erpkit.events import handler_topics
from erpkit.migrations import read_migrations
from erpkit.modules import load_modules
from erpkit.tenants import (
    Growth,
    Snapshot,
    TenantDetail,
    TenantInspection,
    compare_snapshots,
    describe_inspections,
    find_tenants,
    inspect_tenant,
    inspect_tenants,
    read_snapshot,
    take_snapshot,
)

_Growths = Mapping[str, Growth]


@click.command()
@click.argument("slugs", nargs=-1)
@click.option(
    "--since", metavar="FILE", type=click.Path(path_type=Path), help="Show growth since what --json printed earlier."
)
@as_json
def inspect(slugs: tuple[str, ...], since: Path | None, as_json: bool) -> int:
    """Show the state of tenants, all without a name; exit code 3 if there is something to look at.

    For growth keep an inspection, `erpkit tenants inspect --json > monday.json`, and name it later: `--since monday.json`.
    """
    before = read_snapshot(since) if since is not None else None
    settings = Settings.from_env()
    registry = load_modules(settings)
    migrations = read_migrations(registry.modules, event_log=settings.tenants_query is None)
    topics = handler_topics(registry)
    detail: TenantDetail | None = None
    with open_database(quiet=as_json) as database, database.connection() as connection:
        compare_snapshots(before, take_snapshot([], database.target)) if before else None  # refused before the work
        tenants = find_tenants(connection, slugs, settings.tenants_query)
        if len(slugs) == 1:
            detail = inspect_tenant(connection, tenants[0], migrations, topics=topics)
            inspections = [detail.inspection]
        else:
            inspections = inspect_tenants(connection, tenants, migrations, topics=topics)
        now = take_snapshot(inspections, database.target)
    growth = compare_snapshots(before, now) if before else {}
    problems = [problem for i in inspections for problem in i.problems]
    if as_json:
        print_json(_document(inspections, now, before, growth))
        return 3 if problems else 0
    _print_fleet(inspections, growth)
    if before:
        _print_since(before, now, growth)
    if inspections and not inspections[0].is_exact:
        say("sizes, rows and events are PostgreSQL's estimates; name fewer tenants to have them counted")
    if detail is not None:
        _print_detail(detail, growth.get(detail.inspection.tenant.slug))
    for problem in problems:
        say(f"! {problem}")
    return 3 if problems else 0


def _document(
    inspections: Sequence[TenantInspection], now: Snapshot, before: Snapshot | None, growth: _Growths
) -> dict[str, Any]:
    document = describe_inspections(inspections, now)
    if before is None:
        return document
    tenants = [{**tenant, "growth": _grown(growth[tenant["slug"]])} for tenant in document["tenants"]]
    return document | {"since": before.taken_at.isoformat(timespec="seconds"), "tenants": tenants}


def _grown(growth: Growth) -> dict[str, Any]:
    tables = {table.name: {"size": table.size, "rows": table.rows} for table in growth.tables}
    return {"size": growth.size, "rows": growth.rows, "exact": growth.is_exact, "tables": tables}


def _print_fleet(inspections: Sequence[TenantInspection], growth: _Growths) -> None:
    columns = ["tenant", "status", "MiB", "rows", "events", "pending", "dead letters", "drift", "backlog", "dead rows"]
    more = ["+MiB", "+rows"] if growth else []
    rows = [
        (
            i.tenant.slug, i.tenant.status, f"{i.size / 2**20:,.2f}", f"{sum(i.rows.values()):,}",
            *(_signs(growth[i.tenant.slug], 2**20, ".2f") if growth else ()),
            f"{i.event_count:,}", i.pending, len(i.dead_letters), len(i.drift), f"{sum(i.backlog.values()):,}", f"{i.dead_rows:,}",
        )
        for i in inspections
    ]  # fmt: skip
    print_table([*columns[:4], *more, *columns[4:]], rows)


def _print_since(before: Snapshot, now: Snapshot, growth: _Growths) -> None:
    elapsed = now.taken_at - before.taken_at
    known = [one for one in growth.values() if one.before]
    total = sum(one.size or 0 for one in known) / 2**20, sum(one.rows or 0 for one in known)
    say(
        f"growth since {before.taken_at:%Y-%m-%d %H:%M %Z} ({_words(elapsed)}): {total[0]:+,.2f} MiB, {total[1]:+,} rows"
    )
    if not all(one.is_exact for one in growth.values()):
        say("~ a figure then or now is PostgreSQL's estimate")
    if len(known) < len(growth):
        say(f"– {len(growth) - len(known)} of {len(growth)} tenants are not in the earlier inspection")


def _print_detail(detail: TenantDetail, growth: Growth | None) -> None:
    i = detail.inspection
    grown = {table.name: table for table in growth.tables} if growth else {}
    tables = [
        (
            t.name, f"{t.rows:,}", f"{t.size / 1024:,.0f}", f"{t.index_size / 1024:,.0f}",
            *(_signs(grown[t.name], 1024, ".0f") if t.name in grown else ["–", "–"] if growth else []),
            f"{t.dead_rows:,}", f"{t.last_vacuum:%Y-%m-%d %H:%M}" if t.last_vacuum else "never",
        )
        for t in detail.tables
    ]  # fmt: skip
    more = ["+KiB", "+rows"] if growth else []
    print_table(["table", "rows", "KiB", "KiB of indexes", *more, "dead rows", "last vacuum"], tables)
    for table in growth.tables if growth else ():
        if table.before and table.now is None:
            say(f"- table {table.name} is gone, and with it {table.before.rows:,} rows")
    versions = ", ".join(f"{module} {version}" for module, version in i.versions.items())
    say(f"schema {i.tenant.schema}; versions {versions or 'not read' if i.unread else versions or 'none'}")
    if "last event" not in i.unread:
        say(f"last event {i.last_event:%Y-%m-%d %H:%M:%S %Z}" if i.last_event else "no events")
        say(f"events in the last seven days: {i.week_events or 0:,}")
    for handler, events in sorted(i.backlog.items()):
        say(f"- {events:,} event(s) wait for {handler}")
    for unused in i.unused_indexes:
        say(f"- index {unused.name} on {unused.table} was never used ({unused.size / 1024:,.0f} KiB)")
    for missing in i.missing_indexes:
        say(f"- an index seems to be missing on {missing}")


def _signs(growth: Growth, unit: int, form: str) -> tuple[str, str]:
    """Put growth in size and rows in words: `+1.25`, `~+1.25` where it is estimated, `–` where there is nothing to compare with."""
    if growth.size is None or growth.rows is None:
        return ("–", "–")
    about = "" if growth.is_exact else "~"
    return (f"{about}{growth.size / unit:+,{form}}", f"{about}{growth.rows:+,}")


def _words(elapsed: timedelta) -> str:
    minutes = elapsed.total_seconds() / 60
    if minutes < 120:
        return f"{minutes:.0f} minutes" if minutes >= 2 else "just now"
    return f"{minutes / 60:.0f} hours" if minutes < 48 * 60 else f"{minutes / 1440:.0f} days"
