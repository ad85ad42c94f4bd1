"""How each notebook ends: its figures, and what a person should look at."""

from __future__ import annotations

from collections.abc import Sequence

from erpkit.database import Tenant
from erpkit.events import DeadLetter, ReplayPlan, ReplayRun
from erpkit.runs import Summary
from erpkit.tenants import DropPlan, DropResult, Manifest, ProvisionPlan, TenantInspection

__all__ = [
    "summarize_inspection",
    "summarize_offboarding",
    "summarize_provision",
    "summarize_replay",
]


def summarize_inspection(target: str, inspections: Sequence[TenantInspection]) -> Summary:
    """Sum up an inspection; every problem of every tenant is a finding."""
    facts = {
        "tenants": len(inspections),
        "active": sum(i.tenant.is_active for i in inspections),
        "MiB": round(sum(i.size for i in inspections) / 2**20, 1),
        "events": sum(i.event_count for i in inspections),
        "dead letters": sum(len(i.dead_letters) for i in inspections),
    }
    return Summary(
        f"{len(inspections)} tenants inspected on {target}", facts, [p for i in inspections for p in i.problems]
    )


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


def summarize_provision(target: str, plan: ProvisionPlan, made: TenantInspection | None) -> Summary:
    """Sum up a new tenant, or a dry run where `made` is None: what its inspection finds are findings."""
    facts = {
        "plan": plan.id,
        "tenant": plan.tenant.slug,
        "migrations": len(plan.migrations),
        "created": int(made is not None),
        "pending": made.pending if made else 0,
        "drift": len(made.drift) if made else 0,
    }
    return Summary(f"{_verb(made)}: plan {plan.id} on {target}", facts, made.problems if made else [])


def summarize_offboarding(
    target: str, plan: DropPlan, manifest: Manifest | None, dropped: DropResult | None, remaining: Sequence[Tenant]
) -> Summary:
    """Sum up an offboarding, or a dry run where `dropped` is None: a tenant that is still there after it is a finding."""
    slug = plan.tenant.slug
    facts = {
        "plan": plan.id,
        "tenant": slug,
        "tables": len(plan.tables),
        "rows": plan.row_count,
        "exported": manifest.row_count if manifest else 0,
        "dropped": dropped.dropped_count if dropped else 0,
    }
    still_there = dropped is not None and slug in {tenant.slug for tenant in remaining}
    findings = [f"{slug}: it is still in public.tenants"] if still_there else []
    findings += [f"{slug}: not in the export: {what}" for what in (manifest.left_out if manifest else ())]
    return Summary(f"{_verb(dropped)}: plan {plan.id} on {target}", facts, findings)


def _verb(run: object | None) -> str:
    return "Dry run" if run is None else "Applied"
