"""The buttons of each notebook that writes: what its cells do with `dry_run` and `confirm`, for a person in JupyterLab."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from erpkit.config import Settings
from erpkit.database import Database, Tenant
from erpkit.errors import DatabaseError, ErpkitError, PlanChangedError
from erpkit.events import (
    ReplayPlan,
    ReplayRequest,
    ReplayRun,
    RunOptions,
    Shadow,
    ShadowDiff,
    build_shadow,
    diff_shadow,
    find_shadow,
    plan_request,
    run_request,
    swap_shadow,
)
from erpkit.migrations import Migration
from erpkit.modules import Registry
from erpkit.tenants import (
    DropPlan,
    DropResult,
    Manifest,
    ProvisionPlan,
    drop_tenant,
    export_tenant,
    find_tenants,
    plan_drop,
    plan_provision,
    provision_tenant,
    verify_export,
)
from erpkit.ui.guard import Guard, Operation, Work
from erpkit.ui.replays import replay_handlers_table, shadow_table
from erpkit.ui.show import show
from erpkit.ui.tables import drop_plan_table, frame_of, provision_plan_table, replay_failures_table

__all__ = ["offboard_buttons", "provision_buttons", "rebuild_buttons", "replay_buttons"]


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
        PlanChangedError.check(confirm, plan.id)
        return run_request(database, registry, plan, settings, RunOptions(work.advance, work.stop, rate))

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
        options = RunOptions(work.advance, work.stop, rate, resume=bool(stopped))
        shadow = build_shadow(database, registry, tenant, handler, options)
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


def provision_buttons(
    database: Database, migrations: Sequence[Migration], plan: ProvisionPlan | None, slug: str, name: str = ""
) -> Guard[ProvisionPlan, Tenant]:
    """Plan and make a new tenant."""

    def make(database: Database, _work: Work) -> ProvisionPlan:
        with database.connection() as connection:
            return plan_provision(connection, migrations, slug, name)

    return Guard(
        database,
        Operation(
            make, lambda database, plan, confirm, _: provision_tenant(database, plan, confirm), can_stop=False,
            describe=lambda plan: f"tenant {plan.tenant.slug} with {len(plan.migrations):,} migration(s)",
            plan_table=lambda plan: show(provision_plan_table(plan), "There are no migrations."),
            outcome=lambda tenant: f"{tenant.slug} was created",
            result_table=lambda t: show(frame_of([{"tenant": t.slug, "name": t.name, "schema": t.schema, "role": t.role}])),
        ),
        plan,
    )  # fmt: skip


def offboard_buttons(
    database: Database, plan: DropPlan | None, slug: str, folder: str = "."
) -> Guard[DropPlan, tuple[Manifest, DropResult]]:
    """Plan an offboarding; export, verify and drop the tenant."""

    def make(database: Database, _work: Work) -> DropPlan:
        with database.connection() as connection:
            (tenant,) = find_tenants(connection, [slug])
            return plan_drop(connection, tenant)

    def apply(database: Database, plan: DropPlan, confirm: str, work: Work) -> tuple[Manifest, DropResult]:
        plan.check(confirm)
        path = Path(folder).absolute() / f"{slug}-{plan.id}.erpkit"
        export_tenant(database, plan.tenant, path)
        manifest = verify_export(path)
        if manifest.rows != plan.rows:
            raise DatabaseError(f"{slug} has changed since it was planned: nothing was dropped")
        return manifest, drop_tenant(database, slug, confirm, lambda batch: work.advance(len(batch)))

    return Guard(
        database,
        Operation(
            make, apply, unit="tables", can_stop=False,
            size=lambda plan: len(plan.tables),
            describe=lambda plan: f"drop {slug}: {len(plan.tables):,} table(s), {plan.row_count:,} row(s)",
            plan_table=lambda plan: show(drop_plan_table(plan), "Its schema holds no tables."),
            outcome=lambda done: f"{done[0].row_count:,} row(s) exported and verified; {slug} was dropped",
            result_table=lambda done: show(frame_of([{"dropped": name} for batch in done[1].batches for name in batch])),
        ),
        plan,
    )  # fmt: skip
