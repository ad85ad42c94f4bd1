"""Dropping a tenant: planned, confirmed, and in batches, so that a big schema does not exhaust the server's lock table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import psycopg
from psycopg import sql

from erpkit.database import Connection, Database, Tenant
from erpkit.errors import DatabaseError, PlanChangedError, UsageError
from erpkit.finding import Finding
from erpkit.plan import plan_id
from erpkit.table import Column, Table
from erpkit.tenants.health import count_rows
from erpkit.tenants.locks import WAIT, name_holders, short_waits
from erpkit.tenants.registry import get_tenant, set_status, unregister
from erpkit.tenants.roles import drop_roles

__all__ = ["DropPlan", "DropResult", "drop_tenant", "plan_drop"]

BATCH = 50  # each table takes several locks: its own, its indexes', its sequences', its toast table's

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
    """What would be lost: exact `rows` of each table, and `byte_count` with indexes.

    `dependents` are views and tables of other schemas that lean on this one; while there are any, nothing is dropped.
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
        """How many rows its tables hold, all in all."""
        return sum(self.rows.values())

    @property
    def size(self) -> int:
        """How many tables are dropped; a schema without tables is one thing to drop all the same."""
        return max(1, len(self.rows))

    @property
    def facts(self) -> dict[str, object]:
        """Its figures, with those of a result at naught."""
        return {"tenant": self.tenant.slug, "tables": len(self.rows), "rows": self.row_count, "dropped": 0}

    @property
    def findings(self) -> tuple[Finding, ...]:
        """There are none: what may not be dropped is refused."""
        return ()

    @property
    def tables(self) -> tuple[Table[tuple[str, int]], ...]:
        """One line a table that would be dropped, with its rows."""
        return (Table(_LOST, list(self.rows.items()), "Its schema holds no tables."),)

    def refuse(self) -> None:
        """Raise UsageError unless the tenant may be dropped."""
        slug = self.tenant.slug
        if self.tenant.is_active:
            raise UsageError(f"tenant {slug} is active: suspend or archive it first; nothing was dropped")
        if self.dependents:
            raise UsageError(f"tenant {slug}: {', '.join(self.dependents)} depend on it; drop them first")

    def check(self, confirm: str) -> None:
        """Raise UsageError unless the tenant may be dropped, and PlanChangedError unless `confirm` is this plan's id."""
        self.refuse()
        PlanChangedError.check(confirm, self.id, "dropped")

    def __str__(self) -> str:
        return f"drop {self.tenant.slug}: {len(self.rows)} tables, {self.row_count:,} rows, {self.byte_count / 2**20:.1f} MiB"


_LOST = (
    Column[tuple[str, int]]("table", lambda row: row[0]),
    Column[tuple[str, int]]("rows", lambda row: row[1], bar=True),
)


@dataclass(frozen=True)
class DropResult:
    """What was dropped: the tables, views and sequences of each transaction, in their order."""

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
        """There are none: what fails raises."""
        return ()

    @property
    def tables(self) -> tuple[Table[tuple[int, str]], ...]:
        """One line a table, view or sequence, with the transaction in which it was dropped."""
        rows = [(number, name) for number, batch in enumerate(self.batches, 1) for name in batch]
        return (Table(_DROPPED, rows, "Its schema held nothing."),)

    def __str__(self) -> str:
        return f"dropped {self.tenant}: {self.dropped_count} objects in {len(self.batches)} transactions"


_DROPPED = (
    Column[tuple[int, str]]("transaction", lambda row: row[0]),
    Column[tuple[int, str]]("dropped", lambda row: row[1]),
)


def plan_drop(connection: Connection, tenant: Tenant) -> DropPlan:
    """Read what dropping `tenant` would lose.

    Raises DatabaseError, which names who holds the lock, where a table cannot be read within a second.
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
    """Drop a tenant that is suspended or archived, if `confirm` is the id of `plan_drop`: data, schema, roles and entry.

    The tenant is archived first. What follows is one transaction for each fifty tables; `progress` is called after each.
    When it is interrupted, the tenant stays archived with what is left of it: plan and drop it again to go on. So it is where
    a lock is not to be got within ten seconds; the error names who holds it.
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
            reason = error.diag.message_primary or str(error).strip()
            raise DatabaseError(
                f"tenant {slug} is archived and dropped in part: {reason}; mend that, then plan and drop it again"
            ) from error
        return DropResult(slug, tuple(batches))


def _drop_foreign_keys(connection: Connection, schema: str) -> bool:
    """Drop one batch of the foreign keys: with them, a table would take its neighbours' locks as well."""
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
    """Drop one batch: views, then tables, partitions before what they are part of, then sequences that nothing owns."""
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
    with connection.transaction():
        connection.execute(f"SET LOCAL client_min_messages TO warning; SET LOCAL lock_timeout TO '{WAIT}'")
        connection.execute(sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(sql.Identifier(tenant.schema)))
        if tenant.role is not None:
            drop_roles(connection, tenant)
        unregister(connection, tenant)


def _run(connection: Connection, statements: list[sql.Composed]) -> None:
    if statements:
        with connection.transaction():
            connection.execute(f"SET LOCAL client_min_messages TO warning; SET LOCAL lock_timeout TO '{WAIT}'")
            connection.execute(sql.SQL("; ").join(statements))


def _dependents(connection: Connection, schema: str) -> tuple[str, ...]:
    """Name the views and tables of other schemas that CASCADE would take along, or take a foreign key from."""
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
