"""Inspect one tenant in depth: its tables, indexes and topics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property
from typing import Any, LiteralString

from psycopg import sql

from erpkit.cells import PLAIN
from erpkit.database import TEMPLATE, Connection, Tenant, read_tenants
from erpkit.events import ConsumerGroup
from erpkit.finding import Finding, with_ages
from erpkit.migrations import ForeignStates, Migration
from erpkit.plural import count_of
from erpkit.result import Result, Summary
from erpkit.table import Column, Table
from erpkit.tenants.drift import Difference, drift_table
from erpkit.tenants.inspection import TenantInspection, inspect_tenants
from erpkit.tenants.locks import Locks
from erpkit.tenants.snapshot import Growth, Snapshot, compare_snapshots, growth_columns, take_snapshot
from erpkit.visible import visible_html

# Measuring waits for an exclusive lock on the table, so a locked one has the size that the last vacuum found.
_TABLES = """
SELECT relname,
       CASE WHEN relid <> ALL(%(locked)s::oid[]) THEN pg_table_size(relid)
            ELSE (SELECT relpages FROM pg_class WHERE oid = relid) * current_setting('block_size')::bigint END,
       CASE WHEN relid <> ALL(%(locked)s::oid[]) THEN pg_indexes_size(relid)
            ELSE (SELECT coalesce(sum(i.relpages), 0) FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid
                   WHERE x.indrelid = relid) * current_setting('block_size')::bigint END,
       n_dead_tup, greatest(last_vacuum, last_autovacuum)
  FROM pg_stat_all_tables WHERE schemaname = %(schema)s AND NOT starts_with(relname, 'goose_db_version')
   AND NOT starts_with(relname, 'schema_migrations')

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
    """One table: its rows, its bytes and those of its indexes, and its last vacuum."""

    name: str
    rows: int
    size: int
    index_size: int
    dead_rows: int
    last_vacuum: datetime | None


@dataclass(frozen=True)
class IndexDetail:
    """One index: its bytes, and how often it was scanned since the statistics began."""

    table: str
    name: str
    size: int
    scans: int
    is_unique: bool
    is_valid: bool


@dataclass(frozen=True)
class TenantDetail(Result):
    """The state of one tenant in depth: `inspection` is that of `inspect_tenants`, with exact figures.

    `target` names the database; `before` is an earlier inspection, since which growth is measured. `ages` says how long each finding
    has been known, by its key.
    """

    inspection: TenantInspection
    tables: tuple[TableDetail, ...]
    indexes: tuple[IndexDetail, ...]
    topics: Mapping[str, int]
    target: str = ""
    before: Snapshot | None = None
    ages: Mapping[str, str] = field(default_factory=dict, repr=False)

    @cached_property
    def now(self) -> Snapshot:
        """The figures that a later inspection can be compared with."""
        return take_snapshot([self.inspection], self.target)

    @property
    def growth(self) -> Growth | None:
        """Its growth since the earlier inspection; None without one."""
        return compare_snapshots(self.before, self.now)[self.inspection.tenant.slug] if self.before else None

    @property
    def findings(self) -> list[Finding]:
        """What a person should look at."""
        return with_ages(self.inspection.findings, self.ages)

    @property
    def facts(self) -> dict[str, object]:
        """Its figures."""
        i = self.inspection
        week = {} if i.week_events is None else {"events in 7 days": i.week_events}
        return {
            "status": i.tenant.status,
            "MiB": round(i.size / 2**20, 1),
            "rows": sum(i.rows.values()),
            "events": i.figure("events", i.event_count),
            **week,
            "migrations pending": i.figure("versions", i.pending),
            "dead letters": i.figure("dead letters", len(i.dead_letters)),
        }

    @property
    def summary(self) -> Summary:
        """Its figures, and what a person should look at."""
        tenant = self.inspection.tenant
        return Summary(f"{tenant.slug} ({tenant.name}) on {self.target}", self.facts, self.findings)

    @property
    def table(self) -> Table[TableDetail]:
        """One line for each table, the largest first; with growth if there is an earlier inspection."""
        columns, growth = _TABLE_COLUMNS, self.growth
        if growth is not None:
            tables = {table.name: table for table in growth.tables}
            grown: Sequence[Column[TableDetail]] = growth_columns(lambda table: tables.get(table.name), "KiB", 1024, 0)
            columns = (*columns[:4], *grown, *columns[4:])
        return Table(columns, self.tables, "It has no tables.")

    @property
    def index_table(self) -> Table[IndexDetail]:
        """One line for each index, with how often it was scanned."""
        return Table(_INDEX_COLUMNS, self.indexes, "It has no indexes.")

    @property
    def topic_table(self) -> Table[tuple[str, int]]:
        """One line for each topic, with its events in the log."""
        return Table(_TOPIC_COLUMNS, list(self.topics.items()), "It has no events.")

    @property
    def drift_table(self) -> Table[tuple[str, Difference]]:
        """One line for each difference, in words and as the DDL that would undo it."""
        return drift_table({self.inspection.tenant.slug: self.inspection.drift}, self.inspection.measure)

    @property
    def notes(self) -> list[str]:
        """Further lines: versions, events, backlog, advice on indexes, and tables that were dropped."""
        i = self.inspection
        if not i.exists:
            return []
        own = [f"{module} {version}" for module, version in i.versions.items()]
        versions = ", ".join([*own, *(f"{state.module} {state.text}" for state in i.foreign)])
        lines = [
            f"schema {i.tenant.schema}; versions {versions or ('not read' if i.unread else 'none')}",
            *(self._event_lines() if i.figure("last event", True) else ()),
            *(
                f"- {count_of(events, 'event waits', 'events wait')} for {handler}"
                for handler, events in sorted(i.backlog.items())
            ),
            *(
                f"- index {one.name} on {one.table} was never used ({one.size / 1024:,.0f} KiB)"
                for one in i.unused_indexes
            ),
            *(f"- an index seems to be missing on {missing}" for missing in i.missing_indexes),
        ]
        growth = self.growth
        gone = [table for table in (growth.tables if growth else ()) if table.before and table.now is None]
        rows = {table.name: table.before.rows for table in gone if table.before}
        return [*(f"- table {name} was dropped, with {count_of(count, 'row')}" for name, count in rows.items()), *lines]

    def _event_lines(self) -> list[str]:
        i = self.inspection
        return [
            f"last event {i.last_event:%Y-%m-%d %H:%M:%S %Z}" if i.last_event else "no events",
            f"events in the last seven days: {i.week_events or 0:,}",
        ]

    def __repr__(self) -> str:
        return str(self.summary)

    def _repr_html_(self) -> str:
        notes = "".join(f'<p class="{PLAIN}">{visible_html(note)}</p>' for note in self.notes)
        table = self.table._repr_html_() if self.inspection.exists else ""
        return self.summary.html() + table + notes


_TABLE_COLUMNS: tuple[Column[TableDetail], ...] = (
    Column[TableDetail]("table", lambda t: t.name),
    Column[TableDetail]("rows", lambda t: t.rows),
    Column[TableDetail]("size", lambda t: t.size / 1024, unit="KiB", places=0, bar=True),
    Column[TableDetail]("indexes", lambda t: t.index_size / 1024, unit="KiB", places=0, bar=True),
    Column[TableDetail]("dead rows", lambda t: t.dead_rows),
    Column[TableDetail]("last vacuum", lambda t: t.last_vacuum or "never", minor=True),
)
_INDEX_COLUMNS = (
    Column[IndexDetail]("index", lambda one: one.name),
    Column[IndexDetail]("table", lambda one: one.table),
    Column[IndexDetail]("size", lambda one: one.size / 1024, unit="KiB", places=0, bar=True),
    Column[IndexDetail]("used", lambda one: one.scans),
    Column[IndexDetail]("unique", lambda one: one.is_unique),
    Column[IndexDetail]("valid", lambda one: one.is_valid, tone=lambda one: "" if one.is_valid else "error"),
)
_TOPIC_COLUMNS = (
    Column[tuple[str, int]]("topic", lambda row: row[0]),
    Column[tuple[str, int]]("events", lambda row: row[1], bar=True),
)


def inspect_tenant(
    connection: Connection,
    tenant: Tenant,
    migrations: Sequence[Migration],
    *,
    groups: Sequence[ConsumerGroup] = (),
    among: Sequence[Tenant] = (),
    foreign: ForeignStates | None = None,
) -> TenantDetail:
    """Inspect one tenant in depth; `groups`, `among` and `foreign` as for `inspect_tenants`. Without a schema it has no tables."""
    locks = Locks(connection, [TEMPLATE.schema, tenant.schema])
    (inspection,) = inspect_tenants(
        connection, [tenant], migrations, exact=True, groups=groups, locks=locks, among=among, foreign=foreign
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
    )  # a failure that is known already is not raised
    return dict(
        read_tenants(connection, [(inspection.tenant, query.format(sql.Identifier(schema, "erpkit_events")))], errors)
    )
