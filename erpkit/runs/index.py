"""The index of a folder of reports: the state of each notebook with its trend, and every run."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

from erpkit.plural import count_of
from erpkit.runs.entries import INDEX, Entry, read_entries
from erpkit.runs.harmless import POLICY
from erpkit.runs.notebook import write_whole
from erpkit.runs.report import read_style
from erpkit.visible import visible_html

_LONGEST = 300  # characters of a description
_TREND = 20  # runs, the newest
_FILTER = "body:has(#n{n}:checked) tr[data-n]:not([data-n='{n}']) {{ display: none; }}"
# The one script of the page: it hides the rows that a search does not find. The policy names it by its hash, and no other runs.
_SEARCH = """
const field = document.getElementById("search");
field.closest("label").hidden = false;
field.addEventListener("input", () => {
  const words = field.value.toLowerCase().split(/\\s+/);
  for (const row of document.querySelectorAll("table.runs tbody tr"))
    row.hidden = !words.every(word => row.textContent.toLowerCase().includes(word));
});
"""
_INDEX = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">{policy}
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Runs</title><style>
{style}
{filters}
</style></head><body class="index"><main><h1>Runs</h1>
<p>{count}, the newest first. Times are UTC.</p>
<form class="filter"><label hidden>search <input type="search" id="search"></label>
<label><input type="checkbox" id="bad"> only what needs a look</label></form>
<h2>Notebooks</h2>
<table class="runs">
<thead><tr>
<th scope="col">notebook</th><th scope="col">last run</th><th scope="col">what is wrong</th><th scope="col">trend</th></tr></thead>
<tbody>
{notebooks}
</tbody></table>
<h2>All runs</h2>
<form class="filter">{choices}</form>
<table class="runs all">
<thead><tr>
<th scope="col">started</th><th scope="col">notebook</th><th scope="col">tenants</th><th scope="col">outcome</th>
<th scope="col">what is wrong</th><th scope="col" class="number">seconds</th></tr></thead>
<tbody>
{rows}
</tbody></table></main><script>{script}</script></body></html>
"""


def write_index(folder: Path) -> Path:
    """Write the index of a folder, in one step, so that a reader never sees half of it; runs that end at the same time take turns."""
    target = folder / INDEX
    with _alone(folder):
        write_whole(target, _page(read_entries(folder, remember=True)))
    return target


def _page(entries: Sequence[Entry]) -> str:
    notebooks = sorted({entry.notebook for entry in entries})
    digest = base64.b64encode(hashlib.sha256(_SEARCH.encode()).digest()).decode()
    runs = {name: [entry for entry in entries if entry.notebook == name] for name in notebooks}
    return _INDEX.format(
        policy=POLICY.replace("default-src", f"script-src 'sha256-{digest}'; default-src"),
        style=read_style(),
        filters="\n".join(_FILTER.format(n=n) for n in range(1, len(notebooks) + 1)),
        choices="".join(_choice(n, name) for n, name in enumerate(["all", *notebooks])),
        count=count_of(len(entries), "run"),
        notebooks="\n".join(map(_state, sorted(runs.values(), key=lambda some: _mark(some[0]) == "good"))),
        rows="\n".join(_row(entry, notebooks.index(entry.notebook) + 1) for entry in entries),
        script=_SEARCH,
    )


def _choice(n: int, name: str) -> str:
    checked = "" if n else " checked"
    return f'<label><input type="radio" name="notebook" id="n{n}"{checked}> {visible_html(name)}</label>'


def _state(runs: Sequence[Entry]) -> str:
    """Return the line of a notebook: its last run, what that found, and the trend of the runs before."""
    last = runs[0]
    return (
        f'<tr class="{_mark(last)}-row"><td>{_link(last, last.title)}</td><td>{_time(last)} {_outcome(last)}</td>'
        f'<td class="long">{_wrong(last)}</td><td>{_trend(runs[:_TREND][::-1])}</td></tr>'
    )


def _row(entry: Entry, n: int) -> str:
    return (
        f'<tr data-n="{n}" class="{_mark(entry)}-row"><td>{_time(entry)}</td><td>{_link(entry, entry.notebook)}</td>'
        f"<td>{visible_html(', '.join(entry.tenants))}</td><td>{_outcome(entry)}</td>"
        f'<td class="long">{_wrong(entry)}</td>'
        f'<td class="number">{entry.seconds:.1f}</td></tr>'
    )


def _link(entry: Entry, text: str) -> str:
    return f'<a href="{quote(os.fsencode(entry.name))}" title="{visible_html(entry.title)}">{visible_html(text)}</a>'


def _time(entry: Entry) -> str:
    return f"<time>{visible_html(entry.started[:16].replace('T', ' '))}</time>"


def _outcome(entry: Entry) -> str:
    return f'<span class="{_mark(entry)}">{visible_html(entry.verdict)}</span>'


def _wrong(entry: Entry) -> str:
    """Return the first finding, how long it has been known, and how many others there are."""
    more = f" (+{entry.causes - 1:,})" if entry.causes > 1 else ""
    age = f' <span class="age">{visible_html(entry.age)}</span>' if entry.age else ""
    return f"{visible_html(entry.first)}{age}{more}" if entry.first else ""


def _mark(entry: Entry) -> str:
    return "good" if entry.outcome == "ok" else "look" if entry.outcome == "findings" else "bad"


def _trend(runs: Sequence[Entry]) -> str:
    """Return a bar for each run, the oldest first: as high as there were findings, and full where it did not end."""
    most = max([run.causes for run in runs] + [1])
    bars = "".join(
        f'<i class="{_mark(run)}" style="height:{_height(run, most):.0f}%" title="{visible_html(_told(run))}"></i>'
        for run in runs
    )
    words = f"The last {count_of(len(runs), 'run')}: {', '.join(run.verdict for run in runs)}"
    return f'<span class="trend" role="img" aria-label="{visible_html(words[:_LONGEST])}">{bars}</span>'


def _height(run: Entry, most: int) -> float:
    return 100 if _mark(run) == "bad" else 15 + 85 * run.causes / most


def _told(run: Entry) -> str:
    return f"{run.started[:16].replace('T', ' ')}: {run.verdict}"


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
