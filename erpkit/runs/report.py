"""The HTML report of a run: one file, no code, readable offline and on a phone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

from erpkit.finding import group_findings
from erpkit.result import SCRAP, Summary, as_findings, findings_html
from erpkit.runs.entries import INDEX, head
from erpkit.runs.execute import NOTE, is_note_of_the_end
from erpkit.runs.harmless import POLICY, harmless
from erpkit.runs.headline import show_contents, show_facts, show_figures, show_headline
from erpkit.runs.notebook import write_whole
from erpkit.runs.parameters import CONFIRMS
from erpkit.runs.record import Provenance
from erpkit.runs.result import RunResult
from erpkit.runs.sections import Section, mark_sections, split_off_purpose
from erpkit.table import format_value
from erpkit.visible import visible_html

_FOLDERS = "erpkit_folders"  # among nbconvert's resources: where pictures are looked for
_LONGEST = 300  # characters of a finding in the index
_HTML = "text/html"
_WIDGET = "application/vnd.jupyter.widget-view+json"
BACK = f'<a class="back" href="{INDEX}">All runs</a>'  # the way to the index, which stands beside a report
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">{policy}
<meta name="viewport" content="width=device-width, initial-scale=1">
{meta}
<title>{title}</title><style>
{style}
</style></head><body><header>{back}<h1 id="top">{title}</h1></header>
<main>
{headline}
{changes}
{figures}
{facts}
{purpose}
{contents}
{body}
</main><footer>{back}<a href="#top">To the top</a></footer></body></html>
"""


def run_key(notebook: str, parameters: Mapping[str, Any]) -> str:
    """Return the key by which runs are the same work: notebook and parameters, without the ids of plans."""
    rest = {name: value for name, value in parameters.items() if name not in CONFIRMS}
    return f"{notebook} {json.dumps(rest, sort_keys=True)}" if rest else notebook


def write_report(
    node: Any, title: str, result: RunResult, origin: Provenance, folders: Sequence[Path] = (), *, indexed: bool = True
) -> None:
    """Write the report of an executed notebook: what is wrong first, then figures and purpose, and its texts and outputs.

    Pictures in files, which are looked for in `folders`, are put into it. Nothing of it acts: a script in an output would run with
    the rights of the person who opens the report. Only one that is `indexed` has a link to the index.
    """
    write_whole(result.report, _page(node, title, result, _facts(result, origin), folders, BACK if indexed else ""))


def _page(
    node: Any, title: str, result: RunResult, facts: Mapping[str, Any], folders: Sequence[Path], back: str
) -> str:
    left = _cut_off_what_was_not_run(node := deepcopy(node))
    shown = _shown(node, result.summary, folders)
    purpose = split_off_purpose(shown.cells)
    sections: list[Section] = mark_sections(shown.cells)
    body, _ = _exporter().from_notebook_node(shown, {_FOLDERS: folders})
    return _PAGE.format(
        policy=POLICY,
        meta=head(_entry(title, result)),
        title=visible_html(title),
        style=read_style(),
        back=back,
        headline=show_headline(result, sections, left),
        figures=show_figures(result.summary, result.changes),
        changes=result.changes.html() if result.changes else "",
        facts=show_facts(facts),
        purpose=_folded(purpose, folders),
        contents=show_contents(sections, result),
        body=body,
    )


def read_style() -> str:
    """Return the style sheet of reports and their index."""
    return (Path(__file__).parent / "report.css").read_text(encoding="utf-8")


def _folded(purpose: str, folders: Sequence[Path]) -> str:
    """Return the purpose of a notebook, to be unfolded."""
    if not purpose:
        return ""
    from erpkit.runs.rendering import embed_images, render_markdown  # noqa: PLC0415 - imports nbconvert

    text = harmless(embed_images(render_markdown(purpose, {}), folders))
    return f'<details class="purpose"><summary>About this notebook</summary>{text}</details>'


def _facts(result: RunResult, origin: Provenance) -> dict[str, Any]:
    attempt = {"attempt": result.attempt} if result.attempt > 1 else {}
    return {
        "started": f"{result.started_at:%Y-%m-%d %H:%M} UTC",
        "seconds": f"{result.seconds:.1f}",
        "by": f"{origin.who} on {origin.host}",
        **attempt,
        **{name: format_value(value) for name, value in result.parameters.items()},
    }


def _entry(title: str, result: RunResult) -> dict[str, Any]:
    return {
        "notebook": result.notebook, "title": title, "key": run_key(result.notebook, result.parameters),
        "tenants": result.tenants, "outcome": result.outcome, "verdict": result.verdict,
        "started": result.started_at.isoformat(), "seconds": round(result.seconds, 2), **_worst(result),
    }  # fmt: skip


def _worst(result: RunResult) -> dict[str, Any]:
    """Return the gravest cause, and how many errors and warnings there are."""
    causes = group_findings(as_findings(result.summary.findings)) if result.summary else []
    grave = [cause for cause in causes if cause.severity != "info"]
    return {"first": str(grave[0])[:_LONGEST], "age": grave[0].age, "causes": len(grave)} if grave else {}


@cache
def _exporter() -> Any:
    """Return the exporter, which keeps its compiled templates."""
    from jinja2 import pass_context  # noqa: PLC0415 - slow to import
    from nbconvert import HTMLExporter  # noqa: PLC0415

    from erpkit.runs.rendering import embed_images, render_markdown  # noqa: PLC0415

    class Exporter(HTMLExporter):
        """Makes harmless what text becomes; a text cell may hold any HTML."""

        @pass_context
        def markdown2html(self, context: Any, source: str) -> str:
            page = render_markdown(source, context.get("cell", {}).get("attachments", {}))
            return harmless(embed_images(page, context["resources"][_FOLDERS]))

    made: Any = Exporter
    return made(template_name="basic", exclude_input=True, exclude_output_prompt=True, exclude_anchor_links=True)


def _shown(node: Any, summary: Summary | None, folders: Sequence[Path]) -> Any:
    """Take out of a notebook what a report does not show below its summary; each output is in its richest form without a script."""
    from erpkit.runs.rendering import embed_images, shown_data  # noqa: PLC0415 - imports nbconvert

    node.metadata.pop("widgets", None)
    node.cells = [cell for cell in node.cells if not _is_removed(cell)]
    for cell in node.cells:
        cell.metadata = type(cell.metadata)()
        if cell.cell_type == "raw":
            cell.cell_type, cell.source = "markdown", f"<pre>{visible_html(cell.source)}</pre>"
        if cell.cell_type == "code":
            cell.outputs = [
                one for one in cell.outputs if not _is_widget_alone(one) and not _is_at_the_top(one, summary)
            ]
            for output in cell.outputs:
                if "data" in output:
                    shown = shown_data(output.data)
                    if _HTML in shown:
                        shown[_HTML] = harmless(embed_images(shown[_HTML], folders))
                    output.metadata, output.data = type(output.data)(), type(output.data)(shown)
    return node


def _cut_off_what_was_not_run(node: Any) -> int:
    """Take out of a notebook the cells that were not run, and the note above it, which the headline tells; return their number."""
    if node.cells and NOTE in node.cells[0].metadata.get("tags", []):
        del node.cells[0]
    end = next((n for n, cell in enumerate(node.cells) if is_note_of_the_end(cell)), len(node.cells))
    later, node.cells = node.cells[end + 1 :], node.cells[: end + 1]
    return sum(cell.cell_type == "code" and bool(cell.source.strip()) for cell in later)


def _is_removed(cell: Any) -> bool:
    """Tell whether a cell is tagged to be left out, and clear outputs that are; an error is always shown."""
    tags = {tag.replace("_", "-") for tag in cell.metadata.get("tags", [])}
    if any(output["output_type"] == "error" for output in cell.get("outputs", [])):
        return False
    if tags & {"remove-output", "remove-all-outputs"} and cell.cell_type == "code":
        cell.outputs = []
    return "remove-cell" in tags


def _is_at_the_top(output: Any, summary: Summary | None) -> bool:
    """Take out of an output what the report's summary tells already; return whether nothing is left of it."""
    data = output.get("data", {})
    if SCRAP not in data or summary is None:
        return False
    own, text = Summary.of_scrap(data[SCRAP]), "".join(data.get(_HTML, ""))
    if (own.title, own.facts) == (summary.title, summary.facts):
        text = text.replace(own.html(), "")
    if own.findings and set(own.findings) <= set(summary.findings):
        text = text.replace(findings_html(own.findings), "")
    data[_HTML] = text
    return not text


def _is_widget_alone(output: Any) -> bool:
    data = output.get("data", {})
    return _WIDGET in data and "text/html" not in data
