"""Comparing a shadow with the live projection, and swapping it in."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal
from uuid import uuid4

import psycopg
from psycopg import sql

from erpkit.config import acting_user
from erpkit.database import Connection, Database, Tenant
from erpkit.errors import ErpkitError, PlanChangedError, UsageError
from erpkit.events.checkpoints import group_lock
from erpkit.events.log import announce
from erpkit.events.replay.run import RunOptions
from erpkit.events.replay.shadow import Shadow, advance, build_shadow, drop_in
from erpkit.finding import Finding
from erpkit.modules import Registry
from erpkit.plan import plan_id
from erpkit.plural import count_of
from erpkit.result import Result
from erpkit.table import Column, Table

_BATCH = 2000
_LOCK_SECONDS = 10


@dataclass(frozen=True)
class Difference:
    """A row that differs; `live` or `shadow` is None where there is no row of that key."""

    key: dict[str, Any]
    live: dict[str, Any] | None
    shadow: dict[str, Any] | None


@dataclass(frozen=True)
class TableDiff:
    """How one table of a shadow differs from the live one, by primary key, with the first few rows."""

    table: str
    live_rows: int
    shadow_rows: int
    only_live: int
    only_shadow: int
    differing: int
    digest: str
    examples: tuple[Difference, ...]

    @property
    def count(self) -> int:
        """How many rows a swap would write or delete."""
        return self.only_live + self.only_shadow + self.differing


@dataclass(frozen=True)
class ShadowDiff:
    """How a shadow differs from the live projection, table by table; `id` stands for exactly these differences."""

    shadow: Shadow
    differences: tuple[TableDiff, ...]

    @property
    def id(self) -> str:
        """`swap-` and ten hexadecimal digits."""
        facts = [self.shadow.schema, self.shadow.failed, [[t.table, t.count, t.digest] for t in self.differences]]
        return plan_id("swap", facts)

    @property
    def count(self) -> int:
        """How many rows a swap would write or delete."""
        return sum(table.count for table in self.differences)

    @property
    def size(self) -> int:
        """The same as `count`."""
        return self.count

    @property
    def facts(self) -> dict[str, object]:
        """Its figures, and what it is about."""
        return {
            "swap": self.id,
            "tenant": self.shadow.tenant.slug,
            "tables": ", ".join(table.table for table in self.differences),
            "events": self.shadow.events,
            "failed": self.shadow.failed,
            "different rows": self.count,
            "written": 0,
        }

    @property
    def findings(self) -> list[Finding]:
        """The tables that differ from the result of the events, and whether handlers failed."""
        return [
            *(
                Finding(
                    "difference",
                    one.table,
                    _differ(one),
                    of="table",
                )
                for one in self.differences
                if one.count
            ),
            *self.failures,
        ]

    @property
    def failures(self) -> list[Finding]:
        """Whether the shadow's handlers failed on events."""
        problem = f"handlers failed on {count_of(self.shadow.failed, 'event')}"
        return [Finding("failed", self.shadow.tenant.slug, problem)] if self.shadow.failed else []

    @property
    def table(self) -> Table[TableDiff]:
        """One row per table: its rows live and in the shadow, and how many differ."""
        return Table(_TABLES, self.differences)

    @property
    def examples(self) -> Table[tuple[str, Difference]]:
        """The first rows of each table that are not the same, with the columns in which they differ."""
        rows = [(table.table, one) for table in self.differences for one in table.examples]
        return Table(_EXAMPLES, rows, "The live projection agrees with the events.")

    @property
    def tables(self) -> tuple[Table[Any], ...]:
        """The tables, and the first rows that differ."""
        return self.table, self.examples

    def __str__(self) -> str:
        events = f"{count_of(self.shadow.events, 'event')} in {self.shadow.schema}, {self.shadow.failed:,} failed"
        return f"{count_of(self.count, 'row')} of {self.shadow.tenant.slug} {'differs' if self.count == 1 else 'differ'} ({events})"


def _differ(table: TableDiff) -> str:
    return f"{count_of(table.count, 'row differs', 'rows differ')} from the result of the events"


@dataclass(frozen=True)
class SwapResult(Result):
    """A shadow that was swapped in, with the differences until then."""

    diff: ShadowDiff

    @property
    def facts(self) -> dict[str, object]:
        """How many rows were written or deleted."""
        return {"written": self.diff.count}

    @property
    def findings(self) -> list[Finding]:
        """Whether the shadow's handlers failed on events."""
        return self.diff.failures

    @property
    def tables(self) -> tuple[Table[Any], ...]:
        """What differed until then."""
        return self.diff.tables

    def __str__(self) -> str:
        return f"swapped: {count_of(self.diff.count, 'row')} of {self.diff.shadow.tenant.slug} written or deleted"


def _key_text(row: tuple[str, Difference]) -> str:
    return _text(row[1].key, list(row[1].key))


def _row_text(row: tuple[str, Difference], which: Literal["live", "shadow"]) -> str:
    """Return the columns in which a row differs, or that there is no such row."""
    one = row[1]
    values, live, shadow = getattr(one, which), one.live or {}, one.shadow or {}
    if values is None:
        return "no such row"
    return _text(values, [c for c in {**live, **shadow} if c not in one.key and live.get(c) != shadow.get(c)])


def _text(row: Mapping[str, object], columns: Sequence[str]) -> str:
    return ", ".join(f"{column} {json.dumps(row.get(column))}" for column in columns)


_TABLES = (
    Column[TableDiff]("table", lambda one: one.table),
    Column[TableDiff]("live rows", lambda one: one.live_rows),
    Column[TableDiff]("shadow rows", lambda one: one.shadow_rows),
    Column[TableDiff]("only live", lambda one: one.only_live),
    Column[TableDiff]("only in the shadow", lambda one: one.only_shadow),
    Column[TableDiff]("different", lambda one: one.differing),
)
_EXAMPLES = (
    Column[tuple[str, Difference]]("table", lambda row: row[0]),
    Column[tuple[str, Difference]]("key", _key_text),
    Column[tuple[str, Difference]]("live", lambda row: _row_text(row, "live")),
    Column[tuple[str, Difference]]("rebuilt", lambda row: _row_text(row, "shadow")),
)


def diff_shadow(database: Database, registry: Registry, shadow: Shadow) -> ShadowDiff:
    """Compare a shadow with the live projection, after it has caught up with what was handled since.

    The handlers' dispatchers wait meanwhile. Raises UsageError for a table without a primary key.
    """
    with _transaction(database, shadow.tenant) as connection:
        return _settle(connection, registry, shadow)


def swap_shadow(database: Database, registry: Registry, shadow: Shadow, confirm: str) -> ShadowDiff:
    """Make the live projection equal to the shadow if `confirm` is the id of their difference, and drop the shadow.

    One transaction, in which the dispatchers of its handlers wait and nobody else writes its tables; readers go on. Only
    rows that differ are written, so that grants, foreign keys and triggers stay what they are. Raises PlanChangedError, with
    the live tables as they were, when the difference is another by now.
    """
    with _transaction(database, shadow.tenant) as connection:
        return _swap(connection, registry, shadow, confirm)


def rebuild_projection(
    database: Database,
    registry: Registry,
    tenant: Tenant,
    handler: str,
    options: RunOptions | None = None,
) -> ShadowDiff:
    """Rebuild the projection that `handler` keeps from the first event, and put it in place; return what that changed.

    In constant memory, beside the live tables, which change at the end, at once. Stopped or killed, nothing has changed and
    the option `resume` goes on. To look at the difference first, use `build_shadow`, `diff_shadow` and `swap_shadow`. Raises
    ErpkitError when it was stopped.
    """
    shadow = build_shadow(database, registry, tenant, handler, options)
    if not shadow.is_complete:
        raise ErpkitError(
            f"tenant {tenant.slug}: the rebuild was stopped after {count_of(shadow.events, 'event')}; resume it"
        )
    with _transaction(database, tenant) as connection:
        return _swap(connection, registry, shadow, None)


@contextmanager
def _transaction(database: Database, tenant: Tenant) -> Iterator[Connection]:
    try:
        with database.tenant_transaction(tenant, write=True, statement_timeout=None) as connection:
            yield connection
    except psycopg.errors.LockNotAvailable:
        raise ErpkitError(
            f"tenant {tenant.slug}: a dispatcher or another transaction held the projection for {_LOCK_SECONDS} s: try again"
        ) from None


def _swap(connection: Connection, registry: Registry, shadow: Shadow, confirm: str | None) -> ShadowDiff:
    diff = _settle(connection, registry, shadow, lock_tables=True)
    if confirm is not None:
        PlanChangedError.check(confirm, diff.id)
    tables = [_Table.read(connection, shadow, table) for table in shadow.projection.tables]
    for table in reversed(tables):
        connection.execute(table.query("DELETE FROM {live} l WHERE NOT EXISTS (SELECT FROM {shadow} s WHERE {same})"))
    for table in tables:
        table.write(connection)
    _note(connection, shadow, diff)
    drop_in(connection, shadow.schema)
    return diff


def _settle(connection: Connection, registry: Registry, shadow: Shadow, *, lock_tables: bool = False) -> ShadowDiff:
    """Lock out the handlers' dispatchers, let the shadow catch up with them, and compare."""
    connection.execute("SET LOCAL role TO DEFAULT")
    connection.execute(sql.SQL("SET LOCAL lock_timeout TO {}").format(sql.Literal(f"{_LOCK_SECONDS}s")))
    for name in sorted(shadow.projection.handlers):  # the lock that a dispatcher takes for each batch
        connection.execute(f"SELECT pg_advisory_xact_lock({group_lock('current_schema()', '%s')})", [name])
    while advance(connection, registry, shadow, _BATCH) is not None:
        pass
    if lock_tables:
        names = sql.SQL(", ").join(sql.Identifier(shadow.tenant.schema, table) for table in shadow.projection.tables)
        connection.execute(sql.SQL("LOCK TABLE {} IN SHARE ROW EXCLUSIVE MODE").format(names))
    tables = [_Table.read(connection, shadow, table) for table in shadow.projection.tables]
    ((events, failed),) = connection.execute(
        sql.SQL("SELECT events, (SELECT count(*) FROM {}) FROM {}").format(
            sql.Identifier(shadow.schema, "erpkit_shadow_failures"), sql.Identifier(shadow.schema, "erpkit_shadow")
        )
    ).fetchall()
    caught_up = Shadow(shadow.tenant, shadow.schema, shadow.projection, events, failed, True)
    return ShadowDiff(caught_up, tuple(table.compare(connection) for table in tables))


def _note(connection: Connection, shadow: Shadow, diff: ShadowDiff) -> None:
    """Audit the swap, and resolve the dead letters of events that the handlers have now handled.

    What a replay handled ahead of a checkpoint is not in the shadow: taken out of the inbox, it will be dispatched again.
    """
    handlers = list(shadow.projection.handlers)
    failures = sql.Identifier(shadow.schema, "erpkit_shadow_failures")
    connection.execute(
        "DELETE FROM erpkit_inbox i USING erpkit_events e, erpkit_checkpoints c WHERE i.handler = ANY(%s) "
        'AND e.uuid = i.uuid AND c.consumer_group = i.handler AND e."offset" > c."offset"',
        [handlers],
    )
    resolved = connection.execute(
        sql.SQL(
            "UPDATE erpkit_dead_letters d SET status = 'resolved', resolved_at = now(), resolved_by = %s, reason = %s "
            "WHERE handler = ANY(%s) AND status = 'open' "
            "AND NOT EXISTS (SELECT FROM {} f WHERE f.handler = d.handler AND f.uuid = d.uuid)"
        ).format(failures),
        [acting_user(), f"rebuilt: {diff.id}", handlers],
    )
    announce(connection)  # what was parked behind a letter is free now
    connection.execute(
        "INSERT INTO erpkit_replays (replay_id, plan_id, selection, handlers, requested_by, state, finished_at, planned, "
        "handled, failed, resolved) VALUES (%s, %s, '{\"target\": \"shadow\"}', %s, %s, 'done', now(), %s, %s, %s, %s)",
        [
            uuid4(), diff.id, handlers, acting_user(), diff.shadow.events, diff.shadow.events - diff.shadow.failed,
            diff.shadow.failed, resolved.rowcount,
        ],
    )  # fmt: skip


@dataclass(frozen=True)
class _Table:
    """A table of the projection, live and in the shadow."""

    shadow: Shadow
    name: str
    key: tuple[str, ...]
    columns: tuple[str, ...]
    serials: tuple[str, ...]

    @classmethod
    def read(cls, connection: Connection, shadow: Shadow, name: str) -> _Table:
        live = sql.Identifier(shadow.tenant.schema, name).as_string()
        rows = connection.execute(
            "SELECT a.attname, a.attnum = ANY(i.indkey), pg_get_serial_sequence(%s, a.attname) IS NOT NULL "
            "FROM pg_attribute a JOIN pg_index i ON i.indrelid = a.attrelid AND i.indisprimary "
            "WHERE a.attrelid = %s::regclass AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '' ORDER BY a.attnum",
            [live, live],
        ).fetchall()
        if not rows:
            raise UsageError(
                f"tenant {shadow.tenant.slug}: {name} has no primary key, so a shadow cannot be compared with it"
            )
        return cls(
            shadow,
            name,
            tuple(c for c, key, _ in rows if key),
            tuple(c for c, _, _ in rows),
            tuple(c for c, _, s in rows if s),
        )

    def query(self, text: str, found: sql.Composable | None = None) -> sql.Composed:
        """Fill in the names of both tables, `{same}` for equal keys, the columns, the key and what was `found`."""
        same = [sql.SQL("l.{0} = s.{0}").format(sql.Identifier(column)) for column in self.key]
        rest = [column for column in self.columns if column not in self.key]
        sets = [sql.SQL("{0} = EXCLUDED.{0}").format(sql.Identifier(column)) for column in rest]
        return sql.SQL(text).format(
            live=sql.Identifier(self.shadow.tenant.schema, self.name),
            shadow=sql.Identifier(self.shadow.schema, self.name),
            same=sql.SQL(" AND ").join(same),
            columns=sql.SQL(", ").join(map(sql.Identifier, self.columns)),
            key=sql.SQL(", ").join(map(sql.Identifier, self.key)),
            found=found or sql.SQL(""),
            action=sql.SQL("UPDATE SET {}").format(sql.SQL(", ").join(sets)) if sets else sql.SQL("NOTHING"),
        )

    def compare(self, connection: Connection) -> TableDiff:
        """Count the differences; rows are compared as JSON, which has an equality for every type."""
        found = self.query(
            "(SELECT to_jsonb(l) AS live, to_jsonb(s) AS shadow FROM {live} l FULL JOIN {shadow} s ON {same} "
            "WHERE to_jsonb(l) IS DISTINCT FROM to_jsonb(s)) d"
        )
        counts = self.query(
            "SELECT (SELECT count(*) FROM {live}), (SELECT count(*) FROM {shadow}), "
            "count(*) FILTER (WHERE shadow IS NULL), count(*) FILTER (WHERE live IS NULL), "
            "count(*) FILTER (WHERE live IS NOT NULL AND shadow IS NOT NULL), "
            "sum(hashtextextended(concat(live, ' ', shadow), 0)::numeric)::text FROM {found}",
            found,
        )
        ((live, shadow, only_live, only_shadow, differing, digest),) = connection.execute(counts).fetchall()
        first = self.query("SELECT live, shadow FROM {found} ORDER BY coalesce(live, shadow) LIMIT 5", found)
        examples = tuple(Difference({c: (s or v)[c] for c in self.key}, v, s) for v, s in connection.execute(first))
        return TableDiff(self.name, live, shadow, only_live, only_shadow, differing, digest or "", examples)

    def write(self, connection: Connection) -> None:
        """Write the shadow's rows into the live table, and move its sequences past them."""
        connection.execute(
            self.query(
                "INSERT INTO {live} ({columns}) OVERRIDING SYSTEM VALUE SELECT {columns} FROM {shadow} s WHERE NOT EXISTS "
                "(SELECT FROM {live} l WHERE {same} AND to_jsonb(l) = to_jsonb(s)) ON CONFLICT ({key}) DO {action}"
            )
        )
        live = sql.Identifier(self.shadow.tenant.schema, self.name)
        for column in self.serials:
            connection.execute(
                sql.SQL(
                    "SELECT setval(pg_get_serial_sequence({}, {}), max({})) FROM {} HAVING max({}) IS NOT NULL"
                ).format(
                    sql.Literal(live.as_string()),
                    sql.Literal(column),
                    sql.Identifier(column),
                    live,
                    sql.Identifier(column),
                )
            )
