"""The tenants of an installation: one of them to work in, or all of them to look at."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self, TypeVar

from erpkit.database import Connection, Database, Tenant
from erpkit.erp.installation import Installation
from erpkit.erp.looks import follow
from erpkit.erp.part import Part
from erpkit.errors import NoModulesError, NoTenantError, UsageError
from erpkit.events import CommandBus, ConsumerGroup, Message, QueryBus, consumer_groups
from erpkit.migrations import Migration, read_migrations
from erpkit.modules import Query
from erpkit.plan import Plan, PlanRecord, Shown, Work
from erpkit.table import Column, Table, Tone
from erpkit.tenants import (
    AdoptionPlan,
    AdoptionRun,
    Drift,
    DropPlan,
    DropResult,
    FleetInspection,
    HandOverPlan,
    HandOverRun,
    Manifest,
    MovedTenant,
    Offboarded,
    OffboardPlan,
    Provisioned,
    ProvisionPlan,
    ReleasePlan,
    ReleaseRun,
    RepairPlan,
    RepairRun,
    RestorePlan,
    RestoreRun,
    Snapshot,
    TenantDetail,
    TenantInspection,
    adopt_tenants,
    compare_snapshots,
    compare_tenants,
    count_rows,
    describe_figures,
    drop_tenant,
    export_tenant,
    find_tenants,
    hand_over,
    import_tenant,
    inspect_tenant,
    inspect_tenants,
    lint_repair,
    offboard_tenant,
    plan_adoption,
    plan_drop,
    plan_hand_over,
    plan_offboarding,
    plan_provision,
    plan_release,
    plan_restore,
    provision_tenant,
    read_figures,
    read_repair,
    read_snapshot,
    release_tenants,
    rename_tenant,
    restore_tenant,
    run_repair,
    set_status,
    take_snapshot,
    write_snapshot,
)
from erpkit.tenants.repair import FleetState, Risk, read_fleet

_Answer = TypeVar("_Answer")
_Record = TypeVar("_Record", bound=PlanRecord)
_Result = TypeVar("_Result", bound=Shown)


@dataclass(frozen=True, repr=False)
class ErpTenant(Part):
    """One tenant, to work in."""

    _installation: Installation
    tenant: Tenant

    def transaction(
        self, *, write: bool = False, statement_timeout: float | None = 30
    ) -> AbstractContextManager[Connection]:
        """Lend a connection inside a transaction of this tenant, which only reads without `write`.

        It commits at the end and rolls back on an error. `statement_timeout` is in seconds. Raises DatabaseError when the
        tenant's schema does not exist.
        """
        return self._installation.database.tenant_transaction(
            self.tenant, write=write, statement_timeout=statement_timeout
        )

    def send(self, command: object) -> list[Message]:
        """Carry out a command by its one handler, in a transaction; return the events that it published.

        Raises what the handler raises, with nothing done.
        """
        self._installation.own("event log")
        return CommandBus(self._installation.database, self._installation.registry).send(self.tenant, command)

    def ask(self, query: Query[_Answer]) -> _Answer:
        """Return the answer to a query by its one handler, which can only read."""
        return QueryBus(self._installation.database, self._installation.registry).ask(self.tenant, query)

    def inspect(self, *, since: Path | str = "") -> TenantDetail:
        """Inspect the tenant in depth; growth and ages are as in `erp.tenants.inspect`, and `since` is a file as there."""
        before = _earlier(self._installation, since)
        declared, everyone = _Declared.of(self._installation), self._installation.find()
        with self._installation.database.connection() as connection:
            detail = inspect_tenant(
                connection, self.tenant, declared.migrations, groups=declared.groups, among=everyone,
                foreign=self._installation.foreign_states(connection, everyone, declared.migrations),
            )  # fmt: skip
        inspection = declared.check(detail.inspection)
        detail = replace(detail, inspection=inspection, target=self._installation.target, before=before)
        found = follow(
            self._installation, "inspection", [self.tenant.slug], detail.now.taken_at, detail, describe_figures(detail.now)
        )  # fmt: skip
        if not since and found.base:
            before = read_figures(found.base.figures, detail.target)
        return replace(detail, before=before, ages=found.changes.ages)

    def __str__(self) -> str:
        return f"{self.tenant.slug}: schema {self.tenant.schema}, {self.tenant.status}"

    __repr__ = __str__


class Tenants(Part, Mapping[str, ErpTenant]):
    """All tenants by name: `erp.tenants["acme"]` is one to work in. It shows itself as a table."""

    def __init__(self, installation: Installation) -> None:
        self._installation = installation

    def __getitem__(self, name: str) -> ErpTenant:
        try:
            return ErpTenant(self._installation, self._installation.one(name))
        except UsageError as error:
            raise NoTenantError(str(error)) from None

    def __iter__(self) -> Iterator[str]:
        return (tenant.slug for tenant in self._installation.find())

    def __len__(self) -> int:
        return len(self._installation.find())

    def _ipython_key_completions_(self) -> list[str]:
        return list(self)

    @property
    def table(self) -> Table[Tenant]:
        """One row per tenant: its name for people, its schema and its status."""
        own = (
            f"{self._installation.no_tenants} makes one; erpkit demo makes a dozen to look around; "
            "erpkit doctor finds those of an ERP that erpkit did not make"
        )
        words = self._installation.no_tenants if self._installation.is_foreign else own
        empty = f"There are no tenants. {words}."
        return Table(_COLUMNS, self._installation.find(), empty)

    def inspect(
        self, names: Sequence[str] = (), *, since: Path | str = "", snapshot: Path | str = "", exact: bool | None = None,
        keep: bool = True,
    ) -> FleetInspection:  # fmt: skip
        """Inspect tenants by names or patterns, all without one: size, rows, versions, events, dead letters, health, drift.

        The inspection is kept, and the next one tells how each tenant grew since about a day before, and how long each finding has
        been known; without `keep` neither. `since` is a file of an earlier inspection, to which growth is measured instead;
        `snapshot` one to keep this inspection in, too. Where both are the same, the first has nothing to compare with. `exact`
        counts rows and measures files; without it that is done for up to 50 tenants. Raises UsageError for a file that cannot be
        used.
        """
        is_first = bool(since) and since == snapshot and not Path(since).exists()
        before = None if is_first else _earlier(self._installation, since)
        declared, everyone = _Declared.of(self._installation), self._installation.find()
        tenants = self._installation.find(names) if names else everyone
        with self._installation.database.connection() as connection:
            found = inspect_tenants(
                connection, tenants, declared.migrations, exact=exact, groups=declared.groups, among=everyone,
                foreign=self._installation.foreign_states(connection, everyone, declared.migrations),
            )  # fmt: skip
        inspections = [declared.check(one) for one in found]
        target = self._installation.target
        now = write_snapshot(snapshot, inspections, target) if snapshot else take_snapshot(inspections, target)
        fleet = FleetInspection(target, tuple(inspections), now, before)
        return self._followed(fleet, names, growth=not since) if keep else fleet

    def _followed(self, fleet: FleetInspection, names: Sequence[str], *, growth: bool) -> FleetInspection:
        """Add what earlier looks tell, and keep this one for the next; a look at nothing is nothing to compare with."""
        if not fleet.inspections:
            return fleet
        scope = [one.tenant.slug for one in fleet.inspections] if names else []
        found = follow(self._installation, "inspection", scope, fleet.now.taken_at, fleet, describe_figures(fleet.now))
        before = read_figures(found.base.figures, fleet.target) if growth and found.base else fleet.before
        return replace(fleet, before=before, ages=found.changes.ages, unkept=found.problem)

    def drift(self, names: Sequence[str] = (), against: str = "") -> Drift:
        """Compare schemas with `_template`, or with the tenant `against`; without `_template`, with what most tenants have."""
        everyone = self._installation.find()
        tenants = self._installation.find(names) if names else everyone
        model = self._installation.one(against) if against else None
        with self._installation.database.connection() as connection:
            if model and tenants == [model]:
                raise UsageError(f"tenant {model.slug} cannot be compared with itself: name another one to compare")
            others = [tenant for tenant in tenants if model is None or tenant.slug != model.slug]
            return compare_tenants(connection, others, against=model, among=everyone, target=self._installation.target)

    def create(self, slug: str, name: str = "") -> Plan[ProvisionPlan, Provisioned]:
        """Plan a new tenant: schema, roles and all migrations, or nothing. Raises UsageError for a bad or taken name."""
        database = self._own()

        def make(_: Work) -> ProvisionPlan:
            migrations = _migrations(self._installation)
            with database.connection() as connection:
                return plan_provision(connection, migrations, slug, name)

        def run(plan: ProvisionPlan, _: Work) -> Provisioned:
            return Provisioned(self.inspect([provision_tenant(database, plan, plan.id).slug], keep=False))

        return self._bound(make, run, "tenants")

    def drop(self, slug: str) -> Plan[DropPlan, DropResult]:
        """Plan to drop a tenant for good. Raises UsageError for one that is active, or on which other schemas depend."""
        database = self._own()

        def make(_: Work) -> DropPlan:
            tenant = self._installation.one(slug)
            with database.connection() as connection:
                plan = plan_drop(connection, tenant)
            plan.refuse()
            return plan

        def run(plan: DropPlan, work: Work) -> DropResult:
            return drop_tenant(database, slug, plan.id, lambda batch: work.advance(len(batch)))

        return self._bound(make, run, "tables")

    def offboard(self, slug: str, folder: Path | str = ".") -> Plan[OffboardPlan, Offboarded]:
        """Plan to export a tenant to a file in `folder`, to verify the file, and to drop the tenant. Raises as `drop`."""
        database = self._own()

        def make(_: Work) -> OffboardPlan:
            tenant = self._installation.one(slug)
            with database.connection() as connection:
                return plan_offboarding(connection, tenant, folder)

        def run(plan: OffboardPlan, work: Work) -> Offboarded:
            return offboard_tenant(database, plan, plan.id, lambda batch: work.advance(len(batch)))

        return self._bound(make, run, "tables")

    def repair(self, slug: str, accept: Sequence[Risk] = ()) -> Plan[RepairPlan, RepairRun]:
        """Plan the statements that make a tenant's schema like `_template` again; with a risk only those that `accept` names.

        The risks are `fails`, where rows may be in the way, and `loses`, where values are lost.
        """
        database, migrations = self._own(), _migrations(self._installation)

        def look() -> RepairPlan:
            tenant = self._installation.one(slug)
            with database.connection() as connection:
                return read_repair(connection, tenant, migrations, accept)

        def make(_: Work) -> RepairPlan:
            plan = look()
            return replace(plan, lint=lint_repair(plan)) if plan.steps else plan

        def run(plan: RepairPlan, _: Work) -> RepairRun:
            return run_repair(database, slug, migrations, plan.id, accept)

        return self._bound(make, run, "statements", look=look)

    def restore(self, file: Path | str, slug: str = "") -> Plan[RestorePlan, RestoreRun]:
        """Plan to put an exported tenant in the place of the damaged one, or of `slug`; what was there is kept, archived.

        The file is verified as a whole. The tenant has to be suspended before the plan can be applied, and to be activated after.
        """
        database, migrations = self._own(), _migrations(self._installation)

        def make(_: Work) -> RestorePlan:
            with database.connection() as connection:
                return plan_restore(connection, Path(file), slug or None)

        def run(plan: RestorePlan, _: Work) -> RestoreRun:
            return restore_tenant(database, plan, plan.id, migrations)

        return self._bound(make, run, "steps")

    def hand_over(self) -> Plan[HandOverPlan, HandOverRun]:
        """Plan to give what this login made before to all operators of the database."""
        database = self._own()

        def make(_: Work) -> HandOverPlan:
            with database.connection() as connection:
                return plan_hand_over(connection)

        return self._bound(make, lambda plan, _: hand_over(database, plan.id), "parts")

    def adopt(self, query: str = "", *, events: bool = False) -> Plan[AdoptionPlan, AdoptionRun]:
        """Plan to make the schemas that `query` lists tenants, at the migration versions that they are at; see `release`.

        Without `query` ERPKIT_TENANTS_QUERY lists them; `events` gives them the event log's tables, too. Nothing of what they hold
        is changed: what cannot be adopted is left out, and named.
        """
        installation = self._installation
        listing = query or installation.settings.tenants_query
        if not listing:
            raise UsageError(
                "what is to be adopted? Set ERPKIT_TENANTS_QUERY, or give a query: SELECT … AS slug, … AS schema_name FROM …"
            )
        log = read_migrations(()) if events else ()

        def make(_: Work) -> AdoptionPlan:
            with installation.database.connection() as connection:
                return plan_adoption(connection, listing, log)

        def run(plan: AdoptionPlan, work: Work) -> AdoptionRun:
            done = adopt_tenants(installation.database, plan, work.advance)
            return replace(done, is_listed_by_query=installation.is_foreign)

        return self._bound(make, run, "tenants")

    def release(self, names: Sequence[str] = (), *, with_events: bool = False) -> Plan[ReleasePlan, ReleaseRun]:
        """Plan to give adopted tenants back, all of them without a name: roles, grants and entries go, schemas and data stay.

        The event log's tables go as well: with rows in them only `with_events`. Raises UsageError for a tenant that erpkit made.
        """
        database = self._installation.database

        def make(_: Work) -> ReleasePlan:
            with database.connection() as connection:
                tenants = find_tenants(connection, names) if names else None
                return plan_release(connection, tenants, with_events=with_events)

        return self._bound(make, lambda plan, work: release_tenants(database, plan, work.advance), "tenants")

    def state(self, names: Sequence[str] | None = None) -> FleetState:
        """Read drift and a fingerprint of all schemas, and count the rows of the tenants named, of all without a name."""
        with self._own().connection() as connection:
            return read_fleet(connection, names)

    def rows(self) -> dict[str, dict[str, int]]:
        """Count the rows of all tables, by tenant and table."""
        tenants = self._installation.find()
        with self._installation.database.connection() as connection:
            return {tenant.slug: count_rows(connection, tenant.schema) for tenant in tenants}

    def export(self, slug: str, file: Path | str) -> Manifest:
        """Write a tenant to one file: a dump of its schema, and a manifest, which is returned."""
        return export_tenant(self._own(), self._installation.one(slug), Path(file))

    def import_(self, file: Path | str, slug: str = "") -> MovedTenant:
        """Make a tenant from an exported file, or nothing, under its own name or as `slug`."""
        return import_tenant(self._own(), Path(file), slug or None)

    def rename(self, slug: str, new_slug: str, name: str | None = None) -> MovedTenant:
        """Give a tenant another slug, and with it another schema and role; its name for people stays without `name`."""
        return rename_tenant(self._own(), slug, new_slug, name)

    def suspend(self, slug: str) -> Tenant:
        """Leave a tenant out of what is done to all tenants."""
        return self._set_status(slug, "suspended")

    def activate(self, slug: str) -> Tenant:
        """Take a tenant back into what is done to all tenants."""
        return self._set_status(slug, "active")

    def archive(self, slug: str) -> Tenant:
        """Keep a tenant for reading only, and out of what is done to all tenants, until it is activated."""
        return self._set_status(slug, "archived")

    def _set_status(self, slug: str, status: str) -> Tenant:
        database = self._own()
        database.check_writable()
        with database.connection() as connection:
            return set_status(connection, slug, status)

    def _own(self) -> Database:
        self._installation.own("registry of tenants")
        return self._installation.database

    def _bound(
        self,
        make: Callable[[Work], _Record],
        run: Callable[[_Record, Work], _Result],
        unit: str,
        look: Callable[[], _Record] | None = None,
    ) -> Plan[_Record, _Result]:
        return Plan(make(Work()), make, run, self._installation.target, unit, False, look)

    def __str__(self) -> str:
        return repr(self.table)

    def _repr_html_(self) -> str:
        return self.table._repr_html_()


def _tone(tenant: Tenant) -> Tone:
    return "" if tenant.is_active else "muted"


def _migrations(installation: Installation) -> list[Migration]:
    return list(read_migrations(installation.registry.modules, event_log=installation.has_event_log))


@dataclass(frozen=True)
class _Declared:
    """What the modules declare, against which tenants are inspected; `nothing` says why there is none of it."""

    migrations: Sequence[Migration] = ()
    groups: Sequence[ConsumerGroup] = ()
    nothing: str = ""

    @classmethod
    def of(cls, installation: Installation) -> Self:
        try:
            return cls(_migrations(installation), consumer_groups(installation.registry))
        except NoModulesError as error:  # sizes, rows and drift can be read all the same
            return cls(nothing=str(error))

    def check(self, inspection: TenantInspection) -> TenantInspection:
        """Return the inspection, with what could not be read for want of modules."""
        if not self.nothing:
            return inspection
        errors = {**inspection.errors, "versions": self.nothing, "backlog": self.nothing}
        return replace(inspection, errors=errors, unread=tuple(dict.fromkeys([*inspection.unread, *errors])))


def _earlier(installation: Installation, since: Path | str) -> Snapshot | None:
    """Read an earlier inspection; one of another database is refused before the work."""
    if not since:
        return None
    before = read_snapshot(since)
    compare_snapshots(before, take_snapshot([], installation.target))
    return before


_COLUMNS = (
    Column[Tenant]("tenant", lambda t: t.slug, tone=_tone),
    Column[Tenant]("name", lambda t: t.name, tone=_tone),
    Column[Tenant]("schema", lambda t: t.schema, tone=_tone, minor=True),
    Column[Tenant]("status", lambda t: t.status, tone=_tone),
)
