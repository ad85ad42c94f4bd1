"""Pruning the record of runs by age and count: a plan of the runs and files that would go, and deleting them."""

from __future__ import annotations

import html
import os
import socket
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from erpkit.database import Database
from erpkit.errors import UsageError
from erpkit.finding import Finding
from erpkit.plan import Work, plan_id
from erpkit.plural import count_of
from erpkit.result import Result
from erpkit.runs.entries import INDEX
from erpkit.runs.history import RunRecord
from erpkit.runs.index import write_index
from erpkit.runs.store import HistoryFile
from erpkit.table import Column, Table

_EDGE = 64 * 1024  # bytes at the beginning of a report, or at the end of a notebook, that tell whose it is


@dataclass(frozen=True)
class OldRun:
    """A run that would go, with its files that would; `left` says why others of them stay."""

    run: RunRecord
    files: tuple[Path, ...] = ()
    left: str = ""


@dataclass(frozen=True)
class RunPrunePlan(Result):
    """The runs that are older than `days`, and not among the newest `keep` of the same notebook and parameters."""

    days: float
    keep: int
    old: tuple[OldRun, ...]
    recorded: int

    @property
    def id(self) -> str:
        """An id that stands for exactly these runs and files."""
        return plan_id("prune-runs", [(one.run.id, sorted(map(str, one.files))) for one in self.old])

    @property
    def size(self) -> int:
        """How many runs would go."""
        return len(self.old)

    @property
    def facts(self) -> dict[str, object]:
        """How much would go, and how much would stay."""
        files = sum(len(one.files) for one in self.old)
        return {"runs": self.size, "files": files, "runs that stay": self.recorded - self.size}

    @property
    def findings(self) -> list[Finding]:
        """Files that would stay behind."""
        return [Finding("left", one.run.id[:8], one.left, "info", of="run") for one in self.old if one.left]

    @property
    def tables(self) -> Sequence[Table[Any]]:
        """One row per run that would go."""
        return (Table(_COLUMNS, self.old, "No run is old enough."),)

    def __str__(self) -> str:
        files = sum(len(one.files) for one in self.old)
        return f"delete {count_of(self.size, 'run')} and {count_of(files, 'file')}"


@dataclass(frozen=True)
class RunsPruned(Result):
    """What pruning deleted; `failures` maps the runs that were kept, as a file of theirs could not be deleted, to the reason."""

    plan: RunPrunePlan
    runs: int
    files: int
    failures: Mapping[str, str] = field(default_factory=dict)
    tables: Sequence[Table[Any]] = ()

    @property
    def facts(self) -> dict[str, object]:
        """How much went."""
        return {"runs": self.runs, "files": self.files}

    @property
    def findings(self) -> list[Finding]:
        """Runs that were kept as a file could not be deleted."""
        return [Finding("not deleted", id_[:8], reason, of="run") for id_, reason in self.failures.items()]

    def __str__(self) -> str:
        return f"deleted {count_of(self.runs, 'run')} and {count_of(self.files, 'file')}"


def plan_prune(runs: Sequence[RunRecord], days: float, keep: int, now: datetime | None = None) -> RunPrunePlan:
    """Plan which of the recorded runs go: older than `days` full days (UTC), and not among the newest `keep` of their kind.

    A run that is under way stays. Raises UsageError for numbers below 0.
    """
    if days < 0 or keep < 0:
        raise UsageError("days and keep are numbers from 0")
    now = now or datetime.now(UTC)
    # Whole days, so that a plan is the same one until midnight; with 0 days only `keep` counts.
    limit = (
        now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=days) if days else now
    )
    old = [describe_old(run) for run in find_old(runs, limit, keep)]
    return RunPrunePlan(days, keep, tuple(old), len(runs))


def find_old(runs: Iterable[RunRecord], limit: datetime, keep: int) -> list[RunRecord]:
    """Return the runs that began before `limit` and of which `keep` newer ones of the same work ended; the newest first. Pure."""
    newer: dict[str, int] = {}
    found = []
    for run in sorted(runs, key=lambda one: (one.started_at, one.id), reverse=True):
        if run.outcome == "running":
            continue
        newer[run.key] = newer.get(run.key, 0) + 1
        if run.started_at < limit and newer[run.key] > keep:
            found.append(run)
    return found


def describe_old(run: RunRecord) -> OldRun:
    """Return a run with those of its files that are still its own: a later run may have written to the same place."""
    places = [place for place in (run.output, run.report) if place]
    if any("://" in place for place in places):
        return OldRun(run, left=f"its files stay in {places[0].rpartition('/')[0]}")
    if places and run.host != socket.gethostname():
        return OldRun(run, left=f"its files stay on {run.host}")
    return OldRun(run, tuple(path for path in map(Path, places) if _is_of(path, run)))


def prune_runs(database: Database, file: HistoryFile, plan: RunPrunePlan, work: Work | None = None) -> RunsPruned:
    """Delete the files of a plan's runs, and then the runs; one whose file cannot be deleted is kept, and named."""
    work, failures, files = work or Work(), {}, 0
    done: list[RunRecord] = []
    for one in plan.old:
        if work.stop.is_set():
            break
        try:
            for path in one.files:
                path.unlink(missing_ok=True)
                files += 1
        except OSError as error:
            failures[one.run.id] = f"{error.filename} cannot be deleted: {error.strerror}"
            continue
        done.append(one.run)
        work.advance(1)
    runs = _delete(database, file, done)
    for folder in {path.parent for one in plan.old for path in one.files}:
        if (folder / INDEX).exists():
            write_index(folder)
    return RunsPruned(plan, runs, files, failures)


def _delete(database: Database, file: HistoryFile, runs: Sequence[RunRecord]) -> int:
    ids = [run.id for run in runs if not run.place]
    count = file.delete_runs([run.id for run in runs if run.place])
    if ids:
        with database.transaction() as connection:
            count += connection.execute("DELETE FROM public.erpkit_runs WHERE id = ANY(%s::uuid[])", [ids]).rowcount
    return count


def _is_of(path: Path, run: RunRecord) -> bool:
    """Tell whether a file is this run's: its notebook names the run, its report when that began."""
    with suppress(OSError), path.open("rb") as file:
        if path.suffix == ".html":
            return run.started_at.astimezone(UTC).isoformat() in html.unescape(
                file.read(_EDGE).decode(errors="replace")
            )
        named = f'"run": "{run.id}"'.encode()
        file.seek(max(0, file.seek(0, os.SEEK_END) - _EDGE))
        return named in file.read() or (file.seek(0) == 0 and named in file.read())  # widgets may come after it
    return False


_COLUMNS = (
    Column[OldRun]("run", lambda one: one.run.id[:8]),
    Column[OldRun]("started", lambda one: one.run.started_at),
    Column[OldRun]("notebook", lambda one: one.run.notebook),
    Column[OldRun]("outcome", lambda one: one.run.verdict),
    Column[OldRun]("files", lambda one: len(one.files)),
)
