"""What only a notebook needs: tables, plots and widgets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from erpkit.late import import_late
from erpkit.table import Table

if TYPE_CHECKING:
    from erpkit.ui.decision import Decision, decide
    from erpkit.ui.explorer import Explorer, explore
    from erpkit.ui.front import look_here
    from erpkit.ui.module_explorer import ModuleExplorer, explore_modules
    from erpkit.ui.parameter_form import Form, form
    from erpkit.ui.progress import progress_bar
    from erpkit.ui.run_history import plot_runs
    from erpkit.ui.runbook import banner, prove

__all__ = [
    "Decision",
    "Explorer",
    "Form",
    "ModuleExplorer",
    "banner",
    "decide",
    "explore",
    "explore_modules",
    "form",
    "look_here",
    "plot_runs",
    "progress_bar",
    "prove",
    "show",
]


show = Table.of_frame  # a DataFrame of one's own, to sort and filter

__getattr__ = import_late(__name__)
