"""One tenant in depth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from psycopg import sql

from erpkit.database import Connection, Tenant
from erpkit.migrations import Migration
from erpkit.tenants.inspection import TenantInspection, inspect_tenants

__all__ = ["IndexDetail", "TableDetail", "TenantDetail", "inspect_tenant"]

_TABLES = """
SELECT relname, pg_table_size(relid), pg_indexes_size(relid), n_dead_tup, seq_scan, coalesce(idx_scan, 0),
       greatest(last_vacuum, last_autovacuum), greatest(last_analyze, last_autoanalyze)
  FROM pg_stat_all_tables WHERE schemaname = %s AND NOT starts_with(relname, 'goose_db_version')
 ORDER BY pg_total_relation_size(relid) DESC, relname
"""
_INDEXES = """
SELECT s.relname, s.indexrelname, pg_relation_size(s.indexrelid), s.idx_scan, x.indisunique, x.indisvalid
  FROM pg_stat_all_indexes s JOIN pg_index x ON x.indexrelid = s.indexrelid WHERE s.schemaname = %s ORDER BY 1, 2
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
    connection: Connection, tenant: Tenant, migrations: Sequence[Migration], *, topics: Mapping[str, str] | None = None
) -> TenantDetail:
    """Inspect one tenant in depth; `topics` as for `inspect_tenants`. A tenant without a schema has no tables."""
    (inspection,) = inspect_tenants(connection, [tenant], migrations, exact=True, topics=topics)
    tables = [
        TableDetail(name, inspection.rows.get(name, 0), *facts)
        for name, *facts in connection.execute(_TABLES, [tenant.schema])
    ]
    indexes = [IndexDetail(*row) for row in connection.execute(_INDEXES, [tenant.schema])]
    return TenantDetail(inspection, tuple(tables), tuple(indexes), _topics(connection, inspection))


def _topics(connection: Connection, inspection: TenantInspection) -> dict[str, int]:
    """Count the events of each topic."""
    if "erpkit_events" not in inspection.rows:
        return {}
    query = sql.SQL("SELECT topic, count(*) FROM {} GROUP BY 1 ORDER BY 1")
    rows = connection.execute(query.format(sql.Identifier(inspection.tenant.schema, "erpkit_events")))
    return dict(rows.fetchall())
