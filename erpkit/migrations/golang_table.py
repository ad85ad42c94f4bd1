"""golang-migrate's version table in the tenants' schemas: read over a fleet, and kept around each file with its locks."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import psycopg
from psycopg import pq, sql

from erpkit.database import Connection, Tenant, read_tenants
from erpkit.errors import MigrationError
from erpkit.migrations import golang
from erpkit.migrations.files import Migration
from erpkit.migrations.history import STILL_RUNNING
from erpkit.migrations.parser import Direction
from erpkit.migrations.script import is_atomic

Key = tuple[str, str]  # (schema, version table)


def golang_files(migrations: Sequence[Migration]) -> dict[str, list[int]]:
    """Return the versions of the files by version table, for golang-migrate's tables."""
    files: dict[str, list[int]] = {}
    for migration in migrations:
        if migration.golang is not None:
            files.setdefault(migration.version_table, []).append(migration.version)
    return files


def read_marks(
    connection: Connection, tables: Mapping[Tenant, Sequence[str]], unread: dict[str, str]
) -> tuple[dict[Key, golang.Mark], set[Key]]:
    """Read the rows of golang-migrate's `tables`, and which of them somebody is at this moment, if they are dirty.

    A tenant that cannot be read, or has several rows in a table, is entered in `unread`.
    """
    marks = _read_rows(connection, tables, unread)
    running = _read_locked(connection, [key for key, mark in marks.items() if mark.dirty])
    # A run may have ended between the two looks: what is dirty and nobody is at is looked at once more.
    doubtful = {key for key, mark in marks.items() if mark.dirty} - running
    again = {t: [table for table in several if (t.schema, table) in doubtful] for t, several in tables.items()}
    rest = {key: mark for key, mark in marks.items() if key not in doubtful}
    return {**rest, **_read_rows(connection, again, unread)}, running


def _read_rows(
    connection: Connection, tables: Mapping[Tenant, Sequence[str]], unread: dict[str, str]
) -> dict[Key, golang.Mark]:
    queries = [
        (tenant, sql.SQL(" UNION ALL ").join(_row_query(tenant, table) for table in several))
        for tenant, several in tables.items()
        if several and tenant.slug not in unread
    ]
    marks: dict[Key, golang.Mark] = {}
    for slug, schema, table, version, dirty in read_tenants(connection, queries, unread) if queries else ():
        if (schema, table) in marks:
            unread[slug] = f"its table {table} holds several rows, and golang-migrate's holds one"
        marks[schema, table] = golang.Mark(version, dirty)
    return marks


def _row_query(tenant: Tenant, table: str) -> sql.Composed:
    return sql.SQL("SELECT {}, {}, {}, version, dirty FROM {}").format(
        *map(sql.Literal, (tenant.slug, tenant.schema, table)), sql.Identifier(tenant.schema, table)
    )


def describe_dirt(
    marks: Mapping[Key, golang.Mark],
    running: Collection[Key],
    migrations: Sequence[Migration],
    stops: Mapping[Key, str],
) -> dict[Key, dict[int, str]]:
    """Say of golang-migrate's tables what is dirty, and why: somebody is at it this moment, or what the history has of it."""
    modules = {migration.version_table: migration.module for migration in migrations}
    return {
        key: {
            mark.version: _describe(f"{modules[key[1]]} is at {mark} in {key[1]}", key in running, stops.get(key, ""))
        }
        for key, mark in marks.items()
        if mark.dirty
    }


def _describe(where: str, is_running: bool, why: str) -> str:
    if is_running:
        return f"{where}: its migration {STILL_RUNNING}"
    return f"{where} {golang.UNTIL_FORCED}" + (f": {why}" if why else "")


def _read_locked(connection: Connection, keys: Sequence[Key]) -> set[Key]:
    """Return those of schemas and tables that somebody has golang-migrate's lock of."""
    if not keys:
        return set()
    rows = connection.execute(
        "SELECT current_database(), array_agg(l.classid::bigint << 32 | l.objid::bigint) FROM pg_locks l "
        "WHERE l.locktype = 'advisory' AND l.granted AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    ).fetchall()
    return {key for database, held in rows for key in keys if {*golang.lock_keys(database, *key)} & {*(held or ())}}


def find_strangers(connection: Connection, tables: Mapping[str, Sequence[str]], names: Sequence[str]) -> dict[str, str]:
    """Say of which schemas a table with the name of golang-migrate's is another tool's, Rails' for one, or holds several rows."""
    if not names:
        return {}
    rows = connection.execute(
        "SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
        "WHERE n.nspname = ANY(%s) AND c.relname = ANY(%s) AND c.relkind = 'r' AND (SELECT count(*) FROM pg_attribute a "
        "WHERE a.attrelid = c.oid AND (a.attname, a.atttypid) IN (('version', 'int8'::regtype), ('dirty', 'bool'::regtype))) < 2",
        [list(tables), names],
    )
    return {
        schema: f"its table {table} is not golang-migrate's, which has version (bigint) and dirty (boolean): "
        "declare another version_table in the module"
        for schema, table in rows
    }


def is_done_by_golang(own: Connection, tenant: Tenant, migration: Migration, direction: Direction) -> bool:
    """Tell, under the locks, whether somebody else has done the migration; raises MigrationError where it must not be run."""
    try:
        return golang.is_done(read_mark(own, tenant, migration), migration.version, _before(migration), direction)
    except MigrationError as error:
        raise MigrationError(
            f"tenant {tenant.slug}: {migration.name}: {migration.version_table} is at {error}"
        ) from None


def read_mark(own: Connection, tenant: Tenant, migration: Migration) -> golang.Mark:
    """Return the row of a migration's version table."""
    rows = own.execute(golang.read_mark(tenant.schema, migration.version_table).encode()).fetchall()
    return golang.Mark(*rows[0]) if rows else golang.Mark()


def mark_dirty(own: Connection, tenant: Tenant, migration: Migration, direction: Direction) -> None:
    """Write down the version that the file leads to, dirty: whatever happens now, a run does not go on by itself."""
    version = golang.target(migration.version, _before(migration), direction)
    _write(own, tenant, migration, golang.Mark(version, dirty=True))


def take_back_mark(own: Connection, tenant: Tenant, migration: Migration, direction: Direction) -> None:
    """Write down again where the tenant was, after PostgreSQL has rolled back the whole file for want of a lock."""
    back: Direction = "down" if direction == "up" else "up"
    _write(own, tenant, migration, golang.Mark(golang.target(migration.version, _before(migration), back)))


def check_idle(own: Connection) -> None:
    """Raise psycopg's ProgrammingError where a file leaves its transaction open."""
    if own.info.transaction_status != pq.TransactionStatus.IDLE:
        raise psycopg.ProgrammingError("the file leaves its transaction open: its COMMIT is missing")


def what_is_left(migration: Migration, direction: Direction) -> str:
    """Say what is there of a file of golang-migrate's that failed; nothing for goose's."""
    if migration.golang is None:
        return ""
    return "; nothing of it is left" if is_atomic(migration, direction) else "; what came before may be there"


def remedy_of(migration: Migration) -> str:
    """Say what is to be done after a file of golang-migrate's has failed; nothing for goose's."""
    if migration.golang is None:
        return ""
    force = f"erpkit migrate force VERSION --module {migration.module}"
    return f"; {migration.version_table} is dirty, as golang-migrate leaves it: see to it, then {force}"


def _before(migration: Migration) -> int:
    assert migration.golang is not None
    return migration.golang.before


def _write(own: Connection, tenant: Tenant, migration: Migration, mark: golang.Mark) -> None:
    own.execute(f"BEGIN;\n{golang.set_mark(tenant.schema, migration.version_table, mark)};\nCOMMIT".encode())
