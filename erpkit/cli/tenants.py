"""erpkit tenants: the registry, creating and inspecting."""

from __future__ import annotations

import click

from erpkit.cli.output import as_json, open_database, print_json, print_table
from erpkit.config import Settings
from erpkit.migrations import plan_up, read_applied, read_migrations, run_plan
from erpkit.modules import load_modules
from erpkit.tenants import create_tenant, ensure_template, find_tenants, inspect_tenants, list_tenants, set_status
from erpkit.tenants.registry import check_slug


@click.group("tenants")
def command() -> None:
    """Tenants: one schema and one role each."""


@command.command("list")
@as_json
def list_(as_json: bool) -> None:
    """List all tenants."""
    with open_database(quiet=as_json) as database, database.connection() as connection:
        tenants = list_tenants(connection)
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
        with database.connection() as connection:
            template = ensure_template(connection)
            plan = plan_up([template], migrations, read_applied(connection, [template]))
        if failed := run_plan(database, plan, plan.id).failed:
            raise click.ClickException(str(failed[0].error))
        tenant = create_tenant(database, migrations, slug, name)
    click.echo(f"created {tenant.slug}: schema {tenant.schema}, role {tenant.role}, {len(migrations)} migrations")


@command.command()
@click.argument("slugs", nargs=-1)
@as_json
def inspect(slugs: tuple[str, ...], as_json: bool) -> int:
    """Show the state of tenants, all without a name; exit code 3 if there is something to look at."""
    settings = Settings.from_env()
    migrations = read_migrations(load_modules(settings).modules)
    with open_database(quiet=as_json) as database, database.connection() as connection:
        inspections = inspect_tenants(connection, find_tenants(connection, slugs), migrations)
    problems = [problem for i in inspections for problem in i.problems]
    if as_json:
        print_json(
            [
                {
                    "slug": i.tenant.slug, "schema": i.tenant.schema, "status": i.tenant.status, "size": i.size, "rows": i.rows,
                    "versions": i.versions, "pending": i.pending, "events": i.event_count, "last_event": i.last_event,
                    "dead_letters": len(i.dead_letters), "drift": [str(one) for one in i.drift], "problems": i.problems,
                }
                for i in inspections
            ]
        )  # fmt: skip
        return 3 if problems else 0
    rows = [
        (
            i.tenant.slug,
            i.tenant.status,
            f"{i.size / 2**20:.2f}",
            sum(i.rows.values()),
            i.event_count,
            i.pending,
            len(i.dead_letters),
            len(i.drift),
        )
        for i in inspections
    ]
    print_table(["tenant", "status", "MiB", "rows", "events", "pending", "dead letters", "drift"], rows)
    if len(inspections) == 1:
        (only,) = inspections
        print_table(["table", "rows"], [(table, f"{count:,}") for table, count in sorted(only.rows.items())])
        click.echo(f"schema {only.tenant.schema}; versions {', '.join(f'{m} {v}' for m, v in only.versions.items())}")
        click.echo(f"last event {only.last_event:%Y-%m-%d %H:%M:%S %Z}" if only.last_event else "no events")
    for problem in problems:
        click.echo(f"! {problem}")
    return 3 if problems else 0


def _set_status(slug: str, status: str) -> None:
    with open_database() as database, database.connection() as connection:
        tenant = set_status(connection, slug, status)
    click.echo(f"{tenant.slug} is {tenant.status}")


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
