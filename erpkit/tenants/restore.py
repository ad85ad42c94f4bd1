"""Restore a tenant from its export: import the file beside it, compare both, and swap them.

The damaged tenant is kept under another name, archived; to undo a restore, rename it back.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import psycopg
from psycopg import sql

from erpkit.database import Connection, Database, Tenant, create_schema, has_schema, tenants_with_table
from erpkit.errors import DatabaseError, MigrationError, PlanChangedError, UsageError, first_line
from erpkit.finding import Finding
from erpkit.migrations import Migration, describe_status, plan_up, read_applied, run_plan
from erpkit.plan import plan_id
from erpkit.plural import count_of
from erpkit.result import Result
from erpkit.table import Column, Table
from erpkit.tenants.drift import Difference, drift_findings, find_drift
from erpkit.tenants.health import count_rows
from erpkit.tenants.imports import import_tenant
from erpkit.tenants.lifecycle import Mention, find_mentions, lock_migrations, move_tenant, new_tenant, refuse_adopted
from erpkit.tenants.locks import name_holders
from erpkit.tenants.manifest import Manifest, sweep_partial_files, verify_export
from erpkit.tenants.registry import find_tenants, get_tenant, list_tenants, set_status

_NAME = 48 - len("_restored_9")  # characters that are left of a tenant's name

# Events that only the damaged log has; and events of both that a handler has handled since the export.
_LOST = """
SELECT topic, count(*) FROM {damaged}.erpkit_events d
 WHERE NOT EXISTS (SELECT FROM {beside}.erpkit_events b WHERE b.uuid = d.uuid) GROUP BY 1 ORDER BY 1
"""
_AGAIN = """
SELECT d.handler, count(*) FROM {damaged}.erpkit_inbox d JOIN {beside}.erpkit_events e ON e.uuid = d.uuid
 WHERE NOT EXISTS (SELECT FROM {beside}.erpkit_inbox b WHERE b.handler = d.handler AND b.uuid = d.uuid) GROUP BY 1 ORDER BY 1
"""


@dataclass(frozen=True)
class RestorePlan:
    """What would be done: `path` is imported as `beside`, takes the place of `tenant`, and that is kept as `aside`.

    `rows` are the damaged tenant's by table. `is_imported` tells that an earlier run has done the import.
    """

    tenant: Tenant
    path: Path
    manifest: Manifest = field(repr=False)
    rows: Mapping[str, int] = field(repr=False)
    beside: str
    aside: str
    is_imported: bool = False

    @property
    def id(self) -> str:
        """`restore-` and ten hexadecimal digits that stand for exactly this file and the tenant as it is now."""
        facts = [self.tenant.slug, self.tenant.schema, self.manifest.sha256, sorted(self.rows.items()), self.aside]
        return plan_id("restore", facts)

    @property
    def changes(self) -> dict[str, tuple[int | None, int | None]]:
        """The tables with another number of rows than in the export: rows now and then, None if the table is missing."""
        return {
            table: (self.rows.get(table), self.manifest.rows.get(table))
            for table in sorted({*self.rows, *self.manifest.rows})
            if self.rows.get(table) != self.manifest.rows.get(table)
        }

    @property
    def size(self) -> int:
        """How many steps it takes: the import and the swap."""
        return 2

    @property
    def facts(self) -> dict[str, object]:
        """Its figures, with those of the result at zero."""
        return {
            "tenant": self.tenant.slug,
            "status": self.tenant.status,
            "rows in the file": self.manifest.row_count,
            "restored": 0,
        }

    @property
    def findings(self) -> list[Finding]:
        """That the tenant is active and must be suspended first; and the tables with fewer rows than in the file."""
        slug = self.tenant.slug
        suspend = f"erpkit tenants suspend {slug}"
        return [
            *(
                [Finding("active", slug, "it is active: suspend it first", remedy=suspend)]
                if self.tenant.is_active
                else []
            ),
            *(
                Finding("fewer rows", slug, f"{table} has fewer rows than in the file")
                for table in self.missing(self.rows)
            ),
        ]

    def missing(self, rows: Mapping[str, int]) -> list[str]:
        """Return the tables that have fewer rows, by these `rows`, than in the file."""
        return [table for table, count in self.manifest.rows.items() if rows.get(table, 0) < count]

    def verify(self, now: Mapping[str, Mapping[str, int]], before: Mapping[str, Mapping[str, int]]) -> list[str]:
        """Compare the rows of all tenants now and before: the tenant's are the file's, the damaged one's are kept. Pure."""
        slug = self.tenant.slug
        others = [one for one in before if one not in (slug, self.beside) and now.get(one) != before[one]]
        return [
            f"{slug}: {count_of(len(self.missing(now.get(slug, {}))), 'table')} with rows missing",
            f"{self.aside}: {'kept with its rows' if now.get(self.aside) == self.rows else 'not there, or with other rows'}",
            f"other tenants that changed: {', '.join(others) or 'none'}",
        ]

    @property
    def tables(self) -> tuple[Table[tuple[str, int | None, int | None]], ...]:
        """One line a table that has another number of rows now than in the export."""
        rows = [(table, now, then) for table, (now, then) in self.changes.items()]
        return (Table(_CHANGES, rows, "Each table has as many rows as in the export: compare the values first."),)

    def __str__(self) -> str:
        slug = self.tenant.slug
        return f"import {self.path.name} as {self.beside}, then {slug} becomes {self.aside} and {self.beside} {slug}"

    def check(self, confirm: str) -> None:
        """Raise UsageError while the tenant is active, and PlanChangedError unless `confirm` is this plan's id."""
        if self.tenant.is_active:
            raise UsageError(
                f"tenant {self.tenant.slug} is active: suspend it first, so that nothing more is written to it"
            )
        PlanChangedError.check(confirm, self.id, "changed")


_CHANGES = (
    Column[tuple[str, int | None, int | None]]("table", lambda row: row[0]),
    Column[tuple[str, int | None, int | None]](
        "rows now", lambda row: "no table" if row[1] is None else row[1], right=True
    ),
    Column[tuple[str, int | None, int | None]](
        "rows then", lambda row: "no table" if row[2] is None else row[2], right=True
    ),
)


@dataclass(frozen=True)
class LogChange:
    """What a restore does to events: a topic's events that only the damaged log has are `lost`.

    Events that a handler has handled since the export come `again`.
    """

    kind: str
    name: str
    events: int

    def __str__(self) -> str:
        if self.kind == "lost":
            return f"{count_of(self.events, 'event')} {self.name} came after the export: only the damaged log has them"
        return f"{count_of(self.events, 'event was', 'events were')} handled by {self.name} after the export: it gets them again"


@dataclass(frozen=True)
class Beside:
    """The imported tenant before the swap.

    `problems` forbid the swap; `drift` are its differences from `_template`, `log_changes` what the swap does to events.
    """

    tenant: Tenant
    problems: tuple[str, ...]
    drift: tuple[Difference, ...]
    log_changes: tuple[LogChange, ...]


@dataclass(frozen=True)
class Restored:
    """The restored tenant, still suspended, and the damaged one; `mentions` are texts that name a renamed schema."""

    tenant: Tenant
    damaged: Tenant
    mentions: tuple[Mention, ...] = ()


@dataclass(frozen=True)
class RestoreRun(Result):
    """The result of a restore: the comparison with the imported tenant, and the swap, or None if a problem prevented it."""

    plan: RestorePlan
    beside: Beside
    restored: Restored | None

    @property
    def facts(self) -> dict[str, object]:
        """The tenant's status, and whether it was restored."""
        status = self.restored.tenant.status if self.restored else self.plan.tenant.status
        return {"status": status, "restored": int(self.restored is not None)}

    @property
    def findings(self) -> list[Finding]:
        """Problems that forbade the swap, drift, texts that name a renamed schema, and the next steps."""
        slug = self.plan.tenant.slug
        kept = f"{self.plan.beside} was kept, and {slug} was not changed"
        return [
            *(Finding("not restored", slug, f"{problem}; {kept}", "error") for problem in self.beside.problems),
            *drift_findings(slug if self.restored else self.plan.beside, self.beside.drift),
            *(Finding("mention", slug, str(one)) for one in (self.restored.mentions if self.restored else ())),
            *(Finding("events", slug, str(one), "info") for one in self.beside.log_changes),
            *(self._next_steps() if self.restored else ()),
        ]

    def _next_steps(self) -> list[Finding]:
        slug, beside = self.plan.tenant.slug, self.plan.beside
        undo = f"erpkit tenants rename {slug} {beside}; erpkit tenants rename {self.plan.aside} {slug}"
        activate = f"erpkit tenants activate {slug}"
        return [
            Finding("next", slug, "it is suspended: check it, then activate it", "info", activate),
            Finding("next", slug, "to undo it, rename back", "info", f"{undo}; {activate}"),
        ]

    @property
    def tables(self) -> tuple[Table[LogChange], ...]:
        """One line for each topic or handler whose events differ."""
        return (Table(_LOG, self.beside.log_changes, "The events of both logs are the same."),)

    def __str__(self) -> str:
        slug = self.plan.tenant.slug
        if self.restored is None:
            return f"not restored: {self.plan.beside} was kept, and {slug} was not changed"
        return f"restored {slug}, suspended; the damaged one is {self.restored.damaged.slug}, archived"


_LOG = (
    Column[LogChange]("consequence", lambda one: "lost" if one.kind == "lost" else "handled again"),
    Column[LogChange]("topic or handler", lambda one: one.name),
    Column[LogChange]("events", lambda one: one.events, bar=True),
)


def restore_tenant(database: Database, plan: RestorePlan, confirm: str, migrations: Sequence[Migration]) -> RestoreRun:
    """Import the file beside the damaged tenant, compare both, and swap them unless there are problems."""
    beside = import_beside(database, plan, confirm, migrations)
    return RestoreRun(plan, beside, None if beside.problems else swap_in(database, plan, confirm, beside))


def plan_restore(connection: Connection, path: Path, slug: str | None = None) -> RestorePlan:
    """Verify a whole export file and plan to put it in the place of its tenant, or of `slug`.

    Raises UsageError for a damaged file, and if there is no such tenant, as it can be imported then.
    """
    if path.is_dir():
        raise UsageError(f"{path} is a folder: name the export file to restore from")
    sweep_partial_files(path.absolute().parent)
    manifest = verify_export(path)
    known = {tenant.slug for tenant in list_tenants(connection)}
    if slug is None and manifest.slug not in known:
        raise UsageError(f"there is no tenant {manifest.slug}: import it by erpkit tenants import {path}")
    tenant = get_tenant(connection, slug or manifest.slug)
    refuse_adopted(tenant, "replaced")
    beside = f"{tenant.slug[:_NAME]}_restored"
    aside = _free_name(f"{tenant.slug[:_NAME]}_damaged", known)
    rows = count_rows(connection, tenant.schema)
    return RestorePlan(tenant, path, manifest, rows, beside, aside, beside in known)


def import_beside(database: Database, plan: RestorePlan, confirm: str, migrations: Sequence[Migration]) -> Beside:
    """Import the file as a suspended tenant beside the damaged one, migrate it, and compare, if `confirm` is the plan's id.

    It is suspended so that no dispatcher serves it. If an earlier run has imported it, that step is skipped.
    """
    database.check_writable()
    plan.check(confirm)
    if not plan.is_imported:
        import_tenant(database, plan.path, plan.beside, status="suspended")
    with database.connection() as connection:
        tenant = get_tenant(connection, plan.beside)
        if tenant.is_active:
            raise UsageError(
                f"tenant {tenant.slug} is active, so no restore imported it: rename it; nothing was changed"
            )
    _migrate(database, tenant, migrations)
    with database.connection() as connection:
        return Beside(
            tenant,
            _problems(connection, plan, tenant, migrations),
            tuple(find_drift(connection, [tenant])[tenant.slug]),
            _log_changes(connection, plan.tenant, tenant),
        )


def swap_in(database: Database, plan: RestorePlan, confirm: str, beside: Beside) -> Restored:
    """Put the imported tenant in the place of the damaged one, which is archived, in one transaction.

    Raises UsageError if `beside` has problems, and PlanChangedError if the damaged tenant has changed since the plan.
    """
    database.check_writable()
    if beside.problems:
        raise UsageError(
            f"tenant {plan.beside} cannot take its place: {'; '.join(beside.problems)}; nothing was changed"
        )
    with database.connection() as connection:
        damaged, imported = find_tenants(connection, [plan.tenant.slug, plan.beside])
        replace(plan, tenant=damaged, rows=count_rows(connection, damaged.schema)).check(confirm)
        try:
            with name_holders(connection, damaged, "nothing was changed"), connection.transaction():
                kept = _swap(connection, damaged, imported, plan.aside)
        except psycopg.Error as error:
            raise DatabaseError(f"tenant {damaged.slug} was not restored: {first_line(error)}") from error
        old = {plan.manifest.schema, imported.schema}
        mentions = [one for schema in sorted(old) for one in find_mentions(connection, schema, damaged.schema)]
        return Restored(get_tenant(connection, damaged.slug), kept, tuple(mentions))


def _swap(connection: Connection, damaged: Tenant, imported: Tenant, aside: str) -> Tenant:
    for tenant in (damaged, imported):
        lock_migrations(connection, tenant)
    if not has_schema(connection, damaged.schema):  # it was dropped: an empty one is kept in its place
        create_schema(connection, damaged.schema)
    kept = new_tenant(connection, aside, f"{damaged.name} (damaged)")
    move_tenant(connection, damaged, kept)
    move_tenant(connection, imported, damaged)
    return set_status(connection, kept.slug, "archived")


def _migrate(database: Database, tenant: Tenant, migrations: Sequence[Migration]) -> None:
    """Migrate it to the newest version, as the export may be older than the last release."""
    served = replace(tenant, status="active")  # as it will be after the restore
    with database.connection() as connection:
        plan = plan_up([served], migrations, read_applied(connection, [served], migrations))
    if failed := run_plan(database, plan, plan.id).failed:
        raise MigrationError(f"{failed[0].error}; tenant {tenant.slug} is kept, and nothing else was changed")


def _problems(
    connection: Connection, plan: RestorePlan, tenant: Tenant, migrations: Sequence[Migration]
) -> tuple[str, ...]:
    found, wanted = count_rows(connection, tenant.schema), plan.manifest.rows
    status = describe_status([tenant], migrations, read_applied(connection, [tenant], migrations))
    return (
        *(
            f"{table} has {count_of(found.get(table, 0), 'row')}, and {count_of(rows, 'was', 'were')} exported"
            for table, rows in wanted.items()
            if found.get(table, -1) < rows
        ),
        *(f"{one.module} is {one.state}" for one in status if one.state not in ("current", "edited")),
    )


def _log_changes(connection: Connection, damaged: Tenant, beside: Tenant) -> tuple[LogChange, ...]:
    """Compare the logs by the events' uuids, as far as both tenants have the tables."""
    names = {"damaged": sql.Identifier(damaged.schema), "beside": sql.Identifier(beside.schema)}
    found: list[LogChange] = []
    for kind, table, query in (("lost", "erpkit_events", _LOST), ("again", "erpkit_inbox", _AGAIN)):
        if len(tenants_with_table(connection, table, [damaged, beside])) == 2:
            rows = connection.execute(sql.SQL(query).format(**names))
            found += [LogChange(kind, name, events) for name, events in rows]
    return tuple(found)


def _free_name(name: str, taken: Collection[str]) -> str:
    for free in (name, *(f"{name}_{number}" for number in range(2, 10))):
        if free not in taken:
            return free
    raise UsageError(f"{name} and eight more names of this kind are taken: drop tenants that are not needed any more")
