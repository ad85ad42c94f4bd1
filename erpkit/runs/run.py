"""Running one notebook headlessly, and telling what became of it, in a record, a report and notifications."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

from erpkit.errors import ErpkitError, RunError, UsageError
from erpkit.runs.changes import Changes
from erpkit.runs.compared import compared, read_declared
from erpkit.runs.entries import read_entries
from erpkit.runs.execute import execute, find_kernel, home_folder, mark_cells
from erpkit.runs.index import write_index
from erpkit.runs.killed import mark_killed, under_way
from erpkit.runs.notebook import Notebook, write_notebook
from erpkit.runs.order import Order
from erpkit.runs.output import Destination, output_name, read_tenants
from erpkit.runs.parameters import may_write, python_values, validate_parameters
from erpkit.runs.record import Recorder, RunStart, read_provenance
from erpkit.runs.report import run_key, write_report
from erpkit.runs.result import Ending, Outcome, RunResult, read_summary
from erpkit.runs.secrets import Mask, check_references
from erpkit.runs.stopper import Stopper, TimeLimits
from erpkit.visible import visible

_RETRIED: tuple[Outcome, ...] = ("failed", "timed out", "killed")
_LONGEST_PAUSE = 60.0  # seconds


@dataclass(frozen=True)
class Retry:
    """How often a run that failed, timed out or was killed is tried again; one that may write only if `writes` says so.

    The pause before the second attempt is `pause` seconds, and twice as long before each next one.
    """

    times: int = 0
    writes: bool = False
    pause: float = 1.0


def run_notebook(
    notebook: Notebook,
    given: Mapping[str, Any],
    place: str | Path,
    stem: str | None = None,
    *,
    limits: TimeLimits | None = None,
    retry: Retry | None = None,
    kernel: str | None = None,
    recorder: Recorder | None = None,
    index: bool | None = True,
    cwd: str | None = None,
    progress: Progress | None = None,
) -> RunResult:
    """Run `notebook` with papermill; write its output notebook and an HTML report without code to `place`.

    `place` is a folder, which gets an index as well unless `index` is false, or None as the caller writes it; or it is a URL
    that papermill can write to. `stem` names both files and replaces what is there; without it they are named by notebook,
    tenant and time (UTC), and nothing is overwritten. The kernel works in `cwd`, or where this process does; `progress` is called
    before each cell, with its index and all cells. Each attempt is a run of its own with its own files; the last one is returned.

    Raises UsageError, before a kernel is started, for bad parameters, a missing kernel, and a place that cannot be written;
    what becomes of the cells is the outcome, and raises nothing. Ctrl-C and SIGTERM end the kernel, and then the run, as
    `interrupted`.
    """
    limits, retry, recorder = limits or TimeLimits(), retry or Retry(), recorder or Recorder(None)
    values = validate_parameters(notebook.parameters, given)
    check_references(values)
    if retry.times and not retry.writes and may_write(notebook.parameters, values):
        raise UsageError(f"this run of {notebook.path.stem} may write: it is only retried with --retry-writes")
    urls, stopper, first = read_urls(), Stopper(limits), datetime.now(UTC)
    read_declared()  # a threshold that cannot be understood is refused before a kernel starts
    with home_folder(), stopper.signals():
        name, destination = find_kernel(notebook, kernel), Destination(place)
        if destination.url is None:
            mark_killed(destination.folder)
        indexed = destination.url is None and index is not False
        where = _Where(destination, stem, _folder(cwd), progress or (lambda *_: None), indexed)

        def begin(attempt: int) -> _Run:
            return _Run(notebook, values, name, where, attempt, recorder)

        run, result = _try_until_done(begin, retry, stopper)
    if index and destination.url is None:
        try:
            write_index(destination.folder)
        except OSError as error:
            problem = f"the index of {destination.folder} cannot be written: {error.strerror}"
            result = replace(result, problems=(*result.problems, problem))
    return _tell(result, replace(run.start, started_at=first), destination, recorder, urls)


def _try_until_done(begin: Callable[[int], _Run], retry: Retry, stopper: Stopper) -> tuple[_Run, RunResult]:
    """Run attempt after attempt until one need not or may not be tried again; return the last one."""
    attempt = 1
    while True:
        run = begin(attempt)
        result = run.do(stopper)
        if result.outcome not in _RETRIED or result.is_refused or attempt > retry.times:
            return run, result
        if not stopper.pause(min(retry.pause * 2 ** (attempt - 1), _LONGEST_PAUSE)):
            return run, result
        attempt += 1


Progress = Callable[[int, Sequence[Any]], object]


@dataclass(frozen=True)
class _Where:
    """Where a run writes and works, what is told of its progress, and whether there is an index beside its report."""

    destination: Destination
    stem: str | None
    cwd: str | None
    progress: Progress
    indexed: bool


def _folder(cwd: str | None) -> str | None:
    if cwd is not None and not Path(cwd).is_dir():
        raise UsageError(f"there is no folder {cwd} to run in")
    return None if cwd is None else str(Path(cwd).absolute())


class _Run:
    """One attempt."""

    def __init__(
        self,
        notebook: Notebook,
        values: Mapping[str, Any],
        kernel: str,
        where: _Where,
        attempt: int,
        recorder: Recorder,
    ) -> None:
        self._notebook, self._values, self._kernel = notebook, values, kernel
        self._where, self._destination, self._recorder = where, where.destination, recorder
        name, tenants, now = notebook.path.stem, read_tenants(values), datetime.now(UTC)
        stem = where.stem
        self._output = self._destination.reserve(stem or output_name(name, tenants, now), anew=stem is not None)
        self.start = RunStart(
            str(uuid4()), name, notebook.title, tenants, values, attempt, now, read_provenance(notebook.path),
            str(self._output) if self._destination.url is None else None,
        )  # fmt: skip

    def do(self, stopper: Stopper) -> RunResult:
        """Run the cells, write the output and the report, and record what became of them.

        Raises RunError, and records that, when something beside the cells went wrong: a disk that is full, say.
        """
        self._recorder.start(self.start)
        began = time.perf_counter()
        try:
            result = self._execute(stopper, began)
        except Exception as error:
            reason = f"{type(error).__name__}: {(Mask(self._values).text(str(error)).splitlines() or [''])[0]}"
            self._recorder.finish(self.start, self._result(None, Ending("failed", reason), time.perf_counter() - began))
            raise RunError(f"the run of {self.start.notebook} was aborted: {reason}") from error
        self._recorder.finish(self.start, result)
        return result

    def _execute(self, stopper: Stopper, began: float) -> RunResult:
        values = python_values(self._notebook.parameters, self._values)
        order = Order(
            self.start.id, self._notebook.path, self._output, self._kernel, values, self._values, self._about("running", None),
            self._where.cwd, self._where.progress,
        )  # fmt: skip
        with under_way(self._output):
            done = execute(order, stopper, Mask(self._values))
            result = compared(
                self._result(done.node, done.ending, time.perf_counter() - began), self.start, self._recorder
            )
            mark_cells(done.node, done.ending)
            self._write(done.node, result)
        return replace(self._deliver(result), problems=(*result.problems, *done.cut))

    def _result(self, node: Any, ending: Ending, seconds: float) -> RunResult:
        summary, start = read_summary(node) if node else None, self.start
        kernel = node.metadata.get("erpkit", {}).get("kernel", "") if node else ""
        outcome: Outcome = "findings" if ending.outcome == "ok" and summary and summary.exit_code else ending.outcome
        return RunResult(
            start.notebook, outcome, seconds, self._output, self._output.with_suffix(".html"), ending.error, summary,
            start.tenants, start.parameters, start.started_at, start.attempt, start.id,
            problems=(f"a cold kernel: {kernel[6:]}",) if kernel.startswith("cold: ") else (), kernel=kernel,
        )  # fmt: skip

    def _write(self, node: Any, result: RunResult) -> None:
        node.metadata["erpkit"] = self._about(result.outcome, result.error) | {"kernel": result.kernel}
        write_notebook(node, self._output)
        folders = [self._notebook.path.parent, Path(self._where.cwd or "").absolute()]
        origin, indexed = self.start.provenance, self._where.indexed
        write_report(node, self._notebook.title, result, origin, folders, indexed=indexed)

    def _about(self, outcome: str, error: str | None) -> dict[str, Any]:
        """Return what the output notebook says of the run."""
        start, origin = self.start, asdict(self.start.provenance)
        about = {name: origin[name] for name in ("who", "host", "revision", "checksum", "versions")}
        return about | {
            "run": start.id, "outcome": outcome, "error": error, "attempt": start.attempt, "notebook": start.notebook,
            "title": start.title, "tenants": list(start.tenants), "started": start.started_at.isoformat(), "origin": origin,
        }  # fmt: skip

    def _deliver(self, result: RunResult) -> RunResult:
        try:
            output, report = self._destination.deliver([result.output, result.report])
        except ErpkitError as error:
            places = (str(result.output), str(result.report))
            return replace(result, outcome="failed", error=str(error), places=places)
        return replace(result, places=(output, report))


def _tell(
    result: RunResult, start: RunStart, destination: Destination, recorder: Recorder, urls: list[str]
) -> RunResult:
    """Send the news if there is any, and note what went wrong beside the run."""
    problems = [*result.problems, *([recorder.problem] if recorder.problem else [])]
    if urls:
        before = recorder.previous_outcome(start) or _previous_in(destination, start)
        try:
            if is_news(before, result.outcome, result.changes):
                send_news(urls, result, before)
        except ErpkitError as error:
            problems.append(str(error))
    if result.places[0] != str(result.output):
        destination.close()
    return replace(result, problems=tuple(problems))


def _previous_in(destination: Destination, start: RunStart) -> Any:
    """Return the outcome of the last such run that left its report in the folder, for where no database recorded it."""
    if destination.url:
        return None
    key, began = run_key(start.notebook, start.parameters), start.started_at.isoformat()
    return next((e.outcome for e in read_entries(destination.folder) if e.key == key and e.started < began), None)


_FINDINGS = 10  # that a message holds
_KINDS = {"ok": "success", "findings": "warning"}


def is_news(before: Outcome | None, now: Outcome, changes: Changes | None = None) -> bool:
    """Tell whether an outcome differs from the one before, or an error or a warning is new; a first run is expected to be ok."""
    return now != (before or "ok") or bool(changes and changes.has_news)


def read_urls(environ: Mapping[str, str] | None = None) -> list[str]:
    """Return apprise's URLs from ERPKIT_NOTIFY, where `env:NAME` stands for those in another variable.

    They hold tokens and passwords, so nothing ever shows them. Raises UsageError for a variable that is not set.
    """
    env = os.environ if environ is None else environ
    urls: list[str] = []
    for word in env.get("ERPKIT_NOTIFY", "").replace(",", " ").split():
        if not word.startswith("env:"):
            urls.append(word)
            continue
        name = word.removeprefix("env:")
        if not env.get(name):
            raise UsageError(f"ERPKIT_NOTIFY names the variable {name}, which is not set")
        urls += env[name].replace(",", " ").split()
    return urls


def send_news(urls: list[str], result: RunResult, before: Outcome | None) -> None:
    """Send one message about a run to all URLs; raises RunError, without a URL in it, when one did not take it."""
    try:
        import apprise  # noqa: PLC0415 - an extra
    except ModuleNotFoundError:
        raise RunError("ERPKIT_NOTIFY needs apprise: pip install 'erpkit[notify]'") from None
    logging.getLogger("apprise").setLevel(logging.CRITICAL + 1)  # its messages hold the URLs
    targets = apprise.Apprise()
    unknown = sum(not targets.add(url) for url in urls)
    sent = (
        targets.notify(body=_body(result), title=_title(result, before), notify_type=_kind(result)) if targets else None
    )
    if unknown or not sent:
        reason = f"{unknown} of its URLs cannot be understood" if unknown else "a receiver did not accept the message"
        raise RunError(f"ERPKIT_NOTIFY: {reason}")


def _kind(result: RunResult) -> str:
    return _KINDS.get(result.outcome, "failure")


def _title(result: RunResult, before: Outcome | None) -> str:
    about = f" ({', '.join(result.tenants)})" if result.tenants else ""
    return visible(f"{result.notebook}{about}: {result.outcome}{f', was {before}' if before else ''}")


def _body(result: RunResult) -> str:
    more = len(result.findings) - _FINDINGS
    lines = [*(result.changes.news if result.changes else ()), result.verdict]
    lines += [f"- {finding}" for finding in result.findings[:_FINDINGS]]
    lines += [f"and {more} more"] if more > 0 else []
    return "\n".join(map(visible, [*lines, f"report {result.places[1]}"]))
