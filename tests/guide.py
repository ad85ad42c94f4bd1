"""Runs the guide's notebooks and keeps their output, without times and ids: `python -m tests.guide [NAME…]`.

They work on scratch databases of the embedded server. What is kept is plain text and plain HTML, which shows the same in every
place where a repository is browsed.
"""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

import bleach
import nbformat

from erpkit.runs import open_notebook, run_notebook
from erpkit.runs.notebook import notebooks_folder

FOLDER = notebooks_folder() / "guide"
NAMES = ("tenants_and_sql", "migrations", "events", "own_erp", "schedules")  # in the order to read them

_TAGS = {
    "table",
    "thead",
    "tbody",
    "tr",
    "th",
    "td",
    "p",
    "ul",
    "li",
    "code",
    "pre",
    "strong",
    "em",
    "br",
    "details",
    "summary",
}
_VARYING = (
    (r"\b([a-z]+)-[0-9a-f]{10}\b", r"\1-…"),  # ids of plans
    (r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b", "…"),  # ids of events and runs
    (r"\b\d{4}-\d\d-\d\d[ T]\d\d:\d\d(:\d\d)?(\.\d+)?([+-]\d\d(:\d\d)?|Z| UTC)?", "…"),
    (r"\bless than 1 s\b", "about … s"),
    (r"(?<![\d.,])\d[\d,]*(\.\d+)? (ms|s|min|h|events a second)\b", r"… \2"),
    (r"rehearsal on [^\s,<]*[^\s,<:]", "rehearsal"),
    (r"[^\s>]*erpkit_rehearsal_[0-9a-f]{8}(/\w+)?", "rehearsal"),
    (r"\bMiB: [\d.]+", "MiB: …"),
)


def main(names: list[str]) -> None:
    """Run the notebooks of these names, or all of them, and write their output into them."""
    for name in [name for name in os.environ if name.startswith(("PG", "ERPKIT_")) and name != "ERPKIT_HOME"]:
        del os.environ[name]
    for name in names or NAMES:
        node = read_node(name)
        for cell, outputs in zip(_code(node), run(name), strict=True):
            cell.outputs = [nbformat.from_dict(output) for output in outputs]
        nbformat.write(node, FOLDER / f"{name}.ipynb")
        print(f"{name}: {sum(len(cell.outputs) for cell in _code(node))} outputs")


def run(name: str) -> list[list[dict[str, Any]]]:
    """Run one of the notebooks; return what each of its code cells shows now, as it is kept."""
    with tempfile.TemporaryDirectory(prefix="erpkit-guide-") as folder:
        result = run_notebook(open_notebook(f"guide/{name}"), {}, folder)
        assert result.outcome in ("ok", "findings"), result.error
        return kept_outputs(nbformat.read(result.output, as_version=4))


def kept_outputs(node: Any) -> list[list[dict[str, Any]]]:
    """Return the outputs of each code cell as they are kept."""
    return [[dict(output) for output in _join(cell.outputs)] for cell in _code(node)]


def read_kept(name: str) -> list[list[dict[str, Any]]]:
    """Return the outputs that the repository keeps of a notebook."""
    return [[json.loads(json.dumps(output)) for output in cell.outputs] for cell in _code(read_node(name))]


def read_node(name: str) -> Any:
    """Return a notebook as the repository has it."""
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def _code(node: Any) -> list[Any]:
    return [cell for cell in node.cells if cell.cell_type == "code" and cell.source]


def _join(outputs: list[Any]) -> Iterator[dict[str, Any]]:
    """Yield outputs as they are kept; pieces of one stream are one, however the kernel cut it."""
    printed = "".join(output.text for output in outputs if output.output_type == "stream")
    if printed:
        yield {"output_type": "stream", "name": "stdout", "text": _steady(printed)}
    for output in outputs:
        if output.output_type in ("display_data", "execute_result"):
            yield {"output_type": "display_data", "metadata": {}, "data": _plain(output.data)}


def _plain(data: Any) -> dict[str, str]:
    """Return HTML without styles, or else the text. Where a notebook is shown, cells are aligned to the right unless they say so."""
    if "text/html" not in data:
        return {"text/plain": _steady(data["text/plain"])}
    aligned = re.sub(r"<(t[hd]) [^>]*text-align:(left|right)[^>]*>", r'<\1 align="\2">', data["text/html"])
    marked = re.sub(r"<span [^>]*border-radius[^>]*>(\w+)</span>", r"<strong>\1:</strong>", aligned)  # severities
    unstyled = re.sub(r"<style.*?</style>", "", marked, flags=re.DOTALL)
    attributes = {name: ["align"] for name in ("th", "td")}
    plain = bleach.clean(unstyled, tags=_TAGS, attributes=attributes, strip=True).strip()
    lined = re.sub(r"\s*(</td>|</tr>)\s*", r"\1", plain).replace("</tr>", "</tr>\n")
    return {"text/html": _steady(lined.replace(' align="left"', ' align="left" style="text-align: left"'))}


def _steady(text: str) -> str:
    """Replace what is another one with each run."""
    for pattern, kept in _VARYING:
        text = re.sub(pattern, kept, text)
    return text


if __name__ == "__main__":
    main(sys.argv[1:])
