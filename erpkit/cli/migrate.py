"""erpkit migrate: status, plan, up, down, redo and history; see migrate_files for what needs no database."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import click

from erpkit.cli import migrate_files
from erpkit.cli.migrate_output import show_plan, show_run
from erpkit.cli.output import as_json, open_database, print_errors, print_json, print_table, say
from erpkit.config import Settings
from erpkit.database import TEMPLATE, Connection, Database, Tenant
from erpkit.migrations import (
    Applied,
    Limits,
    Migration,
    MigrationPlan,
    MigrationStatus,
    describe_status,
    plan_down,
    plan_redo,
    plan_up,
    read_applied,
    read_history,
    read_migrations,
    read_milliseconds,
    run_plan,
)
from erpkit.modules import load_modules
from erpkit.tenants import ensure_template, find_tenants
from erpkit.ui.progress import progress_bar

Planner = Callable[[Sequence[Tenant], Sequence[Migration], Applied], MigrationPlan]

tenant_option = click.option(
    "--tenant", "slugs", multiple=True, metavar="SLUG", help="Only this tenant; may be repeated."
)
canary_option = click.option(
    "--canary", "canaries", multiple=True, metavar="SLUG", help="A tenant to go before the rest; may be repeated."
)
named_option = click.option("--tenant", "slugs", multiple=True, metavar="SLUG", help="The tenant; may be repeated.")
all_option = click.option("--all", "everyone", is_flag=True, help="All active tenants and `_template`.")
module_option = click.option("--module", help="Only this module.")
up_options = (
    tenant_option,
    canary_option,
    module_option,
    click.option("--to", "to_version", type=click.IntRange(min=1), help="No further than this version; with --module."),
    click.option("--out-of-order", is_flag=True, help="Run migrations that are lower than an applied one as well."),
    click.option("--retry-dirty", is_flag=True, help="Run what stopped half way again, after it was mended by hand."),
)
run_options = (
    click.option("--confirm", default="", metavar="PLAN_ID", help="Apply the plan with this id; without it, show it."),
    click.option("--sql", "show_sql", is_flag=True, help="Show the SQL of the plan."),
    click.option("--workers", type=click.IntRange(1, 32), default=3, show_default=True, help="Tenants side by side."),
    click.option("--on-error", type=click.Choice(["continue", "stop"]), default="continue", show_default=True),
    click.option(
        "--threshold", type=click.FloatRange(0, 1), default=0.0, show_default=True,
        help="The share of a wave that may fail before later waves are left.",
    ),
    click.option("--lock-timeout", type=click.FloatRange(min=0), default=3, show_default=True, help="Seconds; 0: for ever."),
    click.option("--lock-attempts", type=click.IntRange(1, 100), default=5, show_default=True, help="How often."),
    click.option("--statement-timeout", type=click.FloatRange(min=0), default=0, help="Seconds a statement; 0: for ever."),
    as_json,
)  # fmt: skip


def _with(options: Sequence[Callable[..., Any]]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            command = option(command)
        return command

    return add


@click.group("migrate")
def command() -> None:
    """Migrations over all tenants, in goose's files and tables."""


for _offline in (migrate_files.show, migrate_files.new, migrate_files.lint):
    command.add_command(_offline)


@command.command()
@tenant_option
@as_json
def status(slugs: tuple[str, ...], as_json: bool) -> int:
    """Show the version of each module of each tenant; exit code 3 if one is not current."""
    migrations = _migrations()
    with open_database(quiet=as_json) as database, database.connection() as connection:
        fleet = _fleet(connection, slugs)
        applied = read_applied(connection, fleet, migrations)
    statuses = describe_status(fleet, migrations, applied)
    if as_json:
        print_json([vars(s) | {"state": s.state} for s in statuses])
    else:
        modules = list(dict.fromkeys(s.module for s in statuses))
        cells = {(s.tenant, s.module): "unread" if s.error else f"{s.version}{_mark(s)}" for s in statuses}
        print_table(["tenant", *modules], [(t.slug, *(cells[t.slug, module] for module in modules)) for t in fleet])
    print_errors(applied.errors, quiet=as_json)
    return 3 if applied.errors or any(s.state != "current" for s in statuses) else 0


@command.command()
@_with(up_options)
@click.option("--sql", "show_sql", is_flag=True, help="Show the SQL of the plan.")
@as_json
def plan(slugs: tuple[str, ...], show_sql: bool, as_json: bool, **choice: Any) -> int:
    """Show what `up` would do: the plan's id, its waves, an estimate, and the statements that lock or rewrite."""
    with open_database(quiet=as_json) as database:
        planned, milliseconds = _plan(database, slugs, _up(**choice))
    show_plan(planned, milliseconds, as_json=as_json, sql=show_sql)
    return 3 if planned.refused else 0


@command.command()
@_with(up_options)
@_with(run_options)
def up(slugs: tuple[str, ...], **choice: Any) -> int:
    """Bring tenants to the newest version, `_template` first; a tenant that fails does not stop the others."""
    names = ("canaries", "module", "to_version", "out_of_order", "retry_dirty")
    return _plan_and_run(slugs, _up(**{name: choice.pop(name) for name in names}), **choice)


@command.command()
@named_option
@all_option
@canary_option
@click.option("--module", required=True, help="The module to take down.")
@click.option("--to", "to_version", type=click.IntRange(min=0), required=True, help="The version to end at.")
@_with(run_options)
def down(
    slugs: tuple[str, ...], everyone: bool, canaries: tuple[str, ...], module: str, to_version: int, **choice: Any
) -> int:
    """Take one module of tenants down to a version; `_template` stays as it is unless it is named, too, or with --all."""

    def planner(tenants: Sequence[Tenant], migrations: Sequence[Migration], applied: Applied) -> MigrationPlan:
        return plan_down(tenants, migrations, applied, module, to_version, canaries=canaries)

    return _plan_and_run(slugs, planner, only_named=_only_named(slugs, everyone), **choice)


@command.command()
@named_option
@all_option
@canary_option
@click.option("--module", required=True, help="The module whose last version is taken down and up again.")
@_with(run_options)
def redo(slugs: tuple[str, ...], everyone: bool, canaries: tuple[str, ...], module: str, **choice: Any) -> int:
    """Take the last applied version of a module down and up again, each tenant at its own."""

    def planner(tenants: Sequence[Tenant], migrations: Sequence[Migration], applied: Applied) -> MigrationPlan:
        return plan_redo(tenants, migrations, applied, module, canaries=canaries)

    return _plan_and_run(slugs, planner, only_named=_only_named(slugs, everyone), **choice)


@command.command()
@click.option("--tenant", "slugs", multiple=True, metavar="SLUG", help="Only this tenant; may be repeated.")
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="How many lines.")
@as_json
def history(slugs: tuple[str, ...], limit: int, as_json: bool) -> None:
    """Show what was done to which tenant, the newest first: who, when, which plan, how long, and what failed."""
    with open_database(quiet=as_json) as database, database.connection() as connection:
        entries = read_history(connection, _named(connection, slugs) if slugs else None, limit)
    if as_json:
        print_json([vars(entry) for entry in entries])
        return
    print_table(
        ["at", "tenant", "migration", "state", "ms", "who", "plan", "error"],
        [
            (f"{e.at:%Y-%m-%d %H:%M:%S}", e.tenant, f"{e.module} {e.version} {e.direction}", e.state,
             f"{e.milliseconds:.1f}", e.who, e.plan_id, e.error or "")
            for e in entries
        ],
    )  # fmt: skip


def _only_named(slugs: tuple[str, ...], everyone: bool) -> bool:
    if bool(slugs) == everyone:
        raise click.UsageError("name the tenants with --tenant, or take --all of them")
    return not everyone


def _mark(status: MigrationStatus) -> str:
    marks = [f"+{len(status.pending)}"] if status.pending else []
    marks += [status.state] if status.state not in ("current", "pending") else []
    return f" ({', '.join(marks)})" if marks else ""


def _up(**choice: Any) -> Planner:
    if choice["to_version"] is not None and choice["module"] is None:
        raise click.UsageError("--to needs --module: versions are numbered by module")

    def planner(tenants: Sequence[Tenant], migrations: Sequence[Migration], applied: Applied) -> MigrationPlan:
        return plan_up(tenants, migrations, applied, **choice)

    return planner


def _migrations() -> tuple[Migration, ...]:
    settings = Settings.from_env()
    return read_migrations(load_modules(settings).modules, event_log=settings.tenants_query is None)


def _fleet(connection: Connection, slugs: tuple[str, ...]) -> list[Tenant]:
    return [TEMPLATE, *find_tenants(connection, slugs, Settings.from_env().tenants_query)]


def _named(connection: Connection, slugs: tuple[str, ...]) -> list[Tenant]:
    template = [TEMPLATE] if TEMPLATE.slug in slugs else []
    others = [slug for slug in slugs if slug != TEMPLATE.slug]
    query = Settings.from_env().tenants_query
    return [*template, *(find_tenants(connection, others, query) if others else ())]


def _plan(
    database: Database, slugs: tuple[str, ...], planner: Planner, *, only_named: bool = False
) -> tuple[MigrationPlan, Any]:
    migrations = _migrations()
    with database.connection() as connection:
        tenants = _named(connection, slugs) if only_named else _fleet(connection, slugs)
        planned = planner(tenants, migrations, read_applied(connection, tenants, migrations))
        return planned, read_milliseconds(connection)


def _plan_and_run(
    slugs: tuple[str, ...],
    planner: Planner,
    *,
    confirm: str,
    show_sql: bool,
    lock_timeout: float,
    lock_attempts: int,
    statement_timeout: float,
    as_json: bool,
    only_named: bool = False,
    **choice: Any,
) -> int:
    with open_database(quiet=as_json) as database:
        planned, milliseconds = _plan(database, slugs, planner, only_named=only_named)
        if not confirm:
            show_plan(planned, milliseconds, as_json=as_json, sql=show_sql, workers=choice["workers"])
            if not planned.is_empty:
                hint = f"dry run: nothing was changed; to apply it, add --confirm {planned.id}"
                say(hint, err=as_json)
            return 3 if planned.is_empty and planned.refused else 0
        planned.check(confirm)
        if not only_named:
            with database.connection() as connection:
                ensure_template(connection)
        limits = Limits(lock_timeout, statement_timeout, lock_attempts)
        with progress_bar(len(planned.tenants), "tenants") as advance:
            run = run_plan(database, planned, confirm, lambda _: advance(1), limits=limits, **choice)
    return show_run(planned, run, as_json=as_json)
