"""Migrations over all tenants: goose's files and tables, a plan with an id, and a run that names who failed."""

from erpkit.migrations.files import Migration, collect_migrations, read_migrations, version_table
from erpkit.migrations.parser import ParsedMigration, parse_migration
from erpkit.migrations.plan import MigrationPlan, TenantPlan, plan_down, plan_up
from erpkit.migrations.provider import MigrationRun, TenantResult, apply_migration, run_plan
from erpkit.migrations.status import MigrationStatus, describe_status, read_applied

__all__ = [
    "Migration",
    "MigrationPlan",
    "MigrationRun",
    "MigrationStatus",
    "ParsedMigration",
    "TenantPlan",
    "TenantResult",
    "apply_migration",
    "collect_migrations",
    "describe_status",
    "parse_migration",
    "plan_down",
    "plan_up",
    "read_applied",
    "read_migrations",
    "run_plan",
    "version_table",
]
