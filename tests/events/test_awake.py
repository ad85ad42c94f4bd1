"""Who is told of an append: a worker that sleeps, and not one that looks at the tenant anyway. None is missed."""

from __future__ import annotations

import time
from collections.abc import Iterator

import psycopg
import pytest

from erpkit.database import Database, Tenant
from erpkit.events import Message, append
from erpkit.events.worker import PolledTenants
from erpkit.migrations import read_migrations
from erpkit.tenants import create_tenant


@pytest.fixture(scope="module")
def acme(shared_database: Database) -> Tenant:
    return create_tenant(shared_database, read_migrations([]), "acme")


@pytest.fixture
def worker(shared_database: Database) -> Iterator[psycopg.Connection]:
    """The connection of a worker that listens."""
    with psycopg.connect(shared_database.conninfo, autocommit=True) as connection:
        connection.execute("LISTEN erpkit_events")
        yield connection


def _append(database: Database, tenant: Tenant, count: int = 1) -> None:
    with database.tenant_transaction(tenant, write=True) as connection:
        append(connection, [Message("notes.Noted", {"number": number}) for number in range(count)])


def _heard(worker: psycopg.Connection) -> list[str]:
    return [notify.payload for notify in worker.notifies(timeout=0.1)]


def _let_go(polled: PolledTenants, schema: str) -> bool:
    """Look at what is due until one is let go of, for ten seconds at the most."""
    deadline = time.monotonic() + 10
    while polled.wait_time() < float("inf") and time.monotonic() < deadline:
        time.sleep(min(polled.wait_time(), 0.01))
        due = polled.due()
    return polled.wait_time() == float("inf") and due == {schema}


def test_an_append_says_nothing_while_a_worker_looks_at_the_tenant_and_again_after_that(
    shared_database: Database, acme: Tenant, worker: psycopg.Connection
) -> None:
    _append(shared_database, acme)
    assert _heard(worker) == ["tenant_acme"]
    polled = PolledTenants(worker)
    polled.add(["tenant_acme"])
    for count in (1, 50):
        _append(shared_database, acme, count)
    assert _heard(worker) == []
    assert _let_go(polled, "tenant_acme")  # with a last look at it
    _append(shared_database, acme)
    assert _heard(worker) == ["tenant_acme"]


def test_a_tenant_is_looked_at_until_an_append_that_said_nothing_is_committed(
    shared_database: Database, acme: Tenant, worker: psycopg.Connection
) -> None:
    polled = PolledTenants(worker)
    polled.add(["tenant_acme"])
    with shared_database.tenant_transaction(acme, write=True) as connection:
        append(connection, [Message("notes.Noted", {"number": 1})])
        until = time.monotonic() + 0.8  # past its time
        while time.monotonic() < until:
            polled.due()
            assert polled.wait_time() <= 0.1
            time.sleep(polled.wait_time())
    assert _heard(worker) == []
    assert _let_go(polled, "tenant_acme")


def test_a_worker_does_not_stay_where_an_append_is_about_to_wake_it(
    shared_database: Database, acme: Tenant, worker: psycopg.Connection
) -> None:
    with shared_database.tenant_transaction(acme, write=True) as connection:
        append(connection, [Message("notes.Noted", {"number": 1})])
        polled = PolledTenants(worker)
        polled.add(["tenant_acme"])
        assert polled.due() == set()
    assert _heard(worker) == ["tenant_acme"]
    polled.add(["tenant_acme"])
    assert polled.wait_time() <= 0.1


def test_a_worker_that_ends_leaves_nobody_believing_that_it_is_awake(shared_database: Database, acme: Tenant) -> None:
    with psycopg.connect(shared_database.conninfo, autocommit=True) as dead:
        PolledTenants(dead).add(["tenant_acme"])
    with psycopg.connect(shared_database.conninfo, autocommit=True) as worker:
        worker.execute("LISTEN erpkit_events")
        deadline = time.monotonic() + 10
        while _locks(worker) and time.monotonic() < deadline:  # until its backend is gone
            pass
        _append(shared_database, acme)
        assert _heard(worker) == ["tenant_acme"]


def _locks(connection: psycopg.Connection) -> int:
    row = connection.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'").fetchone()
    return row[0] if row else 0
