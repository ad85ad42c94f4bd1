"""Runs of notebooks: their parameters, running one or one a tenant, their record, their summary and their report."""

from erpkit.result import Summary
from erpkit.runs.fleet import FleetResult, run_fleet
from erpkit.runs.history import RunRecord, find_flaky, find_last, list_runs
from erpkit.runs.notebook import Notebook, list_notebooks, notebooks_folder, open_notebook
from erpkit.runs.parameters import Parameter, check_parameters, read_parameters, validate_parameters
from erpkit.runs.record import Recorder
from erpkit.runs.result import RunResult, read_summary, worst_exit_code
from erpkit.runs.run import Retry, run_notebook
from erpkit.runs.stopper import TimeLimits

__all__ = [
    "FleetResult",
    "Notebook",
    "Parameter",
    "Recorder",
    "Retry",
    "RunRecord",
    "RunResult",
    "Summary",
    "TimeLimits",
    "check_parameters",
    "find_flaky",
    "find_last",
    "list_notebooks",
    "list_runs",
    "notebooks_folder",
    "open_notebook",
    "read_parameters",
    "read_summary",
    "run_fleet",
    "run_notebook",
    "validate_parameters",
    "worst_exit_code",
]
