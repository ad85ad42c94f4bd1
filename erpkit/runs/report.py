"""The HTML report of a run (one file, no code, readable offline and on a phone), and the index of a folder of reports."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

from erpkit.plural import count_of
from erpkit.result import SCRAP, Summary, findings_html
from erpkit.runs.entries import INDEX, Entry, head, read_entries
from erpkit.runs.harmless import POLICY, harmless
from erpkit.runs.notebook import write_whole
from erpkit.runs.record import Provenance
from erpkit.runs.result import RunResult
from erpkit.visible import visible_html

_FOLDERS = "erpkit_folders"  # among nbconvert's resources: where pictures are looked for
_HTML = "text/html"
_WIDGET = "application/vnd.jupyter.widget-view+json"
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">{policy}
<meta name="viewport" content="width=device-width, initial-scale=1">
{meta}
<title>{title}</title><style>
{style}
</style></head><body><h1>{title}</h1><dl class="run">{facts}</dl>
{changes}
{summary}
<main>
{body}
</main></body></html>
"""


def run_key(notebook: str, parameters: Mapping[str, Any]) -> str:
    """Return the key by which runs are the same work: notebook and parameters, without the id of a plan."""
    rest = {name: value for name, value in parameters.items() if name != "confirm"}
    return f"{notebook} {json.dumps(rest, sort_keys=True)}" if rest else notebook


def write_report(node: Any, title: str, result: RunResult, origin: Provenance, folders: Sequence[Path] = ()) -> None:
    """Write the text and the outputs of an executed notebook to the result's report, the run's facts and summary on top.

    Pictures in files, which are looked for in `folders`, are put into it. Nothing of it acts: a script in an output would run with
    the rights of the person who opens the report.
    """
    body, _ = _exporter().from_notebook_node(_shown(node, result.summary, folders), {_FOLDERS: folders})
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
        changes=result.changes.html() if result.changes else "",
        summary=result.summary.html() if result.summary else "",
        body=body,
    )
    write_whole(result.report, page)


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
    """Return a copy with what a report shows below its summary, each output in its richest form without kernel and script."""
    from copy import deepcopy  # noqa: PLC0415

    from erpkit.runs.rendering import embed_images, shown_data  # noqa: PLC0415 - imports nbconvert

    node = deepcopy(node)
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


_FILTER = "body:has(#n{n}:checked) tr[data-n]:not([data-n='{n}']) {{ display: none; }}"
_INDEX = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">{policy}
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Runs</title><style>
{style}
{filters}
</style></head><body class="index"><h1>Runs</h1>
<p>{count}, the newest first. Times are UTC.</p>
<form class="filter">{choices}</form>
<table class="runs">
<thead><tr><th>started</th><th>notebook</th><th>tenants</th><th>outcome</th><th class="number">seconds</th></tr></thead>
<tbody>
{rows}
</tbody></table></body></html>
"""


def write_index(folder: Path) -> Path:
    """Write the index of a folder, in one step, so that a reader never sees half of it; runs that end at the same time take turns."""
    target = folder / INDEX
    with _alone(folder):
        write_whole(target, _page(read_entries(folder, remember=True)))
    return target


def _page(entries: Sequence[Entry]) -> str:
    notebooks = sorted({entry.notebook for entry in entries})
    choices = "".join(_choice(n, name) for n, name in enumerate(["all", *notebooks]))
    return _INDEX.format(
        policy=POLICY,
        style=(Path(__file__).parent / "report.css").read_text(encoding="utf-8"),
        filters="\n".join(_FILTER.format(n=n) for n in range(1, len(notebooks) + 1)),
        choices=choices,
        count=count_of(len(entries), "run"),
        rows="\n".join(_row(entry, notebooks.index(entry.notebook) + 1) for entry in entries),
    )


def _choice(n: int, name: str) -> str:
    checked = "" if n else " checked"
    return f'<label><input type="radio" name="notebook" id="n{n}"{checked}> {visible_html(name)}</label>'


def _row(entry: Entry, n: int) -> str:
    mark = "good" if entry.outcome == "ok" else "look" if entry.outcome == "findings" else "bad"
    started = entry.started[:16].replace("T", " ")
    tenants = visible_html(", ".join(entry.tenants))
    return (
        f'<tr data-n="{n}"><td><time>{visible_html(started)}</time></td>'
        f'<td><a href="{quote(os.fsencode(entry.name))}" title="{visible_html(entry.title)}">{visible_html(entry.notebook)}</a></td>'
        f'<td>{tenants}</td><td class="{mark}">{visible_html(entry.verdict)}</td><td class="number">{entry.seconds:.1f}</td></tr>'
    )


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the folder's lock, where the system has such locks."""
    try:
        import fcntl  # noqa: PLC0415 - not everywhere
    except ModuleNotFoundError:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # a network file system may have none
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
