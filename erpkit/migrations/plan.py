"""What a migration run would do: decided from facts, without touching the database."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from erpkit.database import TEMPLATE, Tenant
from erpkit.errors import PlanChangedError, UsageError
from erpkit.migrations.files import Migration, Step
from erpkit.migrations.parser import Direction
from erpkit.migrations.status import Applied

__all__ = ["MigrationPlan", "TenantPlan", "Wave", "plan_down", "plan_redo", "plan_up"]


@dataclass(frozen=True)
class TenantPlan:
    """What one tenant gets: migrations, each with its direction, in order."""

    tenant: Tenant
    steps: tuple[Step, ...]
    new_tables: frozenset[str] = frozenset()  # goose's version tables that it does not have yet

    @property
    def migrations(self) -> tuple[Migration, ...]:
        """The migrations alone."""
        return tuple(migration for migration, _ in self.steps)


@dataclass(frozen=True)
class Wave:
    """Tenants that are migrated side by side; the next wave begins when all of them are done."""

    name: str
    tenants: tuple[TenantPlan, ...]


@dataclass(frozen=True)
class MigrationPlan:
    """Who gets which migrations, in waves: `_template`, then the canaries, then the rest.

    `skipped` are tenants that fleet operations leave alone, `refused` those that cannot be migrated as they are, or read; both
    map a slug to the reason. `id` is a hash of what would be done: it changes as soon as anything of it does.
    """

    direction: str
    waves: tuple[Wave, ...]
    skipped: Mapping[str, str]
    refused: Mapping[str, str]

    @cached_property
    def id(self) -> str:
        """`migrate-` and ten hexadecimal digits that stand for exactly this plan."""
        digests = {m: [_digest(m.content.up), _digest(m.content.down)] for m in self.migrations}
        steps = [
            (wave.name, plan.tenant.schema, [(m.name, direction, digests[m]) for m, direction in plan.steps])
            for wave in self.waves
            for plan in wave.tenants
        ]
        return f"migrate-{hashlib.sha256(json.dumps([self.direction, steps]).encode()).hexdigest()[:10]}"

    @property
    def tenants(self) -> tuple[TenantPlan, ...]:
        """The tenants of all waves."""
        return tuple(plan for wave in self.waves for plan in wave.tenants)

    @cached_property
    def migrations(self) -> tuple[Migration, ...]:
        """Every migration that would run somewhere, once, in order."""
        return tuple(dict.fromkeys(m for plan in self.tenants for m in plan.migrations))

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to do."""
        return not self.waves

    @property
    def step_count(self) -> int:
        """How many migrations would run, over all tenants."""
        return sum(len(plan.steps) for plan in self.tenants)

    def scripts(self) -> Iterator[tuple[Migration, Direction, tuple[str, ...]]]:
        """Yield the SQL that would run, once for each migration and direction, for people to read.

        Where a file takes values from the environment they may be secret: its statements are left out.
        """
        for migration, direction in dict.fromkeys(step for plan in self.tenants for step in plan.steps):
            hidden = ("-- left out: the file holds values of the environment (ENVSUB)",)
            yield (
                migration,
                direction,
                hidden if migration.content.uses_environment else migration.content.statements(direction),
            )

    def check(self, confirm: str) -> None:
        """Raise PlanChangedError unless `confirm` is this plan's id."""
        PlanChangedError.check(confirm, self.id)


def plan_up(
    tenants: Sequence[Tenant],
    migrations: Sequence[Migration],
    applied: Applied,
    *,
    canaries: Sequence[str] = (),
    module: str | None = None,
    to_version: int | None = None,
    out_of_order: bool = False,
    retry_dirty: bool = False,
) -> MigrationPlan:
    """Plan the pending migrations of `_template` and of all active tenants.

    `canaries` are the slugs that go before the rest. `module` plans that one alone, `to_version` no further than there. A
    migration below the highest applied version of its module is out of order: goose stops there, and so that tenant is
    refused unless `out_of_order`, which runs those first, as goose's `-allow-missing` does. A tenant where a NO TRANSACTION
    migration stopped half way is refused unless `retry_dirty`. Raises UsageError for a canary that is not among the tenants.
    """
    wanted = [m for m in migrations if module in (None, m.module) and (to_version is None or m.version <= to_version)]
    _check_module(migrations, module)

    def decide(tenant: Tenant) -> tuple[Step, ...] | str:
        pending = [m for m in wanted if m.version not in applied.of(tenant.schema, m.version_table)]
        late = [m for m in pending if m.version < max(applied.of(tenant.schema, m.version_table), default=0)]
        if (dirty := applied.dirty_in(tenant.schema)) and not retry_dirty:
            return f"dirty: {'; '.join(dirty)}"
        if late and not out_of_order:
            return f"out of order: {', '.join(m.name for m in late)}"
        return tuple((m, "up") for m in pending)

    return _plan("up", tenants, decide, canaries, applied)


def plan_down(
    tenants: Sequence[Tenant],
    migrations: Sequence[Migration],
    applied: Applied,
    module: str,
    to_version: int,
    *,
    canaries: Sequence[str] = (),
) -> MigrationPlan:
    """Plan to take one module of `tenants` down to `to_version`, in the reverse order of application."""
    _check_module(migrations, module)

    def decide(tenant: Tenant) -> tuple[Step, ...] | str:
        files, table = _files(migrations, module)
        versions = [version for version in reversed(applied.of(tenant.schema, table)) if version > to_version]
        if unknown := [str(version) for version in versions if version not in files]:
            return f"{module}: no file for version {', '.join(unknown)}"
        return tuple((files[version], "down") for version in versions)

    return _plan("down", tenants, decide, canaries, applied)


def plan_redo(
    tenants: Sequence[Tenant],
    migrations: Sequence[Migration],
    applied: Applied,
    module: str,
    *,
    canaries: Sequence[str] = (),
) -> MigrationPlan:
    """Plan to take the last applied version of one module down and up again, each tenant at its own version."""
    _check_module(migrations, module)

    def decide(tenant: Tenant) -> tuple[Step, ...] | str:
        files, table = _files(migrations, module)
        versions = applied.of(tenant.schema, table)
        if not versions:
            return f"{module}: no version is applied"
        if versions[-1] not in files:
            return f"{module}: no file for version {versions[-1]}"
        return ((files[versions[-1]], "down"), (files[versions[-1]], "up"))

    return _plan("redo", tenants, decide, canaries, applied)


def _plan(
    direction: str,
    tenants: Sequence[Tenant],
    decide: Callable[[Tenant], tuple[Step, ...] | str],
    canaries: Sequence[str],
    applied: Applied,
) -> MigrationPlan:
    """Ask `decide` for the steps of each tenant, or the reason why it is refused; sort what is to be done into waves."""
    if unknown := set(canaries) - {tenant.slug for tenant in tenants}:
        raise UsageError(f"no such tenant for a canary: {', '.join(sorted(unknown))}")
    waves: dict[str, list[TenantPlan]] = {TEMPLATE.slug: [], "canaries": [], "tenants": []}
    skipped: dict[str, str] = {}
    refused: dict[str, str] = {}
    for tenant in sorted(tenants, key=lambda tenant: tenant.slug):
        if not tenant.is_active:
            skipped[tenant.slug] = tenant.status
            continue
        steps = applied.unread.get(tenant.slug) or decide(tenant)
        if isinstance(steps, str):
            refused[tenant.slug] = steps
        elif steps:
            new = {m.version_table for m, _ in steps if (tenant.schema, m.version_table) not in applied.versions}
            waves[_wave(tenant, canaries)].append(TenantPlan(tenant, steps, frozenset(new)))
    refused |= {name: reason for name, reason in applied.errors.items() if name not in applied.unread}
    made = tuple(Wave(name, tuple(plans)) for name, plans in waves.items() if plans)
    return MigrationPlan(direction, made, skipped, refused)


def _wave(tenant: Tenant, canaries: Sequence[str]) -> str:
    if tenant.schema == TEMPLATE.schema:
        return TEMPLATE.slug
    return "canaries" if tenant.slug in canaries else "tenants"


def _check_module(migrations: Sequence[Migration], module: str | None) -> None:
    known = {migration.module for migration in migrations}
    if module is not None and module not in known:
        raise UsageError(f"there is no module {module!r} with migrations: {', '.join(sorted(known))}")


def _files(migrations: Sequence[Migration], module: str) -> tuple[dict[int, Migration], str]:
    files = {migration.version: migration for migration in migrations if migration.module == module}
    return files, next(iter(files.values())).version_table


def _digest(statements: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps(statements).encode()).hexdigest()
