"""An HTML report of a run: no code, one file, readable offline and on a phone."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from erpkit.result import SCRAP
from erpkit.runs.harmless import POLICY, harmless
from erpkit.runs.index import head
from erpkit.runs.record import Provenance
from erpkit.runs.result import RunResult
from erpkit.visible import visible_html

__all__ = ["run_key", "write_report"]

_HTML, _SVG = "text/html", "image/svg+xml"
_WIDGET = "application/vnd.jupyter.widget-view+json"
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">{policy}
<meta name="viewport" content="width=device-width, initial-scale=1">
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
    """Write the text and the outputs of an executed notebook to the result's report, the run's facts and summary on top.

    Nothing of it acts: a script in an output would run with the rights of the person who opens the report.
    """
    body, _ = _exporter().from_notebook_node(_shown(node))
    style = (Path(__file__).parent / "report.css").read_text(encoding="utf-8")
    rows = "".join(
        f"<div><dt>{visible_html(name)}</dt><dd>{visible_html(str(value))}</dd></div>"
        for name, value in _facts(result, origin).items()
    )
    page = _PAGE.format(
        policy=POLICY,
        meta=head(_entry(title, result)),
        title=visible_html(title),
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


def _exporter() -> Any:
    from jinja2 import pass_context  # noqa: PLC0415 - slow to import
    from nbconvert import HTMLExporter  # noqa: PLC0415

    class Exporter(HTMLExporter):
        """Makes harmless what text becomes; a text cell may hold any HTML."""

        @pass_context
        def markdown2html(self, context: Any, source: str) -> str:
            return harmless(super().markdown2html(context, source))

    made: Any = Exporter
    return made(template_name="basic", exclude_input=True, exclude_output_prompt=True, exclude_anchor_links=True)


def _shown(node: Any) -> Any:
    """Return a copy with what a report shows, of each output in its richest form that needs no kernel and no script."""
    from copy import deepcopy  # noqa: PLC0415

    node = deepcopy(node)
    node.metadata.pop("widgets", None)
    for cell in node.cells:
        cell.metadata = type(cell.metadata)()
        if cell.cell_type == "raw":
            cell.cell_type, cell.source = "markdown", f"<pre>{visible_html(cell.source)}</pre>"
        if cell.cell_type == "code":
            # The summary stands at the top of the report already.
            cell.outputs = [
                one for one in cell.outputs if not _is_widget_alone(one) and SCRAP not in one.get("data", {})
            ]
            for output in cell.outputs:
                if "data" in output:
                    output.metadata, output.data = type(output.data)(), type(output.data)(_shown_data(output.data))
    return node


def _shown_data(data: Mapping[str, Any]) -> dict[str, Any]:
    texts = {kind: "".join(value) if isinstance(value, list) else str(value) for kind, value in data.items()}
    if _HTML in texts:
        return {_HTML: harmless(texts[_HTML])}
    if _SVG in texts:
        return {_HTML: harmless(texts[_SVG])}
    for kind in ("image/png", "image/jpeg"):
        if re.fullmatch(r"[A-Za-z0-9+/=\s]+", texts.get(kind, "")):
            return {kind: texts[kind]}
    if "text/markdown" in texts:
        return {"text/markdown": texts["text/markdown"]}
    plain = texts.get("text/latex") or texts.get("text/plain")  # there is nothing that would set the formula
    return {"text/plain": plain} if plain else {}


def _is_widget_alone(output: Any) -> bool:
    data = output.get("data", {})
    return _WIDGET in data and "text/html" not in data
