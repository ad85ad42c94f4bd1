"""Runs whose driver was killed: the next look at the folder writes into the notebook what the driver could not."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from erpkit.errors import ErpkitError
from erpkit.runs.alive import claimed, is_abandoned
from erpkit.runs.execute import mark_cells
from erpkit.runs.notebook import read_notebook, write_notebook
from erpkit.runs.record import Provenance
from erpkit.runs.report import write_report
from erpkit.runs.result import Ending, RunResult, read_summary

if TYPE_CHECKING:
    from erpkit.runs.history import RunRecord

_TRIES = 1000
_FOLDER = ".running"  # holds a file for each run under way, which its driver has locked
_WHY = "its driver ended before the run did: killed, or out of memory or disk"


@contextmanager
def under_way(output: Path) -> Iterator[None]:
    """Let it be seen for the time of the block that the run of `output` is under way; an exception leaves it to be marked."""
    mark = output.parent / _FOLDER / output.name
    with _claimed_in_folder(mark):
        yield
        mark.unlink(missing_ok=True)
    with suppress(OSError):  # others are under way
        mark.parent.rmdir()


@contextmanager
def _claimed_in_folder(mark: Path) -> Iterator[None]:
    """Claim a file in a folder that another run, which ends at the same time, may just remove."""
    with ExitStack() as stack:
        for left in reversed(range(_TRIES)):
            try:
                mark.parent.mkdir(exist_ok=True)
                stack.enter_context(claimed(mark))
                break
            except (FileNotFoundError, FileExistsError):  # it was there, and then it was not
                if not left:
                    raise
        yield


def mark_killed(folder: Path) -> list[Path]:
    """Mark the notebooks in `folder` whose drivers ended without a word, and write their reports; return these notebooks."""
    marked = []
    for mark in _marks(folder):
        if is_abandoned(mark):
            with suppress(ErpkitError, OSError, KeyError, ValueError):
                if _mark(folder / mark.name):
                    marked.append(folder / mark.name)
            mark.unlink(missing_ok=True)
    with suppress(OSError):
        (folder / _FOLDER).rmdir()
    return marked


def _marks(folder: Path) -> list[Path]:
    try:
        return [mark for mark in (folder / _FOLDER).iterdir() if not mark.name.startswith(".")]
    except FileNotFoundError:
        return []


def mark_lost(runs: Iterable[RunRecord]) -> None:
    """Mark the notebooks of the recorded runs that are lost, as far as they are on this machine."""
    here = socket.gethostname()
    places = {Path(run.output).parent for run in runs if run.outcome == "lost" and run.host == here and run.output}
    for folder in places:
        mark_killed(folder)


def _mark(output: Path) -> bool:
    node = read_notebook(output)
    about = node.metadata.get("erpkit", {})
    if about.get("outcome") != "running":
        return False
    ending = Ending("killed", _WHY, _cell_in_hand(node))
    result = _result(node, about, output, ending)
    mark_cells(node, ending)
    about.update(outcome="killed", error=_WHY)
    write_notebook(node, output)
    source = Path(node.metadata.papermill.input_path)
    write_report(node, about["title"], result, Provenance(**about["origin"]), [source.parent])
    return True


def _cell_in_hand(node: Any) -> int:
    """Return the index of the cell that was running, else of the first that was not run."""
    states = [cell.metadata.get("papermill", {}).get("status") for cell in node.cells]
    return next((states.index(state) for state in ("running", "pending") if state in states), len(states) - 1)


def _result(node: Any, about: Any, output: Path, ending: Ending) -> RunResult:
    began, seen = datetime.fromisoformat(about["started"]), output.stat().st_mtime
    return RunResult(
        about["notebook"], ending.outcome, max(0.0, seen - began.timestamp()), output, output.with_suffix(".html"), ending.error,
        read_summary(node), tuple(about["tenants"]), node.metadata.papermill.parameters, began, about["attempt"], about["run"],
    )  # fmt: skip
