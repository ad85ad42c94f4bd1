"""What erpkit did to which tenant: its own table, as goose's keeps neither checksums nor faults."""

from __future__ import annotations

import platform
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID, uuid4

import psycopg
from psycopg import sql

from erpkit.config import acting_user
from erpkit.database import Connection, Tenant, grant_analysts, may_not_read, share_table
from erpkit.database.operators import lock_shared
from erpkit.errors import DatabaseError
from erpkit.finding import Finding
from erpkit.migrations import golang
from erpkit.migrations.files import Migration
from erpkit.migrations.parser import Direction
from erpkit.result import Summary, TableResult
from erpkit.table import Column, Table, Tone

STILL_RUNNING = "is still running"
NEVER_ENDED = "was started and did not end"

_TABLE = """
CREATE TABLE IF NOT EXISTS public.erpkit_migrations (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    run uuid NOT NULL,
    plan text NOT NULL,
    who text NOT NULL,
    tenant text NOT NULL,
    schema_name text NOT NULL,
    version_table text NOT NULL,
    module text NOT NULL,
    version bigint NOT NULL,
    direction text NOT NULL CHECK (direction IN ('up', 'down')),
    state text NOT NULL CHECK (state IN ('done', 'failed', 'running', 'stopped')),
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    milliseconds double precision NOT NULL,
    error text,
    checksum text NOT NULL,
    goose_id bigint
);
CREATE INDEX IF NOT EXISTS erpkit_migrations_by_schema ON public.erpkit_migrations (schema_name, version_table, version, id)
"""

_LATEST = """
SELECT DISTINCT ON (schema_name, version_table, version)
       schema_name, version_table, version, direction, state, checksum, goose_id, module, who, at, error
  FROM public.erpkit_migrations WHERE schema_name = ANY(%s) AND state <> 'failed'
 ORDER BY schema_name, version_table, version, id DESC
"""

_ANY_DIRTY = """
SELECT EXISTS (SELECT FROM public.erpkit_migrations WHERE state IN ('running', 'stopped') AND schema_name = ANY(%s))
"""

# Role and search_path, as they were at the start and must be at the end.
SCOPE = "current_user || ', search_path ' || current_setting('search_path')"

_NOW = "date_part('epoch', clock_timestamp())"

# Whether a session holds the migration lock of the schema `h`, as script.lock_schema takes it.
_LOCKED = """
SELECT FROM pg_locks l WHERE l.locktype = 'advisory' AND l.granted
   AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
   AND l.classid::bigint << 32 | l.objid::bigint = hashtextextended('erpkit.migrate.' || h.schema_name, 0)
"""


@dataclass(frozen=True)
class Run:
    """One run of a plan, as the history knows it: `who` is user and host.

    What stopped half way may be run again if its entry's number is `retries_up_to` at most: the person who says that it is
    mended cannot have known of a later one.
    """

    plan_id: str
    id: UUID = field(default_factory=uuid4)
    retries_up_to: int = 0
    who: str = field(default_factory=lambda: f"{acting_user()}@{platform.node()}")


@dataclass(frozen=True)
class HistoryEntry:
    """One migration of one tenant: `state` is done, failed (rolled back), running, or stopped (half way, and stays so)."""

    at: datetime
    tenant: str
    module: str
    version: int
    direction: Direction
    state: str
    milliseconds: float
    error: str | None
    who: str
    plan_id: str
    run: UUID

    @property
    def what(self) -> str:
        """Module, version and direction."""
        return f"{self.module} {self.version} {self.direction}"


@dataclass(frozen=True, repr=False)
class MigrationHistory(TableResult):
    """What was done to which tenant, the newest first."""

    target: str
    entries: tuple[HistoryEntry, ...]

    @property
    def table(self) -> Table[HistoryEntry]:
        """One line a migration of a tenant: when, what, who, which plan, how long, and what failed."""
        return Table(_COLUMNS, self.entries, "erpkit has migrated nothing here.", in_order=True)

    @property
    def reasons(self) -> dict[str, str]:
        """Why the newest migration that failed or stopped did so, by tenant."""
        return {entry.tenant: entry.error or "" for entry in reversed(self.entries) if entry.state in _BAD}

    @property
    def findings(self) -> list[Finding]:
        """What stopped half way, or failed, and has not been done since."""
        latest: dict[tuple[str, str, int], HistoryEntry] = {}
        for entry in self.entries:
            latest.setdefault((entry.tenant, entry.module, entry.version), entry)
        return [
            Finding(
                entry.state, entry.tenant, f"{entry.what}: {entry.error}", "error" if entry.state == "stopped" else "warning",
                f"erpkit migrate status --tenant {entry.tenant}",
            )
            for entry in latest.values()
            if entry.state in _BAD
        ]  # fmt: skip

    @property
    def summary(self) -> Summary:
        """How many entries there are, and what has failed and was not done since."""
        failed = sum(entry.state in _BAD for entry in self.entries)
        return Summary(
            f"History of migrations on {self.target}", {"entries": len(self.entries), "failed": failed}, self.findings
        )


_BAD = ("failed", "stopped")


def _tone(entry: HistoryEntry) -> Tone:
    return "error" if entry.state in _BAD else "warning" if entry.state == "running" else ""


_COLUMNS = (
    Column[HistoryEntry]("at", lambda e: f"{e.at:%Y-%m-%d %H:%M:%S}"),
    Column[HistoryEntry]("tenant", lambda e: e.tenant, is_name=True),
    Column[HistoryEntry]("migration", lambda e: e.what),
    Column[HistoryEntry]("state", lambda e: e.state, tone=_tone),
    Column[HistoryEntry]("time", lambda e: e.milliseconds and round(e.milliseconds, 3), unit="ms", places=1, bar=True),
    Column[HistoryEntry]("who", lambda e: e.who, minor=True),
    Column[HistoryEntry]("plan", lambda e: e.plan_id, minor=True),
    Column[HistoryEntry]("error", lambda e: e.error or ""),
)


def ensure_history(connection: Connection) -> None:
    """Make `public.erpkit_migrations` if it is missing; raises DatabaseError where the login may not."""
    if has_history(connection):
        return
    try:
        with connection.transaction():
            lock_shared(connection)
            connection.execute(f"SET LOCAL client_min_messages TO warning; {_TABLE}".encode())
            grant_analysts(connection)
            share_table(connection, "erpkit_migrations")
    except psycopg.errors.InsufficientPrivilege as error:
        raise DatabaseError(f"the history of migrations cannot be made: {error.diag.message_primary}") from error


def has_history(connection: Connection) -> bool:
    """Tell whether erpkit ever migrated anything in this database."""
    return connection.execute("SELECT to_regclass('public.erpkit_migrations')").fetchone() != (None,)


def may_read_history(connection: Connection) -> bool:
    """Tell whether the login may read the history, which is there."""
    row = connection.execute("SELECT has_table_privilege('public.erpkit_migrations', 'SELECT')").fetchone()
    return row == (True,)


def note_start(*, session: bool = False) -> str:
    """Return the expression that notes when a migration begins, after it has its lock, with which role and search_path.

    `record_done` counts from there, and `script.check_scope` compares.
    """
    is_local = str(not session).lower()
    return f"set_config('erpkit.began', {_NOW}::text, {is_local}) || set_config('erpkit.scope', {SCOPE}, {is_local})"


def record_done(tenant: Tenant, migration: Migration, direction: Direction, run: Run) -> str:
    """Return the statements that write the version table's row and the history's, which knows goose's row by its id.

    They go into the migration's own transaction. The id is read from the table's sequence: PostgreSQL takes twice as long
    to plan one statement that returns it.
    """
    table = sql.Identifier(tenant.schema, migration.version_table).as_string()
    values = {
        name: sql.Literal(value).as_string()
        for name, value in _values(tenant, migration, direction, run, "done").items()
    }
    values["milliseconds"] = f"1000 * ({_NOW} - current_setting('erpkit.began')::float8)"
    goose = f"DELETE FROM {table} WHERE version_id = {migration.version}"  # noqa: S608 - checked and quoted
    if migration.golang is not None:
        mark = golang.Mark(golang.target(migration.version, migration.golang.before, direction))
        goose = golang.set_mark(tenant.schema, migration.version_table, mark)
    elif direction == "up":
        goose = f"INSERT INTO {table} (version_id, is_applied) VALUES ({migration.version}, true)"  # noqa: S608
        values["goose_id"] = f"currval(pg_get_serial_sequence('{table}', 'id'))"
    columns, expressions = ", ".join(values), ", ".join(values.values())
    return f"{goose};\nINSERT INTO public.erpkit_migrations ({columns}) VALUES ({expressions})"


def record(
    connection: Connection,
    tenant: Tenant,
    migration: Migration,
    direction: Direction,
    run: Run,
    state: str,
    *,
    milliseconds: float = 0,
    error: str | None = None,
) -> None:
    """Record a migration that was not done, on a connection in autocommit mode."""
    values = _values(tenant, migration, direction, run, state) | {"milliseconds": milliseconds, "error": error}
    connection.execute(
        sql.SQL("INSERT INTO public.erpkit_migrations ({}) VALUES ({})").format(
            sql.SQL(", ").join(map(sql.Identifier, values)), sql.SQL(", ").join(map(sql.Literal, values.values()))
        )
    )


def read_history(
    connection: Connection, tenants: Sequence[Tenant] | None = None, limit: int = 1000
) -> list[HistoryEntry]:
    """Return the newest `limit` entries, the newest first; None stands for all tenants, those that are gone included."""
    if not has_history(connection):
        return []
    schemas = None if tenants is None else [tenant.schema for tenant in tenants]
    try:
        rows = connection.execute(
            "SELECT at, tenant, module, version, direction, state, milliseconds, error, who, plan, run "
            "FROM public.erpkit_migrations WHERE %s::text[] IS NULL OR schema_name = ANY(%s) ORDER BY id DESC LIMIT %s",
            [schemas, schemas, limit],
        )
    except psycopg.errors.InsufficientPrivilege:
        raise may_not_read(connection, "erpkit_migrations") from None
    return [HistoryEntry(*row) for row in rows]


def read_milliseconds(connection: Connection) -> dict[tuple[str, int, Direction], float]:
    """Return how long each migration took, the median over all tenants so far, by module, version and direction."""
    if not has_history(connection) or not may_read_history(connection):
        return {}
    rows = connection.execute(
        "SELECT module, version, direction, percentile_cont(0.5) WITHIN GROUP (ORDER BY milliseconds) "
        "FROM public.erpkit_migrations WHERE state = 'done' AND error IS NULL GROUP BY 1, 2, 3"  # not what was forced
    )
    return {(module, version, direction): median for module, version, direction, median in rows}


def read_edited(
    connection: Connection, schemas: Sequence[str], migrations: Sequence[Migration]
) -> list[tuple[str, str, int, int]]:
    """Return schema, table, version and the id of goose's row where the file is no longer the one that was applied."""
    if not migrations or not has_history(connection):
        return []
    files = [(m.version_table, m.version, m.checksum) for m in migrations]
    tables, versions, checksums = (list(column) for column in zip(*files, strict=True))
    return connection.execute(
        # Only what came last counts: a schema that was dropped and made anew has the same numbers in goose's table.
        f"WITH latest AS ({_LATEST}) SELECT h.schema_name, h.version_table, h.version, h.goose_id FROM latest h "  # noqa: S608
        "JOIN unnest(%s::text[], %s::bigint[], %s::text[]) f (version_table, version, checksum) USING (version_table, version) "
        "WHERE h.direction = 'up' AND h.state = 'done' AND h.checksum <> f.checksum",
        [list(schemas), tables, versions, checksums],
    ).fetchall()


def read_dirty(
    connection: Connection,
    schemas: Sequence[str],
    states: Mapping[tuple[str, str], Collection[int]],
) -> Mapping[tuple[str, str], dict[int, str]]:
    """Return what stopped half way: the last entry of a NO TRANSACTION migration says that it runs, or that it stopped.

    `states` are the versions in force: goose, or a person, may have finished since then what erpkit began.
    """
    if not has_history(connection):
        return {}
    # A file that has a transaction by now, or a module that is no longer loaded, may have stopped half way before.
    if not any_dirty(connection, schemas):
        return {}
    dirty: dict[tuple[str, str], dict[int, str]] = {}
    query = f"SELECT *, EXISTS ({_LOCKED}) FROM ({_LATEST}) h WHERE state IN ('running', 'stopped')"  # noqa: S608
    for schema, table, version, direction, _, _, _, module, who, at, error, is_locked in connection.execute(
        query, [list(schemas)]
    ):
        if (version in states.get((schema, table), ())) == (direction == "up"):
            continue
        present = STILL_RUNNING if is_locked else NEVER_ENDED
        dirty.setdefault((schema, table), {})[version] = _describe_stop(
            module, version, direction, who, at, error or present
        )
    return dirty


def read_stops(connection: Connection, places: Collection[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """Return what the history says last of some schemas and version tables, where that was begun and not done."""
    if not places or not has_history(connection):
        return {}
    schemas, tables = (list(column) for column in zip(*places, strict=True))
    rows = connection.execute(
        "SELECT DISTINCT ON (schema_name, version_table) schema_name, version_table, module, version, direction, state, who, at, error "
        "FROM public.erpkit_migrations JOIN unnest(%s::text[], %s::text[]) p (schema_name, version_table) "
        "USING (schema_name, version_table) ORDER BY schema_name, version_table, id DESC",
        [schemas, tables],
    )
    return {
        (schema, table): _describe_stop(module, version, direction, who, at, error or NEVER_ENDED)
        for schema, table, module, version, direction, state, who, at, error in rows
        if state in ("running", "stopped")
    }


def newest_entry(connection: Connection) -> int:
    """Return the number of the newest entry, 0 where there is none."""
    row = connection.execute("SELECT coalesce(max(id), 0) FROM public.erpkit_migrations").fetchone()
    return int(row[0]) if row else 0


def any_dirty(connection: Connection, schemas: Sequence[str]) -> bool:
    """Tell whether something of erpkit's ever began in one of `schemas` without an end, or stopped; it may be mended since."""
    return connection.execute(_ANY_DIRTY, [list(schemas)]).fetchone() == (True,)


def read_stop(connection: Connection, tenant: Tenant, migration: Migration, direction: Direction, run: Run) -> str:
    """Say how a migration, which goose's table does not have as done, stopped half way before; "" if it did not.

    For who holds the schema's lock: whoever began it is not at it any more.
    """
    row = connection.execute(
        "SELECT id, state, direction, who, at, error FROM public.erpkit_migrations WHERE schema_name = %s AND version_table = %s "
        "AND version = %s AND state <> 'failed' ORDER BY id DESC LIMIT 1",
        [tenant.schema, migration.version_table, migration.version],
    ).fetchone()
    if row is None or row[1] == "done" or row[2] != direction or row[0] <= run.retries_up_to:
        return ""
    _, _, _, who, at, error = row
    return _describe_stop(migration.module, migration.version, direction, who, at, error or NEVER_ENDED)


def _describe_stop(module: str, version: int, direction: str, who: str, at: datetime, said: str) -> str:
    return f"{module} {version} ({direction}) by {who} at {at:%Y-%m-%d %H:%M}: {said}"


def _values(tenant: Tenant, migration: Migration, direction: Direction, run: Run, state: str) -> dict[str, object]:
    return {
        "run": str(run.id),
        "plan": run.plan_id,
        "who": run.who,
        "tenant": tenant.slug,
        "schema_name": tenant.schema,
        "version_table": migration.version_table,
        "module": migration.module,
        "version": migration.version,
        "direction": direction,
        "state": state,
        "checksum": migration.checksum,
    }
