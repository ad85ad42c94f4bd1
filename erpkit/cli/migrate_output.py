"""How a migration plan and its run are printed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict

from erpkit.cli.output import print_json, print_table, say, say_script
from erpkit.migrations import MigrationPlan, MigrationRun, estimate_plan, lint_plan
from erpkit.migrations.parser import Direction
from erpkit.visible import visible

__all__ = ["show_plan", "show_run"]

_LINES = 60  # of a table; with more, only what needs a look is listed


def show_plan(
    plan: MigrationPlan,
    milliseconds: Mapping[tuple[str, int, Direction], float],
    *,
    as_json: bool = False,
    sql: bool = False,
    workers: int = 3,
) -> None:
    """Print a plan: its waves, who is left out and why, the findings of the linter, an estimate, and its id."""
    lint = lint_plan(plan)
    estimate = estimate_plan(plan, milliseconds, workers)
    if as_json:
        steps = [
            {"wave": wave.name, "tenant": p.tenant.slug, "migration": m.name, "direction": direction}
            for wave in plan.waves
            for p in wave.tenants
            for m, direction in p.steps
        ]
        left = {"skipped": dict(plan.skipped), "refused": dict(plan.refused)}
        facts = {"seconds": estimate.seconds, "lint": [asdict(finding) for finding in lint.findings]}
        print_json({"id": plan.id, "direction": plan.direction, "steps": steps, **left, **facts})
        return
    _show_waves(plan)
    for slug, status in plan.skipped.items():
        say(f"skipped {slug}: {status}")
    for slug, reason in plan.refused.items():
        say(f"! {slug}: {reason}")
    if sql:
        for migration, direction, statements in plan.scripts():
            say_script("\n".join([f"-- {visible(migration.name)} ({direction})", *statements, ""]))
    for finding in lint.findings:
        say(f"{finding.level}: {finding.migration}:{finding.line}: {finding.rule}: {finding.statement}")
    if lint.note:
        say(lint.note)
    say(f"plan {plan.id}: {plan.step_count} {plan.direction} migrations on {len(plan.tenants)} schemas, {estimate}")


def show_run(plan: MigrationPlan, run: MigrationRun, *, as_json: bool = False) -> int:
    """Print what became of each tenant; return the exit code."""
    code = 1 if not run.is_complete or plan.refused else 0
    if as_json:
        left = {"skipped": dict(plan.skipped), "refused": dict(plan.refused), "not_started": dict(run.not_started)}
        results = [asdict(result) for result in run.results]
        print_json({"plan": run.plan_id, "seconds": run.seconds, "done": run.done_count, "results": results, **left})
        return code
    _show_results(plan, run)
    return code


def _show_results(plan: MigrationPlan, run: MigrationRun) -> None:
    results = run.results if len(run.results) <= _LINES else run.failed
    if results:
        print_table(
            ["tenant", "done", "ms", "error"],
            [(r.tenant, r.done_briefly, f"{r.seconds * 1000:.1f}", r.error or "") for r in results],
        )
    for slug, status in plan.skipped.items():
        say(f"skipped {slug}: {status}")
    for slug, reason in plan.refused.items():
        say(f"! {slug}: {reason}")
    if run.not_started:
        why = next(iter(run.not_started.values()))
        say(f"{len(run.not_started)} tenants not started: {why}; run it again to go on")
    say(f"{run.done_count} migrations applied in {run.seconds:.1f} s, {len(run.failed)} tenants failed")


def _show_waves(plan: MigrationPlan) -> None:
    lines = [
        (wave.name, p.tenant.slug, ", ".join(m.name + (f" ({d})" if d == "down" else "") for m, d in p.steps))
        for wave in plan.waves
        for p in wave.tenants
    ]
    if lines:
        print_table(["wave", "tenant", "migrations"], lines[:_LINES])
    if len(lines) > _LINES:
        say(f"… and {len(lines) - _LINES} tenants more; --json lists them all")
