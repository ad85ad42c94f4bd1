"""The demo's dozen tenants, with troubles planted so that there is something to find."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from random import Random
from uuid import UUID

from erpkit.database import Database, Tenant
from erpkit.events import CommandBus, dispatch
from erpkit.migrations import Migration, plan_down, plan_up, read_applied, read_migrations, run_plan
from erpkit.modules import Registry
from erpkit.sample.data import Size, do_business
from erpkit.sample.sales.messages import Line, PlaceOrder
from erpkit.tenants import create_tenant, ensure_template, set_status

__all__ = ["Planted", "plant"]

_SLUGS = (
    "acme", "bluebird", "cobalt", "delta_tools", "elm_street", "fjord", "granite", "harbour", "indigo", "juniper",
    "kestrel", "lagoon",
)  # fmt: skip
_SIZE = Size()


@dataclass(frozen=True)
class Planted:
    """Which tenants there are, and which of them is in which trouble."""

    tenants: tuple[str, ...]
    behind: str
    drifted: str
    suspended: str
    dead_letters: str


def plant(
    database: Database,
    registry: Registry,
    *,
    tenants: int = 12,
    seed: int = 1,
    size: Size = _SIZE,
    until: date = date(2026, 10, 31),
    progress: Callable[[str], object] = str,
) -> Planted:
    """Create tenants that have done some business, and plant the four troubles (with four tenants or more, one in each).

    The database must hold none of these tenants. `progress` is called with each tenant's slug when it is ready.
    """
    migrations = read_migrations(registry.modules)
    with database.connection() as connection:
        template = ensure_template(connection)
        plan = plan_up([template], migrations, read_applied(connection, [template]))
    run_plan(database, plan, plan.id)
    slugs = [_SLUGS[n] if n < len(_SLUGS) else f"tenant_{n + 1:04d}" for n in range(tenants)]
    made = []
    for number, slug in enumerate(slugs):
        tenant = create_tenant(database, migrations, slug)
        do_business(database, registry, tenant, seed * 1000 + number, size, until)
        made.append(tenant)
        progress(slug)
    return _plant_troubles(database, registry, migrations, made, until)


def _plant_troubles(
    database: Database, registry: Registry, migrations: tuple[Migration, ...], tenants: list[Tenant], until: date
) -> Planted:
    dead, drifted, behind, suspended = (tenants[n % len(tenants)] for n in (2, 5, 7, 10))
    if len({dead, drifted, behind, suspended}) < 4:
        dead, drifted, behind, suspended = (tenants[n % len(tenants)] for n in range(4))
    _order_in_francs(database, registry, dead, until)
    _drift(database, drifted)
    _fall_behind(database, migrations, behind)
    with database.connection() as connection:
        set_status(connection, suspended.slug, "suspended")
    return Planted(tuple(t.slug for t in tenants), behind.slug, drifted.slug, suspended.slug, dead.slug)


def _order_in_francs(database: Database, registry: Registry, tenant: Tenant, until: date) -> None:
    """Billing has no rate for Swiss francs: three orders end as dead letters."""
    random = Random(tenant.slug)
    bus = CommandBus(database, registry)
    for _ in range(3):
        ids = [UUID(int=random.getrandbits(128), version=4) for _ in range(2)]
        bus.send(tenant, PlaceOrder(ids[0], UUID(int=1), until, (Line("A-001", 1),), "CHF"), ids[1])
    dispatch(database, tenant, registry)


def _drift(database: Database, tenant: Tenant) -> None:
    """Somebody changed the schema by hand."""
    with database.connection() as connection:
        connection.execute(
            f"ALTER TABLE {tenant.schema}.sales_orders ADD COLUMN hotfix_note text; DROP INDEX {tenant.schema}.billing_payments_invoice"
        )


def _fall_behind(database: Database, migrations: tuple[Migration, ...], tenant: Tenant) -> None:
    with database.connection() as connection:
        plan = plan_down([tenant], migrations, read_applied(connection, [tenant]), "billing", 3)
    run_plan(database, plan, plan.id)
