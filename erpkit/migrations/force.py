"""Setting golang-migrate's version of tenants by hand, without running anything, once a file that failed was seen to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import psycopg

from erpkit.database import Database, Tenant
from erpkit.errors import DatabaseError, MigrationError, PlanChangedError, UsageError
from erpkit.finding import Finding
from erpkit.migrations import golang
from erpkit.migrations.apply import force_mark
from erpkit.migrations.files import Migration
from erpkit.migrations.history import Run, ensure_history
from erpkit.migrations.script import Limits
from erpkit.migrations.status import Applied
from erpkit.plan import plan_id
from erpkit.plural import count_of
from erpkit.table import Column, Table


@dataclass(frozen=True)
class Forced:
    """One tenant: where its version table stands, and why it failed where it did (`error`)."""

    tenant: Tenant
    present: golang.Mark
    error: str = ""


@dataclass(frozen=True)
class ForcePlan:
    """The tenants whose version of `module` becomes `version`, clean, and those that could not be read.

    `id` is a hash of what would be done and of where the tenants stand.
    """

    module: str
    version_table: str
    version: int
    tenants: tuple[Forced, ...]
    unread: dict[str, str] = field(default_factory=dict)
    migration: Migration | None = field(default=None, compare=False, repr=False)

    @property
    def id(self) -> str:
        """`force-` and ten hexadecimal digits."""
        rows = [(one.tenant.schema, one.present.version, one.present.dirty) for one in self.tenants]
        return plan_id("force", [self.module, self.version_table, self.version, rows])

    @property
    def size(self) -> int:
        """How many tenants it sets."""
        return len(self.tenants)

    @property
    def facts(self) -> dict[str, object]:
        """How many tenants there are, and how many are dirty."""
        return {"planned": self.size, "dirty": sum(one.present.dirty for one in self.tenants), "forced": 0, "failed": 0}

    @property
    def findings(self) -> list[Finding]:
        """Who could not be read."""
        return [Finding("not read", slug, reason) for slug, reason in self.unread.items()]

    @property
    def tables(self) -> list[Table[Forced]]:
        """Where each tenant stands, and where it would."""
        return [Table([*_COLUMNS, Column("to", lambda _: str(golang.Mark(self.version)))], self.tenants, _NOTHING)]

    def check(self, confirm: str) -> None:
        """Raise PlanChangedError unless `confirm` is this plan's id."""
        PlanChangedError.check(confirm, self.id)

    def __str__(self) -> str:
        to = golang.Mark(self.version)
        return f"{self.module} becomes {to} in {self.version_table} of {_count(self.size)}; no file is run"


@dataclass(frozen=True)
class ForceRun:
    """What became of the tenants of a ForcePlan."""

    plan: ForcePlan
    done: tuple[Forced, ...]
    failed: tuple[Forced, ...] = ()

    @property
    def facts(self) -> dict[str, object]:
        """How many were forced, and how many could not be."""
        return {"forced": len(self.done), "failed": len(self.failed)}

    @property
    def findings(self) -> list[Finding]:
        """Who could not be forced, and why."""
        failed = [Finding("failed", one.tenant.slug, one.error, "error") for one in self.failed]
        return [*failed, *self.plan.findings]

    @property
    def tables(self) -> list[Table[Forced]]:
        """Where each tenant stood."""
        return [Table([*_COLUMNS, Column("error", lambda one: one.error)], (*self.done, *self.failed), _NOTHING)]

    def __str__(self) -> str:
        failed = f", {len(self.failed):,} failed" if self.failed else ""
        return f"{self.plan.module} is {golang.Mark(self.plan.version)} in {_count(len(self.done))}{failed}"


_NOTHING = "No tenant is anywhere else."
_COLUMNS = (
    Column[Forced]("tenant", lambda one: one.tenant.slug),
    Column[Forced]("from", lambda one: str(one.present), tone=lambda one: "error" if one.present.dirty else ""),
)


def plan_force(
    tenants: Sequence[Tenant], migrations: Sequence[Migration], applied: Applied, module: str, version: int
) -> ForcePlan:
    """Plan to set the version of one module of `tenants`, as `migrate force VERSION` of golang-migrate does; NIL is no version.

    Raises UsageError for a module without golang-migrate's files, and for a version that there is no file for: golang-migrate would
    go on from there in neither direction.
    """
    files = {m.version: m for m in migrations if m.module == module and m.golang is not None}
    if not files:
        known = dict.fromkeys(m.module for m in migrations if m.golang is not None)
        raise UsageError(
            f"module {module} has no files of golang-migrate's, and only its table can be forced; "
            + (f"these have: {', '.join(known)}" if known else "no module has")
        )
    if version not in (golang.NIL, *files):
        raise UsageError(f"module {module} has no file of version {version}: use -1 for none, or {_list(list(files))}")
    table = next(iter(files.values())).version_table
    found = [Forced(t, applied.marks.get((t.schema, table), golang.Mark())) for t in tenants if t.is_active]
    due = [one for one in found if one.tenant.slug not in applied.unread and one.present != golang.Mark(version)]
    unread = {tenant.slug: applied.unread[tenant.slug] for tenant in tenants if tenant.slug in applied.unread}
    return ForcePlan(module, table, version, tuple(due), unread, files.get(version) or next(iter(files.values())))


def run_force(
    database: Database, plan: ForcePlan, confirm: str, limits: Limits, progress: Callable[[int], object]
) -> ForceRun:
    """Set the tenants' versions if `confirm` is the plan's id, each under golang-migrate's lock, and enter it in the history.

    A tenant that stands elsewhere by now fails, and stays as it is.
    """
    database.check_writable()
    plan.check(confirm)
    assert plan.migration is not None
    done, failed = list[Forced](), list[Forced]()
    with database.connection() as connection:
        ensure_history(connection)
        run = Run(plan.id)
        for one in plan.tenants:
            try:
                force_mark(
                    connection, one.tenant, plan.migration, (one.present, golang.Mark(plan.version)), run, limits
                )
                done.append(one)
            except (psycopg.Error, DatabaseError, MigrationError) as error:
                failed.append(Forced(one.tenant, one.present, (str(error).splitlines() or [type(error).__name__])[0]))
            progress(1)
    return ForceRun(plan, tuple(done), tuple(failed))


def _count(tenants: int) -> str:
    return count_of(tenants, "tenant")


def _list(versions: Sequence[int]) -> str:
    return ", ".join(map(str, versions)) if len(versions) <= 8 else f"one from {versions[0]} to {versions[-1]}"
