"""An HTML report of a run: no code, one file, readable offline and on a phone."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from erpkit.runs.index import head
from erpkit.runs.provenance import Provenance
from erpkit.runs.result import RunResult

__all__ = ["run_key", "write_report"]

_WIDGET = "application/vnd.jupyter.widget-view+json"
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
{meta}
<title>{title}</title><style>
{style}
</style></head><body><h1>{title}</h1><dl class="run">{facts}</dl>
{summary}
<main>
{body}
</main></body></html>
"""


def run_key(notebook: str, parameters: Mapping[str, Any]) -> str:
    """Return what tells which runs are the same work: notebook and parameters, without the id of a plan."""
    rest = {name: value for name, value in parameters.items() if name != "confirm"}
    return f"{notebook} {json.dumps(rest, sort_keys=True)}" if rest else notebook


def write_report(node: Any, title: str, result: RunResult, origin: Provenance) -> None:
    """Write the text and the outputs of an executed notebook to the result's report, the run's facts and summary on top."""
    from nbconvert import HTMLExporter  # noqa: PLC0415 - slow to import

    exporter = HTMLExporter(
        template_name="basic", exclude_input=True, exclude_output_prompt=True, exclude_anchor_links=True
    )
    body, _ = exporter.from_notebook_node(_without_widgets(node))
    style = (Path(__file__).parent / "report.css").read_text(encoding="utf-8")
    rows = "".join(
        f"<div><dt>{html.escape(name)}</dt><dd>{html.escape(str(value))}</dd></div>"
        for name, value in _facts(result, origin).items()
    )
    page = _PAGE.format(
        meta=head(_entry(title, result)),
        title=html.escape(title),
        style=style,
        facts=rows,
        summary=result.summary.html() if result.summary else "",
        body=body,
    )
    result.report.write_text(page, encoding="utf-8")


def _facts(result: RunResult, origin: Provenance) -> dict[str, Any]:
    attempt = {"attempt": result.attempt} if result.attempt > 1 else {}
    return {
        "outcome": result.verdict,
        "started": f"{result.started_at:%Y-%m-%d %H:%M} UTC",
        "seconds": f"{result.seconds:.1f}",
        "by": f"{origin.who} on {origin.host}",
        **attempt,
        **result.parameters,
    }


def _entry(title: str, result: RunResult) -> dict[str, Any]:
    return {
        "notebook": result.notebook, "title": title, "key": run_key(result.notebook, result.parameters),
        "tenants": result.tenants, "outcome": result.outcome, "verdict": result.verdict,
        "started": result.started_at.isoformat(), "seconds": round(result.seconds, 2),
    }  # fmt: skip


def _without_widgets(node: Any) -> Any:
    """Take out what only a running kernel could fill; a widget that brings a table of its own leaves that."""
    from copy import deepcopy  # noqa: PLC0415

    node = deepcopy(node)
    node.metadata.pop("widgets", None)
    for cell in node.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if not _is_widget_alone(output)]
            for output in cell.outputs:
                output.get("data", {}).pop(_WIDGET, None)
    return node


def _is_widget_alone(output: Any) -> bool:
    data = output.get("data", {})
    return _WIDGET in data and "text/html" not in data
