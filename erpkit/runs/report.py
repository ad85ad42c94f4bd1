"""An HTML report of a run: no code, one file, readable offline and on a phone."""

from __future__ import annotations

import html
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from erpkit.runs.summary import read_summary

__all__ = ["write_report"]

_WIDGET = "application/vnd.jupyter.widget-view+json"
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><style>
{style}
</style></head><body><h1>{title}</h1><dl class="run">{facts}</dl>
{summary}
<main>
{body}
</main></body></html>
"""


def write_report(node: Any, path: Path, title: str, facts: Mapping[str, Any]) -> None:
    """Write the text and the outputs of an executed notebook to `path`, with `facts` of the run and its summary on top."""
    from nbconvert import HTMLExporter  # noqa: PLC0415 - slow to import

    exporter = HTMLExporter(
        template_name="basic", exclude_input=True, exclude_output_prompt=True, exclude_anchor_links=True
    )
    body, _ = exporter.from_notebook_node(_without_widgets(node))
    summary = read_summary(node)
    rows = "".join(
        f"<div><dt>{html.escape(name)}</dt><dd>{html.escape(str(value))}</dd></div>" for name, value in facts.items()
    )
    style = (Path(__file__).parent / "report.css").read_text(encoding="utf-8")
    path.write_text(
        _PAGE.format(
            title=html.escape(title), style=style, facts=rows, summary=summary.html() if summary else "", body=body
        ),
        encoding="utf-8",
    )


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
