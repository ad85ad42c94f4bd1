"""Drift while somebody holds a tenant's table locked: that tenant alone could not be compared, and soon."""

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter

import pytest

from erpkit.database import TEMPLATE, Database, Tenant
from erpkit.tenants import create_tenant, ensure_template, find_drift
from erpkit.tenants.drift import drift_script
from erpkit.tenants.fingerprints import read_fingerprints

SOON = 5  # seconds, on a busy machine; the wait itself is one


@pytest.fixture(scope="module")
def tenants(shared_database: Database) -> list[Tenant]:
    with shared_database.connection() as connection:
        ensure_template(connection)
    made = [create_tenant(shared_database, (), slug) for slug in ("acme", "user", "zeta")]
    with shared_database.connection() as connection, connection.transaction():
        for tenant in (TEMPLATE, *made):
            connection.execute(
                f"SET LOCAL search_path TO {tenant.schema}; CREATE FUNCTION f(a integer) RETURNS integer LANGUAGE sql "
                "AS 'SELECT a'; CREATE TABLE plain (a integer); CREATE TABLE checked (a integer CHECK (f(a) > 0)); "
                "CREATE VIEW seen AS SELECT a FROM checked"
            )
        connection.execute("SET LOCAL search_path TO tenant_zeta; CREATE TABLE late (a integer)")
    return made


@contextmanager
def _locked(database: Database, table: str) -> Iterator[None]:
    with database.connection() as other, other.transaction():
        other.execute(f"SET LOCAL application_name TO nightly; LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE".encode())
        yield


def test_a_tenant_with_a_locked_table_could_not_be_compared_and_the_others_are(
    shared_database: Database, tenants: list[Tenant]
) -> None:
    with _locked(shared_database, "tenant_acme.checked"), shared_database.connection() as connection:
        started = perf_counter()
        drift = find_drift(connection, tenants)
        assert perf_counter() - started < SOON
    (difference,) = drift["acme"]
    assert str(difference).startswith("could not be compared: table checked is locked by process ")
    assert "nightly, idle in transaction" in str(difference)
    assert drift_script(drift["acme"]) == [f"-- {difference}"]
    assert drift["user"] == []
    assert [str(one) for one in drift["zeta"]] == ["table late is extra"]


def test_a_lock_on_a_table_that_no_expression_refers_to_is_no_obstacle(
    shared_database: Database, tenants: list[Tenant]
) -> None:
    with _locked(shared_database, "tenant_acme.plain"), shared_database.connection() as connection:
        assert find_drift(connection, tenants)["acme"] == []


def test_fingerprints_that_were_read_before_say_what_was_locked(
    shared_database: Database, tenants: list[Tenant]
) -> None:
    schemas = [TEMPLATE.schema, *(tenant.schema for tenant in tenants)]
    with shared_database.connection() as connection:
        with _locked(shared_database, "tenant_acme.checked"):
            prints = read_fingerprints(connection, schemas)
        drift = find_drift(connection, tenants, fingerprints=prints)
    assert [one.change for one in drift["acme"]] == ["unknown"]
    assert drift["user"] == []


def test_nothing_is_compared_with_a_template_that_is_locked(shared_database: Database, tenants: list[Tenant]) -> None:
    with _locked(shared_database, "_template.checked"), shared_database.connection() as connection:
        drift = find_drift(connection, tenants)
    for differences in drift.values():
        assert [str(one).split(" is locked by")[0] for one in differences] == [
            "could not be compared: in _template, table checked"
        ]
