"""erpkit tenants inspect: all tenants in one table, one in depth, and how they grew."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import click

import erpkit
from erpkit.cli.output import as_json, print_findings, print_json, print_target, say, show
from erpkit.finding import exit_code
from erpkit.table import Column, Table
from erpkit.tenants import FleetInspection, TenantDetail, TenantInspection


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
    with erpkit.open() as erp:
        print_target(erp.target, quiet=as_json)
        if len(slugs) == 1 and not as_json and len(erp.find(slugs)) == 1:
            detail = erp.tenants[slugs[0]].inspect(since=since or "")
            fleet = FleetInspection(erp.target, (detail.inspection,), detail.now, detail.before)
        else:
            detail, fleet = None, erp.tenants.inspect(slugs, since=since or "", exact=len(slugs) == 1 or None)
    if as_json:
        print_json(fleet.document)
    else:
        _print_fleet(fleet, detail)
        print_findings(fleet.findings)
    return exit_code(fleet.findings)


def _print_fleet(fleet: FleetInspection, detail: TenantDetail | None) -> None:
    show(_narrow(fleet.table, has_event_log=fleet.has_event_log))
    if fleet.before:
        _print_since(fleet)
    if fleet.note:
        say(fleet.note)
    if detail is not None:
        show(detail.table)
        for line in detail.notes:
            say(line)


def _narrow(table: Table[TenantInspection], *, has_event_log: bool) -> Table[TenantInspection]:
    """Leave out what a terminal has no room for, and add what waits."""
    more = _WAITING if has_event_log else ()
    kept = [column for column in table.columns if column.name not in ("schema", "last event")]
    return Table([*kept, *more], table.rows, table.empty)


_WAITING = (
    Column[TenantInspection]("backlog", lambda i: sum(i.backlog.values())),
    Column[TenantInspection]("dead rows", lambda i: i.dead_rows),
)


def _print_since(fleet: FleetInspection) -> None:
    assert fleet.before is not None
    growths = fleet.growths.values()
    elapsed = fleet.now.taken_at - fleet.before.taken_at
    known = [one for one in growths if one.before]
    size, rows = sum(one.size or 0 for one in known) / 2**20, sum(one.rows or 0 for one in known)
    say(f"growth since {fleet.before.taken_at:%Y-%m-%d %H:%M %Z} ({_words(elapsed)}): {size:+,.2f} MiB, {rows:+,} rows")
    if not all(one.is_exact for one in growths):
        say("~ a figure then or now is PostgreSQL's estimate")
    if len(known) < len(growths):
        say(f"– {len(growths) - len(known)} of {len(growths)} tenants are not in the earlier inspection")


def _words(elapsed: timedelta) -> str:
    minutes = elapsed.total_seconds() / 60
    if minutes < 120:
        return f"{minutes:.0f} minutes" if minutes >= 2 else "just now"
    return f"{minutes / 60:.0f} hours" if minutes < 48 * 60 else f"{minutes / 1440:.0f} days"
