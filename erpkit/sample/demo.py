"""The demo's dozen tenants, with troubles planted so that there is something to find."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from random import Random
from uuid import UUID

from erpkit.database import Database, Tenant
from erpkit.events import CommandBus, dispatch
from erpkit.migrations import Migration, plan_down, plan_up, read_applied, read_migrations, run_plan
from erpkit.modules import Module, Registry
from erpkit.sample.careless import bonus
from erpkit.sample.data import Size, do_business, send_orders
from erpkit.sample.sales.messages import Line, PlaceOrder
from erpkit.tenants import Across, across, create_tenant, ensure_template, export_tenant, set_status

__all__ = [
    "Planted",
    "careless_module",
    "choose_troubles",
    "count_francs",
    "count_handled",
    "count_outcomes",
    "damage",
    "drift_by_hand",
    "place_orders",
    "plant",
]

_SLUGS = (
    "acme", "bluebird", "cobalt", "delta_tools", "elm_street", "fjord", "granite", "harbour", "indigo", "juniper",
    "kestrel", "lagoon",
)  # fmt: skip
_SIZE = Size()
_AT_ONCE = 2  # tenants that do business: the server handles the statement of one while Python prepares the other's
_BY_HAND = """UPDATE sales_orders SET hotfix_note = 'paid in cash' WHERE currency = 'USD';
CREATE OR REPLACE FUNCTION billing_in_euros(amount numeric, in_currency text) RETURNS numeric LANGUAGE sql AS 'SELECT amount'"""
_IN_FRANCS = """SELECT count(*) AS orders, count(invoice_id) AS invoices, count(invoiced) AS booked
FROM sales_orders LEFT JOIN billing_invoices USING (order_id) LEFT JOIN billing_ledger USING (invoice_id)
WHERE currency = 'CHF'"""
_HANDLED = """
SELECT count(*) AS orders, count(r.order_id) AS reserved, count(invoice_id) AS invoices, count(invoiced) AS booked
  FROM sales_orders LEFT JOIN (SELECT DISTINCT order_id FROM inventory_reservations) r USING (order_id)
  LEFT JOIN billing_invoices USING (order_id) LEFT JOIN billing_ledger USING (invoice_id)
"""
_OUTCOMES = """
SELECT count(DISTINCT order_id) AS orders, count(DISTINCT r.order_id) AS reserved, count(DISTINCT s.order_id) AS short,
       count(DISTINCT invoice_id) AS invoices, count(invoiced) FILTER (WHERE invoiced > 0) > 0 AS booked
  FROM sales_orders LEFT JOIN inventory_reservations r USING (order_id) LEFT JOIN inventory_shortages s USING (order_id)
  LEFT JOIN billing_invoices USING (order_id) LEFT JOIN billing_ledger USING (invoice_id)
"""
_UNTIL = date(2026, 10, 31)


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
    until: date = _UNTIL,
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
    made: list[Tenant] = []
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        at_work: deque[tuple[str, Future[None]]] = deque()
        for number, slug in enumerate(slugs):
            made.append(create_tenant(database, migrations, slug))
            work = pool.submit(do_business, database, registry, made[-1], seed * 1000 + number, size, until)
            at_work.append((slug, work))
            while at_work and (len(at_work) > _AT_ONCE or len(made) == tenants):
                ready, work = at_work.popleft()
                work.result()
                progress(ready)
    return _plant_troubles(database, registry, migrations, made, until)


def choose_troubles(slugs: Sequence[str]) -> Planted:
    """Return which of the tenants get which trouble; with four or more, each another one. Pure."""
    dead, drifted, behind, suspended = (slugs[n % len(slugs)] for n in (2, 5, 7, 10))
    if len({dead, drifted, behind, suspended}) < 4:
        dead, drifted, behind, suspended = (slugs[n % len(slugs)] for n in range(4))
    return Planted(tuple(slugs), behind, drifted, suspended, dead)


def place_orders(
    database: Database, registry: Registry, tenant: Tenant, orders: int, seed: int = 1, size: Size = _SIZE
) -> None:
    """Place some more orders, and leave what follows from them to a dispatcher; `size` is what it was planted with."""
    send_orders(database, registry, tenant, seed, replace(size, orders=orders), _UNTIL)


def careless_module() -> Module:
    """Return a module that uses another one without declaring it; the sample ERP does without."""
    return bonus.module


def drift_by_hand(database: Database, tenant: Tenant) -> None:
    """Change a function of the tenant by hand, and fill a column that was added by hand."""
    with database.transaction() as connection:
        connection.execute(f"SET LOCAL search_path TO {tenant.schema}; {_BY_HAND}".encode())


def damage(database: Database, registry: Registry, tenant: Tenant, path: Path) -> None:
    """Export a tenant with three orders that are not handled yet, let it go on working, and damage it; it is suspended then."""
    place_orders(database, registry, tenant, 3)
    export_tenant(database, tenant, path)
    dispatch(database, tenant, registry)
    place_orders(database, registry, tenant, 2, seed=2)
    with database.connection() as connection:
        connection.execute(f"DROP TABLE {tenant.schema}.billing_ledger; TRUNCATE {tenant.schema}.sales_order_lines")
        set_status(connection, tenant.slug, "suspended")


def count_handled(database: Database, registry: Registry, tenant: Tenant) -> Across:
    """Let a tenant's handlers do what waits, and count its orders and what became of them."""
    dispatch(database, tenant, registry)
    return across(database, _HANDLED, tenants=[tenant])


def count_francs(database: Database, registry: Registry, tenant: Tenant) -> Across:
    """Let a tenant's handlers do what waits, and count its orders in francs, with their invoices and lines in the ledger."""
    dispatch(database, tenant, registry)
    return across(database, _IN_FRANCS, tenants=[tenant])


def count_outcomes(database: Database, tenant: Tenant) -> Across:
    """Count a tenant's orders, how many are reserved or on the list of shortages, and what followed from them."""
    return across(database, _OUTCOMES, tenants=[tenant])


def _plant_troubles(
    database: Database, registry: Registry, migrations: tuple[Migration, ...], tenants: list[Tenant], until: date
) -> Planted:
    by_slug = {tenant.slug: tenant for tenant in tenants}
    planted = choose_troubles(list(by_slug))
    _order_in_francs(database, registry, by_slug[planted.dead_letters], until)
    _drift(database, by_slug[planted.drifted])
    _fall_behind(database, migrations, by_slug[planted.behind])
    with database.connection() as connection:
        set_status(connection, planted.suspended, "suspended")
    return planted


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
