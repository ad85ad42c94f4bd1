"""jupyter-scheduler's jobs run as `erpkit run` runs them: parameters checked, outcome told truly, the run recorded.

Its own execution manager pastes each parameter's text into the notebook as Python code, and calls a run with findings completed
like any other. `erpkit lab` sets this one; elsewhere it is `c.BaseScheduler.execution_manager_class`.
"""

from __future__ import annotations

from pathlib import Path

from jupyter_scheduler.executors import DefaultExecutionManager
from jupyter_scheduler.orm import Job

from erpkit.config import Settings
from erpkit.errors import RunError
from erpkit.runs.job import open_recorder
from erpkit.runs.notebook import open_notebook
from erpkit.runs.run import run_notebook


class ExecutionManager(DefaultExecutionManager):  # type: ignore[misc]
    """Runs one job in the process that jupyter-scheduler makes for it; stopping the job ends the kernel."""

    def execute(self) -> None:
        """Run the notebook into the job's staging area; raises an error, which the job then shows, unless it ran to its end."""
        job = self.model
        target = Path(self.staging_paths.get("ipynb") or self.staging_paths["html"]).with_suffix("")
        with open_recorder(Settings.from_env()) as recorder:
            notebook = open_notebook(self.staging_paths["input"])
            result = run_notebook(
                notebook, job.parameters or {}, target.parent, target.name, recorder=recorder, index=False
            )
        if "html" in self.staging_paths:
            result.report.replace(self.staging_paths["html"])
        if result.outcome not in ("ok", "findings"):
            raise RunError(result.verdict)
        if result.outcome == "findings":
            self._say(": ".join([result.verdict, "; ".join(result.findings)]))

    def _say(self, text: str) -> None:
        """Write the line that JupyterLab shows above a job: it completed, and what it found is not to be overlooked."""
        with self.db_session() as session:
            session.query(Job).filter(Job.job_id == self.job_id).update({"status_message": text[:_LONGEST]})
            session.commit()


_LONGEST = 1024  # characters, of jupyter-scheduler's column
