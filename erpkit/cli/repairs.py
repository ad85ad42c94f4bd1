"""erpkit tenants repair and restore: what brings one tenant back to how it should be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import click

from erpkit.cli.output import as_json, open_database, print_json, print_table, say
from erpkit.config import Settings
from erpkit.migrations import read_migrations
from erpkit.modules import load_modules
from erpkit.tenants import (
    Beside,
    RepairPlan,
    RepairStep,
    Restored,
    RestorePlan,
    get_tenant,
    import_beside,
    lint_repair,
    plan_restore,
    read_repair,
    run_repair,
    swap_in,
)
from erpkit.tenants.repair import Risk

__all__ = ["repair", "restore"]

_RISKS = click.Choice(["fails", "loses"])
_WHY = {
    "fails": "may fail where rows are in the way: --accept fails",
    "loses": "loses values: --accept loses",
    "by hand": "by hand",
}


@click.command()
@click.argument("slug")
@click.option(
    "--accept",
    type=_RISKS,
    multiple=True,
    help="Also run statements with this risk: failing on rows, or losing values.",
)
@click.option("--confirm", default="", metavar="PLAN_ID", help="Run what the plan with this id shows.")
@as_json
def repair(slug: str, accept: tuple[Risk, ...], confirm: str, as_json: bool) -> int:
    """Make a tenant's schema like _template again; without --confirm, show the statements.

    All of it is one transaction. Exit code 3 if something is different, in a dry run, or still is, after it.
    """
    migrations = read_migrations(load_modules(Settings.from_env()).modules)
    with open_database(quiet=as_json) as database:
        if confirm:
            run = run_repair(database, slug, migrations, confirm, accept)
            plan, left = run.plan, [str(one) for one in run.left]
        else:
            with database.connection() as connection:
                plan = read_repair(connection, get_tenant(connection, slug), migrations, accept)
            left = list(dict.fromkeys(step.difference for step in (*plan.steps, *plan.left)))
    if as_json:
        print_json({"plan": plan.id, "applied": bool(confirm), **_document(plan), "different": left})
    else:
        _print_repair(plan, confirm, left)
    return 3 if left else 0


def _document(plan: RepairPlan) -> dict[str, object]:
    return {
        "tenant": plan.tenant.slug,
        "steps": [asdict(step) for step in plan.steps],
        "left": [asdict(step) for step in plan.left],
    }


def _print_repair(plan: RepairPlan, confirm: str, left: Sequence[str]) -> None:
    for step in plan.steps:
        say(f"{step.statement}  -- {step.difference}")
    for step in plan.left:
        say(f"! left out, {_WHY[step.risk]}: {_first_line(step)}  -- {step.difference}")
    if confirm:
        say(f"repaired {plan.tenant.slug}: {len(plan.steps)} statement(s), {len(left)} difference(s) are left")
        return
    if not plan.steps:
        say("nothing to repair" if not plan.left else "nothing would be run")
        return
    lint = lint_repair(plan)
    for finding in lint.findings:
        say(f"! {finding.rule}: {finding.statement}: {finding.message}")
    if lint.note:
        say(lint.note)
    say(f"plan {plan.id}: {len(plan.steps)} statement(s) in one transaction")
    say(f"dry run: nothing was changed; to run them, add --confirm {plan.id}")


def _first_line(step: RepairStep) -> str:
    first, *more = step.statement.split("\n")
    return f"{first} …" if more else first


@click.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--tenant", "slug", metavar="SLUG", help="The tenant to restore, where it has another name than in the file."
)
@click.option("--confirm", default="", metavar="PLAN_ID", help="Do what the plan with this id shows.")
@as_json
def restore(file: Path, slug: str | None, confirm: str, as_json: bool) -> int:
    """Put an exported tenant in the place of a damaged one; without --confirm, show what would be done.

    The file is verified, imported beside the damaged tenant, compared, and renamed into its place; the damaged one is kept,
    archived. Suspend the tenant first, and activate it afterwards. Exit code 3 if there is something to look at.
    """
    migrations = read_migrations(load_modules(Settings.from_env()).modules)
    with open_database(quiet=as_json) as database:
        with database.connection() as connection:
            plan = plan_restore(connection, file, slug)
        if not confirm:
            print_json(_plan_document(plan)) if as_json else _print_plan(plan)
            return 0
        beside = import_beside(database, plan, confirm, migrations)
        restored = None if beside.problems else swap_in(database, plan, confirm, beside)
    if as_json:
        print_json(_plan_document(plan) | _result_document(beside, restored))
    else:
        _print_restored(plan, beside, restored)
    return 3 if restored is None or restored.mentions or beside.drift else 0


def _plan_document(plan: RestorePlan) -> dict[str, object]:
    changes = [{"table": table, "now": now, "then": then} for table, (now, then) in plan.changes.items()]
    return {
        "plan": plan.id, "tenant": plan.tenant.slug, "status": plan.tenant.status, "file": plan.path,
        "exported_at": plan.manifest.created_at, "beside": plan.beside, "aside": plan.aside, "changes": changes, "restored": False,
    }  # fmt: skip


def _result_document(beside: Beside, restored: Restored | None) -> dict[str, object]:
    return {
        "restored": restored is not None,
        "problems": beside.problems,
        "drift": [str(one) for one in beside.drift],
        "events": [asdict(one) for one in beside.log_changes],
        "mentions": [str(one) for one in restored.mentions] if restored else [],
    }


def _print_plan(plan: RestorePlan) -> None:
    slug = plan.tenant.slug
    say(
        f"{plan.path} is whole: {plan.manifest.slug}, {plan.manifest.row_count:,} rows, exported {plan.manifest.created_at}"
    )
    if plan.changes:
        rows = [(table, *("–" if n is None else f"{n:,}" for n in pair)) for table, pair in plan.changes.items()]
        print_table(["table", "rows now", "rows then"], rows)
    say(f"plan {plan.id}: import it as {plan.beside}, then {slug} becomes {plan.aside} and {plan.beside} {slug}")
    if plan.tenant.is_active:
        say(f"! {slug} is active: erpkit tenants suspend {slug}, and plan again")
    say(f"dry run: nothing was changed; to do it, add --confirm {plan.id}")


def _print_restored(plan: RestorePlan, beside: Beside, restored: Restored | None) -> None:
    slug = plan.tenant.slug
    for line in (*beside.problems, *beside.drift, *beside.log_changes, *(restored.mentions if restored else ())):
        say(f"! {line}")
    if restored is None:
        say(f"not restored: {plan.beside} is kept beside {slug}, which is as it was")
        return
    say(f"restored {slug}, suspended; the damaged one is {restored.damaged.slug}, archived")
    say(f"look at it, then: erpkit tenants activate {slug}")
    say(
        f"to undo: erpkit tenants rename {slug} {plan.beside}; erpkit tenants rename {restored.damaged.slug} {slug}; "
        f"erpkit tenants activate {slug}"
    )
