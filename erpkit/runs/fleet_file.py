"""The file of a fleet: a line for each run as it ends, from which a fleet is resumed, and the page that shows it."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

from erpkit.config import Settings
from erpkit.errors import RunError, UsageError
from erpkit.finding import group_findings
from erpkit.plural import count_of
from erpkit.result import as_findings
from erpkit.runs.entries import show_first
from erpkit.runs.fleet import FleetResult, Row, in_words
from erpkit.runs.harmless import POLICY
from erpkit.runs.headline import draw_figures, draw_headline
from erpkit.runs.job import Job, read_result, result_to_json
from erpkit.runs.notebook import write_whole
from erpkit.runs.output import Destination
from erpkit.runs.report import BACK, read_style, run_key
from erpkit.runs.result import RunResult
from erpkit.visible import visible_html

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">{policy}
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><style>
{style}
</style></head><body class="index"><header>{back}<h1 id="top">{title}: {count}</h1></header>
<main>
{headline}
{figures}
<table class="runs fleet">
<thead><tr><th scope="col">run</th><th scope="col">outcome</th><th scope="col">what is wrong</th>
<th scope="col" class="number">seconds</th></tr></thead>
<tbody>
{rows}
</tbody></table></main><footer>{back}<a href="#top">To the top</a></footer></body></html>
"""


@dataclass(frozen=True)
class FleetFile:
    """The lines of one fleet, in its output folder; for outputs at a URL under ERPKIT_HOME."""

    path: Path

    @classmethod
    def begin(cls, place: str, notebook: str) -> FleetFile:
        """Make the file of a new fleet."""
        folder = _folder(place)
        at = datetime.now(UTC)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for number in range(1, 1000):
                path = folder / f"fleet-{notebook}-{at:%Y%m%dT%H%M%SZ}{f'-{number}' if number > 1 else ''}.jsonl"
                with suppress(FileExistsError):
                    path.touch(exist_ok=False)
                    return cls(path)
        except OSError as error:
            raise RunError(f"the fleet's files in {folder} cannot be written: {error.strerror}") from None
        raise UsageError(f"{folder} holds a thousand fleets of this second")

    @classmethod
    def last(cls, place: str, notebook: str) -> FleetFile:
        """Return the file of the last fleet of a notebook; raises UsageError where there is none."""
        name = re.compile(rf"fleet-{re.escape(notebook)}-\d{{8}}T\d{{6}}Z(-\d+)?\.jsonl")
        files = [path for path in _folder(place).glob("fleet-*.jsonl") if name.fullmatch(path.name)]
        found = sorted(files, key=lambda path: path.stat().st_mtime_ns)
        if not found:
            raise UsageError(f"there is no fleet of {notebook} in {place} to resume")
        return cls(found[-1])

    def add(self, name: str, outcome: RunResult | RunError) -> None:
        """Write down how a run ended; one without a result is written as missing. A line is written whole, or OSError raised."""
        result = json.loads(result_to_json(outcome)) if isinstance(outcome, RunResult) else None
        line = json.dumps({"run": name, "result": result, "error": None if result else str(outcome)})
        with self.path.open("ab", buffering=0) as file:
            end = file.tell()
            try:
                if file.write(data := f"{line}\n".encode()) < len(data):  # there was room for a part of it
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError:
                with suppress(OSError):
                    file.truncate(end)
                raise

    def read(self) -> dict[str, RunResult]:
        """Return the last result of each run by its key: notebook and parameters. A line that was cut is passed over."""
        found: dict[str, RunResult] = {}
        with self.path.open(encoding="utf-8") as lines:
            for line in lines:
                with suppress(ValueError):
                    if (result := json.loads(line)["result"]) is not None:
                        one = read_result(json.dumps(result))
                        found[run_key(one.notebook, one.parameters)] = one
        return found

    def split(self, jobs: Mapping[str, Job]) -> tuple[dict[str, RunResult], dict[str, Job]]:
        """Return what ran to its end before, with or without findings, and the jobs that are still to be done."""
        before = {key: one for key, one in self.read().items() if one.outcome in ("ok", "findings")}
        keys = {name: run_key(Path(job.notebook).stem, job.parameters) for name, job in jobs.items()}
        done = {name: before[key] for name, key in keys.items() if key in before}
        return done, {name: job for name, job in jobs.items() if name not in done}

    def write_page(self, title: str, fleet: FleetResult, place: str) -> str:
        """Write the page that shows the fleet beside its outputs; return its address."""
        text = _page(title, fleet, BACK if "://" not in place else "")
        destination = Destination(place)
        page = destination.folder / f"{self.path.stem}.html"
        write_whole(page, text)
        (address,) = destination.deliver([page])
        destination.close()
        return address


def _folder(place: str) -> Path:
    if "://" not in place:
        return Path(place).absolute()
    return Settings.from_env().home / "fleets" / hashlib.sha256(place.rstrip("/").encode()).hexdigest()[:16]


def _page(title: str, fleet: FleetResult, back: str) -> str:
    return _PAGE.format(
        policy=POLICY,
        title=visible_html(title),
        count=count_of(len(fleet.rows), "run"),
        back=back,
        style=read_style(),
        headline=draw_headline(_verdict(fleet), fleet.findings),
        figures=draw_figures({in_words(name): count for name, count in fleet.facts.items() if name != "runs"}),
        rows="\n".join(_row(row, fleet.results.get(row.name)) for row in fleet.rows),
    )


def _verdict(fleet: FleetResult) -> str:
    """Return how many runs did not end well, and how many found something."""
    bad = sum(row.outcome not in ("ok", "findings") for row in fleet.rows)
    found = sum(row.outcome == "findings" for row in fleet.rows)
    told = [f"{count_of(bad, 'run')} of {len(fleet.rows):,} did not end well"] if bad else []
    told += [f"{count_of(found, 'run')} found something"] if found else []
    return "; ".join(told) or ("All runs are fine" if fleet.rows else "No run was begun")


def _row(row: Row, result: RunResult | None) -> str:
    mark = {"": "good", "warning": "look"}.get(row.tone, "bad")
    name = visible_html(row.name)
    link = f'<a href="{visible_html(quote(Path(row.report).name))}">{name}</a>' if row.report else name
    seconds = "" if row.seconds is None else f"{row.seconds:.1f}"
    outcome = row.verdict if row.outcome == "findings" else row.outcome
    return (
        f'<tr class="{mark}-row"><td>{link}</td><td><span class="{mark}">{visible_html(outcome)}</span></td>'
        f'<td class="long">{_wrong(row, result)}</td><td class="number">{seconds}</td></tr>'
    )


def _wrong(row: Row, result: RunResult | None) -> str:
    """Return why a run did not come to its end, and its first finding."""
    reason = row.verdict.removeprefix(f"{row.outcome}: ") if row.outcome not in ("ok", "findings", "not begun") else ""
    found = group_findings(as_findings(result.summary.findings)) if result and result.summary else []
    causes = [cause for cause in found if cause.severity != "info"]
    first = [show_first(str(causes[0]), causes[0].age, len(causes))] if causes else []
    return "<br>".join([*([visible_html(reason)] if reason else []), *first])
