"""The buttons of each notebook that writes: what its cells do with `dry_run` and `confirm`, for a person in JupyterLab."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from erpkit.config import Settings
from erpkit.database import TEMPLATE, Database, Tenant
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
from erpkit.migrations import Migration, MigrationPlan, MigrationRun, plan_up, read_applied, run_plan
from erpkit.modules import Registry
from erpkit.tenants import find_tenants
from erpkit.ui.guard import Guard, Operation, Work
from erpkit.ui.migrations import migration_plan_table, migration_results_table
from erpkit.ui.replays import replay_handlers_table, shadow_table
from erpkit.ui.show import show
from erpkit.ui.tables import replay_failures_table

__all__ = ["migration_buttons", "rebuild_buttons", "replay_buttons"]


def migration_buttons(
    database: Database,
    migrations: Sequence[Migration],
    plan: MigrationPlan | None,
    tenants: Sequence[str] = (),
    *,
    canaries: Sequence[str] = (),
    retry_dirty: bool = False,
    **options: Any,
) -> Guard[MigrationPlan, MigrationRun]:
    """Plan, apply and stop migrations of `tenants` (all of them, without a name); `options` are `run_plan`'s."""

    def make(database: Database, _work: Work) -> MigrationPlan:
        with database.connection() as connection:
            fleet = [TEMPLATE, *find_tenants(connection, tenants, Settings.from_env().tenants_query)]
            applied = read_applied(connection, fleet, migrations)
        return plan_up(fleet, migrations, applied, canaries=canaries, retry_dirty=retry_dirty)

    def apply(database: Database, plan: MigrationPlan, confirm: str, work: Work) -> MigrationRun:
        return run_plan(database, plan, confirm, lambda _: work.advance(1), stop=work.stop, **options)

    return Guard(
        database,
        Operation(
            make, apply, unit="tenants",
            size=lambda plan: len(plan.tenants),
            describe=lambda plan: f"{plan.step_count:,} migration(s) in {len(plan.tenants):,} schema(s)",
            plan_table=lambda plan: show(migration_plan_table(plan), "Every schema is current."),
            outcome=_migrated,
            result_table=lambda run: show(migration_results_table(run), "There was nothing to do."),
        ),
        plan,
    )  # fmt: skip


def _migrated(run: MigrationRun) -> str:
    left = f", {len(run.not_started)} tenant(s) not started: plan again to go on" if run.not_started else ""
    return f"{run.done_count:,} migration(s) applied, {len(run.failed)} tenant(s) failed{left}"


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
