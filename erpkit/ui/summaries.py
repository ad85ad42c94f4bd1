"""How each notebook ends: its figures, and what a person should look at."""

from __future__ import annotations

from collections.abc import Sequence

from erpkit.database import Tenant
from erpkit.events import DeadLetter, ReplayPlan, ReplayRun
from erpkit.runs import Summary

__all__ = [
    "summarize_replay",
]


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
