"""Which migrations every tenant has: read for the whole fleet at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import psycopg
from psycopg import sql

from erpkit.database import TEMPLATE, Connection, Tenant, may_not_read, read_tenants
from erpkit.migrations.files import VERSION_TABLE, Migration
from erpkit.migrations.history import read_dirty, read_edited

__all__ = ["Applied", "MigrationStatus", "describe_status", "read_applied"]

_Key = tuple[str, str]  # (schema, version table)


@dataclass(frozen=True)
class Applied:
    """What the version tables of a fleet say, by schema and version table.

    `versions` are those in force in the order in which they were applied; `edited` those whose file has changed since
    erpkit applied it; `dirty` the NO TRANSACTION migrations that stopped half way, with what is known of it. `unread` maps the
    slugs of tenants that could not be read to the reason: of those nothing is known. `no_history` says why the history could not
    be read, and with it what is edited or dirty.
    """

    versions: Mapping[_Key, tuple[int, ...]] = field(default_factory=dict)
    edited: Mapping[_Key, tuple[int, ...]] = field(default_factory=dict)
    dirty: Mapping[_Key, Mapping[int, str]] = field(default_factory=dict)
    unread: Mapping[str, str] = field(default_factory=dict)
    no_history: str = ""

    @property
    def errors(self) -> dict[str, str]:
        """What could not be read: tenants, and the history by its table's name."""
        return {**self.unread, **({"public.erpkit_migrations": self.no_history} if self.no_history else {})}

    def of(self, schema: str, table: str) -> tuple[int, ...]:
        """Return the versions in force in one schema."""
        return self.versions.get((schema, table), ())

    def versions_in(self, schema: str) -> dict[str, list[int]]:
        """Return the versions in force in one schema, by module (by table where that is goose's own, without a suffix)."""
        return {
            table.removeprefix(f"{VERSION_TABLE}_"): list(versions)
            for (place, table), versions in self.versions.items()
            if place == schema
        }

    def dirty_in(self, schema: str) -> list[str]:
        """Say what stopped half way in one schema, a line each."""
        return [text for (place, _), texts in self.dirty.items() if place == schema for text in texts.values()]


@dataclass(frozen=True)
class MigrationStatus:
    """One tenant's state in one module.

    The versions applied, pending, out of order (pending, and lower than one that is applied), unknown (applied without a
    file), edited (the file has changed since) and dirty (stopped half way). `error` says why they could not be read.
    """

    tenant: str
    module: str
    version: int
    applied: tuple[int, ...]
    pending: tuple[int, ...]
    out_of_order: tuple[int, ...]
    unknown: tuple[int, ...]
    edited: tuple[int, ...] = ()
    dirty: tuple[int, ...] = ()
    error: str = ""

    @property
    def state(self) -> str:
        """One word, the worst that holds: `unread`, `dirty`, `unknown`, `edited`, `out of order`, `pending` or `current`."""
        states = {
            "unread": self.error,
            "dirty": self.dirty,
            "unknown": self.unknown,
            "edited": self.edited,
            "out of order": self.out_of_order,
            "pending": self.pending,
        }
        return next((state for state, found in states.items() if found), "current")


def read_applied(connection: Connection, tenants: Sequence[Tenant], migrations: Sequence[Migration] = ()) -> Applied:
    """Read the goose version tables of all `tenants`, each under its reader; one that cannot be read is among the `unread`.

    With `migrations` it is also told which of them were edited after they were applied, and which stopped half way.
    """
    by_schema = {tenant.schema: tenant for tenant in tenants}
    tables = _find_tables(connection, list(by_schema))
    unread = {
        tenant.slug: f"its schema {schema} does not exist"
        for schema, tenant in by_schema.items()
        if schema not in tables and schema != TEMPLATE.schema  # that one is made when migrations come
    }
    queries = [
        (by_schema[schema], sql.SQL(" UNION ALL ").join(_versions_query(schema, table) for table in several))
        for schema, several in tables.items()
        if several
    ]
    rows = read_tenants(connection, queries, unread)
    states: dict[_Key, dict[int, int]] = {
        (schema, table): {}
        for schema, several in tables.items()
        if by_schema[schema].slug not in unread
        for table in several
    }
    # The last row of a version says whether it is in force: older goose releases kept a row for each Down.
    for schema, table, row, version, is_applied in sorted(rows):
        state = states[schema, table]
        state.pop(version, None)
        if is_applied and version > 0:
            state[version] = row
    versions = {key: tuple(state) for key, state in states.items()}
    try:
        edited = _edited(connection, list(by_schema), migrations, states)
        dirty = read_dirty(connection, list(by_schema), migrations, states)
    except psycopg.errors.InsufficientPrivilege:
        return Applied(versions, unread=unread, no_history=str(may_not_read(connection, "erpkit_migrations")))
    return Applied(versions, edited, dirty, unread)


def _find_tables(connection: Connection, schemas: Sequence[str]) -> dict[str, list[str]]:
    """Return the version tables of each of `schemas` that exists."""
    rows = connection.execute(
        "SELECT n.nspname, coalesce(array_agg(c.relname::text ORDER BY c.relname) FILTER (WHERE c.oid IS NOT NULL), '{}') "
        "FROM pg_namespace n LEFT JOIN pg_class c ON c.relnamespace = n.oid AND c.relkind = 'r' "
        "AND (c.relname = %s OR starts_with(c.relname::text, %s)) WHERE n.nspname = ANY(%s) GROUP BY 1 ORDER BY 1",
        [VERSION_TABLE, f"{VERSION_TABLE}_", schemas],
    )
    return dict(rows.fetchall())


def _edited(
    connection: Connection,
    schemas: Sequence[str],
    migrations: Sequence[Migration],
    states: Mapping[_Key, Mapping[int, int]],
) -> Mapping[_Key, tuple[int, ...]]:
    """Keep of the recorded checksums those that stand for a row that is in force: goose may have redone a version since."""
    edited: dict[_Key, list[int]] = {}
    for schema, table, version, row in read_edited(connection, schemas, migrations):
        if states.get((schema, table), {}).get(version) == row:
            edited.setdefault((schema, table), []).append(version)
    return {key: tuple(sorted(versions)) for key, versions in edited.items()}


def describe_status(
    tenants: Sequence[Tenant], migrations: Sequence[Migration], applied: Applied
) -> list[MigrationStatus]:
    """Compare what is applied with the files: one record per tenant and module."""
    files: dict[tuple[str, str], list[int]] = {}
    for migration in migrations:
        files.setdefault((migration.module, migration.version_table), []).append(migration.version)
    return [
        _status(tenant, module, table, versions, applied)
        for tenant in tenants
        for (module, table), versions in files.items()
    ]


def _status(tenant: Tenant, module: str, table: str, files: Sequence[int], applied: Applied) -> MigrationStatus:
    if error := applied.unread.get(tenant.slug):
        return MigrationStatus(tenant.slug, module, 0, (), (), (), (), error=error)
    versions = applied.of(tenant.schema, table)
    highest = max(versions, default=0)
    missing = [version for version in files if version not in versions]
    return MigrationStatus(
        tenant=tenant.slug,
        module=module,
        version=highest,
        applied=versions,
        pending=tuple(missing),
        out_of_order=tuple(version for version in missing if version < highest),
        unknown=tuple(version for version in versions if version not in files),
        edited=applied.edited.get((tenant.schema, table), ()),
        dirty=tuple(applied.dirty.get((tenant.schema, table), ())),
    )


def _versions_query(schema: str, table: str) -> sql.Composed:
    """Plain rows: sorting and grouping in each of thousands of branches takes PostgreSQL three times as long."""
    return sql.SQL("SELECT {}, {}, id, version_id, is_applied FROM {}").format(
        sql.Literal(schema), sql.Literal(table), sql.Identifier(schema, table)
    )
