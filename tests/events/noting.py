"""A tenant whose handler writes numbers down, for tests of workers: their effects in order, and waiting for them."""

from __future__ import annotations

import time
from collections.abc import Callable

from erpkit.database import Database, Tenant
from erpkit.events import Message, append
from erpkit.migrations import read_migrations
from erpkit.tenants import create_tenant


def make_tenant(database: Database, slug: str) -> Tenant:
    tenant = create_tenant(database, read_migrations([]), slug)
    with database.connection() as connection:
        connection.execute(
            f"CREATE TABLE {tenant.schema}.effects (id bigserial, number int); GRANT ALL ON {tenant.schema}.effects, "
            f'{tenant.schema}.effects_id_seq TO "{tenant.role}"'
        )
    return tenant


def append_numbers(database: Database, tenant: Tenant, *numbers: int) -> None:
    with database.tenant_transaction(tenant, write=True) as connection:
        append(connection, [Message("notes.Noted", {"number": number}) for number in numbers])


def effects(database: Database, tenant: Tenant) -> list[int]:
    with database.tenant_transaction(tenant) as connection:
        return [number for (number,) in connection.execute("SELECT number FROM effects ORDER BY id")]


def until(condition: Callable[[], object], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.01)
