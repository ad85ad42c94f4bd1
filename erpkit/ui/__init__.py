"""What people look at: tables, plots and widgets."""

from erpkit.ui.buttons import (
    offboard_buttons,
    provision_buttons,
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
from erpkit.ui.module_explorer import ModuleExplorer, explore_modules
from erpkit.ui.plots import Picture, plot_counts, plot_events, plot_growth, plot_replay
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
from erpkit.ui.summaries import (
    summarize_inspection,
    summarize_offboarding,
    summarize_provision,
    summarize_replay,
)
from erpkit.ui.tables import (
    blockers_table,
    dead_letters_table,
    drift_table,
    drop_plan_table,
    growth_table,
    health_table,
    indexes_table,
    provision_plan_table,
    replay_failures_table,
    replay_plan_table,
    rows_table,
    tenants_table,
)
from erpkit.ui.widgets import explore_tenants

__all__ = [
    "Decision",
    "Explorer",
    "Form",
    "Guard",
    "ModuleExplorer",
    "Picture",
    "blockers_table",
    "dead_letter_table",
    "dead_letters_table",
    "decide",
    "drift_table",
    "drop_plan_table",
    "explore",
    "explore_modules",
    "explore_tenants",
    "failures_table",
    "form",
    "growth_table",
    "health_table",
    "indexes_table",
    "lag_table",
    "letter_counts_table",
    "letter_plan_table",
    "letter_results_table",
    "lock_holders_table",
    "offboard_buttons",
    "parked_table",
    "plot_causes",
    "plot_counts",
    "plot_events",
    "plot_growth",
    "plot_lag",
    "plot_rates",
    "plot_replay",
    "plot_runs",
    "progress_bar",
    "provision_buttons",
    "provision_plan_table",
    "rates_table",
    "rebuild_buttons",
    "replay_audit_table",
    "replay_buttons",
    "replay_failures_table",
    "replay_handlers_table",
    "replay_plan_table",
    "replay_results_table",
    "rows_table",
    "shadow_examples_table",
    "shadow_table",
    "show",
    "summarize_event_health",
    "summarize_inspection",
    "summarize_offboarding",
    "summarize_provision",
    "summarize_rebuild",
    "summarize_replay",
    "tenants_table",
    "watermill_table",
]
