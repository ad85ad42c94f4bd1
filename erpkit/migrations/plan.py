"""What a migration run would do: decided from facts, without touching the database."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from erpkit.database import Tenant
from erpkit.errors import PlanChangedError
from erpkit.migrations.files import Migration
from erpkit.migrations.parser import Direction
from erpkit.migrations.status import Applied

__all__ = ["MigrationPlan", "TenantPlan", "plan_down", "plan_up"]


@dataclass(frozen=True)
class TenantPlan:
    """The migrations that one tenant gets, in order."""

    tenant: Tenant
    migrations: tuple[Migration, ...]


@dataclass(frozen=True)
class MigrationPlan:
    """Who gets which migrations: `_template` first, then the tenants by slug.

    `skipped` are tenants that fleet operations leave alone, `refused` those that cannot be migrated as they are; both map a
    slug to the reason. `id` is a hash of what would be done: it changes as soon as anything of it does.
    """

    direction: Direction
    tenants: tuple[TenantPlan, ...]
    skipped: Mapping[str, str]
    refused: Mapping[str, str]

    @property
    def id(self) -> str:
        """`migrate-` and ten hexadecimal digits that stand for exactly this plan."""
        steps = [
            (plan.tenant.schema, migration.name, migration.content.statements(self.direction))
            for plan in self.tenants
            for migration in plan.migrations
        ]
        return f"migrate-{hashlib.sha256(json.dumps([self.direction, steps]).encode()).hexdigest()[:10]}"

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to do."""
        return not self.tenants

    @property
    def step_count(self) -> int:
        """How many migrations would run, over all tenants."""
        return sum(len(plan.migrations) for plan in self.tenants)

    def check(self, confirm: str) -> None:
        """Raise PlanChangedError unless `confirm` is this plan's id."""
        if confirm != self.id:
            raise PlanChangedError(
                f"confirm={confirm!r} is not the id of the present plan, {self.id}: nothing was done; read the plan again"
            )


def plan_up(tenants: Sequence[Tenant], migrations: Sequence[Migration], applied: Applied) -> MigrationPlan:
    """Plan every pending migration for `_template` and all active tenants.

    A migration below the highest applied version of its module is out of order: goose stops there, and so that tenant is
    refused while the others go on.
    """
    plans: list[TenantPlan] = []
    skipped: dict[str, str] = {}
    refused: dict[str, str] = {}
    for tenant in _canary_first(tenants):
        pending = _pending(tenant, migrations, applied)
        if not tenant.is_active:
            skipped[tenant.slug] = tenant.status
        elif late := [m for m in pending if m.version < max(applied.get((tenant.schema, m.module), (0,)), default=0)]:
            refused[tenant.slug] = f"out of order: {', '.join(m.name for m in late)}"
        elif pending:
            plans.append(TenantPlan(tenant, pending))
    return MigrationPlan("up", tuple(plans), skipped, refused)


def plan_down(
    tenants: Sequence[Tenant], migrations: Sequence[Migration], applied: Applied, module: str, to_version: int
) -> MigrationPlan:
    """Plan to take one module of `tenants` down to `to_version`, in the reverse order of application."""
    files = {migration.version: migration for migration in migrations if migration.module == module}
    plans: list[TenantPlan] = []
    refused: dict[str, str] = {}
    for tenant in tenants:
        versions = [version for version in reversed(applied.get((tenant.schema, module), ())) if version > to_version]
        if unknown := [str(version) for version in versions if version not in files]:
            refused[tenant.slug] = f"{module}: no file for version {', '.join(unknown)}"
        elif versions:
            plans.append(TenantPlan(tenant, tuple(files[version] for version in versions)))
    return MigrationPlan("down", tuple(plans), {}, refused)


def _canary_first(tenants: Sequence[Tenant]) -> list[Tenant]:
    return sorted(tenants, key=lambda tenant: (tenant.schema != "_template", tenant.slug))


def _pending(tenant: Tenant, migrations: Sequence[Migration], applied: Applied) -> tuple[Migration, ...]:
    return tuple(m for m in migrations if m.version not in applied.get((tenant.schema, m.module), ()))
