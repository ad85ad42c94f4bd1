"""What a notebook whose run did not come to its end says of itself, cell by cell."""

from __future__ import annotations

from typing import Any

from erpkit.runs.result import Ending
from erpkit.visible import visible_html

__all__ = ["mark_cells"]

_TAG = "erpkit-note"
_PAPERMILLS = "papermill-error-cell-tag"
_WORDS = {"timed out": "timed out", "killed": "ended with its kernel", "interrupted": "was interrupted"}


def mark_cells(node: Any, ending: Ending) -> None:
    """Give each cell its true status, and put notes where the run stopped: papermill has markers for errors alone.

    A cell's status is `completed`, `pending` when it was not run, or the outcome of the run when it stopped there.
    """
    _drop(node, _PAPERMILLS)  # they came after the run, and the cell is counted without them
    culprit = None if ending.cell is None else node.cells[ending.cell]
    _drop(node, _TAG)  # of an earlier run whose output was run again
    if culprit is None:
        return
    at = next(n for n, cell in enumerate(node.cells) if cell is culprit)
    later = node.cells[at + 1 :]
    left = [cell for cell in later if cell.cell_type == "code" and cell.source.strip()]
    for cell in later:
        cell.metadata.setdefault("papermill", {})["status"] = "pending"
    if left:
        node.cells.insert(at + 1, _note("Not run: the cells from here on."))
    is_ok = ending.outcome == "ok"  # a cell may end the notebook with sys.exit()
    status = "completed" if is_ok else ending.outcome
    culprit.metadata.setdefault("papermill", {}).update(status=status, exception=not is_ok)
    if not is_ok:
        node.metadata.setdefault("papermill", {})["exception"] = True
        if culprit.cell_type == "code":  # else the kernel did not come so far
            node.cells.insert(at, _note(f"This cell {_WORDS.get(ending.outcome, 'failed')}."))
        node.cells.insert(0, _note(f"{ending.outcome.capitalize()}: {ending.error}.", _count(len(left))))


def _drop(node: Any, tag: str) -> None:
    node.cells = [cell for cell in node.cells if tag not in cell.metadata.get("tags", [])]


def _count(left: int) -> str:
    return f"{left} cell{'s were' if left != 1 else ' was'} not run." if left else ""


def _note(strong: str, rest: str = "") -> Any:

    import nbformat  # noqa: PLC0415

    text = f'<div class="erpkit-note" style="color:#b91c1c"><b>{visible_html(strong)}</b> {visible_html(rest)}</div>'
    return nbformat.v4.new_markdown_cell(text, metadata={"tags": [_TAG]})
