"""erpkit migrate: status, plan, up, down and show."""

from __future__ import annotations

from pathlib import Path

import click

from erpkit.cli.output import as_json, open_database, print_json, print_table
from erpkit.config import Settings
from erpkit.database import TEMPLATE, Connection, Database, Tenant
from erpkit.errors import MigrationError, UsageError
from erpkit.migrations import (
    Migration,
    MigrationPlan,
    describe_status,
    parse_migration,
    plan_down,
    plan_up,
    read_applied,
    read_migrations,
    run_plan,
)
from erpkit.modules import load_modules
from erpkit.tenants import ensure_template, find_tenants

tenant_option = click.option(
    "--tenant", "slugs", multiple=True, metavar="SLUG", help="Only this tenant; may be repeated."
)
confirm_option = click.option(
    "--confirm", default="", metavar="PLAN_ID", help="Apply the plan with this id; without it, show it."
)


@click.group("migrate")
def command() -> None:
    """Migrations over all tenants, in goose's files and tables."""


def _migrations() -> tuple[Migration, ...]:
    return read_migrations(load_modules(Settings.from_env()).modules)


def _fleet(connection: Connection, slugs: tuple[str, ...]) -> list[Tenant]:
    return [TEMPLATE, *find_tenants(connection, slugs)]


@command.command()
@tenant_option
@as_json
def status(slugs: tuple[str, ...], as_json: bool) -> int:
    """Show the version of each module of each tenant; exit code 3 if a migration is pending."""
    migrations = _migrations()
    with open_database(quiet=as_json) as database, database.connection() as connection:
        fleet = _fleet(connection, slugs)
        statuses = describe_status(fleet, migrations, read_applied(connection, fleet))
    if as_json:
        print_json(
            [
                {"tenant": s.tenant, "module": s.module, "version": s.version, "state": s.state, "pending": s.pending}
                for s in statuses
            ]
        )
    else:
        modules = list(dict.fromkeys(s.module for s in statuses))
        cells = {
            (s.tenant, s.module): f"{s.version}" + (f" (+{len(s.pending)})" if s.pending else "") for s in statuses
        }
        print_table(["tenant", *modules], [(t.slug, *(cells[t.slug, module] for module in modules)) for t in fleet])
    return 3 if any(s.state != "current" for s in statuses) else 0


@command.command()
@tenant_option
@as_json
def plan(slugs: tuple[str, ...], as_json: bool) -> None:
    """Show what `up` would do, and the plan's id."""
    migrations = _migrations()
    with open_database(quiet=as_json) as database, database.connection() as connection:
        fleet = _fleet(connection, slugs)
        _show(plan_up(fleet, migrations, read_applied(connection, fleet)), as_json)


@command.command()
@tenant_option
@confirm_option
def up(slugs: tuple[str, ...], confirm: str) -> int:
    """Bring tenants to the newest version, `_template` first; a tenant that fails does not stop the others."""
    migrations = _migrations()
    with open_database() as database:
        with database.connection() as connection:
            fleet = _fleet(connection, slugs)
            planned = plan_up(fleet, migrations, read_applied(connection, fleet))
            if confirm:
                planned.check(confirm)
                ensure_template(connection)
        return _apply(database, planned, confirm)


@command.command()
@click.option("--tenant", "slugs", multiple=True, required=True, metavar="SLUG", help="The tenant; may be repeated.")
@click.option("--module", required=True, help="The module to take down.")
@click.option("--to", "to_version", type=click.IntRange(min=0), required=True, help="The version to end at.")
@confirm_option
def down(slugs: tuple[str, ...], module: str, to_version: int, confirm: str) -> int:
    """Take one module of the tenants named down to a version."""
    migrations = _migrations()
    if module not in {migration.module for migration in migrations}:
        raise UsageError(f"there is no module {module!r} with migrations")
    with open_database() as database:
        with database.connection() as connection:
            tenants = find_tenants(connection, slugs)
            planned = plan_down(tenants, migrations, read_applied(connection, tenants), module, to_version)
        return _apply(database, planned, confirm)


@command.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--direction", type=click.Choice(["up", "down"]), default="up")
@as_json
def show(file: Path, direction: str, as_json: bool) -> None:
    """Print the statements of a migration file, as goose would split it."""
    try:
        parsed = parse_migration(file.read_text(encoding="utf-8"))
    except (MigrationError, UnicodeDecodeError) as error:
        raise UsageError(f"{file}: {error}") from None
    statements = parsed.up if direction == "up" else parsed.down
    if as_json:
        print_json({"statements": statements, "use_transaction": parsed.use_transaction})
    else:
        click.echo("\n\n".join(statements))


def _apply(database: Database, planned: MigrationPlan, confirm: str) -> int:
    if not confirm:
        _show(planned, False)
        if planned.is_empty:
            return 3 if planned.refused else 0
        click.echo(f"dry run: nothing was changed; to apply it, add --confirm {planned.id}")
        return 0
    run = run_plan(database, planned, confirm)
    print_table(
        ["tenant", "done", "ms", "error"],
        [(r.tenant, ", ".join(r.done), f"{r.seconds * 1000:.1f}", r.error or "") for r in run.results],
    )
    for slug, reason in planned.skipped.items():
        click.echo(f"skipped {slug}: {reason}")
    click.echo(f"{run.done_count} migrations applied, {len(run.failed)} tenants failed")
    return 1 if run.failed or planned.refused else 0


def _show(planned: MigrationPlan, as_json: bool) -> None:
    steps = [(p.tenant.slug, m.name) for p in planned.tenants for m in p.migrations]
    if as_json:
        print_json(
            {"id": planned.id, "steps": steps, "skipped": dict(planned.skipped), "refused": dict(planned.refused)}
        )
        return
    print_table(["tenant", "migration"], steps)
    for slug, reason in planned.skipped.items():
        click.echo(f"skipped {slug}: {reason}")
    for slug, reason in planned.refused.items():
        click.echo(f"! {slug}: {reason}")
    click.echo(
        f"plan {planned.id}: {planned.step_count} {planned.direction} migrations on {len(planned.tenants)} schemas"
    )
