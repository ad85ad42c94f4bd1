"""Planning a migration run: which tenant gets what, in which wave, and who is refused. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from erpkit.database import TEMPLATE, Tenant
from erpkit.errors import UsageError
from erpkit.migrations import golang
from erpkit.migrations.files import Migration, Step
from erpkit.migrations.plan import CANARIES, MigrationPlan, TenantPlan, Wave
from erpkit.migrations.script import check_statements
from erpkit.migrations.status import Applied
from erpkit.near import did_you_mean

_WAVES = (TEMPLATE.slug, CANARIES, "tenants")


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
    migration stopped half way is refused unless `retry_dirty`. `_template` and the canaries must show that the files work:
    where one of them is refused, the plan ends at its wave, and the others are `held`. Raises UsageError for a canary that is
    not among the tenants, and MigrationError for a file that must not be run.
    """
    wanted = [m for m in migrations if module in (None, m.module) and (to_version is None or m.version <= to_version)]
    _check_module(migrations, module)
    _check_version(module, to_version, [m.version for m in migrations if m.module == module])

    def decide(tenant: Tenant) -> tuple[Step, ...] | str:
        pending = [m for m in wanted if m.version not in applied.of(tenant.schema, m.version_table)]
        late = [m for m in pending if m.version < max(applied.of(tenant.schema, m.version_table), default=0)]
        if dirty := applied.dirty_in(tenant.schema, is_mended=retry_dirty):
            return f"dirty: {'; '.join(dirty)}"
        if lost := _lost(pending, migrations, tenant, applied):
            return lost
        if late and not out_of_order:
            return f"out of order: {', '.join(m.name for m in late)}"
        return tuple((m, "up") for m in pending)

    plan = _plan("up", tenants, decide, canaries, applied, migrations)
    return replace(plan, retries_dirty=retry_dirty)


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
    table = _files(migrations, module)[1]
    known = [version for tenant in tenants for version in applied.of(tenant.schema, table)]
    _check_version(module, to_version, [*known, *(m.version for m in migrations if m.module == module)])

    def decide(tenant: Tenant) -> tuple[Step, ...] | str:
        files, table = _files(migrations, module)
        if dirty := _stuck(tenant, table, applied):
            return dirty
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
        if dirty := _stuck(tenant, table, applied):
            return dirty
        if not versions:
            return f"{module}: no version is applied"
        if versions[-1] not in files:
            return f"{module}: no file for version {versions[-1]}"
        return ((files[versions[-1]], "down"), (files[versions[-1]], "up"))

    return _plan("redo", tenants, decide, canaries, applied)


def _stuck(tenant: Tenant, table: str, applied: Applied) -> str:
    """Say why a module of golang-migrate's can be moved neither up nor down: its table says that it is dirty."""
    is_golang = (tenant.schema, table) in applied.marks
    return (
        "; ".join(f"dirty: {text}" for text in applied.dirty.get((tenant.schema, table), {}).values())
        if is_golang
        else ""
    )


def _lost(pending: Sequence[Migration], migrations: Sequence[Migration], tenant: Tenant, applied: Applied) -> str:
    """Say that golang-migrate would go no further: its table names a version that there is no file for."""
    tables = {m.version_table: m.module for m in pending if m.golang is not None}
    for table, module in tables.items():
        mark = applied.marks.get((tenant.schema, table), golang.Mark())
        known = {golang.NIL, *(m.version for m in migrations if m.version_table == table)}
        if mark.version not in known:
            return f"{module}: {table} says version {mark.version}, and there is no file for it: install the release that has it"
    return ""


def _plan(
    direction: str,
    tenants: Sequence[Tenant],
    decide: Callable[[Tenant], tuple[Step, ...] | str],
    canaries: Sequence[str],
    applied: Applied,
    files: Sequence[Migration] = (),
) -> MigrationPlan:
    """Ask `decide` for the steps of each tenant, or the reason why it is refused; sort what is to be done into waves."""
    known = [tenant.slug for tenant in tenants]
    if unknown := sorted(set(canaries) - set(known)):
        raise UsageError(
            f"no such tenant for a canary: {', '.join(unknown)}; {did_you_mean(unknown[0], known, listed=8)}"
        )
    waves: dict[str, list[TenantPlan]] = {name: [] for name in _WAVES}
    skipped: dict[str, str] = {}
    refused: dict[str, str] = {}
    ordered = sorted(tenants, key=lambda tenant: tenant.slug)
    for tenant in ordered:
        if not tenant.is_active and tenant.slug not in canaries:
            skipped[tenant.slug] = tenant.status
            continue
        steps = _inactive(tenant) or applied.unread.get(tenant.slug) or decide(tenant)
        if isinstance(steps, str):
            refused[tenant.slug] = steps
        elif steps:
            new = {m.version_table for m, _ in steps if (tenant.schema, m.version_table) not in applied.versions}
            waves[_wave(tenant, canaries)].append(TenantPlan(tenant, steps, frozenset(new)))
    gates = [tenant for tenant in ordered if _wave(tenant, canaries) != _WAVES[-1]]
    refused |= _doubts(gates, waves, applied, files)
    held = _hold(waves, [gate.slug for gate in gates if gate.slug in refused])
    refused |= {name: reason for name, reason in applied.errors.items() if name not in applied.unread}
    made = tuple(Wave(name, tuple(plans)) for name, plans in waves.items() if plans)
    plan = MigrationPlan(direction, made, skipped, refused, held=held)
    for migration in plan.migrations:  # what the run would refuse is no plan
        check_statements(migration)
    return plan


def _inactive(tenant: Tenant) -> str:
    return "" if tenant.is_active else f"{tenant.status}: a canary must be active"


def _doubts(
    gates: Sequence[Tenant], waves: Mapping[str, list[TenantPlan]], applied: Applied, files: Sequence[Migration]
) -> dict[str, str]:
    """Say of `_template` and canaries what they cannot show to work: files that they ran in another form, or do not have.

    A version below all of a module's files is one that was merged into them, and no doubt.
    """
    steps = {gate.slug: set[Migration]() for gate in gates}
    for plan in (plan for plans in waves.values() for plan in plans):
        steps.setdefault(plan.tenant.slug, set()).update(plan.migrations)
    due = set[Migration]().union(*steps.values())
    versions: dict[str, set[int]] = {}
    for migration in files:
        versions.setdefault(migration.version_table, set()).add(migration.version)
    doubts: dict[str, str] = {}
    for gate in gates:
        edited = {
            m.name
            for m in due - steps[gate.slug]
            if m.version in applied.edited.get((gate.schema, m.version_table), ())
        }
        unknown = {
            f"{m.module}/{version}"
            for m in due
            for version in applied.of(gate.schema, m.version_table)
            if version not in (known := versions.get(m.version_table, {version})) and version > min(known)
        }
        if edited:
            doubts[gate.slug] = f"edited: {', '.join(sorted(edited))}, which other tenants would get in another form"
        elif unknown:
            doubts[gate.slug] = f"unknown: {', '.join(sorted(unknown))}, which it has and no file"
    return doubts


def _hold(waves: dict[str, list[TenantPlan]], refused: Sequence[str]) -> dict[str, str]:
    """Take the refused ones out of the first two waves, and all that would come after them; return who would have, and why not."""
    held: dict[str, str] = {}
    template = TEMPLATE.slug if TEMPLATE.slug in refused else ""
    for name, end in zip(_WAVES, ("", template, template or next(iter(refused), "")), strict=True):
        if end:
            held |= {
                p.tenant.slug: f"the plan ends at {end}, which is refused"
                for p in waves[name]
                if p.tenant.slug not in refused
            }
        waves[name] = [p for p in waves[name] if not end and p.tenant.slug not in refused]
    return held


def _wave(tenant: Tenant, canaries: Sequence[str]) -> str:
    if tenant.schema == TEMPLATE.schema:
        return _WAVES[0]
    return _WAVES[1] if tenant.slug in canaries else _WAVES[2]


def _check_module(migrations: Sequence[Migration], module: str | None) -> None:
    known = {migration.module for migration in migrations}
    if module is not None and module not in known:
        raise UsageError(f"there is no module {module!r} with migrations; {did_you_mean(module, sorted(known))}")


def _check_version(module: str | None, version: int | None, known: Sequence[int]) -> None:
    newest = max(known, default=0)
    if version is not None and version > newest:
        raise UsageError(f"module {module} has no version {version}: the newest is {newest}")


def _files(migrations: Sequence[Migration], module: str) -> tuple[dict[int, Migration], str]:
    files = {migration.version: migration for migration in migrations if migration.module == module}
    return files, next(iter(files.values())).version_table
