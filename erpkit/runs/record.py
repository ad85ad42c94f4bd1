"""The record of runs in the database: where each comes from, how it began and how it ended, in `public.erpkit_runs`."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import socket
import subprocess
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psycopg

from erpkit.config import acting_user
from erpkit.database import Connection, Database, grant_analysts, share_table
from erpkit.errors import ErpkitError, first_line
from erpkit.runs.result import Outcome, RunResult
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
    report text
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

# What `confirm` holds is another id each time, and the run is the same one all the same.
_PREVIOUS = """
SELECT outcome FROM public.erpkit_runs
 WHERE notebook = %(notebook)s AND parameters - 'confirm' = %(parameters)s::jsonb - 'confirm' AND ended_at IS NOT NULL
   AND started_at < %(started_at)s
 ORDER BY started_at DESC LIMIT 1
"""


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

    A database that cannot be reached or written fails no run: `problem` says in one line why nothing was recorded. With no
    database it does nothing; `problem` then is whatever the caller knows of it.
    """

    def __init__(self, database: Database | None, problem: str | None = None) -> None:
        self._database = database
        self.problem = problem
        self._ended = threading.Event()

    @classmethod
    def opening(cls, open_: Callable[[], Database]) -> Recorder:
        """Return the recorder for the database that `open_` opens; where that does not answer, `problem` has the reason."""
        try:
            return cls(open_())
        except ErpkitError as error:
            return cls(None, f"the run is not recorded: {error}")

    def start(self, run: RunStart) -> None:
        """Record that a run starts, and give signs of life until `finish`."""
        self._ended = threading.Event()
        if self._try(lambda connection: _insert(connection, run)):
            threading.Thread(target=self._beat, args=(run.id, self._ended), daemon=True).start()

    def finish(self, run: RunStart, result: RunResult) -> None:
        """Record the result; if the start could not be written, write it now."""
        self._ended.set()
        if self._try(lambda connection: _update(connection, run, result)):
            self.problem = None

    def previous_outcome(self, run: RunStart) -> Outcome | None:
        """Return the outcome of the last run of the same notebook with the same parameters before this one."""
        found: list[Any] = []
        self._try(lambda connection: found.extend(connection.execute(_PREVIOUS, run.row()).fetchall()))
        return found[0][0] if found else None

    def _beat(self, id_: str, ended: threading.Event) -> None:
        query = "UPDATE public.erpkit_runs SET seen_at = clock_timestamp() WHERE id = %s"
        while not ended.wait(BEAT):
            self._try(lambda connection: connection.execute(query, [id_]))

    def _try(self, work: Any) -> bool:
        if self._database is None:
            return False
        try:
            self._database.check_writable()
            with psycopg.connect(self._database.conninfo, connect_timeout=5, application_name="erpkit") as connection:
                connection.execute("SET LOCAL statement_timeout = '10s'")
                work(connection)
        except psycopg.Error as error:
            self.problem = f"the run is not recorded: {_reason(error)}"
            return False
        except (ErpkitError, ValueError, TypeError) as error:
            self.problem = f"the run is not recorded: {first_line(error)}"
            return False
        return True


def _insert(connection: Connection, run: RunStart) -> None:
    if connection.execute("SELECT to_regclass('public.erpkit_runs')").fetchone() == (None,):
        connection.execute("SELECT pg_advisory_xact_lock(hashtextextended('erpkit.runs', 0))")
        connection.execute(f"SET LOCAL client_min_messages TO warning; {_TABLE}".encode())
        grant_analysts(connection)
        share_table(connection, "erpkit_runs")
    connection.execute(_START, run.row())


def _update(connection: Connection, run: RunStart, result: RunResult) -> None:
    _insert(connection, run)
    facts = json.dumps(storable(dict(result.summary.facts)), default=str) if result.summary else None
    output, report = map(storable, result.places)
    findings = storable(list(result.findings))
    connection.execute(
        _FINISH,
        {"id": run.id, "outcome": result.outcome, "exit_code": result.exit_code, "seconds": result.seconds,
         "error": storable(result.error), "facts": facts, "findings": findings, "output": output, "report": report},
    )  # fmt: skip


def _reason(error: psycopg.Error) -> str:
    return error.diag.message_primary or first_line(error)
