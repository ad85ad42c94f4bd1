"""What there is to know of tenants: size, rows, versions, events, dead letters, drift; a fixed number of queries for all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from psycopg import sql

from erpkit.database import TEMPLATE, Connection, Tenant, fetch_union, schemas_with_table
from erpkit.events import DeadLetter, list_dead_letters
from erpkit.migrations import Migration, MigrationStatus, describe_status, read_applied
from erpkit.tenants.drift import find_drift

__all__ = ["TenantInspection", "inspect_tenants"]


@dataclass(frozen=True)
class TenantInspection:
    """The state of one tenant: `size` in bytes with indexes, exact `rows` a table, and what is not as it should be."""

    tenant: Tenant
    exists: bool
    size: int
    rows: Mapping[str, int]
    migrations: Sequence[MigrationStatus]
    event_count: int
    last_event: datetime | None
    dead_letters: Sequence[DeadLetter] = field(repr=False)
    drift: Sequence[str] = ()

    @property
    def versions(self) -> dict[str, int]:
        """The highest applied version of each module."""
        return {status.module: status.version for status in self.migrations}

    @property
    def pending(self) -> int:
        """How many migrations it lacks."""
        return sum(len(status.pending) for status in self.migrations)

    @property
    def problems(self) -> list[str]:
        """What a person should look at, one line each."""
        if not self.exists:
            return [f"{self.tenant.slug}: its schema {self.tenant.schema} does not exist"]
        problems = []
        if not self.tenant.is_active:
            problems.append(f"{self.tenant.slug}: {self.tenant.status}; fleet operations pass it over")
        if self.pending:
            missing = [f"{s.module} {', '.join(map(str, s.pending))}" for s in self.migrations if s.pending]
            problems.append(f"{self.tenant.slug}: behind on migrations ({'; '.join(missing)})")
        if self.drift:
            problems.append(f"{self.tenant.slug}: schema drift ({'; '.join(self.drift)})")
        if self.dead_letters:
            problems.append(
                f"{self.tenant.slug}: {len(self.dead_letters)} dead letter(s), first {self.dead_letters[0].error}"
            )
        return problems


def inspect_tenants(
    connection: Connection, tenants: Sequence[Tenant], migrations: Sequence[Migration]
) -> list[TenantInspection]:
    """Inspect `tenants`; drift is looked for in those that have every migration, as the others differ for that reason."""
    sizes = _sizes(connection, tenants)
    rows = _rows(connection, tenants)
    events = _events(connection, tenants)
    statuses = describe_status(tenants, migrations, read_applied(connection, tenants))
    letters = list_dead_letters(connection, tenants)
    by_tenant = {tenant.slug: [status for status in statuses if status.tenant == tenant.slug] for tenant in tenants}
    current = [t for t in tenants if t.schema in sizes and not any(status.pending for status in by_tenant[t.slug])]
    drift = find_drift(connection, current) if _template_is_current(connection, migrations) else {}
    return [
        TenantInspection(
            tenant=tenant,
            exists=tenant.schema in sizes,
            size=sizes.get(tenant.schema, 0),
            rows=rows.get(tenant.slug, {}),
            migrations=by_tenant[tenant.slug],
            event_count=events.get(tenant.slug, (0, None))[0],
            last_event=events.get(tenant.slug, (0, None))[1],
            dead_letters=[letter for letter in letters if letter.tenant == tenant.slug],
            drift=drift.get(tenant.slug, ()),
        )
        for tenant in tenants
    ]


def _template_is_current(connection: Connection, migrations: Sequence[Migration]) -> bool:
    statuses = describe_status([TEMPLATE], migrations, read_applied(connection, [TEMPLATE]))
    return not any(status.pending for status in statuses)


def _sizes(connection: Connection, tenants: Sequence[Tenant]) -> dict[str, int]:
    rows = connection.execute(
        "SELECT n.nspname, coalesce(sum(pg_total_relation_size(c.oid)), 0)::bigint FROM pg_namespace n "
        "LEFT JOIN pg_class c ON c.relnamespace = n.oid AND c.relkind IN ('r', 'm', 'p') WHERE n.nspname = ANY(%s) GROUP BY 1",
        [[tenant.schema for tenant in tenants]],
    )
    return dict(rows.fetchall())


def _rows(connection: Connection, tenants: Sequence[Tenant]) -> dict[str, dict[str, int]]:
    slugs = {tenant.schema: tenant.slug for tenant in tenants}
    tables = connection.execute(
        "SELECT schemaname, tablename FROM pg_tables WHERE schemaname = ANY(%s) AND NOT starts_with(tablename, 'goose_db_version') "
        "ORDER BY 1, 2",
        [list(slugs)],
    ).fetchall()
    queries = [
        sql.SQL("SELECT {}, {}, count(*) FROM {}").format(
            sql.Literal(slugs[schema]), sql.Literal(table), sql.Identifier(schema, table)
        )
        for schema, table in tables
    ]
    counts: dict[str, dict[str, int]] = {}
    for slug, table, count in fetch_union(connection, queries):
        counts.setdefault(slug, {})[table] = count
    return counts


def _events(connection: Connection, tenants: Sequence[Tenant]) -> dict[str, tuple[Any, ...]]:
    found = schemas_with_table(connection, "erpkit_events", [tenant.schema for tenant in tenants])
    queries = [
        sql.SQL("SELECT {}, count(*), max(recorded_at) FROM {}").format(
            sql.Literal(tenant.slug), sql.Identifier(tenant.schema, "erpkit_events")
        )
        for tenant in tenants
        if tenant.schema in found
    ]
    return {slug: (count, last) for slug, count, last in fetch_union(connection, queries)}
