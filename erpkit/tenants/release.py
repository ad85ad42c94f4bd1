"""Releasing adopted tenants: the ERP's schemas are left as they were before they were adopted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import psycopg
from psycopg import sql

from erpkit.database import Connection, Database, Tenant, fetch_union, has_schema
from erpkit.errors import DatabaseError, ErpkitError, UsageError
from erpkit.finding import Finding
from erpkit.plan import plan_id
from erpkit.plural import count_of
from erpkit.table import Column, Table
from erpkit.tenants.adoption import reason_of
from erpkit.tenants.foreign_schemas import EVENT_TABLE
from erpkit.tenants.lifecycle import lock_migrations
from erpkit.tenants.registry import list_tenants, registry_table, unregister
from erpkit.tenants.roles import drop_roles, revoke_schema

_TABLES = """
SELECT n.nspname::text, c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = ANY(%s) AND c.relkind IN ('r', 'p') AND (c.relname = %s OR starts_with(c.relname, 'erpkit_')) ORDER BY 1, 2
"""

# Those of the log's triggers, which take no arguments.
_FUNCTIONS = """
SELECT p.proname::text FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
 WHERE n.nspname = %s AND starts_with(p.proname, 'erpkit_') AND p.pronargs = 0 ORDER BY 1
"""

_OWNED = """
SELECT r.rolname::text, min(pg_describe_object(d.classid, d.objid, d.objsubid))
  FROM pg_shdepend d JOIN pg_roles r ON r.oid = d.refobjid
 WHERE d.refclassid = 'pg_authid'::regclass AND d.deptype = 'o' AND r.rolname = ANY(%s)
   AND d.dbid = (SELECT oid FROM pg_database WHERE datname = current_database()) GROUP BY 1
"""


@dataclass(frozen=True)
class Release:
    """An adopted tenant that would be given back: `rows` of each of its event log's tables, which are dropped."""

    tenant: Tenant
    rows: Mapping[str, int] = field(default_factory=dict)

    @property
    def row_count(self) -> int:
        """How many rows would be lost with the event log; the record of its migrations does not count."""
        return sum(count for table, count in self.rows.items() if table != EVENT_TABLE)


@dataclass(frozen=True)
class ReleasePlan:
    """The tenants that would be given back to their ERP, and those that cannot be."""

    releases: tuple[Release, ...]
    left_out: tuple[Finding, ...] = field(default=(), repr=False)

    @property
    def id(self) -> str:
        """`release-` and ten hexadecimal digits that stand for exactly these tenants, tables and row counts."""
        facts = [[one.tenant.slug, one.tenant.schema, sorted(one.rows.items())] for one in self.releases]
        return plan_id("release", [facts, [str(one) for one in self.left_out]])

    @property
    def size(self) -> int:
        """How many tenants it is about."""
        return len(self.releases)

    @property
    def row_count(self) -> int:
        """How many rows of event logs would be lost."""
        return sum(one.row_count for one in self.releases)

    @property
    def facts(self) -> dict[str, object]:
        """Its figures, with those of a result at naught."""
        return {
            "to release": self.size, "left out": len(self.left_out), "rows lost": self.row_count, "released": 0, "failed": 0,
        }  # fmt: skip

    @property
    def findings(self) -> list[Finding]:
        """What cannot be released, and why."""
        return list(self.left_out)

    @property
    def tables(self) -> tuple[Table[Release], ...]:
        """One line a tenant that would be given back."""
        return (Table(_RELEASES, self.releases, "There is no adopted tenant to release."),)

    def __str__(self) -> str:
        lost = (
            f", with {count_of(self.row_count, 'row of event logs, which is', 'rows of event logs, which are')} lost"
            if self.row_count
            else ""
        )
        left = f"; {len(self.left_out):,} are left out, as named above" if self.left_out else ""
        return f"release {count_of(self.size, 'tenant')}{lost}: their schemas and data stay{left}"


_RELEASES = (
    Column[Release]("tenant", lambda r: r.tenant.slug),
    Column[Release]("schema that stays", lambda r: r.tenant.schema),
    Column[Release]("role that goes", lambda r: r.tenant.role),
    Column[Release]("tables that go", lambda r: len(r.rows)),
    Column[Release]("rows in them", lambda r: r.row_count),
)


@dataclass(frozen=True)
class ReleaseRun:
    """What became of a plan to release: `failed` maps the tenants that are as they were to the reason."""

    plan: ReleasePlan
    failed: Mapping[str, str]

    @property
    def facts(self) -> dict[str, object]:
        """How many were released, and how many could not be."""
        return {"released": self.plan.size - len(self.failed), "failed": len(self.failed)}

    @property
    def findings(self) -> list[Finding]:
        """Who was not released."""
        failed = [Finding("failed", slug, f"was not released: {why}", "error") for slug, why in self.failed.items()]
        return [*failed, *self.plan.findings]

    @property
    def tables(self) -> tuple[Table[Release], ...]:
        """One line a tenant that was given back."""
        done = [one for one in self.plan.releases if one.tenant.slug not in self.failed]
        return (Table(_RELEASES, done, "Nothing was released."),)

    def __str__(self) -> str:
        done = f"{self.plan.size - len(self.failed):,} of {count_of(self.plan.size, 'tenant')}"
        return f"released {done}; their schemas and data are unchanged"


def plan_release(
    connection: Connection, tenants: Sequence[Tenant] | None = None, *, with_events: bool = False
) -> ReleasePlan:
    """Plan to give adopted tenants back, all of them for None; with `with_events` also those whose event log holds rows.

    Raises UsageError for a tenant that erpkit made: its schema is nobody else's.
    """
    for tenant in tenants or ():
        if tenant.owner is None:
            raise UsageError(f"tenant {tenant.slug} was made by erpkit, and not adopted: export or drop it instead")
    chosen = [tenant for tenant in list_tenants(connection) if tenant.owner] if tenants is None else tenants
    rows = _count(connection, chosen)
    roles = [role for tenant in chosen for role in (tenant.role, tenant.reader)]
    owned: dict[str, str] = dict(connection.execute(_OWNED, [roles]).fetchall())
    releases, left_out = [], []
    for tenant in chosen:
        release = Release(tenant, rows.get(tenant.schema, {}))
        if problem := _find_fault(release, owned, with_events=with_events):
            left_out.append(Finding("left out", tenant.slug, f"cannot be released: {problem[0]}", remedy=problem[1]))
        else:
            releases.append(release)
    return ReleasePlan(tuple(releases), tuple(left_out))


def release_tenants(
    database: Database, plan: ReleasePlan, progress: Callable[[int], object] = lambda _: None
) -> ReleaseRun:
    """Carry out a plan: each tenant is released whole or is as it was, and one that cannot be does not stop the others."""
    failed: dict[str, str] = {}
    with database.connection() as connection:
        for release in plan.releases:
            try:
                _release(connection, release)
            except (psycopg.Error, ErpkitError) as error:
                failed[release.tenant.slug] = reason_of(error)
            progress(1)
        for owner in sorted({one.tenant.owner for one in plan.releases if one.tenant.owner}):
            _unshare_history(connection, owner)
    return ReleaseRun(plan, failed)


def _find_fault(release: Release, owned: Mapping[str, str], *, with_events: bool) -> tuple[str, str] | None:
    """Say why a tenant cannot be released, and what would help. Pure."""
    tenant = release.tenant
    for role in (tenant.role, tenant.reader):
        if role is not None and role in owned:
            return f"its role {role} owns {owned[role]}", f"give it to {tenant.owner}: ALTER … OWNER TO"
    if release.row_count and not with_events:
        full = [f"{table} {count:,}" for table, count in release.rows.items() if count and table != EVENT_TABLE]
        return f"its event log holds rows ({', '.join(full)})", f"erpkit tenants release {tenant.slug} --with-events"
    return None


def _count(connection: Connection, tenants: Sequence[Tenant]) -> dict[str, dict[str, int]]:
    """Count the rows of the event log's tables, by schema."""
    tables = connection.execute(_TABLES, [[tenant.schema for tenant in tenants], EVENT_TABLE]).fetchall()
    queries: Iterator[sql.Composable] = (
        sql.SQL("SELECT {}, {}, count(*) FROM {}").format(
            sql.Literal(schema), sql.Literal(table), sql.Identifier(schema, table)
        )
        for schema, table in tables
    )
    found: dict[str, dict[str, int]] = {}
    for schema, table, count in fetch_union(connection, queries, patience=0 if _is_in_transaction(connection) else 1):
        found.setdefault(schema, {})[table] = count
    return found


def _is_in_transaction(connection: Connection) -> bool:
    return connection.info.transaction_status != psycopg.pq.TransactionStatus.IDLE


def _release(connection: Connection, release: Release) -> None:
    tenant = release.tenant
    with connection.transaction():
        connection.execute("SET LOCAL client_min_messages TO warning")
        lock_migrations(connection, tenant)
        if has_schema(connection, tenant.schema):
            _drop_event_log(connection, release)
            revoke_schema(connection, tenant)
        drop_roles(connection, tenant)
        unregister(connection, tenant)


def _drop_event_log(connection: Connection, release: Release) -> None:
    """Drop the event log's tables, if they hold what the plan says once nobody else can write to them."""
    if not release.rows:
        return
    tenant = release.tenant
    tables = sql.SQL(", ").join(sql.Identifier(tenant.schema, table) for table in release.rows)
    connection.execute(sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(tables))
    if _count(connection, [tenant]).get(tenant.schema) != release.rows:
        raise DatabaseError("its event log has changed since it was planned; plan it again")
    connection.execute(sql.SQL("DROP TABLE {}").format(tables))
    for (name,) in connection.execute(_FUNCTIONS, [tenant.schema]).fetchall():
        connection.execute(sql.SQL("DROP FUNCTION {}()").format(sql.Identifier(tenant.schema, name)))


def _unshare_history(connection: Connection, owner: str) -> None:
    """Take back the right to record migrations from a login as which no tenant is migrated any more."""
    if registry_table(connection) is None or any(tenant.owner == owner for tenant in list_tenants(connection)):
        return
    ((login,),) = connection.execute("SELECT current_user::text").fetchall()
    if owner != login:
        revoke = "REVOKE INSERT ON public.erpkit_migrations FROM {}"
        connection.execute(sql.SQL(revoke).format(sql.Identifier(owner)))
