"""Migrations over all tenants: goose's files and tables, a plan with an id, and a run that names who failed."""

from erpkit.migrations.apply import apply_migration
from erpkit.migrations.estimate import Estimate, estimate_plan
from erpkit.migrations.files import Migration, collect_migrations, read_migrations, version_table
from erpkit.migrations.history import HistoryEntry, read_history, read_milliseconds
from erpkit.migrations.lint import LintFinding, LintReport, lint_migrations, lint_plan
from erpkit.migrations.parser import ParsedMigration, parse_migration
from erpkit.migrations.plan import MigrationPlan, TenantPlan, Wave, plan_down, plan_redo, plan_up
from erpkit.migrations.provider import MigrationRun, run_plan
from erpkit.migrations.script import Limits
from erpkit.migrations.status import Applied, MigrationStatus, describe_status, read_applied
from erpkit.migrations.worker import TenantResult

__all__ = [
    "Applied",
    "Estimate",
    "HistoryEntry",
    "Limits",
    "LintFinding",
    "LintReport",
    "Migration",
    "MigrationPlan",
    "MigrationRun",
    "MigrationStatus",
    "ParsedMigration",
    "TenantPlan",
    "TenantResult",
    "Wave",
    "apply_migration",
    "collect_migrations",
    "describe_status",
    "estimate_plan",
    "lint_migrations",
    "lint_plan",
    "parse_migration",
    "plan_down",
    "plan_redo",
    "plan_up",
    "read_applied",
    "read_history",
    "read_migrations",
    "read_milliseconds",
    "run_plan",
    "version_table",
]
