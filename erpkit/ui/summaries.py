"""How each notebook ends: its figures, and what a person should look at."""

from __future__ import annotations

from collections.abc import Sequence

from erpkit.database import Tenant
from erpkit.events import DeadLetter, ReplayPlan, ReplayRun
from erpkit.migrations import MigrationPlan, MigrationRun, MigrationStatus
from erpkit.runs import Summary

__all__ = [
    "summarize_migrations",
    "summarize_replay",
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


def summarize_replay(
    target: str, plan: ReplayPlan, fleet: Sequence[Tenant], remaining: Sequence[DeadLetter], run: ReplayRun | None
) -> Summary:
    """Sum up a replay, or a dry run where `run` is None: what failed and the dead letters that remain are findings."""
    failures = run.failures if run else ()
    known = run.known if run else 0
    letters = () if plan.target else remaining  # what goes to a broker resolves none
    facts = {
        "plan": plan.id,
        "planned": plan.event_count,
        "sent" if plan.target else "handled": run.handled if run else 0,
        "failed": run.failed if run else 0,
        "dead letters": len(remaining),
        "skipped": ", ".join(tenant.slug for tenant in fleet if not tenant.is_active) or "none",
    }
    findings = [
        *(
            [f"the broker had {known} event(s) already, and dropped them; `again` sends them all the same"]
            if known
            else []
        ),
        *(f"{f.tenant}: {f.handler} failed on offset {f.offset}: {f.error}" for f in failures),
        *(f"{d.tenant}: dead letter at offset {d.offset}, {d.handler}: {d.error}" for d in letters),
    ]
    return Summary(f"{_verb(run)}: plan {plan.id} on {target}", facts, findings)


def _verb(run: object | None) -> str:
    return "Dry run" if run is None else "Applied"
