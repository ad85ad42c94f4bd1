"""Creating tenants, all or nothing, and inspecting them."""

import threading
from dataclasses import replace
from pathlib import Path

import pytest

from erpkit.database import TEMPLATE, Database
from erpkit.errors import ErpkitError, MigrationError, UsageError
from erpkit.migrations import Migration, parse_migration
from erpkit.sample.demo import Planted
from erpkit.tenants import (
    create_tenant,
    find_drift,
    find_tenants,
    get_tenant,
    inspect_tenants,
    list_tenants,
    set_status,
)
from tests.conftest import count_queries

BROKEN = Migration(
    "billing", 99, Path("billing/migrations/00099_broken.sql"), parse_migration("-- +goose Up\nSELECT no_such_column;")
)


def _leftovers(database: Database) -> list[tuple[str, ...]]:
    with database.connection() as connection:
        return connection.execute(
            "SELECT nspname FROM pg_namespace WHERE nspname LIKE 'tenant%' "
            "UNION ALL SELECT rolname FROM pg_roles WHERE starts_with(rolname, current_database() || '.')"
        ).fetchall()


def test_a_new_tenant_has_schema_role_and_every_migration(
    database: Database, migrations: tuple[Migration, ...]
) -> None:
    tenant = create_tenant(database, migrations, "acme", "Acme Ltd")
    with database.connection() as connection:
        assert [get_tenant(connection, "acme")] == list_tenants(connection) == [tenant]
        assert tenant.name == "Acme Ltd"
        assert tenant.role is not None
        role = connection.execute(
            "SELECT rolcanlogin, rolsuper FROM pg_roles WHERE rolname = %s", [tenant.role]
        ).fetchone()
        assert role == (False, False)
        (inspection,) = inspect_tenants(connection, [tenant], migrations)
    assert inspection.versions == {"erpkit": 10, "catalog": 3, "sales": 3, "inventory": 3, "billing": 4}
    assert inspection.problems == []


def test_a_migration_that_fails_leaves_nothing_of_the_tenant(
    database: Database, migrations: tuple[Migration, ...]
) -> None:
    with pytest.raises(
        MigrationError, match=r"tenant acme: .*00099_broken\.sql failed: .*no_such_column.* not created"
    ):
        create_tenant(database, [*migrations, BROKEN], "acme")
    assert _leftovers(database) == []
    with database.connection() as connection:
        assert list_tenants(connection) == []


def test_a_migration_outside_a_transaction_that_fails_leaves_nothing_either(
    database: Database, migrations: tuple[Migration, ...]
) -> None:
    content = parse_migration(
        "-- +goose NO TRANSACTION\n-- +goose Up\nCREATE INDEX CONCURRENTLY x ON sales_orders (currency);\nSELECT oops;"
    )
    with pytest.raises(MigrationError, match="tenant acme: .*oops"):
        create_tenant(database, [*migrations, replace(BROKEN, content=content)], "acme")
    assert _leftovers(database) == []


def test_a_migration_outside_a_transaction_is_part_of_a_new_tenant(
    database: Database, migrations: tuple[Migration, ...]
) -> None:
    content = parse_migration(
        "-- +goose NO TRANSACTION\n-- +goose Up\nCREATE INDEX CONCURRENTLY by_currency ON sales_orders (currency);"
    )
    tenant = create_tenant(database, [*migrations, replace(BROKEN, content=content)], "acme")
    with database.tenant_transaction(tenant) as connection:
        assert connection.execute(
            "SELECT indisvalid FROM pg_index WHERE indexrelid = 'by_currency'::regclass"
        ).fetchone() == (True,)


def test_a_taken_name_is_refused_and_the_tenant_that_has_it_untouched(
    database: Database, migrations: tuple[Migration, ...]
) -> None:
    create_tenant(database, migrations, "acme", "First")
    with pytest.raises(UsageError, match="tenant acme cannot be created: .*already exists"):
        create_tenant(database, migrations, "acme", "Second")
    with database.connection() as connection:
        assert [tenant.name for tenant in list_tenants(connection)] == ["First"]


def test_of_two_that_create_one_tenant_at_once_one_succeeds(
    database: Database, migrations: tuple[Migration, ...]
) -> None:
    outcomes: list[str] = []

    def create() -> None:
        try:
            create_tenant(database, migrations, "acme")
            outcomes.append("created")
        except ErpkitError:
            outcomes.append("refused")

    threads = [threading.Thread(target=create) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["created", "refused"]


@pytest.mark.parametrize(
    "slug", ['x"; drop schema acme; --', "a,b", "_template", "", "Acme", "a-b", "a" * 49, "аcme", "pg\n"]
)
def test_a_bad_name_is_refused_before_anything_is_done(database: Database, slug: str) -> None:
    with pytest.raises(
        UsageError, match="not a valid tenant name" if slug else "no tenant is named: give its name, or"
    ):
        create_tenant(database, [], slug)
    with database.connection() as connection:
        assert connection.execute("SELECT to_regclass('public.tenants')").fetchone() == (None,)


def test_an_unknown_tenant_is_refused_with_near_names(database: Database, migrations: tuple[Migration, ...]) -> None:
    create_tenant(database, migrations, "bluebird")
    with (
        database.connection() as connection,
        pytest.raises(UsageError, match="no tenant 'blubird'; did you mean bluebird"),
    ):
        find_tenants(connection, ["blubird"])


def test_an_unknown_status_is_refused(database: Database, migrations: tuple[Migration, ...]) -> None:
    create_tenant(database, migrations, "acme")
    with database.connection() as connection:
        with pytest.raises(UsageError, match="not a status"):
            set_status(connection, "acme", "asleep")
        assert set_status(connection, "acme", "suspended").status == "suspended"


def test_inspection_finds_each_planted_trouble_and_no_other(
    database: Database, erp: Planted, migrations: tuple[Migration, ...]
) -> None:
    with database.connection() as connection:
        inspections = {i.tenant.slug: i for i in inspect_tenants(connection, list_tenants(connection), migrations)}
    kinds = {erp.behind: "pending", erp.drifted: "drift", erp.suspended: "not active", erp.dead_letters: "dead letters"}
    assert {slug: sorted({one.kind for one in i.findings}) for slug, i in inspections.items()} == {
        slug: [kinds[slug]] for slug in erp.tenants
    }
    assert [one.problem for one in inspections[erp.drifted].findings] == list(map(str, inspections[erp.drifted].drift))
    assert inspections[erp.behind].pending == 1
    assert [str(one) for one in inspections[erp.drifted].drift] == [
        "column sales_orders.hotfix_note is extra", "index billing_payments_invoice is missing",
    ]  # fmt: skip
    assert inspections[erp.suspended].tenant.status == "suspended"
    assert [letter.error for letter in inspections[erp.dead_letters].dead_letters] == [
        "ErpkitError: no exchange rate for CHF"
    ] * 3


def test_inspection_counts_rows_events_and_bytes(
    database: Database, erp: Planted, migrations: tuple[Migration, ...]
) -> None:
    with database.connection() as connection:
        tenant = get_tenant(connection, erp.tenants[0])
        (inspection,) = inspect_tenants(connection, [tenant], migrations)
    with database.tenant_transaction(tenant) as connection:
        row = connection.execute("SELECT count(*), max(recorded_at) FROM erpkit_events").fetchone()
    assert row == (inspection.event_count, inspection.last_event)
    assert inspection.rows["catalog_products"] == 6
    assert inspection.size > 500_000


def test_a_schema_that_is_gone_is_a_problem_and_not_an_error(
    database: Database, migrations: tuple[Migration, ...]
) -> None:
    create_tenant(database, migrations, "acme")
    with database.connection() as connection:
        connection.execute("DROP SCHEMA tenant_acme CASCADE")
        (inspection,) = inspect_tenants(connection, list_tenants(connection), migrations)
    assert inspection.problems == ["acme: its schema tenant_acme does not exist"]


def test_inspecting_more_tenants_takes_no_more_queries(
    database: Database, erp: Planted, migrations: tuple[Migration, ...]
) -> None:
    with database.connection() as connection:
        tenants = list_tenants(connection)
        drifted = [tenant for tenant in tenants if tenant.slug == erp.drifted]
        one = count_queries(connection, lambda: inspect_tenants(connection, drifted, migrations))
        assert one == count_queries(connection, lambda: inspect_tenants(connection, tenants, migrations)) < 25


def test_drift_sees_every_kind_of_change(database: Database, erp: Planted) -> None:
    with database.connection() as connection:
        tenant = get_tenant(connection, erp.tenants[0])
        assert find_drift(connection, [tenant]) == {tenant.slug: []}
        connection.execute(
            "SET search_path TO tenant_acme; DROP TRIGGER catalog_keep_price ON catalog_products; "
            "ALTER TABLE sales_orders ALTER currency DROP NOT NULL; ALTER TABLE billing_payments ALTER amount TYPE numeric(16, 2); "
            "ALTER TABLE billing_payments DROP CONSTRAINT billing_payments_invoice_id_fkey; CREATE VIEW extra AS SELECT 1; "
            "CREATE OR REPLACE FUNCTION sales_order_total(wanted uuid) RETURNS numeric LANGUAGE sql AS 'SELECT 0::numeric'; "
            "RESET search_path"
        )
        words = find_drift(connection, [tenant, TEMPLATE])
    assert words["_template"] == []
    assert [str(line).split(" is ")[0] for line in words["acme"]] == [
        "column billing_payments.amount", "column sales_orders.currency",
        "constraint billing_payments.billing_payments_invoice_id_fkey",
        "function sales_order_total(wanted uuid)", "trigger catalog_products.catalog_keep_price", "view extra",
    ]  # fmt: skip
