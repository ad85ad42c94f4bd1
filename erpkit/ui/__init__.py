"""What people look at: tables, plots and widgets."""

from erpkit.ui.buttons import migration_buttons
from erpkit.ui.decision import Decision, decide
from erpkit.ui.explorer import Explorer, explore
from erpkit.ui.form import Form, form
from erpkit.ui.guard import Guard
from erpkit.ui.migrations import (
    lint_table,
    migration_history_table,
    migration_plan_table,
    migration_results_table,
    migration_scripts_table,
    migration_status_table,
    plot_migrations,
)
from erpkit.ui.module_explorer import ModuleExplorer, explore_modules
from erpkit.ui.plots import Picture, plot_counts
from erpkit.ui.progress import progress_bar
from erpkit.ui.run_history import plot_runs
from erpkit.ui.show import show
from erpkit.ui.summaries import summarize_migrations

__all__ = [
    "Decision",
    "Explorer",
    "Form",
    "Guard",
    "ModuleExplorer",
    "Picture",
    "decide",
    "explore",
    "explore_modules",
    "form",
    "lint_table",
    "migration_buttons",
    "migration_history_table",
    "migration_plan_table",
    "migration_results_table",
    "migration_scripts_table",
    "migration_status_table",
    "plot_counts",
    "plot_migrations",
    "plot_runs",
    "progress_bar",
    "show",
    "summarize_migrations",
]
