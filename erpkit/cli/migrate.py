"""erpkit migrate: status, plan, up, down, redo and history; see migrate_files for what needs no database."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

import erpkit
from erpkit.cli import migrate_files
from erpkit.cli.helping import Group
from erpkit.cli.output import (
    as_rows,
    as_table,
    is_for_programs,
    leave_gap,
    note,
    print_findings,
    print_json,
    print_target,
    print_verdict,
    say,
    say_script,
    show,
    shown_as,
    whole_table,
)
from erpkit.cli.planning import apply_plan, say_plan, show_or_apply, this_command
from erpkit.finding import exit_code
from erpkit.visible import visible

if TYPE_CHECKING:
    from erpkit import Erp
    from erpkit.migrations import MigrationPlan, MigrationRun
    from erpkit.plan import Plan

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
    click.option("--to", type=click.IntRange(min=1), help="No further than this version; with --module."),
    click.option("--out-of-order", is_flag=True, help="Run migrations that are lower than an applied one as well."),
    click.option("--retry-dirty", is_flag=True, help="Run again what stopped half way, after it was fixed by hand."),
)
run_options = (
    click.option("--confirm", default="", metavar="PLAN_ID", help="Apply the plan with this id; without it, show it."),
    click.option("--sql", "show_sql", is_flag=True, help="Show the SQL of the plan."),
    click.option("--workers", type=click.IntRange(1, 32), default=3, show_default=True, help="Tenants side by side."),
    click.option("--on-error", type=click.Choice(["continue", "stop"]), default="continue", show_default=True,
                 help="What to do after a tenant failed."),
    click.option(
        "--threshold", type=click.FloatRange(0, 1), default=0.0, show_default=True,
        help="The share of a wave that may fail before later waves are left.",
    ),
    click.option("--lock-timeout", type=click.FloatRange(min=0), default=3, show_default=True,
        help="Seconds to wait for a lock; 0 waits for ever.",
   ),
    click.option("--lock-attempts", type=click.IntRange(1, 100), default=5, show_default=True, help="How often to try for a lock."),
    click.option("--statement-timeout", type=click.FloatRange(min=0), default=0,
        help="Seconds that a statement may take; 0 sets no limit.",
   ),
    as_rows,
)  # fmt: skip


def _with(options: Sequence[Callable[..., Any]]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            command = option(command)
        return command

    return add


@click.group("migrate", cls=Group)
def command() -> None:
    """Plan and run migrations over all tenants, in goose's files and tables, or golang-migrate's."""


for _offline in (migrate_files.show, migrate_files.new, migrate_files.lint):
    command.add_command(_offline)


@command.command()
@tenant_option
@click.option(
    "--against",
    default="",
    metavar="WHAT",
    help="What another tool's state is compared with: newest, majority or a tenant; else _template or the newest.",
)
@as_rows
def status(slugs: tuple[str, ...], against: str, as_json: bool) -> int:
    """Show the version of each module of each tenant; exit code 3 if one is not current.

    What Django, Alembic, Rails, golang-migrate, goose, Flyway, Prisma and others keep in the tenants' schemas is read as well: who
    is behind whom, and what is dirty. ERPKIT_MIGRATION_STATE="table column order" names the table of any other tool.
    """
    with _opened(as_json) as erp:
        found = erp.migrations.status(slugs, against=against)
    if as_json:
        print_json([*(vars(s) | {"state": s.state} for s in found.statuses), *found.foreign.documents])
        return exit_code(found.findings)
    show(found.whole_table if is_for_programs() else found.table)
    print_verdict(found.findings, "no tenant is behind: nothing to do")
    return exit_code(found.findings)


@command.command()
@_with(up_options)
@click.option("--sql", "show_sql", is_flag=True, help="Show the SQL of the plan.")
@as_rows
def plan(slugs: tuple[str, ...], show_sql: bool, as_json: bool, **choice: Any) -> int:
    """Show what `up` would do: the plan's id, its waves, an estimate, and the statements that lock or rewrite."""
    _check_to(choice)
    with _opened(as_json) as erp:
        planned = erp.migrations.plan(slugs, **choice)
    _show_plan(planned, show_sql=show_sql, as_json=as_json)
    return 3 if _is_doubtful(planned.record) else 0


@command.command()
@_with(up_options)
@_with(run_options)
def up(slugs: tuple[str, ...], confirm: str, show_sql: bool, as_json: bool, **choice: Any) -> int:
    """Bring tenants to the newest version, `_template` first; a tenant that fails does not stop the others."""
    _check_to(choice)
    with _opened(as_json) as erp:
        erp.database.check_writable()
        return _show_or_apply(erp.migrations.plan(slugs, **choice), confirm, show_sql=show_sql, as_json=as_json)


@command.command()
@named_option
@all_option
@canary_option
@click.option("--module", required=True, help="The module to take down.")
@click.option(
    "--to", type=click.IntRange(min=-1), required=True, help="The version to end at; -1 is below a version 0."
)
@_with(run_options)
def down(slugs: tuple[str, ...], everyone: bool, confirm: str, show_sql: bool, as_json: bool, **choice: Any) -> int:
    """Take one module of tenants down to a version; `_template` stays as it is unless it is named, too, or with --all."""
    _check_named(slugs, everyone)
    with _opened(as_json) as erp:
        erp.database.check_writable()
        return _show_or_apply(erp.migrations.down(slugs, **choice), confirm, show_sql=show_sql, as_json=as_json)


@command.command()
@named_option
@all_option
@canary_option
@click.option("--module", required=True, help="The module whose last version is taken down and up again.")
@_with(run_options)
def redo(slugs: tuple[str, ...], everyone: bool, confirm: str, show_sql: bool, as_json: bool, **choice: Any) -> int:
    """Take the last applied version of a module down and up again, each tenant at its own."""
    _check_named(slugs, everyone)
    with _opened(as_json) as erp:
        erp.database.check_writable()
        return _show_or_apply(erp.migrations.redo(slugs, **choice), confirm, show_sql=show_sql, as_json=as_json)


@command.command(context_settings={"ignore_unknown_options": True})  # -1 is a version
@click.argument("version", type=click.IntRange(min=-1))
@named_option
@all_option
@click.option("--module", required=True, help="The module, with files of golang-migrate's.")
@click.option("--confirm", default="", metavar="PLAN_ID", help="Apply the plan with this id; without it, show it.")
@as_table
def force(version: int, slugs: tuple[str, ...], everyone: bool, module: str, confirm: str) -> int:
    """Set golang-migrate's version of tenants and run nothing, once a file that failed was seen to; -1 is no version."""
    _check_named(slugs, everyone)
    with _opened(as_json=False) as erp:
        erp.database.check_writable()
        return show_or_apply(erp.migrations.force(version, slugs, module=module), confirm, this_command())


@command.command()
@click.option("--tenant", "slugs", multiple=True, metavar="SLUG", help="Only this tenant; may be repeated.")
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="How many lines.")
@as_rows
def history(slugs: tuple[str, ...], limit: int, as_json: bool) -> None:
    """Show what was done to which tenant, the newest first: who, when, which plan, how long, and what failed."""
    with _opened(as_json) as erp:
        found = erp.migrations.history(slugs, limit=limit)
    if as_json:
        print_json([vars(entry) for entry in found.entries])
    else:
        show(found.table)


@contextmanager
def _opened(as_json: bool) -> Iterator[Erp]:
    with erpkit.open() as erp:
        print_target(erp.target, quiet=as_json)
        yield erp


def _check_named(slugs: tuple[str, ...], everyone: bool) -> None:
    if bool(slugs) == everyone:
        raise click.UsageError("name the tenants with --tenant, or take --all of them")


def _check_to(choice: dict[str, Any]) -> None:
    if choice["to"] is not None and choice["module"] is None:
        raise click.UsageError("--to needs --module: versions are numbered by module")


def _is_doubtful(plan: MigrationPlan) -> bool:
    """Tell whether a tenant is left alone that should not be, or there is none, or a statement is not for each tenant."""
    return (
        bool(plan.refused)
        or plan.reaches
        or any(finding.kind in ("no tenants", "no migrations", "skipped") for finding in plan.findings)
    )


def _show_or_apply(plan: Plan[MigrationPlan, MigrationRun], confirm: str, *, show_sql: bool, as_json: bool) -> int:
    """Show a plan, or apply it where its id was confirmed; return the exit code, which is 1 for a run that is incomplete."""
    if not confirm:
        _show_plan(plan, show_sql=show_sql, as_json=as_json)
        return 3 if plan.record.is_empty and _is_doubtful(plan.record) else 0
    run: MigrationRun = apply_plan(plan, confirm)
    _show_run(plan.record, run, as_json=as_json)
    if not run.is_complete or plan.record.refused or run.behind or run.not_verified:
        return 1
    return exit_code(plan.record.unseen)


def _show_plan(plan: Plan[MigrationPlan, MigrationRun], *, show_sql: bool, as_json: bool) -> None:
    """Print a plan: its waves, who is left out and why, what the linter says, an estimate, its id, and how to apply it."""
    again = this_command().replace("migrate plan", "migrate up", 1)
    if as_json:
        print_json(_plan_as_json(plan.record))
        if not plan.record.is_empty:
            say(f"dry run: nothing was changed; to apply it: {again} --confirm {plan.id}", err=True)
        return
    if show_sql and is_for_programs():
        _say_sql(plan.record)
    elif not plan.record.is_empty or is_for_programs():
        show(whole_table(plan.record) if is_for_programs() else plan.record.table)
    _print_skipped(plan.record)
    if show_sql and not is_for_programs():
        _say_sql(plan.record)
    print_findings([finding for finding in plan.record.findings if finding.kind != "pending"])  # the table shows these
    if plan.record.before and plan.record.before.is_foreign:
        what = f"plan {plan.id}: {plan.record}; " if not plan.record.is_empty else ""
        note(f"{what}erpkit only reads this ERP: its own tool migrates it")
    else:
        say_plan(plan, again)


def _say_sql(plan: MigrationPlan) -> None:
    """Print the statements as a script, which in a pipe is all there is; or as rows where a format asks for them."""
    if is_for_programs() and shown_as() != "rows":
        show(plan.scripts)
        return
    for migration, direction, statements in plan.sql():
        say_script("\n".join([f"-- {visible(migration.name)} ({direction})", *statements, ""]))


def _plan_as_json(plan: MigrationPlan) -> dict[str, object]:
    steps = [
        {"wave": wave.name, "tenant": p.tenant.slug, "migration": m.name, "direction": direction}
        for wave in plan.waves
        for p in wave.tenants
        for m, direction in p.steps
    ]
    left = {"skipped": dict(plan.skipped), "refused": dict(plan.refused), "held": dict(plan.held)}
    facts = {"seconds": plan.estimate.seconds, "lint": [asdict(finding) for finding in plan.lint.findings]}
    return {"id": plan.id, "direction": plan.direction, "steps": steps, **left, **facts}


def _show_run(plan: MigrationPlan, run: MigrationRun, *, as_json: bool) -> None:
    """Print what became of each tenant."""
    if as_json:
        left = {
            "skipped": dict(plan.skipped), "refused": dict(plan.refused), "held": dict(plan.held),
            "not_started": dict(run.not_started),
        }  # fmt: skip
        results = [asdict(result) for result in run.results]
        print_json({"plan": run.plan_id, "seconds": run.seconds, "done": run.done_count, "results": results, **left})
        return
    show(whole_table(run) if is_for_programs() else run.table)
    _print_skipped(plan)
    print_findings(run.findings)
    note(str(run))


def _print_skipped(plan: MigrationPlan) -> None:
    leave_gap()
    for slug, status in plan.skipped.items():
        note(f"skipped {slug}: {status}")
