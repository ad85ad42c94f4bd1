"""What a notebook whose run did not come to its end says of itself, cell by cell."""

from __future__ import annotations

from typing import Any

from erpkit.runs.result import Ending

__all__ = ["mark_cells"]

_TAG = "erpkit-note"
_PAPERMILLS = "papermill-error-cell-tag"
_WORDS = {"timed out": "timed out", "killed": "ended with its kernel", "interrupted": "was interrupted"}


def mark_cells(node: Any, ending: Ending) -> None:
    """Give each cell its true status, and put notes where the run stopped: papermill has markers for errors alone.

    A cell's status is `completed`, `pending` when it was not run, or the outcome of the run when it stopped there.
    """
    node.cells = [cell for cell in node.cells if not {_TAG, _PAPERMILLS} & set(cell.metadata.get("tags", []))]
    if ending.cell is None:
        return
    culprit, later = node.cells[ending.cell], node.cells[ending.cell + 1 :]
    left = [cell for cell in later if cell.cell_type == "code" and cell.source.strip()]
    for cell in later:
        cell.metadata.setdefault("papermill", {})["status"] = "pending"
    if left:
        node.cells.insert(ending.cell + 1, _note("Not run: the cells from here on."))
    is_ok = ending.outcome == "ok"  # a cell may end the notebook with sys.exit()
    culprit.metadata.setdefault("papermill", {}).update(
        status="completed" if is_ok else ending.outcome, exception=not is_ok
    )
    if not is_ok:
        node.metadata.setdefault("papermill", {})["exception"] = True
        node.cells.insert(ending.cell, _note(f"This cell {_WORDS.get(ending.outcome, 'failed')}."))
        node.cells.insert(0, _note(f"{ending.outcome.capitalize()}: {ending.error}.", _count(len(left))))


def _count(left: int) -> str:
    return f"{left} cell{'s' if left != 1 else ''} after it {'were' if left != 1 else 'was'} not run." if left else ""


def _note(strong: str, rest: str = "") -> Any:
    import html  # noqa: PLC0415

    import nbformat  # noqa: PLC0415

    text = f'<div class="erpkit-note" style="color:#b91c1c"><b>{html.escape(strong)}</b> {html.escape(rest)}</div>'
    return nbformat.v4.new_markdown_cell(text, metadata={"tags": [_TAG]})
