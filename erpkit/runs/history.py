"""Reading the record of runs: what ran, what failed, what is flaky."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from typing import Any

import psycopg

from erpkit.database import Connection, may_not_read
from erpkit.runs.report import run_key

__all__ = ["RunRecord", "find_flaky", "find_last", "list_runs"]

_LOST_AFTER = 60  # seconds without a sign of life

_RUNS = """
SELECT id::text, notebook, title, tenants, parameters, attempt, who, host, pid, checksum, revision, versions, started_at,
       seen_at, ended_at, CASE WHEN outcome = 'running' AND seen_at < clock_timestamp() - make_interval(secs => %s)
                               THEN 'lost' ELSE outcome END,
       exit_code, seconds, error, facts, findings, output, report
  FROM public.erpkit_runs
 WHERE (%s::text IS NULL OR notebook = %s) AND (%s::timestamptz IS NULL OR started_at >= %s)
 ORDER BY started_at DESC, id LIMIT %s
"""


@dataclass(frozen=True)
class RunRecord:
    """A run as it was recorded. `outcome` is `running`, or `lost` for one whose process gave no sign of life for a minute."""

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
            return f"{len(self.findings or ())} finding{'s' if len(self.findings or ()) != 1 else ''}"
        return f"{self.outcome}: {self.error}" if self.error else self.outcome


def list_runs(
    connection: Connection, notebook: str | None = None, *, since: datetime | None = None, limit: int = 50
) -> list[RunRecord]:
    """Return the newest `limit` runs, the newest first; none where nothing was ever recorded."""
    if connection.execute("SELECT to_regclass('public.erpkit_runs')").fetchone() == (None,):
        return []
    try:
        rows = connection.execute(_RUNS, [_LOST_AFTER, notebook, notebook, since, since, limit])
    except psycopg.errors.InsufficientPrivilege:
        raise may_not_read(connection, "erpkit_runs") from None
    return [RunRecord(*row) for row in rows]


def find_last(runs: Sequence[RunRecord]) -> list[RunRecord]:
    """Return the last run of each key that has ended."""
    return [same[-1] for _, same in _by_key(runs)]


def find_flaky(runs: Sequence[RunRecord]) -> dict[str, int]:
    """Return the keys whose runs went from good to bad or back more than once, and how often they did."""
    turns = {key: sum(a.is_good != b.is_good for a, b in pairwise(same)) for key, same in _by_key(runs)}
    return {key: count for key, count in turns.items() if count > 1}


def _by_key(runs: Sequence[RunRecord]) -> Iterator[tuple[str, list[RunRecord]]]:
    found: dict[str, list[RunRecord]] = {}
    for run in sorted(runs, key=lambda run: run.started_at):
        if run.is_good is not None:
            found.setdefault(run.key, []).append(run)
    yield from found.items()
