"""What people look at: tables, plots and widgets."""

from erpkit.ui.explorer import Explorer, explore
from erpkit.ui.migrations import (
    lint_table,
    migration_history_table,
    migration_plan_table,
    migration_results_table,
    migration_scripts_table,
    migration_status_table,
    plot_migrations,
)
from erpkit.ui.plots import Picture, plot_counts, plot_events, plot_growth, plot_modules, plot_replay
from erpkit.ui.progress import progress_bar
from erpkit.ui.show import show
from erpkit.ui.summaries import (
    summarize_inspection,
    summarize_migrations,
    summarize_modules,
    summarize_offboarding,
    summarize_provision,
    summarize_replay,
)
from erpkit.ui.tables import (
    blockers_table,
    dead_letters_table,
    drift_table,
    drop_plan_table,
    findings_table,
    growth_table,
    health_table,
    indexes_table,
    modules_table,
    provision_plan_table,
    replay_failures_table,
    replay_plan_table,
    rows_table,
    tenants_table,
    topics_table,
)
from erpkit.ui.widgets import explore_tenants

__all__ = [
    "Explorer",
    "Picture",
    "blockers_table",
    "dead_letters_table",
    "drift_table",
    "drop_plan_table",
    "explore",
    "explore_tenants",
    "findings_table",
    "growth_table",
    "health_table",
    "indexes_table",
    "lint_table",
    "migration_history_table",
    "migration_plan_table",
    "migration_results_table",
    "migration_scripts_table",
    "migration_status_table",
    "modules_table",
    "plot_counts",
    "plot_events",
    "plot_growth",
    "plot_migrations",
    "plot_modules",
    "plot_replay",
    "progress_bar",
    "provision_plan_table",
    "replay_failures_table",
    "replay_plan_table",
    "rows_table",
    "show",
    "summarize_inspection",
    "summarize_migrations",
    "summarize_modules",
    "summarize_offboarding",
    "summarize_provision",
    "summarize_replay",
    "tenants_table",
    "topics_table",
]
