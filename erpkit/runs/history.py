"""Reading the record of runs: what ran, what failed, what is flaky."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING, Any

import psycopg

from erpkit.database import Connection, may_not_read
from erpkit.errors import DatabaseError, first_line
from erpkit.finding import Finding
from erpkit.grouping import group_by
from erpkit.plural import count_of
from erpkit.result import Summary, TableResult
from erpkit.runs.changes import find_problems
from erpkit.runs.report import run_key
from erpkit.runs.store import HistoryFile
from erpkit.table import Column, Table, Tone

if TYPE_CHECKING:
    from pandas import DataFrame

_LOST_AFTER = 60  # seconds without a sign of life

_RUNS = """
WITH recorded AS (
    SELECT id::text AS id, notebook, title, tenants, parameters, attempt, who, host, pid, checksum, revision, versions, started_at,
           seen_at, ended_at, CASE WHEN outcome = 'running' AND seen_at < clock_timestamp() - make_interval(secs => %(lost)s)
                                   THEN 'lost' ELSE outcome END AS outcome,
           exit_code, seconds, error, facts, findings, output, report, to_jsonb(r)->'changes' AS changes
      FROM public.erpkit_runs r
     WHERE (%(notebook)s::text IS NULL OR notebook = %(notebook)s) AND (%(tenant)s::text IS NULL OR %(tenant)s = ANY(tenants))
       AND (%(since)s::timestamptz IS NULL OR started_at >= %(since)s) AND starts_with(id::text, %(id)s)
       AND id::text <> ALL(%(ended)s)
)
SELECT * FROM recorded WHERE %(outcome)s::text IS NULL OR outcome = %(outcome)s ORDER BY started_at DESC, id LIMIT %(limit)s
"""


@dataclass(frozen=True)
class RunRecord:
    """A run as it was recorded. `outcome` is `running`, or `lost` for one whose process gave no sign of life for a minute.

    `changes` is what was different from the run before, and `place` the file under ERPKIT_HOME that holds it, "" for the database.
    """

    id: str
    notebook: str
    title: str
    tenants: Sequence[str]
    parameters: Mapping[str, Any]
    attempt: int
    who: str
    host: str
    pid: int
    checksum: str
    revision: str
    versions: Mapping[str, str]
    started_at: datetime
    seen_at: datetime
    ended_at: datetime | None
    outcome: str
    exit_code: int | None
    seconds: float | None
    error: str | None
    facts: Mapping[str, Any] | None = field(repr=False)
    findings: Sequence[str] | None = field(repr=False)
    output: str | None
    report: str | None
    changes: Mapping[str, Any] | None = field(default=None, repr=False)
    place: str = ""

    @property
    def key(self) -> str:
        """Notebook and parameters, without the id of a plan: runs with the same key are the same work."""
        return run_key(self.notebook, self.parameters)

    @property
    def is_good(self) -> bool | None:
        """Whether it ran to its end, with findings or without; None for one that still runs."""
        return None if self.outcome == "running" else self.outcome in ("ok", "findings")

    @property
    def verdict(self) -> str:
        """The outcome in a few words."""
        if self.outcome == "lost":
            return f"lost: no end recorded, last seen {self.seen_at:%Y-%m-%d %H:%M:%S}"
        if self.outcome == "findings":
            return find_problems(self.changes) or count_of(len(self.findings or ()), "finding")
        return f"{self.outcome}: {self.error}" if self.error else self.outcome


@dataclass(frozen=True, repr=False)
class RunHistory(TableResult):
    """Runs, the newest first, as tables; `since` is how far back they were read, None for no limit.

    `has_others` says whether runs of other notebooks, or older ones, were recorded, and `meant` what was probably asked for.
    """

    target: str
    runs: tuple[RunRecord, ...]
    since: datetime | None = None
    has_others: bool = False
    meant: str = ""

    @property
    def table(self) -> Table[RunRecord]:
        """One row per run."""
        return Table(_COLUMNS, self.runs, self._empty, in_order=True)

    @property
    def failures(self) -> Table[RunRecord]:
        """One row per run that failed, timed out, was killed or was lost; grey where the last run of the same work was good."""
        bad = [run for run in self.runs if run.is_good is False]
        last = {run.key: run for run in find_last(self.runs)}

        def then(run: RunRecord) -> str:
            latest = last[run.key]
            return "not run again" if latest is run else f"{latest.outcome}, {latest.started_at:%Y-%m-%d %H:%M}"

        def tone(run: RunRecord) -> Tone:
            return "muted" if last[run.key].is_good else "error"

        columns = [replace(one, tone=tone) if one.name == "outcome" else one for one in _COLUMNS]
        columns.insert(5, Column("last run since", then))
        return Table(columns, bad, "No run failed." if self.runs else self._empty, about=("bad run",))

    @property
    def work(self) -> Table[tuple[str, list[RunRecord], int]]:
        """One row per notebook with the same parameters: how often it ran, how it ended, how long it took, how often that changed."""
        flaky = find_flaky(self.runs)
        rows = [
            (key, same, flaky.get(key, 0)) for key, same in sorted(group_by(self.runs, lambda run: run.key).items())
        ]
        return Table(_WORK, rows, self._empty)

    @property
    def _empty(self) -> str:
        if self.meant:
            return f"No run matches: {self.meant} For others see erpkit runs"
        return "No run matches; for others see erpkit runs" if self.has_others else _NO_RUNS

    @property
    def findings(self) -> list[Finding]:
        """Work whose last run was bad, and work that is flaky."""
        bad = [run for run in find_last(self.runs) if run.is_good is False]
        return [
            *(
                Finding(
                    "bad run", run.key, f"the last run {run.verdict} ({run.started_at:%Y-%m-%d %H:%M})", "error",
                    f"erpkit runs show {run.id[:8]}", of="run",
                )
                for run in bad
            ),
            *(
                Finding("flaky run", key, f"flaky, went from good to bad or back {turns} times", of="run")
                for key, turns in find_flaky(self.runs).items()
            ),
        ]  # fmt: skip

    @property
    def summary(self) -> Summary:
        """How many runs there were, and what a person should look at."""
        facts = {
            "runs": len(self.runs),
            "notebooks": len({run.notebook for run in self.runs}),
            "bad": sum(run.is_good is False for run in self.runs),
            "flaky": len(find_flaky(self.runs)),
        }
        return Summary(f"{count_of(len(self.runs), 'run')} recorded on {self.target}", facts, self.findings)

    def frame(self) -> DataFrame:
        """Return one row per run: what it was, how it ended, its parameters, and the facts of its summary."""
        from pandas import DataFrame  # noqa: PLC0415 - slow to import

        return DataFrame([_flat(run) for run in self.runs])


def _flat(run: RunRecord) -> dict[str, Any]:
    own = {
        "started_at": run.started_at, "notebook": run.notebook, "tenants": ", ".join(run.tenants), "outcome": run.outcome,
        "seconds": run.seconds, "findings": len(run.findings or ()), "error": run.error,
    }  # fmt: skip
    others = {**run.parameters, **(run.facts or {})}
    return own | {name: value for name, value in others.items() if name not in own}


def _tone(run: RunRecord) -> Tone:
    return "error" if run.is_good is False else "warning" if run.outcome == "findings" else ""


def _last(runs: Sequence[RunRecord]) -> RunRecord:
    return next((run for run in runs if run.is_good is not None), runs[0])


_NO_RUNS = "No run was recorded. erpkit run NOTEBOOK runs one and records it."
_COLUMNS = (
    Column[RunRecord]("run", lambda r: r.id[:8]),
    Column[RunRecord]("started", lambda r: r.started_at),
    Column[RunRecord]("notebook", lambda r: r.notebook),
    Column[RunRecord]("tenants", lambda r: list(r.tenants), minor=True),
    Column[RunRecord]("outcome", lambda r: r.verdict, tone=_tone),
    Column[RunRecord](
        "duration", lambda r: None if r.seconds is None else round(r.seconds, 3), unit="s", places=1, bar=True
    ),
    Column[RunRecord]("by", lambda r: f"{r.who}@{r.host}", minor=True),
    Column[RunRecord]("report", lambda r: r.report),
)
_Work = tuple[str, list[RunRecord], int]


def _durations(row: _Work) -> list[float]:
    """Return the seconds of the runs that have ended."""
    return [run.seconds for run in row[1] if run.seconds is not None]


def _median(row: _Work) -> float | None:
    return median(durations) if (durations := _durations(row)) else None


_WORK = (
    Column[_Work]("work", lambda row: row[0]),
    Column[_Work]("runs", lambda row: len(row[1])),
    Column[_Work]("bad", lambda row: sum(run.is_good is False for run in row[1])),
    Column[_Work]("last", lambda row: _last(row[1]).verdict, tone=lambda row: _tone(_last(row[1]))),
    Column[_Work]("median", _median, unit="s", places=1, bar=True, right=True),
    Column[_Work]("longest", lambda row: max(_durations(row), default=None), unit="s", places=1, right=True),
    Column[_Work]("turned", lambda row: row[2], tone=lambda row: "warning" if row[2] > 1 else ""),
)  # fmt: skip


@dataclass(frozen=True)
class RunFilter:
    """Which runs are meant: those of a notebook, that name a tenant, with an outcome, started since a time, whose id begins so."""

    notebook: str | None = None
    tenant: str | None = None
    outcome: str | None = None
    since: datetime | None = None
    id: str = ""

    def fits(self, run: RunRecord) -> bool:
        """Tell whether a run is one of them."""
        return (
            self.notebook in (None, run.notebook)
            and (self.tenant is None or self.tenant in run.tenants)
            and self.outcome in (None, run.outcome)
            and (self.since is None or run.started_at >= self.since)
            and run.id.startswith(self.id)
        )


def list_runs(
    connection: Connection,
    *,
    limit: int = 50,
    only: RunFilter | None = None,
    file: HistoryFile | None = None,
) -> list[RunRecord]:
    """Return the newest `limit` runs that the database and the `file` hold, the newest first; none where nothing was ever recorded."""
    only = only or RunFilter()
    kept = _runs_in(file) if file else []
    found = [run for run in kept if only.fits(run)][:limit]
    ended = [run.id for run in kept if run.ended_at]  # of which the database may not have learned
    if connection.execute("SELECT to_regclass('public.erpkit_runs')").fetchone() == (None,):
        return found
    try:
        rows = connection.execute(_RUNS, {**vars(only), "ended": ended, "lost": _LOST_AFTER, "limit": limit})
    except psycopg.errors.InsufficientPrivilege:
        if found:  # this login's own runs
            return found
        raise may_not_read(connection, "erpkit_runs") from None
    found += [RunRecord(*row) for row in rows]
    return sorted(found, key=lambda run: run.started_at, reverse=True)[:limit]


def _runs_in(file: HistoryFile) -> list[RunRecord]:
    try:
        return [_read(row, str(file.path)) for row in file.runs()]
    except (sqlite3.Error, OSError) as error:
        raise DatabaseError(f"the runs in {file.path} cannot be read: {first_line(error)}") from None


def _read(row: Mapping[str, Any], place: str) -> RunRecord:
    times = {
        name: datetime.fromisoformat(row[name]) if row[name] else None for name in ("started_at", "seen_at", "ended_at")
    }
    silent = datetime.now(UTC) - (times["seen_at"] or datetime.now(UTC))
    is_lost = row["outcome"] == "running" and silent.total_seconds() > _LOST_AFTER
    return RunRecord(**{**row, **times, "outcome": "lost" if is_lost else row["outcome"], "place": place})


def find_last(runs: Sequence[RunRecord]) -> list[RunRecord]:
    """Return the last run of each key that has ended."""
    return [same[-1] for same in _group_ended(runs).values()]


def find_flaky(runs: Sequence[RunRecord]) -> dict[str, int]:
    """Return the keys whose runs went from good to bad or back more than once, and how often they did."""
    turns = {key: sum(a.is_good != b.is_good for a, b in pairwise(same)) for key, same in _group_ended(runs).items()}
    return {key: count for key, count in turns.items() if count > 1}


def _group_ended(runs: Sequence[RunRecord]) -> dict[str, list[RunRecord]]:
    """Return the runs that have ended by key, the oldest first."""
    ended = [run for run in runs if run.is_good is not None]
    return group_by(sorted(ended, key=lambda run: run.started_at), lambda run: run.key)
