"""erpkit tenants repair and restore: what brings one tenant back to how it should be."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

import erpkit
from erpkit.cli.output import as_json, print_json, print_target, say
from erpkit.cli.planning import show_or_apply
from erpkit.finding import exit_code
from erpkit.plan import Plan
from erpkit.tenants import RepairPlan, RepairRun, RestorePlan, RestoreRun
from erpkit.tenants.repair import Risk

__all__ = ["repair", "restore"]

_RISKS = click.Choice(["fails", "loses"])


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
    with erpkit.open() as erp:
        print_target(erp.target, quiet=as_json)
        plan = erp.tenants.repair(slug, accept)
        if as_json:
            return _print_repair(plan, confirm)
        accepted = "".join(f" --accept {risk}" for risk in accept)
        code = show_or_apply(plan, confirm, f"erpkit tenants repair {slug}{accepted}")
        if plan.note and not confirm:
            say(plan.note)
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
    with erpkit.open() as erp:
        print_target(erp.target, quiet=as_json)
        plan = erp.tenants.restore(file, slug or "")
        if as_json:
            run = plan.apply(confirm) if confirm else None
            print_json(_plan_document(plan.record) | (_result_document(run) if run else {}))
            return exit_code(run.findings) if run else 0
        if not confirm:
            manifest = plan.record.manifest
            say(f"{file} is whole: {manifest.slug}, {manifest.row_count:,} rows, exported {manifest.created_at}")
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
