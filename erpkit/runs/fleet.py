"""Fleets: one run for each tenant or each set of parameters, several at a time, each in another process than its neighbour."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from erpkit.errors import AbortedRunError, RunError, UsageError
from erpkit.finding import Finding
from erpkit.plural import count_of
from erpkit.result import Result
from erpkit.runs.job import Job, read_result, result_to_json
from erpkit.runs.notebook import Notebook
from erpkit.runs.result import Outcome, RunResult, worst_exit_code
from erpkit.runs.workers import Workers
from erpkit.table import Column, Table, Tone

if TYPE_CHECKING:
    from pandas import DataFrame

_ORDER = {"killed": 0, "failed": 1, "timed out": 2, "interrupted": 3, "not begun": 4, "findings": 5, "ok": 6}


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a fleet's table: `outcome` may also be `not begun`."""

    name: str
    outcome: str
    verdict: str
    seconds: float | None = None
    report: str = ""

    @property
    def tone(self) -> Tone:
        """How its outcome is shown."""
        return "" if self.outcome == "ok" else "warning" if self.outcome == "findings" else "error"


_COLUMNS = (
    Column[Row]("run", lambda row: row.name),
    Column[Row]("outcome", lambda row: row.verdict, tone=lambda row: row.tone),
    Column[Row]("seconds", lambda row: row.seconds, unit="s", places=1, bar=True),
    Column[Row]("report", lambda row: row.report),
)


@dataclass(frozen=True)
class FleetResult(Result):
    """The result of a fleet: a result for each run that ended, why others have none, and which were not started."""

    results: Mapping[str, RunResult]
    errors: Mapping[str, RunError]
    left: tuple[str, ...] = ()

    @property
    def exit_code(self) -> int:
        """That of the worst run; one whose process died counts as killed, one that was not started as interrupted."""
        outcomes: list[Outcome] = [result.outcome for result in self.results.values()]
        outcomes.extend(map(outcome_of, self.errors.values()))
        outcomes.extend("interrupted" for _ in self.left)
        return worst_exit_code(outcomes)

    @cached_property
    def rows(self) -> list[Row]:
        """One row per run, the worst first."""
        rows = [Row(name, r.outcome, r.verdict, r.seconds, r.places[1]) for name, r in self.results.items()]
        rows += [Row(name, outcome_of(error), _verdict(error)) for name, error in self.errors.items()]
        rows += [Row(name, "not begun", "not begun") for name in self.left]
        return sorted(rows, key=lambda row: _ORDER[row.outcome])

    @property
    def tables(self) -> tuple[Table[Row], ...]:
        """The runs, the worst first."""
        return (Table(_COLUMNS, self.rows, "no runs"),)

    @property
    def findings(self) -> list[Finding]:
        """The runs that did not end well, and what the others found, each with its run where it names no tenant."""
        bad = [
            Finding(f"run {row.outcome}", row.name, row.verdict, "error", of="run")
            for row in self.rows
            if row.outcome not in ("ok", "findings")
        ]
        return [*bad, *(one for name, result in self.results.items() for one in _findings_of(name, result))]

    @property
    def facts(self) -> dict[str, int]:
        """How many runs ended how."""
        counts: dict[str, int] = {"runs": len(self.rows)}
        for row in reversed(self.rows):
            counts[row.outcome] = counts.get(row.outcome, 0) + 1
        return counts

    def frame(self) -> DataFrame:
        """Return one row per run with its outcome, seconds, parameters and the facts of its summary."""
        from pandas import DataFrame  # noqa: PLC0415 - slow to import

        return DataFrame([_record(name, result) for name, result in self.results.items()])

    def __str__(self) -> str:
        told = ", ".join(f"{count:,} {in_words(outcome)}" for outcome, count in self.facts.items() if outcome != "runs")
        return f"{count_of(len(self.rows), 'run')}: {told}" if told else "no runs"


def in_words(outcome: str) -> str:
    """Return an outcome as it is said of a number of runs."""
    return "with findings" if outcome == "findings" else outcome


def outcome_of(ended: RunResult | RunError) -> Outcome:
    """Return the outcome of a run, with or without a result."""
    if isinstance(ended, RunResult):
        return ended.outcome
    return "failed" if isinstance(ended, AbortedRunError) else "killed"


def _verdict(error: RunError) -> str:
    return f"failed: {error}" if isinstance(error, AbortedRunError) else str(error)


def _findings_of(name: str, result: RunResult) -> Iterator[Finding]:
    for one in result.summary.findings if result.summary else ():
        finding = Finding("finding", "", one) if isinstance(one, str) else one
        yield (
            finding
            if finding.subject or finding.problem.startswith(f"{name}: ")
            else replace(finding, subject=name, of="run")
        )


def _record(name: str, result: RunResult) -> dict[str, Any]:
    own = {
        "run": name, "notebook": result.notebook, "outcome": result.outcome, "seconds": result.seconds,
        "started_at": result.started_at, "findings": len(result.findings), "error": result.error,
    }  # fmt: skip
    facts = dict(result.summary.facts) if result.summary else {}
    return {**{key: value for key, value in (dict(result.parameters) | facts).items() if key not in own}, **own}


def tenant_parameter(notebook: Notebook, slugs: Sequence[str]) -> dict[str, Any]:
    """Return the parameter of `notebook` that takes these tenants; raises UsageError where there is none."""
    names = {parameter.name for parameter in notebook.parameters}
    if "tenants" in names:
        return {"tenants": list(slugs)}
    if "tenant" in names and len(slugs) == 1:
        return {"tenant": slugs[0]}
    wants = "takes one tenant: use --each-tenant" if "tenant" in names else "has no parameter for tenants"
    raise UsageError(f"{notebook.path.name} {wants}")


# What does one job, and how a fleet hears of its end: the result, why there is none, or that it was not begun.
Done = tuple[str, RunResult | RunError | None]


def run_fleet(
    jobs: Mapping[str, Job], workers: int, progress: Callable[[str, RunResult | RunError], object] = lambda *_: None
) -> FleetResult:
    """Run the jobs, `workers` of them at a time, on this machine; `progress` is called as each ends.

    Ctrl-C and SIGTERM are passed on to the runs that are under way, and no other is begun.
    """
    return gather(jobs, _on_this_machine(jobs, workers), progress)


def gather(
    jobs: Mapping[str, Job], done: Iterable[Done], progress: Callable[[str, RunResult | RunError], object]
) -> FleetResult:
    """Collect what became of the jobs, in the order in which they were given."""
    results = _Packed()
    errors: dict[str, RunError] = {}
    for name, outcome in done:
        if isinstance(outcome, RunResult):
            results.add(name, outcome)
        elif outcome is not None:
            errors[name] = outcome
        if outcome is not None:
            progress(name, outcome)
    left = tuple(name for name in jobs if name not in results and name not in errors)
    results.arrange(jobs)
    return FleetResult(results, errors, left)


class _Packed(Mapping[str, RunResult]):
    """Results as compressed text, unpacked when they are asked for: as objects those of many runs would take five times the memory."""

    def __init__(self) -> None:
        self._texts: dict[str, bytes] = {}

    def add(self, name: str, result: RunResult) -> None:
        """Keep the result of a run."""
        self._texts[name] = zlib.compress(result_to_json(result).encode())

    def arrange(self, names: Iterable[str]) -> None:
        """Keep them in the order of these names."""
        self._texts = {name: self._texts[name] for name in names if name in self._texts}

    def __getitem__(self, name: str) -> RunResult:
        return read_result(zlib.decompress(self._texts[name]))

    def __iter__(self) -> Iterator[str]:
        return iter(self._texts)

    def __len__(self) -> int:
        return len(self._texts)


def _on_this_machine(jobs: Mapping[str, Job], count: int) -> Iterator[Done]:
    workers = Workers()
    todo, under_way = iter(jobs.items()), {}
    with workers.signals(), ThreadPoolExecutor(count) as pool:
        try:
            while True:
                for name, job in todo:
                    under_way[pool.submit(workers.run, job)] = name
                    if len(under_way) == 2 * count:  # a few wait: a future for each of many runs would take memory
                        break
                if not under_way:
                    return
                for future in wait(under_way, return_when=FIRST_COMPLETED).done:
                    yield under_way.pop(future), _outcome(future)
        finally:
            workers.close()


def _outcome(future: Future[RunResult | None]) -> RunResult | RunError | None:
    error = future.exception()
    if isinstance(error, RunError):
        return error
    return future.result()
