"""Running one notebook headlessly, and saying truly what became of it."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from erpkit.errors import RunError, UsageError
from erpkit.runs.notebook import Notebook
from erpkit.runs.parameters import validate_parameters
from erpkit.runs.report import write_report
from erpkit.runs.summary import Summary, read_summary

if TYPE_CHECKING:
    from traitlets.config import Config

__all__ = ["Outcome", "RunResult", "run_notebook"]

Outcome = Literal["ok", "findings", "failed"]


@dataclass(frozen=True)
class RunResult:
    """What became of one run: `findings` when it ran and found a problem, `failed` with the error when a cell failed."""

    notebook: str
    outcome: Outcome
    seconds: float
    output: Path
    report: Path
    error: str | None = None
    summary: Summary | None = field(default=None, repr=False)

    @property
    def exit_code(self) -> int:
        """0, or 1 for a failure, or 3 for findings."""
        return {"ok": 0, "failed": 1, "findings": 3}[self.outcome]

    @property
    def verdict(self) -> str:
        """The outcome in a few words."""
        if self.outcome == "failed":
            return f"failed: {self.error}"
        count = len(self.summary.findings) if self.summary else 0
        return f"{count} finding{'s' if count != 1 else ''}" if count else "ok"


def run_notebook(notebook: Notebook, given: Mapping[str, Any], folder: Path, stem: str | None = None) -> RunResult:
    """Run `notebook` with papermill; write its output notebook and an HTML report without code into `folder`.

    `stem` names both files; without it they are named by notebook and time (UTC). Raises UsageError, before a kernel is
    started, for bad parameters or a folder that cannot be written; a cell that fails is no exception but the outcome.
    """
    values = validate_parameters(notebook.parameters, given)
    output = _output_path(folder, stem or f"{notebook.path.stem}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}")
    started = time.perf_counter()
    error = _execute(notebook.path, output, values)
    seconds = time.perf_counter() - started
    return _finish(notebook, output, seconds, error, values)


def _finish(
    notebook: Notebook, output: Path, seconds: float, error: str | None, values: Mapping[str, Any]
) -> RunResult:
    import nbformat  # noqa: PLC0415

    node = nbformat.read(output, as_version=4)
    summary = read_summary(node)
    outcome: Outcome = "failed" if error else "findings" if summary and summary.findings else "ok"
    result = RunResult(notebook.path.stem, outcome, seconds, output, output.with_suffix(".html"), error, summary)
    write_report(
        node, result.report, notebook.title, {"outcome": result.verdict, "seconds": f"{seconds:.1f}", **values}
    )
    return result


def _execute(source: Path, output: Path, values: dict[str, Any]) -> str | None:
    """Run the notebook; return the error of the cell that failed, in one line."""
    import papermill  # noqa: PLC0415 - takes more than a second to import
    from jupyter_client.kernelspec import NoSuchKernel  # noqa: PLC0415
    from nbclient.exceptions import DeadKernelError  # noqa: PLC0415

    try:
        with _private_transport() as config:
            papermill.execute_notebook(
                source, output, parameters=values, progress_bar=False, kernel_name="python3", config=config
            )
    except papermill.PapermillExecutionError as error:
        return f"{error.ename}: {error.evalue}".splitlines()[0]
    except DeadKernelError:
        return "the kernel died"
    except NoSuchKernel as error:
        raise RunError(f"there is no Jupyter kernel {error.name}: pip install ipykernel") from None
    return None


@contextmanager
def _private_transport() -> Iterator[Config]:
    """Let kernel and client talk over sockets in a folder of their own: over TCP anybody on the machine could listen."""
    from traitlets.config import Config  # noqa: PLC0415

    with tempfile.TemporaryDirectory(
        prefix=f"erpkit-{os.getpid()}-", dir="/tmp"
    ) as folder:  # a socket's path must be short
        yield Config({"KernelManager": {"transport": "ipc", "ip": f"{folder}/kernel"}})


def _output_path(folder: Path, stem: str) -> Path:
    output = folder.absolute() / f"{stem}.ipynb"
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.touch()
    except OSError as error:
        raise UsageError(f"the output folder {folder} cannot be written: {error.strerror}") from None
    return output
