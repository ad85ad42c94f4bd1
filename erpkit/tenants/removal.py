"""Drop a tenant in batches, so that a big schema does not exhaust the server's locks; or export it first, and then drop it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
from psycopg import sql

from erpkit.database import Connection, Database, Tenant
from erpkit.errors import DatabaseError, PlanChangedError, UsageError, first_line
from erpkit.finding import Finding
from erpkit.plan import plan_id
from erpkit.plural import count_of
from erpkit.result import Result
from erpkit.table import Column, Table
from erpkit.tenants.exports import export_tenant
from erpkit.tenants.health import count_rows
from erpkit.tenants.locks import name_holders, short_waits
from erpkit.tenants.manifest import Manifest, verify_export
from erpkit.tenants.registry import get_tenant, list_tenants, set_status, unregister
from erpkit.tenants.roles import drop_roles

_PATIENCE, _MOMENT = 10.0, "500ms"  # for locks: in all, and for one attempt
BATCH = 50  # tables; each takes several locks: for itself, its indexes, sequences and toast table

_KINDS = {
    "v": "VIEW",
    "m": "MATERIALIZED VIEW",
    "r": "TABLE",
    "f": "FOREIGN TABLE",
    "p": "TABLE",
    "S": "SEQUENCE",
}


@dataclass(frozen=True)
class DropPlan:
    """What would be lost: the exact `rows` of each table, and `byte_count` with indexes.

    `dependents` are views and tables of other schemas that depend on this one; while there are any, nothing is dropped.
    """

    tenant: Tenant
    rows: Mapping[str, int] = field(repr=False)
    byte_count: int
    dependents: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """`drop-` and ten hexadecimal digits that stand for exactly these tables and row counts."""
        facts = [self.tenant.slug, self.tenant.schema, sorted(self.rows.items())]
        return plan_id("drop", facts)

    @property
    def row_count(self) -> int:
        """How many rows its tables hold together."""
        return sum(self.rows.values())

    @property
    def size(self) -> int:
        """How many tables are dropped, at least 1: a schema without tables is dropped, too."""
        return max(1, len(self.rows))

    @property
    def facts(self) -> dict[str, object]:
        """Its figures, with those of the result at zero."""
        return {"tenant": self.tenant.slug, "tables": len(self.rows), "rows": self.row_count, "dropped": 0}

    @property
    def findings(self) -> tuple[Finding, ...]:
        """None: planning refuses what may not be dropped."""
        return ()

    @property
    def tables(self) -> tuple[Table[tuple[str, int]], ...]:
        """One line a table that would be dropped, with its rows."""
        return (Table(_LOST, list(self.rows.items()), "Its schema holds no tables."),)

    def refuse(self) -> None:
        """Raise UsageError unless the tenant may be dropped."""
        slug = self.tenant.slug
        if self.tenant.is_active:
            raise UsageError(
                f"tenant {slug} is active: suspend or archive it first (erpkit tenants suspend {slug}); nothing was dropped"
            )
        if self.dependents:
            raise UsageError(
                f"tenant {slug}: {', '.join(self.dependents)} depend on it: drop them first; nothing was dropped"
            )

    def check(self, confirm: str) -> None:
        """Raise UsageError unless the tenant may be dropped, and PlanChangedError unless `confirm` is this plan's id."""
        self.refuse()
        PlanChangedError.check(confirm, self.id, "dropped")

    def __str__(self) -> str:
        size = f"{count_of(self.row_count, 'row')}, {self.byte_count / 2**20:.1f} MiB"
        return f"drop {self.tenant.slug}: {count_of(len(self.rows), 'table')}, {size}"


_LOST = (
    Column[tuple[str, int]]("table", lambda row: row[0]),
    Column[tuple[str, int]]("rows", lambda row: row[1], bar=True),
)


@dataclass(frozen=True)
class DropResult(Result):
    """The tables, views and sequences that were dropped, by transaction and in order."""

    tenant: str
    batches: tuple[tuple[str, ...], ...] = field(repr=False)

    @property
    def dropped_count(self) -> int:
        """How many tables, views and sequences were dropped."""
        return sum(len(batch) for batch in self.batches)

    @property
    def facts(self) -> dict[str, object]:
        """How much was dropped."""
        return {"dropped": self.dropped_count}

    @property
    def findings(self) -> tuple[Finding, ...]:
        """None: a failure raises."""
        return ()

    @property
    def tables(self) -> tuple[Table[tuple[int, str]], ...]:
        """One line a table, view or sequence, with the transaction in which it was dropped."""
        rows = [(number, name) for number, batch in enumerate(self.batches, 1) for name in batch]
        return (Table(_DROPPED, rows, "Its schema held nothing."),)

    def __str__(self) -> str:
        return f"dropped {self.tenant}: {count_of(self.dropped_count, 'object')} in {count_of(len(self.batches), 'transaction')}"


_DROPPED = (
    Column[tuple[int, str]]("transaction", lambda row: row[0]),
    Column[tuple[int, str]]("dropped", lambda row: row[1]),
)


def plan_drop(connection: Connection, tenant: Tenant) -> DropPlan:
    """Read what dropping `tenant` would lose.

    Raises DatabaseError, which names who holds the lock, if it cannot read a table within a second.
    """
    with name_holders(connection, tenant, "nothing was dropped"), short_waits(connection):
        return _plan(connection, tenant)


def _plan(connection: Connection, tenant: Tenant) -> DropPlan:
    size = connection.execute(
        "SELECT coalesce(sum(pg_total_relation_size(c.oid)), 0)::bigint FROM pg_class c "
        "WHERE c.relnamespace = to_regnamespace(quote_ident(%s)) AND c.relkind IN ('r', 'm', 'p')",
        [tenant.schema],
    ).fetchone()
    rows = count_rows(connection, tenant.schema)
    return DropPlan(tenant, rows, size[0] if size else 0, _dependents(connection, tenant.schema))


def drop_tenant(
    database: Database, slug: str, confirm: str, progress: Callable[[tuple[str, ...]], object] | None = None
) -> DropResult:
    """Drop a suspended or archived tenant with its data, schema, roles and entry, if `confirm` is the id of `plan_drop`.

    It archives the tenant first, and then drops fifty tables in each transaction; `progress` is called after each. If it is
    interrupted, or cannot get a lock within ten seconds, the rest of the tenant stays archived: plan and drop it again to go on.
    """
    database.check_writable()
    with database.connection() as connection:
        tenant = get_tenant(connection, slug)
        plan_drop(connection, tenant).check(confirm)
        set_status(connection, slug, "archived")
        batches = []
        try:
            with name_holders(connection, tenant, "it is archived and dropped in part"):
                while _drop_foreign_keys(connection, tenant.schema):
                    pass
                while batch := _drop_relations(connection, tenant.schema):
                    batches.append(batch)
                    if progress is not None:
                        progress(batch)
                _drop_rest(connection, tenant)
        except psycopg.Error as error:
            raise DatabaseError(
                f"tenant {slug} is archived and dropped in part: {first_line(error)}; fix that, then plan and drop it again"
            ) from error
        return DropResult(slug, tuple(batches))


def _drop_foreign_keys(connection: Connection, schema: str) -> bool:
    """Drop one batch of the foreign keys, as dropping a table would lock the tables on the other side, too."""
    rows = connection.execute(
        "SELECT c.relname, k.conname FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid "
        "WHERE k.connamespace = to_regnamespace(quote_ident(%s)) AND k.contype = 'f' AND k.conparentid = 0 ORDER BY 1, 2 LIMIT %s",
        [schema, BATCH],
    ).fetchall()
    _run(
        connection,
        [
            sql.SQL("ALTER TABLE {} DROP CONSTRAINT IF EXISTS {}").format(
                sql.Identifier(schema, table), sql.Identifier(name)
            )
            for table, name in rows
        ],
    )
    return bool(rows)


def _drop_relations(connection: Connection, schema: str) -> tuple[str, ...]:
    """Drop one batch: views first, then tables, partitions before their parents, then sequences without an owner."""
    rows = connection.execute(
        "SELECT c.relname, c.relkind::text FROM pg_class c WHERE c.relnamespace = to_regnamespace(quote_ident(%s)) "
        "AND c.relkind = ANY(%s) AND NOT EXISTS "
        "(SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e') "
        "ORDER BY array_position(%s, c.relkind::text), c.relispartition DESC, c.relname LIMIT %s",
        [schema, list(_KINDS), list(_KINDS), BATCH],
    ).fetchall()
    _run(
        connection,
        [
            sql.SQL(f"DROP {_KINDS[kind]} IF EXISTS {{}} CASCADE").format(sql.Identifier(schema, name))
            for name, kind in rows
        ],
    )
    return tuple(name for name, _ in rows)


def _drop_rest(connection: Connection, tenant: Tenant) -> None:
    def drop() -> None:
        connection.execute(sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(sql.Identifier(tenant.schema)))
        if tenant.role is not None:
            drop_roles(connection, tenant)
        unregister(connection, tenant)

    _insist(connection, drop)


def _run(connection: Connection, statements: list[sql.Composed]) -> None:
    if statements:
        _insist(connection, lambda: connection.execute(sql.SQL("; ").join(statements)))


def _insist(connection: Connection, work: Callable[[], object]) -> None:
    """Do `work` in a transaction that waits for locks, again and again for ten seconds.

    Each attempt gives up, with all the locks that it has, before PostgreSQL looks for a deadlock (`deadlock_timeout`, a second):
    what others do with these tables at the moment, such as a report on lag, goes on to its end.
    """
    until = time.monotonic() + _PATIENCE
    while True:
        try:
            with connection.transaction():
                connection.execute(f"SET LOCAL client_min_messages TO warning; SET LOCAL lock_timeout TO '{_MOMENT}'")
                work()
            return
        except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected):
            if time.monotonic() > until:
                raise


def _dependents(connection: Connection, schema: str) -> tuple[str, ...]:
    """Return the views and tables of other schemas that CASCADE would drop, or whose foreign key it would drop."""
    rows = connection.execute(
        "SELECT DISTINCT o.oid::regclass::text FROM pg_class t JOIN pg_depend d "
        "ON d.refclassid = 'pg_class'::regclass AND d.refobjid = t.oid AND d.classid = 'pg_rewrite'::regclass "
        "JOIN pg_rewrite r ON r.oid = d.objid JOIN pg_class o ON o.oid = r.ev_class "
        "WHERE t.relnamespace = to_regnamespace(quote_ident(%(schema)s)) AND o.relnamespace <> t.relnamespace "
        "UNION SELECT k.conrelid::regclass::text FROM pg_constraint k JOIN pg_class t ON t.oid = k.confrelid "
        "WHERE t.relnamespace = to_regnamespace(quote_ident(%(schema)s)) AND k.connamespace <> t.relnamespace ORDER BY 1",
        {"schema": schema},
    )
    return tuple(name for (name,) in rows)


@dataclass(frozen=True)
class OffboardPlan(DropPlan):
    """A plan to export a tenant to a file in `folder`, and to drop it then."""

    folder: Path = Path()

    @property
    def path(self) -> Path:
        """The file of the export."""
        return self.folder / f"{self.tenant.slug}-{self.id}.erpkit"

    @property
    def facts(self) -> dict[str, object]:
        """Its figures, with those of the result at zero."""
        return {**super().facts, "exported": 0}

    def __str__(self) -> str:
        return f"export to {self.path}, and {super().__str__()}"


@dataclass(frozen=True)
class Offboarded(Result):
    """A tenant that was exported and dropped; `remaining` are the tenants after that."""

    path: Path
    manifest: Manifest
    dropped: DropResult
    remaining: tuple[Tenant, ...]

    @property
    def facts(self) -> dict[str, object]:
        """How many rows were exported, and how many objects were dropped."""
        return {"exported": self.manifest.row_count, "dropped": self.dropped.dropped_count}

    @property
    def findings(self) -> list[Finding]:
        """A tenant that is still registered, and what the file does not hold of it."""
        slug = self.dropped.tenant
        is_there = slug in {tenant.slug for tenant in self.remaining}
        return [
            *([Finding("still there", slug, "it is still in public.tenants", "error")] if is_there else []),
            *(Finding("left out", slug, f"not in the export: {what}") for what in self.manifest.left_out),
        ]

    @property
    def tables(self) -> tuple[Table[tuple[int, str]], ...]:
        """One line a table, view or sequence that was dropped."""
        return self.dropped.tables

    def __str__(self) -> str:
        return f"{count_of(self.manifest.row_count, 'row')} exported to {self.path} and verified; {self.dropped.tenant} was dropped"


def plan_offboarding(connection: Connection, tenant: Tenant, folder: Path | str = ".") -> OffboardPlan:
    """Plan to export and drop a tenant. Raises UsageError for an active tenant, and as `plan_drop`."""
    plan = plan_drop(connection, tenant)
    plan.refuse()
    return OffboardPlan(plan.tenant, plan.rows, plan.byte_count, plan.dependents, Path(folder).absolute())


def offboard_tenant(
    database: Database, plan: OffboardPlan, confirm: str, progress: Callable[[tuple[str, ...]], object] | None = None
) -> Offboarded:
    """Export the tenant, verify the whole file, and drop the tenant, if `confirm` is the plan's id.

    Raises DatabaseError, with nothing dropped, if the file has other numbers of rows than the plan; else as `drop_tenant`.
    """
    plan.check(confirm)
    tenant = plan.tenant
    export_tenant(database, tenant, plan.path)
    manifest = verify_export(plan.path)
    if manifest.rows != plan.rows:
        raise DatabaseError(f"{tenant.slug} has changed since it was planned: nothing was dropped")
    dropped = drop_tenant(database, tenant.slug, confirm, progress)
    with database.connection() as connection:
        return Offboarded(plan.path, manifest, dropped, tuple(list_tenants(connection)))
