"""The index of a folder of runs: one page, newest first, made from what each report says of itself in its head."""

from __future__ import annotations

import html
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from erpkit.runs.harmless import POLICY
from erpkit.visible import visible_html

__all__ = ["INDEX", "Entry", "head", "read_entries", "write_index"]

INDEX = "index.html"

_META = re.compile(r'<meta name="erpkit-run" content="([^"]*)">')
_HEAD = 16_384  # bytes of a report in which its meta is found
_FILTER = "body:has(#n{n}:checked) tr[data-n]:not([data-n='{n}']) {{ display: none; }}"
_PAGE = """<!doctype html>
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


@dataclass(frozen=True)
class Entry:
    """A report of the folder; `name` is its file, `key` tells which runs are the same work."""

    name: str
    notebook: str
    title: str
    key: str
    tenants: Sequence[str]
    outcome: str
    verdict: str
    started: str
    seconds: float


def head(facts: Mapping[str, Any]) -> str:
    """Return the line in a report's head from which the index is made."""
    return f'<meta name="erpkit-run" content="{visible_html(json.dumps(dict(facts)))}">'


def read_entries(folder: Path) -> list[Entry]:
    """Return what the reports in `folder` say of themselves, the newest first; other files are passed over."""
    entries = []
    for path in folder.glob("*.html"):
        with suppress(OSError, ValueError, TypeError), path.open(encoding="utf-8") as file:
            if found := _META.search(file.read(_HEAD)):
                entries.append(Entry(path.name, **json.loads(html.unescape(found[1]))))
    return sorted(entries, key=lambda entry: (entry.started, entry.name), reverse=True)


def write_index(folder: Path) -> Path:
    """Write the index of a folder, in one step, so that a reader never sees half of it; runs that end at once wait in line."""
    target = folder / INDEX
    with _alone(folder):
        draft = folder / f".{INDEX}.{os.getpid()}"
        draft.write_text(_page(read_entries(folder)), encoding="utf-8")
        draft.replace(target)
    return target


def _page(entries: Sequence[Entry]) -> str:
    notebooks = sorted({entry.notebook for entry in entries})
    choices = "".join(_choice(n, name) for n, name in enumerate(["all", *notebooks]))
    return _PAGE.format(
        policy=POLICY,
        style=(Path(__file__).parent / "report.css").read_text(encoding="utf-8"),
        filters="\n".join(_FILTER.format(n=n) for n in range(1, len(notebooks) + 1)),
        choices=choices,
        count=f"{len(entries)} run{'s' if len(entries) != 1 else ''}",
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
        f'<td><a href="{visible_html(entry.name)}" title="{visible_html(entry.title)}">{visible_html(entry.notebook)}</a></td>'
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
