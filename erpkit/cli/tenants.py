"""erpkit tenants: the registry, a tenant's life from creation to removal, and inspecting."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

import erpkit
from erpkit.cli.inspection import inspect
from erpkit.cli.options import confirm_option, tenants_argument
from erpkit.cli.output import as_json, print_findings, print_json, print_target, say, say_script, show
from erpkit.cli.planning import show_or_apply, this_command
from erpkit.cli.repairs import repair, restore
from erpkit.finding import exit_code
from erpkit.tenants import Manifest, MovedTenant, read_manifest
from erpkit.tenants.registry import check_slug


@click.group("tenants")
def command() -> None:
    """Tenants: one schema and one role each."""


@command.command("list")
@as_json
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
def create(slug: str, name: str) -> int:
    """Create a tenant: schema, role and all migrations, or nothing."""
    check_slug(slug)
    with erpkit.open() as erp:
        print_target(erp.target)
        plan = erp.tenants.create(slug, name)
        made = plan.apply(plan.id)
    tenant = made.tenant
    say(f"created {tenant.slug}: schema {tenant.schema}, role {tenant.role}, {len(plan.migrations)} migrations")
    print_findings(made.findings)
    return exit_code(made.findings)


command.add_command(inspect)
command.add_command(repair)
command.add_command(restore)


@command.command()
@click.argument("slugs", nargs=-1)
@click.option("--against", default="", metavar="SLUG", help="Compare with this tenant instead.")
@click.option("--ddl", is_flag=True, help="Print the DDL that would undo the differences.")
@as_json
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
        print_findings(found.findings)
        say(str(found))
    return exit_code(found.findings)


@command.command()
@click.argument("slug")
def suspend(slug: str) -> None:
    """Leave a tenant out of what is done to the fleet."""
    _set_status("suspend", slug)


@command.command()
@click.argument("slug")
def activate(slug: str) -> None:
    """Take a tenant back into what is done to the fleet."""
    _set_status("activate", slug)


@command.command()
@click.argument("slug")
def archive(slug: str) -> None:
    """Keep a tenant for reading only, and out of what is done to the fleet, until it is activated."""
    _set_status("archive", slug)


def _set_status(verb: Literal["suspend", "activate", "archive"], slug: str) -> None:
    with erpkit.open() as erp:
        print_target(erp.target)
        verbs = {"suspend": erp.tenants.suspend, "activate": erp.tenants.activate, "archive": erp.tenants.archive}
        tenant = verbs[verb](slug)
    say(f"{tenant.slug} is {tenant.status}")


@command.command()
@click.argument("slug")
@click.argument("new_slug")
@click.option("--name", help="New name for people; without it the name stays.")
def rename(slug: str, new_slug: str, name: str | None) -> int:
    """Give a tenant another slug, and with it another schema and role; exit code 3 if a text still names the old one."""
    check_slug(new_slug)
    with erpkit.open() as erp:
        print_target(erp.target)
        moved = erp.tenants.rename(slug, new_slug, name)
    tenant = moved.tenant
    say(f"renamed {slug} to {tenant.slug}: schema {tenant.schema}, role {tenant.role}")
    return _print_mentions(moved)


@command.command()
@click.argument("slug")
@click.option("--confirm", default="", metavar="PLAN_ID", help="Drop what the plan with this id shows.")
def drop(slug: str, confirm: str) -> int:
    """Drop a tenant that is suspended or archived; without --confirm, show what would be lost."""
    with erpkit.open() as erp:
        print_target(erp.target)
        return show_or_apply(erp.tenants.drop(slug), confirm, f"erpkit tenants drop {slug}")


@command.command("hand-over")
@click.option("--confirm", default="", metavar="PLAN_ID", help="Run the statements of the plan with this id.")
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
def adopt(query: str, events: bool, confirm: str) -> int:
    """Make the schemas of an ERP tenants of erpkit's, at the migration versions that they are at; without --confirm, show the plan.

    Entries, roles and grants are added; tables, rows, owners and versions stay as they are. Exit code 3 if a schema is left out.
    """
    with erpkit.open() as erp:
        print_target(erp.target)
        return show_or_apply(erp.tenants.adopt(query, events=events), confirm, this_command())


@command.command()
@tenants_argument
@click.option("--with-events", is_flag=True, help="Drop the event log's tables even where they hold rows.")
@confirm_option("Release what the plan with this id shows.")
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
def export(slug: str, file: Path) -> int:
    """Write a tenant to one file: a dump of its schema, and a manifest; exit code 3 if something of it is not in the file."""
    with erpkit.open() as erp:
        print_target(erp.target)
        manifest = erp.tenants.export(slug, file)
    say(f"exported {slug} to {file}: {len(manifest.rows)} tables, {manifest.row_count:,} rows")
    for need in manifest.needs:
        say(f"where it is imported there must be: {need}")
    return _print_left_out(manifest)


@command.command("import")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--as", "slug", metavar="SLUG", help="Import it under another name.")
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
    say(f"imported {tenant.slug}: schema {tenant.schema}, role {tenant.role}; the row counts are the manifest's")
    return max(_print_mentions(moved), _print_left_out(read_manifest(file)))


def _print_left_out(manifest: Manifest) -> int:
    for one in manifest.left_out:
        say(f"! not in the file: {one}")
    return 3 if manifest.left_out else 0


def _print_mentions(moved: MovedTenant) -> int:
    for mention in moved.mentions:
        say(f"! {mention}")
    if moved.mentions:
        say(
            f"{len(moved.mentions)} object(s) still name the old schema in their text: rewrite by hand those that mean it"
        )
    return 3 if moved.mentions else 0
