"""The index of a folder of reports: the state of each notebook with its trend, and every run."""

from __future__ import annotations

import base64
import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from pathlib import Path
from urllib.parse import quote

from erpkit.plural import count_of
from erpkit.runs.entries import INDEX, Entry, read_entries, show_first
from erpkit.runs.harmless import POLICY
from erpkit.runs.notebook import write_whole
from erpkit.runs.report import read_style
from erpkit.visible import visible_html

_LONGEST = 300  # characters of a description
_TREND = 20  # runs, the newest
_DAY = timedelta(days=1)
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
{fleets}
<h2>All runs</h2>
<form class="filter">{choices}</form>
<table class="runs all">
<thead><tr>{columns}</tr></thead>
<tbody>
{rows}
</tbody></table></main><script>{script}</script></body></html>
"""


_TENANTS = '<th scope="col">tenants</th>'
_COLUMNS = (
    f'<th scope="col">started</th><th scope="col">notebook</th>{_TENANTS}<th scope="col">outcome</th>'
    '<th scope="col">what is wrong</th><th scope="col" class="number">seconds</th>'
)
_FLEET = re.compile(r"fleet-(?P<notebook>.+)-(?P<day>\d{8})T(?P<time>\d{4})\d\dZ(-\d+)?\.html")
_GRAVEST = ("bad", "look", "good")


def write_index(folder: Path) -> Path:
    """Write the index of a folder, in one step, so that a reader never sees half of it; runs that end at the same time take turns."""
    target = folder / INDEX
    with _alone(folder):
        write_whole(
            target, _page(read_entries(folder, remember=True), [path.name for path in folder.glob("fleet-*.html")])
        )
    return target


def _page(entries: Sequence[Entry], fleets: Sequence[str]) -> str:
    notebooks = sorted({entry.notebook for entry in entries})
    has_tenants = any(entry.tenants for entry in entries)
    digest = base64.b64encode(hashlib.sha256(_SEARCH.encode()).digest()).decode()
    runs = {name: [entry for entry in entries if entry.notebook == name] for name in notebooks}
    return _INDEX.format(
        policy=POLICY.replace("default-src", f"script-src 'sha256-{digest}'; default-src"),
        style=read_style(),
        filters="\n".join(_FILTER.format(n=n) for n in range(1, len(notebooks) + 1)),
        choices="".join(_choice(n, name) for n, name in enumerate(["all", *notebooks])),
        count=count_of(len(entries), "run"),
        notebooks="\n".join(map(_state, sorted(runs.values(), key=lambda some: _GRAVEST.index(_mark(_worst(some)))))),
        fleets=_fleets(fleets),
        columns=_COLUMNS if has_tenants else _COLUMNS.replace(_TENANTS, ""),
        rows="\n".join(_row(entry, notebooks.index(entry.notebook) + 1, has_tenants) for entry in entries),
        script=_SEARCH,
    )


def _choice(n: int, name: str) -> str:
    checked = "" if n else " checked"
    return f'<label><input type="radio" name="notebook" id="n{n}"{checked}> {visible_html(name)}</label>'


def _state(runs: Sequence[Entry]) -> str:
    """Return the line of a notebook: its last run, what that found, and the trend of the runs before."""
    last = _worst(runs)
    return (
        f'<tr class="{_mark(last)}-row"><td>{_link(last, last.title)}</td><td>{_time(last)} {_outcome(last)}</td>'
        f'<td class="long">{_wrong(last)}</td><td>{_trend(runs[:_TREND][::-1])}</td></tr>'
    )


def _worst(runs: Sequence[Entry]) -> Entry:
    """Return the gravest of the last runs: those of a day that are of different tenants, as a fleet's are, back to one of all."""
    last: dict[tuple[str, ...], Entry] = {}
    since = datetime.fromisoformat(runs[0].started) - _DAY
    for run in runs:
        if datetime.fromisoformat(run.started) < since or (not run.tenants and last):
            break
        last.setdefault(tuple(run.tenants), run)
        if not run.tenants:
            break
    return min(last.values(), key=lambda run: _GRAVEST.index(_mark(run)))


def _fleets(names: Sequence[str]) -> str:
    """Return links to the pages of the newest fleets."""
    found = sorted(filter(None, map(_FLEET.fullmatch, names)), key=lambda one: one["day"] + one["time"], reverse=True)
    links = "".join(
        f'<li><a href="{quote(os.fsencode(one[0]))}">{visible_html(one["notebook"])}</a> '
        f"<time>{datetime.strptime(one['day'] + one['time'], '%Y%m%d%H%M'):%Y-%m-%d %H:%M}</time></li>"
        for one in found[:_TREND]
    )
    return f'<h2>Fleets</h2><ul class="fleets">{links}</ul>' if links else ""


def _row(entry: Entry, n: int, has_tenants: bool) -> str:
    tenants = f"<td>{visible_html(', '.join(entry.tenants))}</td>" if has_tenants else ""
    return (
        f'<tr data-n="{n}" class="{_mark(entry)}-row"><td>{_time(entry)}</td><td>{_link(entry, entry.notebook)}</td>'
        f'{tenants}<td>{_outcome(entry)}</td><td class="long">{_wrong(entry)}</td>'
        f'<td class="number">{entry.seconds:.1f}</td></tr>'
    )


def _link(entry: Entry, text: str) -> str:
    return f'<a href="{quote(os.fsencode(entry.name))}" title="{visible_html(entry.title)}">{visible_html(text)}</a>'


def _time(entry: Entry) -> str:
    return f"<time>{visible_html(entry.started[:16].replace('T', ' '))}</time>"


def _outcome(entry: Entry) -> str:
    word = entry.outcome if _mark(entry) == "bad" else entry.verdict
    return f'<span class="{_mark(entry)}">{visible_html(word)}</span>'


def _wrong(entry: Entry) -> str:
    """Return why a run did not come to its end, and its first finding."""
    reason = entry.verdict.removeprefix(f"{entry.outcome}: ")[:_LONGEST] if _mark(entry) == "bad" else ""
    parts = [visible_html(reason), show_first(entry.first, entry.age, entry.causes)]
    return "<br>".join(filter(None, parts))


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
