"""Runs of notebooks: their parameters, running one, its summary and its report."""

from erpkit.runs.notebook import Notebook, list_notebooks, notebooks_folder, open_notebook
from erpkit.runs.parameters import Parameter, check_parameters, read_parameters, validate_parameters
from erpkit.runs.rehearsal import Rehearsal
from erpkit.runs.run import RunResult, run_notebook
from erpkit.runs.summary import Summary, read_summary

__all__ = [
    "Notebook",
    "Parameter",
    "Rehearsal",
    "RunResult",
    "Summary",
    "check_parameters",
    "list_notebooks",
    "notebooks_folder",
    "open_notebook",
    "read_parameters",
    "read_summary",
    "run_notebook",
    "validate_parameters",
]
