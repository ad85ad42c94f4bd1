"""Where earlier looks are kept: in the database if the login may write there, else in a file under ERPKIT_HOME; bounded in both.

The file keeps runs, too, of an ERP that erpkit only reads, or for a login that may not write. SQLite makes it safe for several
writers at once.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sqlite3
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import psycopg

from erpkit.database import Connection, Database, grant_analysts, share_table
from erpkit.errors import ErpkitError, first_line
from erpkit.runs.changes import Look, find_base
from erpkit.runs.secrets import Mask
from erpkit.runs.text import storable

_TABLE = """
CREATE TABLE IF NOT EXISTS public.erpkit_looks (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind text NOT NULL,
    scope text NOT NULL,
    at timestamptz NOT NULL,
    document bytea NOT NULL
);
CREATE INDEX IF NOT EXISTS erpkit_looks_by_time ON public.erpkit_looks (kind, scope, at DESC)
"""
# A database without erpkit's tenants gets no table of erpkit's because somebody looked at it.
_IS_OURS = """
SELECT to_regclass('public.erpkit_looks') IS NOT NULL,
       coalesce(to_regclass('public.erpkit_tenants'), to_regclass('public.tenants')) IS NOT NULL
"""
_FILE = """
CREATE TABLE IF NOT EXISTS looks (
    id INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, scope TEXT NOT NULL, at TEXT NOT NULL, document BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS looks_by_time ON looks (kind, scope, at DESC);
CREATE TABLE IF NOT EXISTS runs (
    id TEXT PRIMARY KEY, started_at TEXT NOT NULL, seen_at TEXT NOT NULL, document TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS runs_by_time ON runs (started_at DESC);
"""
# Of all looks the oldest go first; the newest one stays, however large it is.
_TOO_MANY = """
DELETE FROM {table} WHERE id IN (
    SELECT id FROM (SELECT id, row_number() OVER newest AS place, sum({size}) OVER newest AS total FROM {table}
                    WINDOW newest AS (ORDER BY at DESC, id DESC)) kept
     WHERE place > {looks} OR (total > {bytes} AND place > 1))
"""
_TIMEOUT = 10  # seconds to wait for the database, or for another writer of the file


@dataclass(frozen=True)
class Bounds:
    """How much is kept: looks, their compressed bytes, and runs in the file."""

    looks: int = 5000
    bytes: int = 64 * 2**20
    runs: int = 5000


class Earlier(NamedTuple):
    """The last look, and the one to measure growth from, which is about a day old; None where there is none."""

    last: Look | None = None
    base: Look | None = None


class Looks:
    """The looks at one database; what goes wrong here never stops the look itself."""

    def __init__(self, database: Database, home: Path, bounds: Bounds | None = None) -> None:
        self._database, self._home, self._bounds = database, home, bounds or Bounds()

    def find(self, kind: str, scope: Sequence[str] = (), *, or_all: bool = False) -> Earlier:
        """Return the earlier looks of a kind at the same tenants; with `or_all` also those at all tenants.

        One that was kept by a machine whose clock is ahead is no earlier one until its time has come.
        """
        now = datetime.now(UTC)
        scopes = list(dict.fromkeys([_name(scope), *([""] if or_all else [])]))
        heads: list[tuple[datetime, str, Callable[[], bytes | None]]] = []
        with suppress(ErpkitError, psycopg.Error):
            heads += self._in_database(kind, scopes)
        with suppress(ErpkitError, psycopg.Error, sqlite3.Error, OSError):
            heads += [(at, of, self._reader(id_)) for id_, at, of in self._file().looks(kind, scopes)]
        heads = sorted((head for head in heads if head[0] <= now), key=lambda head: head[0])
        base = find_base([at for at, _, _ in heads], now)
        of_base = next((head for head in heads if head[0] == base), None)
        last = _load(heads[-1], scope) if heads else None
        return Earlier(last, last if heads and of_base is heads[-1] else _load(of_base, scope))

    def keep(self, kind: str, scope: Sequence[str], look: Look) -> str:
        """Keep a look, with what the environment keeps secret masked; return "", or why it was not kept."""
        document = zlib.compress(_masked(look).encode())
        with suppress(ErpkitError, psycopg.Error):
            if self._keep_in_database(kind, _name(scope), look.at, document):
                return ""
        try:
            self._file().keep(kind, _name(scope), look.at, document, self._bounds)
        except (sqlite3.Error, OSError, ErpkitError, psycopg.Error) as error:
            return f"this look was not kept for the next one: {first_line(error)}"
        return ""

    def _file(self) -> HistoryFile:
        return HistoryFile.of(self._database, self._home)

    def _reader(self, id_: int) -> Callable[[], bytes | None]:
        return lambda: self._file().document(id_)

    @contextmanager
    def _connect(self) -> Iterator[Connection]:
        with psycopg.connect(self._database.conninfo, connect_timeout=5, application_name="erpkit") as connection:
            connection.execute(f"SET LOCAL statement_timeout = '{_TIMEOUT}s'".encode())
            yield connection

    def _in_database(self, kind: str, scopes: list[str]) -> list[tuple[datetime, str, Callable[[], bytes | None]]]:
        query = "SELECT id, at, scope FROM public.erpkit_looks WHERE kind = %s AND scope = ANY(%s)"
        with self._connect() as connection:
            ((exists, _),) = connection.execute(_IS_OURS).fetchall()
            if not exists:
                return []
            rows = connection.execute(query, [kind, scopes]).fetchall()
        return [(at, of, self._fetcher(id_)) for id_, at, of in rows]

    def _fetcher(self, id_: int) -> Callable[[], bytes | None]:
        def fetch() -> bytes | None:
            with suppress(psycopg.Error), self._connect() as connection:
                row = connection.execute("SELECT document FROM public.erpkit_looks WHERE id = %s", [id_]).fetchone()
                return bytes(row[0]) if row else None
            return None

        return fetch

    def _keep_in_database(self, kind: str, scope: str, at: datetime, document: bytes) -> bool:
        self._database.check_writable()
        with self._connect() as connection:
            ((exists, is_ours),) = connection.execute(_IS_OURS).fetchall()
            if not is_ours:
                return False
            # Writers take turns, so that none deletes what another one is deleting.
            connection.execute("SELECT pg_advisory_xact_lock(hashtextextended('erpkit.looks', 0))")
            if not exists:
                connection.execute(f"SET LOCAL client_min_messages TO warning; {_TABLE}".encode())
                grant_analysts(connection)
                share_table(connection, "erpkit_looks")
            connection.execute(
                "INSERT INTO public.erpkit_looks (kind, scope, at, document) VALUES (%s, %s, %s, %s)",
                [kind, scope, at, document],
            )
            kept = connection.execute(
                "SELECT id, at FROM public.erpkit_looks WHERE kind = %s AND scope = %s", [kind, scope]
            ).fetchall()
            surplus = find_surplus(dict(kept), at)
            connection.execute("DELETE FROM public.erpkit_looks WHERE id = ANY(%s)", [surplus])
            connection.execute(_too_many("public.erpkit_looks", "octet_length(document)", self._bounds).encode())
        return True


def find_surplus(times: Mapping[int, datetime], now: datetime) -> list[int]:
    """Return which looks need not be kept: all but the last, one an hour of two days, and one a day of a hundred days. Pure."""
    kept: dict[object, int] = {}
    newest = max(times, key=lambda id_: (times[id_], id_), default=None)
    for id_ in sorted(times, key=lambda one: (times[one], one)):
        at = times[id_].astimezone(UTC)
        if now - at > timedelta(days=100):
            continue
        kept.setdefault((at.date(), at.hour) if now - at < timedelta(days=2) else at.date(), id_)
    return sorted(set(times) - {*kept.values(), newest})


class HistoryFile:
    """The looks at one database, and its runs, in a file under ERPKIT_HOME. Raises sqlite3.Error or OSError where it cannot be used."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def of(cls, database: Database, home: Path) -> HistoryFile:
        """Return the file for a database: one each, as there may be several under one ERPKIT_HOME."""
        with database.connection() as connection:
            return cls.beside(connection, home)

    @classmethod
    def beside(cls, connection: Connection, home: Path) -> HistoryFile:
        """Return the file for the database of an open connection."""
        info = connection.info
        place = f"{info.host}:{info.port}/{info.dbname}"
        short = re.sub(r"\W+", "-", place.rpartition("/")[2])[:40]
        return cls(home / "history" / f"{short}-{hashlib.sha256(place.encode()).hexdigest()[:10]}.sqlite")

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(self.path, os.O_CREAT | os.O_RDWR, 0o600))
        with closing(sqlite3.connect(self.path, timeout=_TIMEOUT, isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                if connection.execute("PRAGMA user_version").fetchone() == (0,):
                    for statement in _FILE.split(";"):
                        connection.execute(statement)
                    connection.execute("PRAGMA user_version = 1")
                yield connection
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")

    def looks(self, kind: str, scopes: Sequence[str]) -> list[tuple[int, datetime, str]]:
        """Return id, time and tenants of each look of a kind; none where the file does not exist."""
        if not self.path.exists():
            return []
        marks = ", ".join("?" * len(scopes))
        query = f"SELECT id, at, scope FROM looks WHERE kind = ? AND scope IN ({marks})"  # noqa: S608 - only question marks
        with self._open() as connection:
            return [(id_, _time(at), of) for id_, at, of in connection.execute(query, [kind, *scopes])]

    def document(self, id_: int) -> bytes | None:
        """Return what a look keeps; None if it is gone."""
        with self._open() as connection:
            row = connection.execute("SELECT document FROM looks WHERE id = ?", [id_]).fetchone()
        return bytes(row[0]) if row else None

    def keep(self, kind: str, scope: str, at: datetime, document: bytes, bounds: Bounds) -> None:
        """Keep a look, and drop what is over the bounds."""
        with self._open() as connection:
            connection.execute(
                "INSERT INTO looks (kind, scope, at, document) VALUES (?, ?, ?, ?)", [kind, scope, _text(at), document]
            )
            rows = connection.execute("SELECT id, at FROM looks WHERE kind = ? AND scope = ?", [kind, scope]).fetchall()
            surplus = find_surplus({id_: _time(time) for id_, time in rows}, at)
            connection.executemany("DELETE FROM looks WHERE id = ?", [(id_,) for id_ in surplus])
            connection.execute(_too_many("looks", "length(document)", bounds))

    def start(self, row: Mapping[str, Any], bounds: Bounds | None = None) -> None:
        """Keep the beginning of a run, unless it is there already; of many runs the oldest are dropped."""
        started, most = _text(row["started_at"]), (bounds or Bounds()).runs
        with self._open() as connection:
            connection.execute(
                "INSERT OR IGNORE INTO runs (id, started_at, seen_at, document) VALUES (?, ?, ?, ?)",
                [row["id"], started, _text(datetime.now(UTC)), to_json(row)],
            )
            connection.execute(
                "DELETE FROM runs WHERE id NOT IN (SELECT id FROM runs ORDER BY started_at DESC, id LIMIT ?)", [most]
            )

    def beat(self, id_: str) -> None:
        """Note that a run is alive."""
        with self._open() as connection:
            connection.execute("UPDATE runs SET seen_at = ? WHERE id = ?", [_text(datetime.now(UTC)), id_])

    def finish(self, id_: str, end: Mapping[str, Any]) -> None:
        """Keep the end of a run."""
        with self._open() as connection:
            row = connection.execute("SELECT document FROM runs WHERE id = ?", [id_]).fetchone()
            document = {**json.loads(row[0]), **end} if row else dict(end)
            connection.execute(
                "UPDATE runs SET document = ?, seen_at = ? WHERE id = ?",
                [to_json(document), _text(datetime.now(UTC)), id_],
            )

    def runs(self) -> list[dict[str, Any]]:
        """Return all runs, the newest first, as plain values; none where the file does not exist."""
        if not self.path.exists():
            return []
        with self._open() as connection:
            rows = connection.execute("SELECT document, seen_at FROM runs ORDER BY started_at DESC, id").fetchall()
        return [{**json.loads(document), "seen_at": seen} for document, seen in rows]

    def delete_runs(self, ids: Sequence[str]) -> int:
        """Delete runs; return how many were there."""
        if not self.path.exists():
            return 0
        with self._open() as connection:
            return sum(connection.execute("DELETE FROM runs WHERE id = ?", [id_]).rowcount for id_ in ids)


def to_json(value: Any) -> str:
    """Return JSON that PostgreSQL's jsonb takes; times become text."""
    return json.dumps(storable(value), default=str)


def _masked(look: Look) -> str:
    """Return a look as JSON, with what the environment keeps secret masked; its figures are numbers and names of tables."""
    document = look.document()
    figures = document.pop("figures")
    told = Mask({}).all(json.loads(to_json(document)))
    return json.dumps({**told, "figures": figures})


def _load(head: tuple[datetime, str, Callable[[], bytes | None]] | None, scope: Sequence[str]) -> Look | None:
    """Return a look, of all tenants only what it says of `scope`; None for one that is gone or damaged."""
    if head is None:
        return None
    _, of, fetch = head
    try:
        document = fetch()
        look = Look.of(json.loads(zlib.decompress(document))) if document else None
    except (zlib.error, ValueError, TypeError, KeyError, AttributeError, sqlite3.Error, OSError):
        return None
    return look.among(scope) if look and scope and not of else look


def _too_many(table: str, size: str, bounds: Bounds) -> str:
    return _TOO_MANY.format(table=table, size=size, looks=bounds.looks, bytes=bounds.bytes)


def _name(scope: Sequence[str]) -> str:
    return "\n".join(sorted(scope))


def _text(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="microseconds")


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)
