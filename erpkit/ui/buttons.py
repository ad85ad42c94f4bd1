"""The buttons of each notebook that writes: what its cells do with `dry_run` and `confirm`, for a person in JupyterLab."""

from __future__ import annotations

from collections.abc import Sequence

from erpkit.config import Settings
from erpkit.database import Database, Tenant
from erpkit.errors import ErpkitError
from erpkit.events import (
    ReplayPlan,
    ReplayRequest,
    ReplayRun,
    Shadow,
    ShadowDiff,
    build_shadow,
    diff_shadow,
    find_shadow,
    plan_request,
    run_request,
    swap_shadow,
)
from erpkit.modules import Registry
from erpkit.tenants import find_tenants
from erpkit.ui.guard import Guard, Operation, Work
from erpkit.ui.replays import replay_handlers_table, shadow_table
from erpkit.ui.show import show
from erpkit.ui.tables import replay_failures_table

__all__ = ["rebuild_buttons", "replay_buttons"]


def replay_buttons(
    database: Database,
    registry: Registry,
    plan: ReplayPlan | None,
    tenants: Sequence[str],
    request: ReplayRequest,
    settings: Settings,
    *,
    rate: float | None = None,
) -> Guard[ReplayPlan, ReplayRun]:
    """Plan, apply and stop a replay of events of `tenants` (all active ones, without a name)."""

    def make(database: Database, _work: Work) -> ReplayPlan:
        with database.connection() as connection:
            fleet = [tenant for tenant in find_tenants(connection, tenants) if tenant.is_active]
        return plan_request(database, registry, fleet, request, settings)

    def apply(database: Database, plan: ReplayPlan, confirm: str, work: Work) -> ReplayRun:
        return run_request(database, registry, plan, confirm, settings, work.advance, rate=rate, stop=work.stop)

    return Guard(
        database,
        Operation(
            make, apply, unit="events",
            size=lambda plan: plan.event_count,
            describe=lambda plan: f"{plan.event_count:,} event(s) of {len(plan.tenants):,} tenant(s)",
            plan_table=lambda plan: show(replay_handlers_table(plan), "There is nothing to replay."),
            outcome=_replayed,
            result_table=lambda run: show(replay_failures_table(run), "No event failed."),
        ),
        plan,
    )  # fmt: skip


def _replayed(run: ReplayRun) -> str:
    known = f", {run.known:,} known to the broker before" if run.known else ""
    return f"replay {run.replay_id} {run.state}: {run.handled:,} handled, {run.failed:,} failed{known}"


def rebuild_buttons(
    database: Database,
    registry: Registry,
    diff: ShadowDiff | None,
    tenant: Tenant,
    handler: str,
    *,
    rate: float | None = None,
) -> Guard[ShadowDiff, ShadowDiff]:
    """Build a projection anew beside the live one, compare, and put it in place; a build that was stopped goes on."""
    stopped: list[Shadow] = []

    def make(database: Database, work: Work) -> ShadowDiff:
        shadow = build_shadow(
            database, registry, tenant, handler, resume=bool(stopped), rate=rate, stop=work.stop, progress=work.advance
        )  # fmt: skip
        stopped[:] = [] if shadow.is_complete else [shadow]
        if stopped:
            raise ErpkitError(f"stopped after {shadow.events:,} events: plan again to go on from there")
        return diff_shadow(database, registry, shadow)

    def compare(database: Database) -> ShadowDiff:
        return diff_shadow(database, registry, find_shadow(database, registry, tenant, handler))

    def apply(database: Database, diff: ShadowDiff, confirm: str, _work: Work) -> ShadowDiff:
        return swap_shadow(database, registry, diff.shadow, confirm)

    return Guard(
        database,
        Operation(
            make, apply, unit="events", can_stop=False, look_again=compare,
            describe=lambda diff: f"{diff.count:,} row(s) of {diff.shadow.tenant.slug} differ",
            plan_table=lambda diff: show(shadow_table(diff)),
            outcome=lambda diff: f"{diff.count:,} row(s) written or deleted",
            result_table=lambda diff: show(shadow_table(diff)),
        ),
        diff,
    )  # fmt: skip
