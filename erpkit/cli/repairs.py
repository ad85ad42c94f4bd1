"""erpkit tenants repair and restore: what brings one tenant back to how it should be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import click

from erpkit.cli.output import as_json, open_database, print_json
from erpkit.config import Settings
from erpkit.migrations import read_migrations
from erpkit.modules import load_modules
from erpkit.tenants import RepairPlan, RepairStep, get_tenant, lint_repair, read_repair, run_repair
from erpkit.tenants.repair import Risk

__all__ = ["repair"]

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
        click.echo(f"{step.statement}  -- {step.difference}")
    for step in plan.left:
        click.echo(f"! left out, {_WHY[step.risk]}: {_first_line(step)}  -- {step.difference}")
    if confirm:
        click.echo(f"repaired {plan.tenant.slug}: {len(plan.steps)} statement(s), {len(left)} difference(s) are left")
        return
    if not plan.steps:
        click.echo("nothing to repair" if not plan.left else "nothing would be run")
        return
    lint = lint_repair(plan)
    for finding in lint.findings:
        click.echo(
            f"! {finding.rule}: {finding.statement or plan.steps[finding.line - 1].statement}: {finding.message}"
        )
    if lint.note:
        click.echo(lint.note)
    click.echo(f"plan {plan.id}: {len(plan.steps)} statement(s) in one transaction")
    click.echo(f"dry run: nothing was changed; to run them, add --confirm {plan.id}")


def _first_line(step: RepairStep) -> str:
    first, *more = step.statement.split("\n")
    return f"{first} …" if more else first
