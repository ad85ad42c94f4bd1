"""Offboarding a tenant: exported to a file, the file verified, and the tenant dropped."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from erpkit.database import Connection, Database, Tenant
from erpkit.errors import DatabaseError
from erpkit.finding import Finding
from erpkit.table import Table
from erpkit.tenants.exports import export_tenant
from erpkit.tenants.manifest import Manifest, verify_export
from erpkit.tenants.registry import list_tenants
from erpkit.tenants.removal import DropPlan, DropResult, drop_tenant, plan_drop


@dataclass(frozen=True)
class OffboardPlan:
    """What would be lost, as a plan to drop it says, and the folder that its export goes to first."""

    drop: DropPlan
    folder: Path

    @property
    def id(self) -> str:
        """The id of what would be dropped."""
        return self.drop.id

    @property
    def path(self) -> Path:
        """The file that the export would be."""
        return self.folder / f"{self.drop.tenant.slug}-{self.id}.erpkit"

    @property
    def size(self) -> int:
        """How many tables are dropped."""
        return self.drop.size

    @property
    def facts(self) -> dict[str, object]:
        """Its figures, with those of a result at naught."""
        return {**self.drop.facts, "exported": 0}

    @property
    def findings(self) -> tuple[Finding, ...]:
        """There are none: what may not be dropped is refused."""
        return self.drop.findings

    @property
    def tables(self) -> tuple[Table[tuple[str, int]], ...]:
        """One line a table that would be dropped, with its rows."""
        return self.drop.tables

    def __str__(self) -> str:
        return f"export to {self.path}, and {self.drop}"


@dataclass(frozen=True)
class Offboarded:
    """A tenant that was exported and dropped; `remaining` are the tenants that there are now."""

    path: Path
    manifest: Manifest
    dropped: DropResult
    remaining: tuple[Tenant, ...]

    @property
    def facts(self) -> dict[str, object]:
        """How many rows are in the file, and how much was dropped."""
        return {"exported": self.manifest.row_count, "dropped": self.dropped.dropped_count}

    @property
    def findings(self) -> list[Finding]:
        """A tenant that is there all the same, and what of it is not in the file."""
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
        return (
            f"{self.manifest.row_count:,} rows exported to {self.path} and verified; {self.dropped.tenant} was dropped"
        )


def plan_offboarding(connection: Connection, tenant: Tenant, folder: Path | str = ".") -> OffboardPlan:
    """Read what would be lost. Raises UsageError for an active tenant, and as `plan_drop`."""
    plan = plan_drop(connection, tenant)
    plan.refuse()
    return OffboardPlan(plan, Path(folder).absolute())


def offboard_tenant(
    database: Database, plan: OffboardPlan, confirm: str, progress: Callable[[tuple[str, ...]], object] | None = None
) -> Offboarded:
    """Export the tenant, read the file again as a whole, and drop the tenant, if `confirm` is the plan's id.

    Raises DatabaseError, with nothing dropped, where the rows of the file are not those of the plan; else as `drop_tenant`.
    """
    plan.drop.check(confirm)
    tenant = plan.drop.tenant
    export_tenant(database, tenant, plan.path)
    manifest = verify_export(plan.path)
    if manifest.rows != plan.drop.rows:
        raise DatabaseError(f"{tenant.slug} has changed since it was planned: nothing was dropped")
    dropped = drop_tenant(database, tenant.slug, confirm, progress)
    with database.connection() as connection:
        return Offboarded(plan.path, manifest, dropped, tuple(list_tenants(connection)))
