"""How each notebook ends: its figures, and what a person should look at."""

from __future__ import annotations

from collections.abc import Sequence

from erpkit.migrations import MigrationPlan, MigrationRun, MigrationStatus
from erpkit.runs import Summary

__all__ = [
    "summarize_migrations",
]


def summarize_migrations(
    target: str,
    plan: MigrationPlan,
    before: Sequence[MigrationStatus],
    after: Sequence[MigrationStatus],
    run: MigrationRun | None,
) -> Summary:
    """Sum up a migration run, or a dry run where `run` is None: who failed and who is still behind are findings."""
    failed = run.failed if run else ()
    facts = {
        "plan": plan.id,
        "found behind": len({s.tenant for s in before if s.pending}),
        "planned": plan.step_count,
        "applied": run.done_count if run else 0,
        "failed": len(failed),
        "not started": len(run.not_started) if run else 0,
        "skipped": ", ".join(plan.skipped) or "none",
    }
    findings = [
        *(f"{result.tenant}: {result.error}" for result in failed),
        *(f"{slug}: {reason}" for slug, reason in plan.refused.items()),
        *(
            f"{s.tenant}: {s.module} {', '.join(map(str, s.edited))} was edited after it was applied"
            for s in after
            if s.edited
        ),
        *(f"{s.tenant}: {s.module} {', '.join(map(str, s.dirty))} stopped half way" for s in after if s.dirty),
        *(
            f"{s.tenant}: {s.module} is at {s.version} and lacks {', '.join(map(str, s.pending))}"
            for s in after
            if s.pending and s.tenant not in plan.skipped
        ),
    ]
    return Summary(f"{_verb(run)}: plan {plan.id} on {target}", facts, findings)


def _verb(run: object | None) -> str:
    return "Dry run" if run is None else "Applied"
