"""Migrations over all tenants: goose's files and tables, a plan with an id, and a run that names who failed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from erpkit.late import import_late

if TYPE_CHECKING:
    from erpkit.migrations.apply import apply_migration
    from erpkit.migrations.files import Migration, collect_migrations, read_migrations, version_table
    from erpkit.migrations.force import ForcePlan, ForceRun, plan_force, run_force
    from erpkit.migrations.foreign_state import (
        ForeignState,
        ForeignStates,
        FoundTable,
        find_state_tables,
        read_foreign_states,
    )
    from erpkit.migrations.history import MigrationHistory, read_history, read_milliseconds
    from erpkit.migrations.lint import LintReport, lint_migrations, lint_report
    from erpkit.migrations.parser import ParsedMigration, parse_migration
    from erpkit.migrations.plan import MigrationPlan, estimate_plan
    from erpkit.migrations.planning import plan_down, plan_redo, plan_up
    from erpkit.migrations.run import MigrationRun, run_plan
    from erpkit.migrations.script import Limits
    from erpkit.migrations.status import Applied, FleetStatus, MigrationStatus, describe_status, read_applied
    from erpkit.migrations.worker import TenantResult

__all__ = [
    "Applied",
    "FleetStatus",
    "ForcePlan",
    "ForceRun",
    "ForeignState",
    "ForeignStates",
    "FoundTable",
    "Limits",
    "LintReport",
    "Migration",
    "MigrationHistory",
    "MigrationPlan",
    "MigrationRun",
    "MigrationStatus",
    "ParsedMigration",
    "TenantResult",
    "apply_migration",
    "collect_migrations",
    "describe_status",
    "estimate_plan",
    "find_state_tables",
    "lint_migrations",
    "lint_report",
    "parse_migration",
    "plan_down",
    "plan_force",
    "plan_redo",
    "plan_up",
    "read_applied",
    "read_foreign_states",
    "read_history",
    "read_migrations",
    "read_milliseconds",
    "run_force",
    "run_plan",
    "version_table",
]

__getattr__ = import_late(__name__)
