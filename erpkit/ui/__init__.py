"""What people look at: tables, plots and widgets."""

from erpkit.ui.buttons import (
    migration_buttons,
    rebuild_buttons,
    replay_buttons,
)
from erpkit.ui.dead_letters import (
    dead_letter_table,
    letter_counts_table,
    letter_plan_table,
    letter_results_table,
    parked_table,
    plot_causes,
)
from erpkit.ui.decision import Decision, decide
from erpkit.ui.event_health import (
    failures_table,
    lag_table,
    lock_holders_table,
    plot_lag,
    plot_rates,
    rates_table,
    summarize_event_health,
)
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
from erpkit.ui.plots import Picture, plot_counts, plot_replay
from erpkit.ui.progress import progress_bar
from erpkit.ui.replays import (
    replay_audit_table,
    replay_handlers_table,
    replay_results_table,
    shadow_examples_table,
    shadow_table,
    summarize_rebuild,
    watermill_table,
)
from erpkit.ui.run_history import plot_runs
from erpkit.ui.show import show
from erpkit.ui.summaries import summarize_migrations, summarize_replay
from erpkit.ui.tables import dead_letters_table, replay_failures_table, replay_plan_table

__all__ = [
    "Decision",
    "Explorer",
    "Form",
    "Guard",
    "ModuleExplorer",
    "Picture",
    "dead_letter_table",
    "dead_letters_table",
    "decide",
    "explore",
    "explore_modules",
    "failures_table",
    "form",
    "lag_table",
    "letter_counts_table",
    "letter_plan_table",
    "letter_results_table",
    "lint_table",
    "lock_holders_table",
    "migration_buttons",
    "migration_history_table",
    "migration_plan_table",
    "migration_results_table",
    "migration_scripts_table",
    "migration_status_table",
    "parked_table",
    "plot_causes",
    "plot_counts",
    "plot_lag",
    "plot_migrations",
    "plot_rates",
    "plot_replay",
    "plot_runs",
    "progress_bar",
    "rates_table",
    "rebuild_buttons",
    "replay_audit_table",
    "replay_buttons",
    "replay_failures_table",
    "replay_handlers_table",
    "replay_plan_table",
    "replay_results_table",
    "shadow_examples_table",
    "shadow_table",
    "show",
    "summarize_event_health",
    "summarize_migrations",
    "summarize_rebuild",
    "summarize_replay",
    "watermill_table",
]
