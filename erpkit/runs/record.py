"""The record of runs in the database: where each comes from, how it began and how it ended, in `public.erpkit_runs`."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import socket
import sqlite3
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import lru_cache, partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psycopg

from erpkit.config import acting_user
from erpkit.database import Connection, Database, grant_analysts, share_table
from erpkit.errors import DatabaseError, ErpkitError, UsageError, first_line
from erpkit.runs.changes import Changes, Look, Sighting, look_after
from erpkit.runs.parameters import CONFIRMS
from erpkit.runs.result import Outcome, RunResult
from erpkit.runs.store import HistoryFile, to_json
from erpkit.runs.text import storable


@dataclass(frozen=True)
class Provenance:
    """`revision` is the git commit that holds the notebook, with `+changed` where the file differs; "" outside git."""

    who: str
    host: str
    pid: int
    checksum: str
    revision: str
    versions: dict[str, str]


def read_provenance(notebook: Path) -> Provenance:
    """Read who runs `notebook`, where, and with which versions."""
    status = notebook.stat()
    return Provenance(
        who=acting_user(),
        host=socket.gethostname(),
        pid=os.getpid(),
        checksum=hashlib.sha256(notebook.read_bytes()).hexdigest(),
        revision=_revision(notebook, (status.st_mtime_ns, status.st_size)),
        versions={
            "python": platform.python_version(),
            **{n: _version(n) for n in ("erpkit", "papermill", "ipykernel")},
        },
    )


@lru_cache(maxsize=8)
def _revision(notebook: Path, _stamp: tuple[int, int]) -> str:
    """Ask git once for a file that stays as it is: a fleet runs the same one many times."""
    commit = _git(notebook, "rev-parse", "HEAD")
    if not commit or not _git(notebook, "ls-files", "--", notebook.name):
        return ""
    return commit + ("+changed" if _git(notebook, "status", "--porcelain", "--", notebook.name) else "")


def _git(notebook: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=notebook.parent, capture_output=True, text=True, timeout=5, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


BEAT = 15.0  # seconds between two signs of life of a run

_TABLE = """
CREATE TABLE IF NOT EXISTS public.erpkit_runs (
    id uuid PRIMARY KEY,
    notebook text NOT NULL,
    title text NOT NULL,
    tenants text[] NOT NULL,
    parameters jsonb NOT NULL,
    attempt int NOT NULL,
    who text NOT NULL,
    host text NOT NULL,
    pid int NOT NULL,
    checksum text NOT NULL,
    revision text NOT NULL,
    versions jsonb NOT NULL,
    started_at timestamptz NOT NULL,
    seen_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    ended_at timestamptz,
    outcome text NOT NULL DEFAULT 'running',
    exit_code int,
    seconds double precision,
    error text,
    facts jsonb,
    findings text[],
    output text,
    report text,
    changes jsonb
);
CREATE INDEX IF NOT EXISTS erpkit_runs_by_time ON public.erpkit_runs (started_at DESC);
CREATE INDEX IF NOT EXISTS erpkit_runs_by_notebook ON public.erpkit_runs (notebook, started_at DESC)
"""

_START = """
INSERT INTO public.erpkit_runs
       (id, notebook, title, tenants, parameters, attempt, started_at, output, who, host, pid, checksum, revision, versions)
VALUES (%(id)s, %(notebook)s, %(title)s, %(tenants)s, %(parameters)s, %(attempt)s, %(started_at)s, %(output)s, %(who)s, %(host)s,
        %(pid)s, %(checksum)s, %(revision)s, %(versions)s)
ON CONFLICT (id) DO NOTHING
"""

_FINISH = """
UPDATE public.erpkit_runs
   SET ended_at = clock_timestamp(), seen_at = clock_timestamp(), outcome = %(outcome)s, exit_code = %(exit_code)s,
       seconds = %(seconds)s, error = %(error)s, facts = %(facts)s, findings = %(findings)s, output = %(output)s,
       report = %(report)s
 WHERE id = %(id)s
"""
_CHANGED = "UPDATE public.erpkit_runs SET changes = %(changes)s WHERE id = %(id)s"

# An earlier erpkit made the table without the column; a login that does not own it cannot add it.
_LAYOUT = """
SELECT count(*) FILTER (WHERE attname = 'id') > 0, count(*) FILTER (WHERE attname = 'changes') > 0
  FROM pg_catalog.pg_attribute WHERE attrelid = to_regclass('public.erpkit_runs') AND NOT attisdropped
"""

# The ids of plans are others each time, and the run is the same one all the same.
_PREVIOUS = """
SELECT outcome, started_at, facts, findings, to_jsonb(r)->'changes' FROM public.erpkit_runs r
 WHERE notebook = %(notebook)s AND parameters - %(confirms)s::text[] = %(parameters)s::jsonb - %(confirms)s::text[]
   AND ended_at IS NOT NULL AND started_at < %(started_at)s AND outcome = ANY(%(outcomes)s)
 ORDER BY started_at DESC LIMIT 1
"""
_ANY: tuple[Outcome, ...] = ("ok", "findings", "failed", "timed out", "killed", "interrupted")
_WHOLE: tuple[Outcome, ...] = ("ok", "findings")  # these ran to their end, and so have looked at everything
_REFUSED = (psycopg.errors.InsufficientPrivilege, psycopg.errors.ReadOnlySqlTransaction)


@dataclass(frozen=True)
class RunStart:
    """What is known of a run when it begins."""

    id: str
    notebook: str
    title: str
    tenants: tuple[str, ...]
    parameters: Mapping[str, Any]
    attempt: int
    started_at: datetime
    provenance: Provenance = field(repr=False)
    output: str | None = None

    def row(self) -> dict[str, Any]:
        """Return the values of its row."""
        names = ("id", "notebook", "title", "attempt", "started_at", "output")
        values = {name: storable(getattr(self, name)) for name in names}
        where_from = asdict(self.provenance)
        where_from["versions"] = json.dumps(where_from["versions"])
        values |= {name: storable(value) for name, value in where_from.items()}
        return values | {"tenants": list(self.tenants), "parameters": json.dumps(storable(dict(self.parameters)))}


class Recorder:
    """Records runs, on a new connection each time, as the server may close one that is idle during a long run.

    Where the login may not write, and for an ERP that erpkit only reads, they are recorded in a file under `home`, if one is
    given. A database that cannot be reached fails no run: `problem` says in one line why nothing was recorded, or why only there.
    With no database it does nothing; `problem` then is whatever the caller knows of it.
    """

    def __init__(self, database: Database | None, problem: str | None = None, home: Path | None = None) -> None:
        self._database, self._home = database, home
        self._file: HistoryFile | None = None  # once the database has refused to be written
        self._beside: HistoryFile | None = None
        self._before: tuple[str, list[tuple[Any, ...]]] = (
            "",
            [],
        )  # a run, and what the database had recorded before it
        self._note: str | None = None
        self.problem = problem
        self._owed: list[tuple[RunStart, RunResult]] = []  # ends of runs that the database could not take
        self._ended = threading.Event()

    @classmethod
    def opening(cls, open_: Callable[[], Database], home: Path | None = None) -> Recorder:
        """Return the recorder for the database that `open_` opens; where that does not answer, `problem` has the reason."""
        try:
            return cls(open_(), home=home)
        except ErpkitError as error:
            return cls(None, f"the run is not recorded: {error}")

    @property
    def is_off(self) -> bool:
        """Whether it has no database to record in."""
        return self._database is None

    def start(self, run: RunStart) -> None:
        """Record that a run starts, and give signs of life until `finish`."""
        self._ended = threading.Event()

        def in_database(connection: Connection) -> None:
            _insert(connection, run)
            self._before = (run.id, _previous_of(connection, run, _WHOLE))  # at hand, without another connection

        if self._try(in_database, lambda file: file.start(_plain_row(run))):
            threading.Thread(target=self._beat, args=(run.id, self._ended), daemon=True).start()

    def finish(self, run: RunStart, result: RunResult) -> None:
        """Record the result; if the start could not be written, write it now."""
        self._ended.set()

        def in_file(file: HistoryFile) -> None:
            file.start(_plain_row(run))
            file.finish(run.id, {**_end(result), "ended_at": datetime.now(UTC)})

        if not self._try(lambda connection: _update(connection, run, result), in_file) and self._database is not None:
            self._owed.append((run, result))
            if self._file is None and self._beside is not None:  # else the run would count as lost
                reason = self.problem
                if self._try_file(self._beside, in_file):
                    self.problem = f"the end of the run is recorded in {self._beside.path} alone: {reason}"

    def settle(self) -> None:
        """Record the ends of runs that the database could not take before, until it refuses one again."""
        for _ in range(len(self._owed)):
            run, result = self._owed.pop(0)
            self.finish(run, result)
            if self.problem:
                return
            if self._beside is not None:
                self._try_file(self._beside, partial(HistoryFile.delete_runs, ids=[run.id]))

    def previous_outcome(self, run: RunStart) -> Outcome | None:
        """Return the outcome of the last run of the same notebook with the same parameters before this one; None if not known."""
        with suppress(psycopg.Error, ErpkitError, sqlite3.Error, OSError):
            found = self._previous(run, _ANY)
            return found[0] if found else None
        return None

    def previous_look(self, run: RunStart) -> Look | None:
        """Return what the last such run that came to its end has found; None where there is none.

        Raises DatabaseError where the record cannot be read, or there is no database: then it is not known whether there is one.
        """
        if self._database is None:
            raise DatabaseError(self.problem or "there is no record of runs")
        try:
            found = self._previous(run, _WHOLE)
        except (psycopg.Error, sqlite3.Error, OSError) as error:
            raise DatabaseError(_reason(error) if isinstance(error, psycopg.Error) else first_line(error)) from None
        return _look(*found[1:]) if found else None

    def _previous(self, run: RunStart, outcomes: tuple[Outcome, ...]) -> tuple[Any, ...] | None:
        """Return outcome, start, facts, findings and changes of the last such run, wherever it was recorded."""
        found: list[tuple[Any, ...]] = []
        if (self._before[0], outcomes) == (run.id, _WHOLE):
            found += self._before[1]
        elif self._database is not None:
            with self._connect(self._database) as connection:
                found += _previous_of(connection, run, outcomes)
        if file := self._open_file():
            found += _previous_in(file, run, outcomes)
        return max(found, key=lambda one: one[1], default=None)

    def _beat(self, id_: str, ended: threading.Event) -> None:
        query = "UPDATE public.erpkit_runs SET seen_at = clock_timestamp() WHERE id = %s"
        while not ended.wait(BEAT):
            self._try(lambda connection: connection.execute(query, [id_]), lambda file: file.beat(id_))

    def _try(self, work: Callable[[Connection], object], in_file: Callable[[HistoryFile], object]) -> bool:
        """Do the work in the database, or in the file once the database has refused it; return whether it was done."""
        if self._database is None:
            return False
        if self._file is not None:
            return self._try_file(self._file, in_file)
        try:
            self._database.check_writable()
            with self._connect(self._database) as connection:
                work(connection)
        except (UsageError, *_REFUSED) as error:
            reason = _reason(error) if isinstance(error, psycopg.Error) else str(error)
            self.problem = f"the run is not recorded: {reason}"
            with suppress(psycopg.Error, ErpkitError):
                self._file = self._open_file()
            if self._file is None:
                return False
            self._note = f"the run is recorded in {self._file.path}: {reason}" if self._database.is_writable else None
            return self._try_file(self._file, in_file)
        except (psycopg.Error, ErpkitError, ValueError, TypeError) as error:
            reason = _reason(error) if isinstance(error, psycopg.Error) else first_line(error)
            self.problem = f"the run is not recorded: {reason}"
            return False
        self.problem = None
        return True

    def _try_file(self, file: HistoryFile, work: Callable[[HistoryFile], object]) -> bool:
        try:
            work(file)
        except (sqlite3.Error, OSError) as error:
            self.problem = f"the run is not recorded: {file.path}: {first_line(error)}"
            return False
        self.problem = self._note
        return True

    def _open_file(self) -> HistoryFile | None:
        if self._database is None or self._home is None:
            return None
        if self._beside is None:
            with self._connect(self._database):
                pass
        return self._beside

    @contextmanager
    def _connect(self, database: Database) -> Iterator[Connection]:
        with psycopg.connect(database.conninfo, connect_timeout=5, application_name="erpkit") as connection:
            connection.execute("SET LOCAL statement_timeout = '10s'")
            if self._home is not None and self._beside is None:
                self._beside = HistoryFile.beside(connection, self._home)
            yield connection


def _previous_of(connection: Connection, run: RunStart, outcomes: tuple[Outcome, ...]) -> list[tuple[Any, ...]]:
    """Return what the database has recorded of the last such run; nothing for a login that may not read the record of others."""
    if connection.execute(_LAYOUT).fetchone() == (False, False):
        return []
    with suppress(psycopg.errors.InsufficientPrivilege), connection.transaction():
        return connection.execute(
            _PREVIOUS, {**run.row(), "outcomes": list(outcomes), "confirms": list(CONFIRMS)}
        ).fetchall()
    return []


def _plain_row(run: RunStart) -> dict[str, Any]:
    """Return a run's beginning for the file, where nothing is a text in a text."""
    later = ("ended_at", "exit_code", "seconds", "error", "facts", "findings", "output", "report", "changes")
    row = {**dict.fromkeys(later), **run.row(), "outcome": "running"}
    return {**row, "parameters": dict(run.parameters), "versions": run.provenance.versions}


def _end(result: RunResult) -> dict[str, Any]:
    output, report = result.places
    end = {
        "outcome": result.outcome, "exit_code": result.exit_code, "seconds": result.seconds, "error": result.error,
        "facts": dict(result.summary.facts) if result.summary else None, "findings": list(result.findings),
        "output": output, "report": report, "changes": result.changes.document() if result.changes else None,
    }  # fmt: skip
    return {name: storable(value) for name, value in end.items()}


def _previous_in(file: HistoryFile, run: RunStart, outcomes: tuple[Outcome, ...]) -> list[tuple[Any, ...]]:
    nothing = dict.fromkeys(CONFIRMS)
    wanted = json.loads(to_json({**run.parameters, **nothing}))
    for row in file.runs():
        is_same = (row["notebook"], {**row["parameters"], **nothing}) == (run.notebook, wanted)
        started = datetime.fromisoformat(row["started_at"])
        if is_same and row["outcome"] in outcomes and row["ended_at"] and started < run.started_at:
            return [(row["outcome"], started, row["facts"], row["findings"], row["changes"])]
    return []


def _look(
    at: datetime, facts: Mapping[str, Any] | None, findings: Sequence[str] | None, changes: Mapping[str, Any] | None
) -> Look:
    """Return what a recorded run has found; an earlier erpkit kept its findings as texts alone."""
    with suppress(LookupError, TypeError, ValueError, AttributeError):
        return look_after(Changes.of(changes), facts or {})  # type: ignore[arg-type]  # None raises TypeError
    return Look(at, facts or {}, [Sighting(text, text, "warning", at) for text in findings or ()])


def _insert(connection: Connection, run: RunStart) -> None:
    if connection.execute("SELECT to_regclass('public.erpkit_runs')").fetchone() == (None,):
        connection.execute("SELECT pg_advisory_xact_lock(hashtextextended('erpkit.runs', 0))")
        connection.execute(f"SET LOCAL client_min_messages TO warning; {_TABLE}".encode())
        grant_analysts(connection)
        share_table(connection, "erpkit_runs")
    connection.execute(_START, run.row())


def _update(connection: Connection, run: RunStart, result: RunResult) -> None:
    _insert(connection, run)
    end = _end(result)
    facts = None if end["facts"] is None else to_json(end["facts"])
    connection.execute(_FINISH, {"id": run.id, **end, "facts": facts})
    if end["changes"] is not None and _may_keep_changes(connection):
        connection.execute(_CHANGED, {"id": run.id, "changes": to_json(end["changes"])})


def _may_keep_changes(connection: Connection) -> bool:
    if connection.execute(_LAYOUT).fetchone() == (True, True):
        return True
    try:
        with connection.transaction():
            connection.execute("ALTER TABLE public.erpkit_runs ADD COLUMN IF NOT EXISTS changes jsonb")
    except psycopg.errors.InsufficientPrivilege:
        return False
    return True


def _reason(error: psycopg.Error) -> str:
    return error.diag.message_primary or first_line(error)
