"""Executing a notebook with papermill, in a kernel of its own, and marking in it where its run stopped."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from erpkit.errors import UsageError
from erpkit.plural import count_of
from erpkit.runs.alive import temporary_folder
from erpkit.runs.notebook import Notebook, read_notebook
from erpkit.runs.order import Order
from erpkit.runs.result import Ending
from erpkit.runs.secrets import Mask
from erpkit.runs.stopper import Stopper
from erpkit.visible import visible_html

if TYPE_CHECKING:
    from traitlets.config import Config

    from erpkit.runs.engine import Attempt


def find_kernel(notebook: Notebook, wanted: str | None = None) -> str:
    """Return the name of the kernel to use: `wanted`, else the notebook's; raises UsageError for one that is not installed."""
    from jupyter_client.kernelspec import KernelSpecManager  # noqa: PLC0415 - slow to import

    name = wanted or notebook.kernel
    installed = sorted(KernelSpecManager().find_kernel_specs())
    if name not in installed:
        asks = "" if wanted else f", which {notebook.path.name} asks for"
        raise UsageError(
            f"there is no Jupyter kernel {name!r}{asks}: "
            + (f"use --kernel with one of {', '.join(installed)}" if installed else "pip install ipykernel")
        )
    return name


def execute(order: Order, stopper: Stopper, mask: Mask) -> Attempt:
    """Run the cells of a notebook and write its output after each of them; return how it ended, with the notebook."""
    import papermill  # noqa: PLC0415 - takes more than a second to import

    from erpkit.runs.engine import ENGINE, Attempt  # noqa: PLC0415 - imports papermill
    from erpkit.runs.injection import LANGUAGE  # noqa: PLC0415

    attempt = Attempt(stopper, mask, order)
    stopper.run = order.run
    try:
        with _private_transport() as config:
            papermill.execute_notebook(
                read_notebook(order.source), None, dict(order.values), ENGINE,
                kernel_name=order.kernel, language=LANGUAGE, cwd=order.cwd, config=config, attempt=attempt,
            )  # fmt: skip
    except papermill.PapermillExecutionError:
        pass  # the attempt knows
    finally:
        stopper.close()
        attempt.said.close()
    return attempt


@contextmanager
def home_folder() -> Iterator[None]:
    """Give Jupyter a temporary home folder where the user has none: one without a name, and without HOME."""
    with ExitStack() as stack:
        try:
            Path.home()
        except RuntimeError:
            os.environ["HOME"] = str(stack.enter_context(temporary_folder()))
            stack.callback(os.environ.pop, "HOME")
        yield


@contextmanager
def _private_transport() -> Iterator[Config]:
    """Let kernel and client talk over sockets in a folder of their own: over TCP anybody on the machine could listen."""
    from traitlets.config import Config  # noqa: PLC0415

    with temporary_folder() as folder:
        yield Config({"KernelManager": {"transport": "ipc", "ip": f"{folder}/kernel"}})


NOTE = "erpkit-note"  # the tag of a note
_NOT_RUN = "The cells below were not run."
_PAPERMILLS = "papermill-error-cell-tag"
_WORDS = {"timed out": "timed out", "killed": "stopped when its kernel died", "interrupted": "was interrupted"}


def mark_cells(node: Any, ending: Ending) -> None:
    """Give each cell its true status, and put notes where the run stopped: papermill has markers for errors alone.

    A cell's status is `completed`, `pending` when it was not run, or the outcome of the run when it stopped there.
    """
    _drop(node, _PAPERMILLS)  # they came after the run, and the cell is counted without them
    culprit = None if ending.cell is None else node.cells[ending.cell]
    _drop(node, NOTE)  # of an earlier run whose output was run again
    if culprit is None:
        return
    at = next(n for n, cell in enumerate(node.cells) if cell is culprit)
    later = node.cells[at + 1 :]
    left = [cell for cell in later if cell.cell_type == "code" and cell.source.strip()]
    for cell in later:
        cell.metadata.setdefault("papermill", {})["status"] = "pending"
    if left:
        node.cells.insert(at + 1, _note(_NOT_RUN))
    is_ok = ending.outcome == "ok"  # a cell may end the notebook with sys.exit()
    if is_ok and culprit.cell_type == "code":
        culprit.outputs = [output for output in culprit.outputs if not _tells_of_exit(output)]
    status = "completed" if is_ok else ending.outcome
    culprit.metadata.setdefault("papermill", {}).update(status=status, exception=not is_ok)
    if not is_ok:
        node.metadata.setdefault("papermill", {})["exception"] = True
        if culprit.cell_type == "code":  # else the kernel did not come so far
            node.cells.insert(at, _note(f"This cell {_WORDS.get(ending.outcome, 'failed')}."))
        node.cells.insert(0, _note(f"{ending.outcome.capitalize()}: {ending.error}.", _count(len(left))))


def is_note_of_the_end(cell: Any) -> bool:
    """Tell whether a cell is the note below which no cell was run."""
    return NOTE in cell.metadata.get("tags", []) and _NOT_RUN in cell.source


def _tells_of_exit(output: Any) -> bool:
    """Tell whether an output is what IPython says of `sys.exit(0)`: an exception, and how to leave a terminal."""
    if output["output_type"] == "error":
        return bool(output["ename"] == "SystemExit")
    return output.get("name") == "stderr" and "UserWarning: To exit: use 'exit', 'quit', or Ctrl-D." in output["text"]


def _drop(node: Any, tag: str) -> None:
    node.cells = [cell for cell in node.cells if tag not in cell.metadata.get("tags", [])]


def _count(left: int) -> str:
    return f"{count_of(left, 'cell was', 'cells were')} not run." if left else ""


def _note(strong: str, rest: str = "") -> Any:

    import nbformat  # noqa: PLC0415

    text = f'<div class="erpkit-note" style="color:#b91c1c"><b>{visible_html(strong)}</b> {visible_html(rest)}</div>'
    return nbformat.v4.new_markdown_cell(text, metadata={"tags": [NOTE]})
