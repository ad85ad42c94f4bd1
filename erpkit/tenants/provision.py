"""Planning a new tenant, so that it can be looked at and confirmed before it is made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass, field

from erpkit.database import Connection, Database, Tenant
from erpkit.errors import MigrationError, PlanChangedError
from erpkit.finding import Finding
from erpkit.migrations import Migration, plan_up, read_applied, run_plan
from erpkit.plan import plan_id
from erpkit.table import Column, Table
from erpkit.tenants.fleet import FleetInspection
from erpkit.tenants.inspection import TenantInspection
from erpkit.tenants.lifecycle import create_tenant, ensure_template, new_tenant, refuse_taken

__all__ = ["ProvisionPlan", "Provisioned", "plan_provision", "provision_tenant"]


@dataclass(frozen=True)
class ProvisionPlan:
    """The tenant that would be made, and the migrations that it would get, in order."""

    tenant: Tenant
    migrations: tuple[Migration, ...] = field(repr=False)

    @property
    def id(self) -> str:
        """`provision-` and ten hexadecimal digits that stand for exactly this tenant and these migrations."""
        facts = [astuple(self.tenant), [(m.name, m.content.up) for m in self.migrations]]
        return plan_id("provision", facts)

    @property
    def size(self) -> int:
        """How many tenants it makes."""
        return 1

    @property
    def facts(self) -> dict[str, object]:
        """Its figures, with those of a result at naught."""
        return {
            "tenant": self.tenant.slug,
            "migrations": len(self.migrations),
            "created": 0,
            "pending": 0,
            "drift": 0,
        }

    @property
    def findings(self) -> tuple[Finding, ...]:
        """There are none: a name that cannot be had is refused."""
        return ()

    @property
    def tables(self) -> tuple[Table[Migration], ...]:
        """One line a migration that the new tenant would get, in order."""
        return (Table(_MIGRATIONS, self.migrations, "There are no migrations."),)

    def check(self, confirm: str) -> None:
        """Raise PlanChangedError unless `confirm` is this plan's id."""
        PlanChangedError.check(confirm, self.id)

    def __str__(self) -> str:
        tenant = self.tenant
        return (
            f"tenant {tenant.slug} ({tenant.name}) with schema {tenant.schema}, role {tenant.role} and "
            f"{len(self.migrations)} migrations"
        )


_MIGRATIONS = (
    Column[Migration]("migration", lambda m: m.name),
    Column[Migration]("statements", lambda m: len(m.content.up)),
)


@dataclass(frozen=True)
class Provisioned:
    """A new tenant, with its inspection."""

    fleet: FleetInspection

    @property
    def tenant(self) -> Tenant:
        """The new tenant."""
        return self.fleet.inspections[0].tenant

    @property
    def facts(self) -> dict[str, object]:
        """Whether it has all migrations, and is like the template."""
        (made,) = self.fleet.inspections
        return {"created": 1, "pending": made.pending, "drift": len(made.drift)}

    @property
    def findings(self) -> list[Finding]:
        """What its inspection found."""
        return self.fleet.findings

    @property
    def tables(self) -> tuple[Table[TenantInspection], ...]:
        """Its state in one line."""
        return (self.fleet.table,)

    def __str__(self) -> str:
        return f"{self.tenant.slug} was created: schema {self.tenant.schema}, role {self.tenant.role}"


def plan_provision(connection: Connection, migrations: Sequence[Migration], slug: str, name: str = "") -> ProvisionPlan:
    """Plan a new tenant; raises UsageError for a bad or taken name."""
    tenant = new_tenant(connection, slug, name)
    refuse_taken(connection, tenant)
    return ProvisionPlan(tenant, tuple(migrations))


def provision_tenant(database: Database, plan: ProvisionPlan, confirm: str) -> Tenant:
    """Bring `_template` to the newest version, then create the tenant as planned, if `confirm` is the plan's id.

    What fails on `_template` would fail on the tenant: it raises MigrationError, and the tenant is not created.
    """
    database.check_writable()
    plan.check(confirm)
    with database.connection() as connection:
        template = ensure_template(connection)
        migrations = plan_up([template], plan.migrations, read_applied(connection, [template], plan.migrations))
    for slug, reason in migrations.refused.items():
        raise MigrationError(f"tenant {slug}: {reason}; {plan.tenant.slug} was not created")
    if failed := run_plan(database, migrations, migrations.id).failed:
        raise MigrationError(str(failed[0].error))
    return create_tenant(database, plan.migrations, plan.tenant.slug, plan.tenant.name)
