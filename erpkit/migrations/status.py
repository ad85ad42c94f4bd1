"""Which migrations every tenant has: read for the whole fleet at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from psycopg import sql

from erpkit.database import Connection, Tenant, fetch_union
from erpkit.migrations.files import Migration

__all__ = ["Applied", "MigrationStatus", "describe_status", "read_applied"]

# (schema, module) -> the versions in force, in the order in which they were applied
Applied = Mapping[tuple[str, str], tuple[int, ...]]

_PREFIX = "goose_db_version_"
_TABLES_A_QUERY = 200  # a UNION ALL of more plans slower than it saves round trips


@dataclass(frozen=True)
class MigrationStatus:
    """One tenant's state in one module: versions applied, pending, out of order, and applied without a file."""

    tenant: str
    module: str
    version: int
    applied: tuple[int, ...]
    pending: tuple[int, ...]
    out_of_order: tuple[int, ...]
    unknown: tuple[int, ...]

    @property
    def state(self) -> str:
        """One word: `current`, `pending`, `out of order` or `unknown`; the worst one wins."""
        if self.unknown:
            return "unknown"
        if self.out_of_order:
            return "out of order"
        return "pending" if self.pending else "current"


def read_applied(connection: Connection, tenants: Sequence[Tenant]) -> Applied:
    """Read the goose version tables of all `tenants` in one query (one for each 200 tables of them)."""
    schemas = [tenant.schema for tenant in tenants]
    tables = connection.execute(
        "SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
        "WHERE c.relkind = 'r' AND starts_with(c.relname::text, %s) AND n.nspname = ANY(%s) ORDER BY 1, 2",
        [_PREFIX, schemas],
    ).fetchall()
    states: dict[tuple[str, str], dict[int, bool]] = {(s, table.removeprefix(_PREFIX)): {} for s, table in tables}
    rows = fetch_union(connection, (_versions_query(*table) for table in tables), _TABLES_A_QUERY)
    # The last row of a version says whether it is in force: older goose releases kept a row for each Down.
    for schema, module, _, version, is_applied in sorted(rows):
        state = states[schema, module]
        state.pop(version, None)
        state[version] = is_applied
    return {key: tuple(v for v, is_applied in state.items() if is_applied and v > 0) for key, state in states.items()}


def describe_status(
    tenants: Sequence[Tenant], migrations: Sequence[Migration], applied: Applied
) -> list[MigrationStatus]:
    """Compare what is applied with the files: one record per tenant and module."""
    files: dict[str, list[int]] = {}
    for migration in migrations:
        files.setdefault(migration.module, []).append(migration.version)
    return [
        _status(tenant.slug, module, versions, applied.get((tenant.schema, module), ()))
        for tenant in tenants
        for module, versions in files.items()
    ]


def _status(tenant: str, module: str, files: Sequence[int], applied: tuple[int, ...]) -> MigrationStatus:
    highest = max(applied, default=0)
    missing = [version for version in files if version not in applied]
    return MigrationStatus(
        tenant=tenant,
        module=module,
        version=highest,
        applied=applied,
        pending=tuple(missing),
        out_of_order=tuple(version for version in missing if version < highest),
        unknown=tuple(version for version in applied if version not in files),
    )


def _versions_query(schema: str, table: str) -> sql.Composed:
    """Plain rows: sorting and grouping in each of thousands of branches takes PostgreSQL three times as long."""
    return sql.SQL("SELECT {}, {}, id, version_id, is_applied FROM {}").format(
        sql.Literal(schema), sql.Literal(table.removeprefix(_PREFIX)), sql.Identifier(schema, table)
    )
