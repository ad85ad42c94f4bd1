"""The buttons of each notebook that writes: what its cells do with `dry_run` and `confirm`, for a person in JupyterLab."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from erpkit.config import Settings
from erpkit.database import TEMPLATE, Database
from erpkit.migrations import Migration, MigrationPlan, MigrationRun, plan_up, read_applied, run_plan
from erpkit.tenants import find_tenants
from erpkit.ui.guard import Guard, Operation, Work
from erpkit.ui.migrations import migration_plan_table, migration_results_table
from erpkit.ui.show import show

__all__ = ["migration_buttons"]


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
