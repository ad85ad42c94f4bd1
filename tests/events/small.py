"""A small ERP for tests of handlers: a tenant with one table of what was done, and functions to append and look."""

from __future__ import annotations

from dataclasses import dataclass

from erpkit.database import Connection, Database, Tenant
from erpkit.events import Message, append, consumer_groups, list_dead_letters
from erpkit.events.retention import Retention, plan_prune, prune
from erpkit.migrations import read_migrations
from erpkit.modules import EventHandler, Module, Registry
from erpkit.plan import Work
from erpkit.tenants import create_tenant


@dataclass(frozen=True)
class Placed:
    number: int


@dataclass(frozen=True)
class Cancelled:
    number: int


@dataclass(frozen=True)
class Weighed:
    number: int
    weight: float = 1.0
    note: str = ""


def erp_of(*handlers: EventHandler) -> Registry:
    """Return an ERP of one module, which publishes all events, with these handlers."""
    return Registry.of([Module("shop", publishes=(Placed, Cancelled, Weighed), subscribes=handlers)])


def make_tenant(database: Database, slug: str = "acme") -> Tenant:
    """Make a tenant with the table `done`, in which a number may stand twice only until the commit."""
    tenant = create_tenant(database, read_migrations([]), slug)
    with database.connection() as connection:
        connection.execute(
            f"CREATE TABLE {tenant.schema}.done (id bigserial, number int, what text DEFAULT '', "
            "UNIQUE (number, what) DEFERRABLE INITIALLY DEFERRED); "
            f'GRANT ALL ON {tenant.schema}.done, {tenant.schema}.done_id_seq TO "{tenant.role}"'.encode()
        )
    return tenant


def publish(database: Database, tenant: Tenant, *events: Placed | Cancelled | Weighed) -> None:
    """Append events to the tenant's log."""
    with database.tenant_transaction(tenant, write=True) as connection:
        append(connection, [Message(f"shop.{type(e).__name__}", dict(vars(e))) for e in events])


def do(connection: Connection, number: int, what: str = "") -> None:
    """Note in `done` what a handler does."""
    connection.execute("INSERT INTO done (number, what) VALUES (%s, %s)", [number, what])


def done(database: Database, tenant: Tenant) -> list[tuple[int, str]]:
    """Return what was done, in its order."""
    with database.tenant_transaction(tenant) as connection:
        return list(connection.execute("SELECT number, what FROM done ORDER BY id"))


def letters(database: Database, tenant: Tenant) -> list[tuple[int, str]]:
    """Return the offset and the error of each open dead letter."""
    with database.connection() as connection:
        return [(one.offset, one.error) for one in list_dead_letters(connection, [tenant])]


def run(database: Database, tenant: Tenant, statement: str) -> list[tuple[object, ...]]:
    """Run a statement in the tenant's schema."""
    with database.tenant_transaction(tenant, write=True) as connection:
        cursor = connection.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []


def forget(database: Database, tenant: Tenant, registry: Registry, kind: str = "inbox") -> int:
    """Let all events be old, and prune the inbox, or the events; return how many rows went."""
    run(database, tenant, "UPDATE erpkit_events SET recorded_at = now() - interval '60 days'")
    run(database, tenant, "UPDATE erpkit_inbox SET handled_at = now() - interval '60 days'")
    with database.connection() as connection:
        plan = plan_prune(connection, [tenant], Retention.of([f"{kind}=30d"]), consumer_groups(registry))
    return sum(prune(database, plan, Work()).counts.values())
