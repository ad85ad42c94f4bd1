"""Planning a new tenant, so that it can be looked at and confirmed before it is made."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import astuple, dataclass, field

from erpkit.database import Connection, Database, Tenant
from erpkit.errors import MigrationError, PlanChangedError
from erpkit.migrations import Migration, plan_up, read_applied, run_plan
from erpkit.tenants.lifecycle import create_tenant, ensure_template, new_tenant, refuse_taken

__all__ = ["ProvisionPlan", "plan_provision", "provision_tenant"]


@dataclass(frozen=True)
class ProvisionPlan:
    """The tenant that would be made, and the migrations that it would get, in order."""

    tenant: Tenant
    migrations: tuple[Migration, ...] = field(repr=False)

    @property
    def id(self) -> str:
        """`provision-` and ten hexadecimal digits that stand for exactly this tenant and these migrations."""
        facts = [astuple(self.tenant), [(m.name, m.content.up) for m in self.migrations]]
        return f"provision-{hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:10]}"

    def check(self, confirm: str) -> None:
        """Raise PlanChangedError unless `confirm` is this plan's id."""
        PlanChangedError.check(confirm, self.id)


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
        migrations = plan_up([template], plan.migrations, read_applied(connection, [template]))
    if failed := run_plan(database, migrations, migrations.id).failed:
        raise MigrationError(str(failed[0].error))
    return create_tenant(database, plan.migrations, plan.tenant.slug, plan.tenant.name)
