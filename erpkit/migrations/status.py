"""Which migrations every tenant has: read for the whole fleet at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from psycopg import sql

from erpkit.database import Connection, Tenant, fetch_union
from erpkit.migrations.files import VERSION_TABLE, Migration
from erpkit.migrations.history import read_dirty, read_edited

__all__ = ["Applied", "MigrationStatus", "describe_status", "read_applied"]

_TABLES_A_QUERY = 200  # a UNION ALL of more plans slower than it saves round trips

_Key = tuple[str, str]  # (schema, version table)


@dataclass(frozen=True)
class Applied:
    """What the version tables of a fleet say, by schema and version table.

    `versions` are those in force in the order in which they were applied; `edited` those whose file has changed since
    erpkit applied it; `dirty` the NO TRANSACTION migrations that stopped half way, with what is known of it.
    """

    versions: Mapping[_Key, tuple[int, ...]] = field(default_factory=dict)
    edited: Mapping[_Key, tuple[int, ...]] = field(default_factory=dict)
    dirty: Mapping[_Key, Mapping[int, str]] = field(default_factory=dict)

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
    file), edited (the file has changed since) and dirty (stopped half way).
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

    @property
    def state(self) -> str:
        """One word, the worst that holds: `dirty`, `unknown`, `edited`, `out of order`, `pending` or `current`."""
        states = {
            "dirty": self.dirty,
            "unknown": self.unknown,
            "edited": self.edited,
            "out of order": self.out_of_order,
            "pending": self.pending,
        }
        return next((state for state, versions in states.items() if versions), "current")


def read_applied(connection: Connection, tenants: Sequence[Tenant], migrations: Sequence[Migration] = ()) -> Applied:
    """Read the goose version tables of all `tenants`, one query for each 200 tables of them.

    With `migrations` it is also told which of them were edited after they were applied, and which stopped half way.
    """
    schemas = [tenant.schema for tenant in tenants]
    tables = connection.execute(
        "SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
        "WHERE c.relkind = 'r' AND (c.relname = %s OR starts_with(c.relname::text, %s)) AND n.nspname = ANY(%s) ORDER BY 1, 2",
        [VERSION_TABLE, f"{VERSION_TABLE}_", schemas],
    ).fetchall()
    rows = fetch_union(connection, (_versions_query(*table) for table in tables), _TABLES_A_QUERY)
    states: dict[_Key, dict[int, int]] = {(schema, table): {} for schema, table in tables}
    # The last row of a version says whether it is in force: older goose releases kept a row for each Down.
    for schema, table, row, version, is_applied in sorted(rows):
        state = states[schema, table]
        state.pop(version, None)
        if is_applied and version > 0:
            state[version] = row
    return Applied(
        {key: tuple(state) for key, state in states.items()},
        _edited(connection, schemas, migrations, states),
        read_dirty(connection, schemas, migrations, states),
    )


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
