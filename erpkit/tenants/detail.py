"""One tenant in depth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, LiteralString

from psycopg import sql

from erpkit.database import TEMPLATE, Connection, Tenant, read_tenants
from erpkit.migrations import Migration
from erpkit.tenants.inspection import TenantInspection, inspect_tenants
from erpkit.tenants.locks import Locks

__all__ = ["IndexDetail", "TableDetail", "TenantDetail", "inspect_tenant"]

# What is measured waits for whoever has locked the table, so a locked one is as large as the last vacuum found it.
_TABLES = """
SELECT relname,
       CASE WHEN relid <> ALL(%(locked)s::oid[]) THEN pg_table_size(relid)
            ELSE (SELECT relpages FROM pg_class WHERE oid = relid) * current_setting('block_size')::bigint END,
       CASE WHEN relid <> ALL(%(locked)s::oid[]) THEN pg_indexes_size(relid)
            ELSE (SELECT coalesce(sum(i.relpages), 0) FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid
                   WHERE x.indrelid = relid) * current_setting('block_size')::bigint END,
       n_dead_tup, seq_scan, coalesce(idx_scan, 0),
       greatest(last_vacuum, last_autovacuum), greatest(last_analyze, last_autoanalyze)
  FROM pg_stat_all_tables WHERE schemaname = %(schema)s AND NOT starts_with(relname, 'goose_db_version')

"""
_INDEXES = """
SELECT s.relname, s.indexrelname,
       CASE WHEN s.relid <> ALL(%(locked)s::oid[]) THEN pg_relation_size(s.indexrelid)
            ELSE i.relpages * current_setting('block_size')::bigint END,
       s.idx_scan, x.indisunique, x.indisvalid
  FROM pg_stat_all_indexes s JOIN pg_index x ON x.indexrelid = s.indexrelid JOIN pg_class i ON i.oid = s.indexrelid
 WHERE s.schemaname = %(schema)s ORDER BY 1, 2
"""


@dataclass(frozen=True)
class TableDetail:
    """One table: rows counted, bytes without and with its indexes apart, and how it is read and cleaned."""

    name: str
    rows: int
    size: int
    index_size: int
    dead_rows: int
    full_scans: int
    index_scans: int
    last_vacuum: datetime | None
    last_analyze: datetime | None


@dataclass(frozen=True)
class IndexDetail:
    """One index: its bytes, and how often it was used since the statistics began."""

    table: str
    name: str
    size: int
    scans: int
    is_unique: bool
    is_valid: bool


@dataclass(frozen=True)
class TenantDetail:
    """All there is to know of one tenant: `inspection` is what is known of every one, counted exactly here."""

    inspection: TenantInspection
    tables: tuple[TableDetail, ...]
    indexes: tuple[IndexDetail, ...]
    topics: Mapping[str, int]


def inspect_tenant(
    connection: Connection,
    tenant: Tenant,
    migrations: Sequence[Migration],
    *,
    topics: Mapping[str, str] | None = None,
    among: Sequence[Tenant] = (),
) -> TenantDetail:
    """Inspect one tenant in depth; `topics` and `among` as for `inspect_tenants`. A tenant without a schema has no tables."""
    locks = Locks(connection, [TEMPLATE.schema, tenant.schema])
    (inspection,) = inspect_tenants(
        connection, [tenant], migrations, exact=True, topics=topics, locks=locks, among=among
    )
    tables = locks.read(lambda: _rows(connection, _TABLES, tenant, locks))
    indexes = locks.read(lambda: _rows(connection, _INDEXES, tenant, locks))
    counted = [TableDetail(name, inspection.rows.get(name, 0), *facts) for name, *facts in tables]
    return TenantDetail(
        replace(inspection, locked=locks.of(tenant.schema)),
        tuple(sorted(counted, key=lambda table: (-table.size - table.index_size, table.name))),
        tuple(IndexDetail(*row) for row in indexes),
        locks.read(lambda: _topics(connection, inspection, locks)),
    )


def _rows(connection: Connection, query: LiteralString, tenant: Tenant, locks: Locks) -> list[tuple[Any, ...]]:
    return connection.execute(query, {"schema": tenant.schema, "locked": locks.oids}).fetchall()


def _topics(connection: Connection, inspection: TenantInspection, locks: Locks) -> dict[str, int]:
    """Count the events of each topic."""
    schema = inspection.tenant.schema
    if "erpkit_events" not in inspection.rows or locks.holds(schema, "erpkit_events"):
        return {}
    query = sql.SQL("SELECT topic, count(*) FROM {} GROUP BY 1 ORDER BY 1")
    errors: dict[str, str] | None = (
        {} if "last event" in inspection.errors else None
    )  # what is known to fail is not told twice
    return dict(
        read_tenants(connection, [(inspection.tenant, query.format(sql.Identifier(schema, "erpkit_events")))], errors)
    )
