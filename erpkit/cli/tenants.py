"""erpkit tenants: the registry, a tenant's life from creation to removal, and inspecting."""

from __future__ import annotations

from pathlib import Path

import click

from erpkit.cli.inspection import inspect
from erpkit.cli.output import as_json, open_database, print_json, print_table, say, say_script
from erpkit.cli.repairs import repair, restore
from erpkit.config import Settings
from erpkit.migrations import read_migrations
from erpkit.modules import load_modules
from erpkit.tenants import (
    Manifest,
    MovedTenant,
    drift_script,
    drop_tenant,
    export_tenant,
    find_drift,
    find_tenants,
    get_tenant,
    hand_over,
    import_tenant,
    list_tenants,
    plan_drop,
    plan_hand_over,
    plan_provision,
    provision_tenant,
    read_manifest,
    rename_tenant,
    set_status,
)
from erpkit.tenants.registry import check_slug
from erpkit.visible import visible


@click.group("tenants")
def command() -> None:
    """Tenants: one schema and one role each."""


@command.command("list")
@as_json
def list_(as_json: bool) -> None:
    """List all tenants."""
    with open_database(quiet=as_json) as database, database.connection() as connection:
        tenants = list_tenants(connection, Settings.from_env().tenants_query)
    if as_json:
        print_json([{"slug": t.slug, "name": t.name, "schema": t.schema, "status": t.status} for t in tenants])
    else:
        print_table(["tenant", "name", "schema", "status"], [(t.slug, t.name, t.schema, t.status) for t in tenants])


@command.command()
@click.argument("slug")
@click.option("--name", default="", help="Name for people.")
def create(slug: str, name: str) -> None:
    """Create a tenant: schema, role and all migrations, or nothing."""
    check_slug(slug)
    settings = Settings.from_env()
    migrations = read_migrations(load_modules(settings).modules)
    with open_database() as database:
        database.check_writable()
        with database.connection() as connection:
            plan = plan_provision(connection, migrations, slug, name)
        tenant = provision_tenant(database, plan, plan.id)
    say(f"created {tenant.slug}: schema {tenant.schema}, role {tenant.role}, {len(migrations)} migrations")


command.add_command(inspect)
command.add_command(repair)
command.add_command(restore)


@command.command()
@click.argument("slugs", nargs=-1)
@click.option("--ddl", is_flag=True, help="Print the DDL that would make each schema like _template.")
@as_json
def drift(slugs: tuple[str, ...], ddl: bool, as_json: bool) -> int:
    """Compare schemas with _template, all without a name; exit code 3 if there is a difference. It changes nothing."""
    with open_database(quiet=as_json or ddl) as database, database.connection() as connection:
        tenants = find_tenants(connection, slugs, Settings.from_env().tenants_query)
        found = find_drift(connection, tenants)
    if as_json:
        print_json(
            [
                {
                    "tenant": slug, "kind": one.kind, "object": one.object, "change": one.change,
                    "canonical": one.canonical, "actual": one.actual, "ddl": one.ddl,
                }
                for slug, differences in found.items()
                for one in differences
            ]
        )  # fmt: skip
    elif ddl:
        for slug, differences in found.items():
            if differences:
                say_script("\n".join([f"-- tenant {visible(slug)}", *drift_script(differences), ""]))
    else:
        for slug, differences in found.items():
            for one in differences:
                say(f"! {slug}: {one}")
        say(f"{sum(map(bool, found.values()))} of {len(found)} tenants differ from _template")
    return 3 if any(found.values()) else 0


def _set_status(slug: str, status: str) -> None:
    with open_database() as database, database.connection() as connection:
        database.check_writable()
        tenant = set_status(connection, slug, status)
    say(f"{tenant.slug} is {tenant.status}")


@command.command()
@click.argument("slug")
def suspend(slug: str) -> None:
    """Leave a tenant out of what is done to the fleet."""
    _set_status(slug, "suspended")


@command.command()
@click.argument("slug")
def activate(slug: str) -> None:
    """Take a tenant back into what is done to the fleet."""
    _set_status(slug, "active")


@command.command()
@click.argument("slug")
def archive(slug: str) -> None:
    """Keep a tenant for reading only, and out of what is done to the fleet, until it is activated."""
    _set_status(slug, "archived")


@command.command()
@click.argument("slug")
@click.argument("new_slug")
@click.option("--name", help="New name for people; without it the name stays.")
def rename(slug: str, new_slug: str, name: str | None) -> int:
    """Give a tenant another slug, and with it another schema and role; exit code 3 if a text still names the old one."""
    check_slug(new_slug)
    with open_database() as database:
        moved = rename_tenant(database, slug, new_slug, name)
    tenant = moved.tenant
    say(f"renamed {slug} to {tenant.slug}: schema {tenant.schema}, role {tenant.role}")
    return _print_mentions(moved)


@command.command()
@click.argument("slug")
@click.option("--confirm", default="", metavar="PLAN_ID", help="Drop what the plan with this id shows.")
def drop(slug: str, confirm: str) -> None:
    """Drop a tenant that is suspended or archived; without --confirm, show what would be lost."""
    with open_database() as database:
        if confirm:
            result = drop_tenant(database, slug, confirm)
            say(f"dropped {slug}: {result.dropped_count} objects in {len(result.batches)} transactions")
            return
        with database.connection() as connection:
            plan = plan_drop(connection, get_tenant(connection, slug))
    print_table(["table", "rows"], [(table, f"{rows:,}") for table, rows in plan.rows.items()])
    say(f"plan {plan.id}: {len(plan.tables)} tables, {plan.row_count:,} rows, {plan.size / 2**20:.1f} MiB")
    plan.check(plan.id)
    say(f"dry run: nothing was dropped; to drop all of it for good, add --confirm {plan.id}")


@command.command("hand-over")
@click.option("--confirm", default="", metavar="PLAN_ID", help="Run the statements of the plan with this id.")
def hand_over_(confirm: str) -> int:
    """Give what this login made before to all operators of the database; without --confirm, print the statements.

    Exit code 3 if something is left: another login's, which runs the same command, or what could not be locked.
    """
    with open_database() as database:
        database.check_writable()
        if confirm:
            run = hand_over(database, confirm)
            plan, failed = run.plan, run.failed
            say(f"handed over to {plan.owner}: {len(plan.parts) - len(failed)} of {len(plan.parts)} parts")
        else:
            with database.connection() as connection:
                plan, failed = plan_hand_over(connection), {}
            for statement in (statement for part in plan.parts for statement in part.statements):
                say(f"{statement};")
    for subject, reason in failed.items():
        say(f"! {subject} was not handed over: {reason}; plan it again")
    for schema, owners in plan.left.items():
        say(f"! schema {schema}: something belongs to {', '.join(owners)}, who can hand it over")
    if not plan.parts:
        say("nothing to hand over by this login")
    elif not confirm:
        say(f"plan {plan.id}: {plan.statement_count} statements")
        say(f"dry run: nothing was changed; to run them, add --confirm {plan.id}")
    return 3 if failed or plan.left else 0


@command.command("export")
@click.argument("slug")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
def export(slug: str, file: Path) -> int:
    """Write a tenant to one file: a dump of its schema, and a manifest; exit code 3 if something of it is not in the file."""
    with open_database() as database:
        with database.connection() as connection:
            tenant = get_tenant(connection, slug)
        manifest = export_tenant(database, tenant, file)
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
    with open_database() as database:
        moved = import_tenant(database, file, slug)
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
