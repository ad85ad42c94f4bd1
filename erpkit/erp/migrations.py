"""The migrations of an installation: who has which, and bringing tenants up or down."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

import psycopg

from erpkit.database import TEMPLATE, Connection, Tenant
from erpkit.erp.installation import Installation
from erpkit.erp.part import Part
from erpkit.errors import ErpkitError, MigrationError, UsageError
from erpkit.migrations import (
    Applied,
    FleetStatus,
    Limits,
    LintReport,
    Migration,
    MigrationHistory,
    MigrationPlan,
    ParsedMigration,
    collect_migrations,
    lint_migrations,
    parse_migration,
    plan_down,
    plan_redo,
    plan_up,
    read_applied,
    read_history,
    read_migrations,
    read_milliseconds,
)
from erpkit.migrations.apply import check_own_sessions
from erpkit.migrations.files import Style, decode, new_migration
from erpkit.migrations.foreign_state import MAJORITY, NEWEST
from erpkit.migrations.golang import is_golang_file, parse_file
from erpkit.migrations.lint import find_reaching, in_order
from erpkit.near import did_you_mean
from erpkit.plan import Plan, Work
from erpkit.tenants.mend import MendPlan, MendRun, plan_mend

if TYPE_CHECKING:
    from erpkit.migrations import ForcePlan, ForceRun, MigrationRun
    from erpkit.migrations.run import OnError
    from erpkit.modules import ModuleLike

_EXTENSIONS = "SELECT extname::text, nspname::text FROM pg_extension e JOIN pg_namespace n ON n.oid = extnamespace"

_Decide = Callable[[Sequence[Tenant], Sequence[Migration], Applied], MigrationPlan]


class RunOptions(TypedDict, total=False):
    """How a plan is run.

    `workers` is how many tenants are migrated side by side. A tenant that fails ends the run where `on_error` is "stop"; where
    more than the share `threshold` of a wave fails, later waves are left out. A lock is waited for `lock_timeout` seconds,
    `lock_attempts` times, and a statement may take `statement_timeout` seconds; 0 is without end.
    """

    workers: int
    on_error: OnError
    threshold: float
    lock_timeout: float
    lock_attempts: int
    statement_timeout: float


class Migrations(Part):
    """The migrations of all tenants, in goose's files and tables. It shows itself as the matrix of tenants and modules."""

    def __init__(self, installation: Installation) -> None:
        self._installation = installation

    def status(self, names: Sequence[str] = (), *, against: str = "") -> FleetStatus:
        """Return which migrations tenants have, all of them without a name, and `_template`; what is not current is a finding.

        Where another tool migrates them, they are compared with each other: `against` is `newest`, `majority` or a tenant;
        without it, `_template` or the newest. Raises UsageError for a tenant that there is not.
        """
        migrations = self._read()
        if against not in ("", NEWEST, MAJORITY):
            self._installation.find([against])
        with self._installation.database.connection() as connection:
            return self._status(connection, self._fleet(names), migrations, against)

    def plan(
        self,
        names: Sequence[str] = (),
        *,
        canaries: Sequence[str] = (),
        module: str | None = None,
        to: int | None = None,
        out_of_order: bool = False,
        retry_dirty: bool = False,
        **how: Unpack[RunOptions],
    ) -> Plan[MigrationPlan, MigrationRun]:
        """Plan to bring tenants to the newest version: `_template` first, then the `canaries`, then the rest.

        `module` plans that one alone, and `to` no further than that version of it. `out_of_order` runs migrations that are lower
        than an applied one as well, `retry_dirty` what stopped half way, after it was fixed by hand. `how` is as in RunOptions.
        """
        if to is not None and module is None:
            raise UsageError("a version to end at needs a module: versions are numbered by module")

        def decide(tenants: Sequence[Tenant], migrations: Sequence[Migration], applied: Applied) -> MigrationPlan:
            return plan_up(
                tenants, migrations, applied, canaries=canaries, module=module, to_version=to, out_of_order=out_of_order,
                retry_dirty=retry_dirty,
            )  # fmt: skip

        return self._bind(names, decide, how, makes_template=True)

    def down(
        self,
        names: Sequence[str] = (),
        *,
        module: str,
        to: int,
        canaries: Sequence[str] = (),
        **how: Unpack[RunOptions],
    ) -> Plan[MigrationPlan, MigrationRun]:
        """Plan to take one module of tenants down to a version; without names, of all active tenants and `_template`."""

        def decide(tenants: Sequence[Tenant], migrations: Sequence[Migration], applied: Applied) -> MigrationPlan:
            return plan_down(tenants, migrations, applied, module, to, canaries=canaries)

        return self._bind(names, decide, how)

    def redo(
        self, names: Sequence[str] = (), *, module: str, canaries: Sequence[str] = (), **how: Unpack[RunOptions]
    ) -> Plan[MigrationPlan, MigrationRun]:
        """Plan to take the last applied version of one module down and up again, each tenant at its own; names as in `down`."""

        def decide(tenants: Sequence[Tenant], migrations: Sequence[Migration], applied: Applied) -> MigrationPlan:
            return plan_redo(tenants, migrations, applied, module, canaries=canaries)

        return self._bind(names, decide, how)

    def force(self, version: int, names: Sequence[str] = (), *, module: str) -> Plan[ForcePlan, ForceRun]:
        """Plan to set the version of a module with golang-migrate's files, clean, and run nothing: once what failed was seen to.

        `version` is -1 for none at all; names as in `down`. goose's tables know no such thing: see `retry_dirty` of `plan`.
        """

        from erpkit.migrations import plan_force, run_force  # noqa: PLC0415 - the other commands are quicker without

        def make(_work: Work) -> ForcePlan:
            migrations, tenants = self._read(), self._named(names)
            with self._installation.database.connection() as connection:
                return plan_force(tenants, migrations, read_applied(connection, tenants, migrations), module, version)

        def run(plan: ForcePlan, work: Work) -> ForceRun:
            return run_force(self._installation.database, plan, plan.id, Limits(), work.advance)

        return Plan(make(Work()), make, run, self._installation.target, "tenants", can_stop=False)

    def history(self, names: Sequence[str] = (), *, limit: int = 50) -> MigrationHistory:
        """Return what was done to which tenant, the newest first; without a name those that are gone are included."""
        tenants = self._named(names) if names else None
        with self._installation.database.connection() as connection:
            return MigrationHistory(self._installation.target, tuple(read_history(connection, tenants, limit)))

    def mend(self, names: Sequence[str], statement: str) -> Plan[MendPlan, MendRun]:
        """Plan to run SQL in a transaction for each tenant, to make way for a migration that failed; `{schema}` stands for its schema.

        Nothing is planned without a statement.
        """
        tenants = self._installation.find(names) if names and statement else []
        return plan_mend(self._installation.database, tenants, statement)

    def lint(self, modules: Sequence[str] = (), *, pg_version: str | None = None) -> LintReport:
        """Name the statements that lock or rewrite tables, break running code, or reach beyond the tenant, in the files of modules;
        all without a name.

        Raises UsageError where squawk is not installed.
        """
        chosen = [self._module(name) for name in modules] or self._installation.registry.modules
        migrations = [migration for module in chosen for migration in collect_migrations(module)]
        own = find_reaching(migrations, self._installation.settings.shared_schemas)
        found = lint_migrations(migrations, pg_version=pg_version)
        return LintReport(in_order(migrations, [*own, *found]), checked=len(migrations))

    def new(self, module: str, name: str, *, style: Style | None = None) -> Path:
        """Write an empty migration into a module's folder and return its path; its version is in the style of the others."""
        return new_migration(self._module(module), name, style=style)

    def show(self, file: Path) -> ParsedMigration:
        """Return the statements of a migration file, as goose would split it; ENVSUB is filled in from the environment.

        golang-migrate, whose files are known by their names, sends a file whole.
        """
        try:
            text = decode(file.read_bytes())
            return parse_file(file, text) if is_golang_file(file) else parse_migration(text, os.environ)
        except MigrationError as error:
            raise UsageError(f"{file}: {error}") from None

    def __str__(self) -> str:
        return repr(self.status())

    def _repr_mimebundle_(self, **_: object) -> dict[str, Any]:
        return self.status()._repr_mimebundle_()

    def _bind(
        self, names: Sequence[str], decide: _Decide, how: RunOptions, *, makes_template: bool = False
    ) -> Plan[MigrationPlan, MigrationRun]:
        installation, defaults = self._installation, Limits()
        limits = Limits(
            how.get("lock_timeout", defaults.lock_timeout),
            how.get("statement_timeout", defaults.statement_timeout),
            how.get("lock_attempts", defaults.attempts),
        )
        workers = how.get("workers", 3)

        def make(_work: Work) -> MigrationPlan:
            migrations, tenants = self._read(), (self._fleet if makes_template else self._named)(names)
            with installation.database.connection() as connection:
                before = self._status(connection, tenants, migrations)
                milliseconds = read_milliseconds(connection)
                extensions = dict(connection.execute(_EXTENSIONS).fetchall())
                planned = decide(tenants, migrations, before.applied)
                if installation.database.is_writable:  # else the plan is only to be read
                    check_own_sessions(connection, planned.migrations)
                    self._check_shared(connection)
            return replace(
                planned, before=before, milliseconds=milliseconds, workers=workers, extensions=extensions,
                shared_schemas=installation.database.shared_schemas, named=frozenset(names),
            )  # fmt: skip

        def run(plan: MigrationPlan, work: Work) -> MigrationRun:
            from erpkit.migrations import run_plan  # noqa: PLC0415 - a plan alone is quicker without
            from erpkit.tenants.lifecycle import ensure_template  # noqa: PLC0415
            from erpkit.tenants.roles import ensure_shared  # noqa: PLC0415

            installation.database.check_writable()
            with installation.database.connection() as connection:
                if makes_template:
                    ensure_template(connection)
                ensure_shared(connection, installation.database.writable_schemas, [one.tenant for one in plan.tenants])
            done = run_plan(
                installation.database, plan, plan.id, lambda _: work.advance(1), workers=workers,
                on_error=how.get("on_error", "continue"), threshold=how.get("threshold", 0.0), limits=limits, stop=work.stop,
            )  # fmt: skip
            try:
                return replace(done, plan=plan, left=make(work))
            except (ErpkitError, psycopg.Error) as error:  # what was done is to be told all the same
                return replace(done, plan=plan, not_verified=(str(error).splitlines() or [type(error).__name__])[0])

        return Plan(make(Work()), make, run, installation.target, "tenants")

    def _check_shared(self, connection: Connection) -> None:
        if self._installation.database.shared_schemas:
            from erpkit.tenants.roles import check_shared  # noqa: PLC0415 - most ERPs declare none

            check_shared(connection, self._fleet(()))

    def _status(
        self, connection: Connection, tenants: list[Tenant], migrations: tuple[Migration, ...], against: str = ""
    ) -> FleetStatus:
        applied = read_applied(connection, tenants, migrations)
        installation = self._installation
        foreign = installation.foreign_states(connection, self._fleet(()), migrations, against)
        return FleetStatus(
            installation.target, tuple(tenants), migrations, applied, installation.is_foreign, foreign.only(tenants)
        )

    def _read(self) -> tuple[Migration, ...]:
        """Read the files, erpkit's own for its event log among them where the ERP has one."""
        return read_migrations(self._installation.registry.modules, event_log=self._installation.has_event_log)

    def _fleet(self, names: Sequence[str]) -> list[Tenant]:
        """Return tenants, and `_template` before them where the ERP has one."""
        template = [] if self._installation.is_foreign else [TEMPLATE]
        return [*template, *self._installation.find(names)]

    def _named(self, names: Sequence[str]) -> list[Tenant]:
        """Return the tenants named, which `_template` may be one of; the whole fleet without a name."""
        if not names:
            return self._fleet(())
        others = [name for name in names if name != TEMPLATE.slug]
        template = [TEMPLATE] if len(others) < len(names) else []
        return [*template, *(self._installation.find(others) if others else ())]

    def _module(self, name: str) -> ModuleLike:
        modules = self._installation.registry.modules
        for module in modules:
            if module.name == name:
                return module
        raise UsageError(f"there is no module {name!r}; {did_you_mean(name, [known.name for known in modules])}")
