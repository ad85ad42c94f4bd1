"""erpkit tenants: the registry, a tenant's life from creation to removal, and inspecting."""

from __future__ import annotations

from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Literal

import click

import erpkit
from erpkit.cli.helping import Group
from erpkit.cli.output import (
    as_rows,
    as_table,
    confirm_option,
    is_for_programs,
    note,
    print_findings,
    print_json,
    print_target,
    print_verdict,
    say_script,
    show,
    show_done,
    shown_as,
    tone_of,
)
from erpkit.cli.planning import show_or_apply, this_command
from erpkit.database import Tenant
from erpkit.finding import exit_code
from erpkit.plan import Plan
from erpkit.plural import count_of, part_of
from erpkit.table import Column, Table
from erpkit.tenants import (
    FleetInspection,
    Manifest,
    MovedTenant,
    RepairPlan,
    RepairRun,
    RestorePlan,
    RestoreRun,
    TenantDetail,
    TenantInspection,
    read_manifest,
)
from erpkit.tenants.fleet import BACKLOG
from erpkit.tenants.registry import check_slug
from erpkit.tenants.repair import Risk


@click.group("tenants", cls=Group)
def command() -> None:
    """Look at the tenants, each a schema and a role, and lead them from creation to removal."""


@command.command("list")
@as_rows
def list_(as_json: bool) -> None:
    """List all tenants."""
    with erpkit.open() as erp:
        print_target(erp.target, quiet=as_json)
        table = erp.tenants.table
    if as_json:
        print_json([{"slug": t.slug, "name": t.name, "schema": t.schema, "status": t.status} for t in table.rows])
    else:
        show(table)


@command.command()
@click.argument("slug")
@click.option("--name", default="", help="Name for people.")
@as_table
def create(slug: str, name: str) -> int:
    """Create a tenant: schema, role and all migrations, or nothing."""
    check_slug(slug)
    with erpkit.open() as erp:
        print_target(erp.target)
        plan = erp.tenants.create(slug, name)
        made = plan.apply(plan.id)
    tenant = made.tenant
    told = f"created {tenant.slug}: schema {tenant.schema}, role {tenant.role}, {count_of(len(plan.migrations), 'migration')}"
    show_done(told, _row(tenant))
    print_findings(made.findings)
    return exit_code(made.findings)


@command.command()
@click.argument("slugs", nargs=-1)
@click.option("--against", default="", metavar="SLUG", help="Compare with this tenant instead.")
@click.option("--ddl", is_flag=True, help="Print the DDL that would undo the differences.")
@as_rows
def drift(slugs: tuple[str, ...], against: str, ddl: bool, as_json: bool) -> int:
    """Compare schemas with _template, all without a name; exit code 3 if there is a difference. It changes nothing.

    Where there is no _template, in a database that erpkit did not make, they are compared with what most tenants have.
    """
    with erpkit.open() as erp:
        print_target(erp.target, quiet=as_json or ddl)
        found = erp.tenants.drift(slugs, against)
    if as_json:
        print_json(
            [
                {
                    "tenant": slug, "kind": one.kind, "object": one.object, "change": one.change,
                    "canonical": one.canonical, "actual": one.actual, "ddl": one.ddl, "against": found.measure,
                }
                for slug, one in found.table.rows
            ]
        )  # fmt: skip
    elif ddl:
        say_script(found.script)
    else:
        if is_for_programs():
            show(found.table)
        print_findings(found.findings)
        note(str(found))
    return exit_code(found.findings)


def _row(tenant: Tenant) -> dict[str, object]:
    return {
        "tenant": tenant.slug, "name": tenant.name, "status": tenant.status, "schema": tenant.schema, "role": tenant.role
    }  # fmt: skip


@command.command()
@click.argument("slug")
@as_table
def suspend(slug: str) -> None:
    """Leave a tenant out of what is done to the fleet."""
    _set_status("suspend", slug)


@command.command()
@click.argument("slug")
@as_table
def activate(slug: str) -> None:
    """Take a tenant back into what is done to the fleet."""
    _set_status("activate", slug)


@command.command()
@click.argument("slug")
@as_table
def archive(slug: str) -> None:
    """Keep a tenant for reading only, and out of what is done to the fleet, until it is activated."""
    _set_status("archive", slug)


def _set_status(verb: Literal["suspend", "activate", "archive"], slug: str) -> None:
    with erpkit.open() as erp:
        print_target(erp.target)
        verbs = {"suspend": erp.tenants.suspend, "activate": erp.tenants.activate, "archive": erp.tenants.archive}
        tenant = verbs[verb](slug)
    show_done(f"{tenant.slug} is {tenant.status}", _row(tenant))


@command.command()
@click.argument("slug")
@click.argument("new_slug")
@click.option("--name", help="New name for people; without it the name stays.")
@as_table
def rename(slug: str, new_slug: str, name: str | None) -> int:
    """Give a tenant another slug, and with it another schema and role; exit code 3 if a text still names the old one."""
    check_slug(new_slug)
    with erpkit.open() as erp:
        print_target(erp.target)
        moved = erp.tenants.rename(slug, new_slug, name)
    tenant = moved.tenant
    show_done(f"renamed {slug} to {tenant.slug}: schema {tenant.schema}, role {tenant.role}", _row(tenant))
    return _print_mentions(moved)


@command.command()
@click.argument("slug")
@confirm_option("Drop what the plan with this id shows.")
@as_table
def drop(slug: str, confirm: str) -> int:
    """Drop a tenant that is suspended or archived; without --confirm, show what would be lost."""
    with erpkit.open() as erp:
        print_target(erp.target)
        return show_or_apply(erp.tenants.drop(slug), confirm, f"erpkit tenants drop {slug}")


@command.command("hand-over")
@confirm_option("Run the statements of the plan with this id.")
@as_table
def hand_over_(confirm: str) -> int:
    """Give what this login made before to all operators of the database; without --confirm, print the statements.

    Exit code 3 if something is left: another login's, which runs the same command, or what could not be locked.
    """
    with erpkit.open() as erp:
        print_target(erp.target)
        return show_or_apply(erp.tenants.hand_over(), confirm, "erpkit tenants hand-over")


@command.command()
@click.option("--query", default="", metavar="SQL", help="Lists the schemas; without it ERPKIT_TENANTS_QUERY does.")
@click.option("--events", is_flag=True, help="Make the event log's tables in each schema, too.")
@confirm_option("Adopt what the plan with this id shows.")
@as_table
def adopt(query: str, events: bool, confirm: str) -> int:
    """Make the schemas of an ERP tenants of erpkit's, at the migration versions that they are at; without --confirm, show the plan.

    Entries, roles and grants are added; tables, rows, owners and versions stay as they are. Exit code 3 if a schema is left out.
    """
    with erpkit.open() as erp:
        print_target(erp.target)
        return show_or_apply(erp.tenants.adopt(query, events=events), confirm, this_command())


@command.command()
@click.argument("slugs", nargs=-1)
@click.option("--with-events", is_flag=True, help="Drop the event log's tables even where they hold rows.")
@confirm_option("Release what the plan with this id shows.")
@as_table
def release(slugs: tuple[str, ...], with_events: bool, confirm: str) -> int:
    """Give adopted tenants back, all without a name: entries, roles, grants and event tables go; schemas and data stay.

    Without --confirm, show the plan. Exit code 3 if a tenant is left out.
    """
    with erpkit.open() as erp:
        print_target(erp.target)
        return show_or_apply(erp.tenants.release(slugs, with_events=with_events), confirm, this_command())


@command.command("export")
@click.argument("slug")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@as_table
def export(slug: str, file: Path) -> int:
    """Write a tenant to one file: a dump of its schema, and a manifest; exit code 3 if something of it is not in the file."""
    with erpkit.open() as erp:
        print_target(erp.target)
        manifest = erp.tenants.export(slug, file)
    tables, rows = len(manifest.rows), manifest.row_count
    show_done(
        f"exported {slug} to {file}: {count_of(tables, 'table')}, {count_of(rows, 'row')}",
        {"tenant": slug, "file": str(file), "tables": tables, "rows": rows},
    )
    for need in manifest.needs:
        note(f"the import needs: {need}")
    return _print_left_out(manifest)


@command.command("import")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--as", "slug", metavar="SLUG", help="Import it under another name.")
@as_table
def import_(file: Path, slug: str | None) -> int:
    """Make a tenant from an exported file, or nothing; import only files whose origin you trust.

    Exit code 3 if it has another name now and a text in it still names the old schema, or if the export left something out.
    """
    if slug is not None:
        check_slug(slug)
    with erpkit.open() as erp:
        print_target(erp.target)
        moved = erp.tenants.import_(file, slug or "")
    tenant = moved.tenant
    told = f"imported {tenant.slug}: schema {tenant.schema}, role {tenant.role}; the row counts are the manifest's"
    show_done(told, _row(tenant))
    return max(_print_mentions(moved), _print_left_out(read_manifest(file)))


def _print_left_out(manifest: Manifest) -> int:
    for one in manifest.left_out:
        note(f"! not in the file: {one}", tone=tone_of("warning"))
    return 3 if manifest.left_out else 0


def _print_mentions(moved: MovedTenant) -> int:
    for mention in moved.mentions:
        note(f"! {mention}", tone=tone_of("warning"))
    if moved.mentions:
        note(
            f"{count_of(len(moved.mentions), 'object still names', 'objects still name')} the old schema in the text: rewrite by hand "
            "what refers to it"
        )
    return 3 if moved.mentions else 0


@command.command()
@click.argument("slugs", nargs=-1)
@click.option(
    "--since", metavar="FILE", type=click.Path(path_type=Path), help="Show growth since what --json printed earlier."
)
@as_rows
def inspect(slugs: tuple[str, ...], since: Path | None, as_json: bool) -> int:
    """Show the state of tenants, all without a name; exit code 3 if there is something to look at.

    Each inspection is kept: from the second one on, growth since about a day before is shown, and how long each finding has been
    known. For growth since another time keep one yourself, `erpkit tenants inspect --json > monday.json`: `--since monday.json`.
    """
    with erpkit.open() as erp:
        print_target(erp.target, quiet=as_json)
        if len(slugs) == 1 and not as_json and len(erp.find(slugs)) == 1:
            detail = erp.tenants[erp.find(slugs)[0].slug].inspect(since=since or "")
            fleet = FleetInspection(erp.target, (detail.inspection,), detail.now, detail.before, detail.ages)
        else:
            detail, fleet = None, erp.tenants.inspect(slugs, since=since or "", exact=len(slugs) == 1 or None)
    if as_json:
        print_json(fleet.document)
    else:
        _print_fleet(fleet, detail)
        print_verdict(fleet.findings, f"{count_of(len(fleet.inspections), 'tenant')} inspected: nothing to do")
    return exit_code(fleet.findings)


def _print_fleet(fleet: FleetInspection, detail: TenantDetail | None) -> None:
    show(_narrow(fleet.table, has_event_log=fleet.has_event_log))
    if fleet.before:
        _print_since(fleet)
    if fleet.note:
        note(fleet.note)
    if detail is not None and detail.inspection.exists and not is_for_programs():  # whose rows are of tenants
        show(detail.table)
        for line in detail.notes:
            note(line)


def _narrow(table: Table[TenantInspection], *, has_event_log: bool) -> Table[TenantInspection]:
    """Leave out columns for which a terminal has no room, and add the backlog."""
    more = _WAITING if has_event_log else ()
    without = ("schema", "last event") if shown_as() == "table" else ()
    kept = [column for column in table.columns if column.name not in without]
    return Table([*kept, *more], table.rows, table.empty)


_WAITING = (BACKLOG, Column[TenantInspection]("dead rows", lambda i: i.dead_rows, minor=True))


def _print_since(fleet: FleetInspection) -> None:
    assert fleet.before is not None
    growths = fleet.growths.values()
    elapsed = fleet.now.taken_at - fleet.before.taken_at
    known = [one for one in growths if one.before]
    size, rows = sum(one.size or 0 for one in known) / 2**20, sum(one.rows or 0 for one in known)
    grown = f"{size:+,.2f} MiB, {'+' if rows >= 0 else ''}{count_of(rows, 'row')}"
    note(f"growth since {fleet.before.taken_at:%Y-%m-%d %H:%M %Z} ({_words(elapsed)}): {grown}")
    if not all(one.is_exact for one in growths):
        note("~ a figure then or now is PostgreSQL's estimate")
    if len(known) < len(growths):
        new = part_of(len(growths) - len(known), len(growths), "tenant", "is", "are")
        note(f"– {new} not in the earlier inspection")


def _words(elapsed: timedelta) -> str:
    minutes = elapsed.total_seconds() / 60
    if minutes < 120:
        return count_of(round(minutes), "minute") if minutes >= 2 else "just now"
    return count_of(round(minutes / 60), "hour") if minutes < 48 * 60 else count_of(round(minutes / 1440), "day")


_RISKS = click.Choice(["fails", "loses"])


@command.command()
@click.argument("slug")
@click.option(
    "--accept",
    type=_RISKS,
    multiple=True,
    help="Also run statements with this risk: failing on rows, or losing values.",
)
@confirm_option("Run what the plan with this id shows.")
@as_rows
def repair(slug: str, accept: tuple[Risk, ...], confirm: str, as_json: bool) -> int:
    """Make a tenant's schema like _template again; without --confirm, show the statements.

    All of it is one transaction. Exit code 3 if something is different, in a dry run, or still is, after it.
    """
    with erpkit.open() as erp:
        print_target(erp.target, quiet=as_json)
        plan = erp.tenants.repair(slug, accept)
        if as_json:
            return _print_repair(plan, confirm)
        accepted = "".join(f" --accept {risk}" for risk in accept)
        code = show_or_apply(plan, confirm, f"erpkit tenants repair {slug}{accepted}")
        if plan.note and not confirm:
            note(plan.note)
    return code


def _print_repair(plan: Plan[RepairPlan, RepairRun], confirm: str) -> int:
    run = plan.apply(confirm) if confirm else None
    record = run.plan if run else plan.record
    left = [str(one) for one in run.left] if run else record.differences
    print_json(
        {
            "plan": record.id,
            "applied": bool(confirm),
            "tenant": record.tenant.slug,
            "steps": [asdict(step) for step in record.steps],
            "left": [asdict(step) for step in record.left],
            "different": left,
        }
    )
    return 3 if left else 0


@command.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--tenant", "slug", metavar="SLUG", help="The tenant to restore, where it has another name than in the file."
)
@confirm_option("Do what the plan with this id shows.")
@as_rows
def restore(file: Path, slug: str | None, confirm: str, as_json: bool) -> int:
    """Put an exported tenant in the place of a damaged one; without --confirm, show what would be done.

    The file is verified, imported beside the damaged tenant, compared, and renamed into its place; the damaged one is kept,
    archived. Suspend the tenant first, and activate it afterwards. Exit code 3 if there is something to look at.
    """
    with erpkit.open() as erp:
        print_target(erp.target, quiet=as_json)
        plan = erp.tenants.restore(file, slug or "")
        if as_json:
            run = plan.apply(confirm) if confirm else None
            print_json(_plan_document(plan.record) | (_result_document(run) if run else {}))
            return exit_code(run.findings) if run else 0
        if not confirm:
            manifest = plan.record.manifest
            rows = count_of(manifest.row_count, "row")
            note(f"{file} is whole: {manifest.slug}, {rows}, exported {manifest.created_at}")
        name = f" --tenant {slug}" if slug else ""
        code = show_or_apply(plan, confirm, f"erpkit tenants restore {file}{name}")
    return code if confirm else 0  # that rows are missing is why it is restored


def _plan_document(plan: RestorePlan) -> dict[str, object]:
    changes = [{"table": table, "now": now, "then": then} for table, (now, then) in plan.changes.items()]
    return {
        "plan": plan.id, "tenant": plan.tenant.slug, "status": plan.tenant.status, "file": plan.path,
        "exported_at": plan.manifest.created_at, "beside": plan.beside, "aside": plan.aside, "changes": changes, "restored": False,
    }  # fmt: skip


def _result_document(run: RestoreRun) -> dict[str, object]:
    return {
        "restored": run.restored is not None,
        "problems": run.beside.problems,
        "drift": [str(one) for one in run.beside.drift],
        "events": [asdict(one) for one in run.beside.log_changes],
        "mentions": [str(one) for one in run.restored.mentions] if run.restored else [],
    }
