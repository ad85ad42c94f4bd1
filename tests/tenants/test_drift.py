"""Drift: every kind of difference, its words, and DDL that undoes it."""

from collections.abc import Iterator

import pytest

from erpkit.database import TEMPLATE, Connection, Database, Tenant
from erpkit.migrations import Migration, plan_up, read_applied, run_plan
from erpkit.tenants import create_tenant, ensure_template, find_drift
from erpkit.tenants.ddl import MARKS
from erpkit.tenants.drift import Difference, Drift, drift_script
from tests.conftest import count_queries


@pytest.fixture(scope="module")
def tenants(shared_database: Database, migrations: tuple[Migration, ...]) -> list[Tenant]:
    with shared_database.connection() as connection:
        template = ensure_template(connection)
        plan = plan_up([template], migrations, read_applied(connection, [template]))
    assert not run_plan(shared_database, plan, plan.id).failed
    return [create_tenant(shared_database, migrations, slug) for slug in ("acme", "user")]


@pytest.fixture
def connection(shared_database: Database, tenants: list[Tenant]) -> Iterator[Connection]:
    """A connection whose changes are undone after the test."""
    with shared_database.connection() as connection, connection.transaction(force_rollback=True):
        yield connection


def _change(connection: Connection, tenant: Tenant, statements: str) -> None:
    script = statements.replace("ROLE", f'"{tenant.role}"').replace("{schema}", tenant.schema)
    connection.execute(f"SET LOCAL search_path TO {tenant.schema}; {script}; SET LOCAL search_path TO public")


def _decided(script: str) -> bytes:
    """Return the script of a person who wants everything that stands in it as a comment."""
    for mark in MARKS:
        script = script.replace(mark, "")
    return script.encode()


CHANGES = {
    "table sales_accounts is missing": "DROP TABLE sales_accounts",
    "table catalog_price_history is missing": "DROP TABLE catalog_price_history",
    'table "Odd ""name" is extra': 'CREATE TABLE "Odd ""name" ("a b" serial PRIMARY KEY, c text CHECK (c <> $$x$$)); '
    'CREATE INDEX "odd one" ON "Odd ""name" (c)',
    "view late is extra": "CREATE VIEW late AS SELECT 1 AS a",
    "materialized view late is extra": "CREATE MATERIALIZED VIEW late AS SELECT 1 AS a; CREATE INDEX x ON late (a)",
    "column sales_orders.hotfix_note is extra": "ALTER TABLE sales_orders ADD hotfix_note text",
    'column sales_orders."Hot fix" is extra': 'ALTER TABLE sales_orders ADD "Hot fix" text',
    "column billing_invoices.due_on is missing": "ALTER TABLE billing_invoices DROP due_on",
    "column billing_payments.payment_id is missing": "ALTER TABLE billing_payments DROP payment_id",
    "column billing_payments.amount is 'numeric(16,2) not null', not 'numeric(14,2) not null'":
        "ALTER TABLE billing_payments ALTER amount TYPE numeric(16, 2)",
    "column inventory_stock.on_hand is 'integer not null default 5', not 'integer not null default 0'":
        "ALTER TABLE inventory_stock ALTER on_hand SET DEFAULT 5",
    "column inventory_stock.on_hand is 'integer not null', not 'integer not null default 0'":
        "ALTER TABLE inventory_stock ALTER on_hand DROP DEFAULT",
    "column sales_orders.currency is 'text', not 'text not null'": "ALTER TABLE sales_orders ALTER currency DROP NOT NULL",
    "column billing_invoices.due_on is 'date not null', not 'date'": "ALTER TABLE billing_invoices ALTER due_on SET NOT NULL",
    "constraint billing_payments.billing_payments_invoice_id_fkey is missing":
        "ALTER TABLE billing_payments DROP CONSTRAINT billing_payments_invoice_id_fkey",
    "constraint sales_orders.sales_orders_currency_check is 'CHECK ((length(currency) = 4))', not 'CHECK ((length(currency) = 3))'":
        "ALTER TABLE sales_orders DROP CONSTRAINT sales_orders_currency_check; "
        "ALTER TABLE sales_orders ADD CONSTRAINT sales_orders_currency_check CHECK (length(currency) = 4)",
    "constraint sales_orders.far is extra": "ALTER TABLE sales_orders ADD CONSTRAINT far CHECK (placed_on > '2000-01-01')",
    "index billing_payments_invoice is missing": "DROP INDEX billing_payments_invoice",
    "index by_currency is extra": "CREATE INDEX by_currency ON sales_orders (currency)",
    "index billing_invoices_due is 'CREATE INDEX billing_invoices_due ON billing_invoices USING btree (due_on DESC)', "
    "not 'CREATE INDEX billing_invoices_due ON billing_invoices USING btree (due_on)'":
        "DROP INDEX billing_invoices_due; CREATE INDEX billing_invoices_due ON billing_invoices (due_on DESC)",
    "function sales_order_total(wanted uuid) is defined differently":
        "CREATE OR REPLACE FUNCTION sales_order_total(wanted uuid) RETURNS numeric LANGUAGE sql AS 'SELECT 0::numeric'",
    "function billing_in_euros(amount numeric, in_currency text) is missing": "DROP FUNCTION billing_in_euros",
    "function late(a integer) is extra": "CREATE FUNCTION late(a int) RETURNS int LANGUAGE sql RETURN a + 1",
    "trigger catalog_products.catalog_keep_price is missing": "DROP TRIGGER catalog_keep_price ON catalog_products",
    "trigger catalog_products.catalog_keep_price is defined differently":
        "ALTER TABLE catalog_products DISABLE TRIGGER catalog_keep_price",
    "trigger sales_orders.again is extra":
        "CREATE TRIGGER again BEFORE UPDATE ON sales_orders FOR EACH ROW EXECUTE FUNCTION catalog_keep_price()",
    "sequence counter is extra": "CREATE SEQUENCE counter",
    "sequence billing_payments_payment_id_seq is 'as bigint increment by 10 minvalue 1 maxvalue 9223372036854775807 start with 1 "
    "cache 1 no cycle', not 'as bigint increment by 1 minvalue 1 maxvalue 9223372036854775807 start with 1 cache 1 no cycle'":
        "ALTER SEQUENCE billing_payments_payment_id_seq INCREMENT BY 10",
    "sequence owner billing_payments_payment_id_seq is missing":
        "ALTER SEQUENCE billing_payments_payment_id_seq OWNED BY NONE",
    "grant SELECT on table sales_orders to PUBLIC is extra": "GRANT SELECT ON sales_orders TO PUBLIC",
    "grant SELECT on column sales_orders.currency to PUBLIC is extra": "GRANT SELECT (currency) ON sales_orders TO PUBLIC",
    "grant USAGE on schema to PUBLIC is extra": "GRANT USAGE ON SCHEMA {schema} TO PUBLIC",
    "grant DELETE on table sales_orders to {role} is missing": "REVOKE DELETE ON sales_orders FROM ROLE",
    "grant TRUNCATE on table sales_orders to {role} is extra": "GRANT TRUNCATE ON sales_orders TO ROLE",
    "grant USAGE on sequence billing_payments_payment_id_seq to {role} is missing":
        "REVOKE USAGE ON SEQUENCE billing_payments_payment_id_seq FROM ROLE",
    "grant EXECUTE on function sales_order_total(wanted uuid) to PUBLIC is missing":
        "REVOKE EXECUTE ON FUNCTION sales_order_total FROM PUBLIC",
    "default privilege DELETE on tables to {role} is missing":
        "ALTER DEFAULT PRIVILEGES IN SCHEMA {schema} REVOKE DELETE ON TABLES FROM ROLE",
}  # fmt: skip


@pytest.mark.parametrize(("words", "statements"), CHANGES.items(), ids=CHANGES)
def test_a_change_is_put_in_words_and_its_ddl_undoes_it(
    connection: Connection, tenants: list[Tenant], words: str, statements: str
) -> None:
    tenant, other = tenants
    _change(connection, tenant, statements)
    drift = find_drift(connection, tenants)
    assert words.replace("{role}", str(tenant.role)) in [str(difference) for difference in drift[tenant.slug]]
    assert drift[other.slug] == []
    script = "\n".join(drift_script(drift[tenant.slug]))
    connection.execute(_decided(script))
    assert find_drift(connection, tenants) == {"acme": [], "user": []}


def test_all_changes_at_once_are_undone_by_one_script(connection: Connection, tenants: list[Tenant]) -> None:
    tenant = tenants[1]
    for words, statements in CHANGES.items():
        if words.split(" is ")[0] not in _OF_WHAT_ANOTHER_TAKES_AWAY:
            _change(connection, tenant, statements)
    differences = find_drift(connection, [tenant])[tenant.slug]
    assert len(differences) > 25
    connection.execute(_decided("\n".join(drift_script(differences))))
    assert find_drift(connection, [tenant]) == {tenant.slug: []}


_OF_WHAT_ANOTHER_TAKES_AWAY = {
    "materialized view late", "column billing_payments.payment_id", "column billing_invoices.due_on",
    "function billing_in_euros(amount numeric, in_currency text)", "trigger catalog_products.catalog_keep_price",
    "index billing_invoices_due",
}  # fmt: skip


def test_dropping_a_table_or_a_column_is_only_a_comment(connection: Connection, tenants: list[Tenant]) -> None:
    _change(connection, tenants[0], "CREATE TABLE extra (a int); ALTER TABLE sales_orders ADD extra int")
    script = drift_script(find_drift(connection, tenants)["acme"])
    assert script == [
        '-- destructive: ALTER TABLE "tenant_acme".sales_orders DROP COLUMN extra;',
        '-- destructive: DROP TABLE "tenant_acme".extra;',
    ]


def test_a_definition_that_names_another_tenants_schema_is_drift(connection: Connection, tenants: list[Tenant]) -> None:
    _change(
        connection, tenants[0],
        "ALTER TABLE sales_orders DROP CONSTRAINT sales_orders_customer_id_fkey; ALTER TABLE sales_orders "
        "ADD CONSTRAINT sales_orders_customer_id_fkey FOREIGN KEY (customer_id) REFERENCES tenant_user.sales_customers",
    )  # fmt: skip
    (difference,) = find_drift(connection, tenants)["acme"]
    assert "REFERENCES tenant_user.sales_customers" in str(difference.actual)
    assert "REFERENCES sales_customers" in str(difference.canonical)


def test_drift_does_not_depend_on_the_connections_search_path(connection: Connection, tenants: list[Tenant]) -> None:
    for path in ("tenant_acme", "_template", "public"):
        connection.execute(f"SET LOCAL search_path TO {path}")
        assert find_drift(connection, [*tenants, TEMPLATE]) == {"acme": [], "user": [], "_template": []}


def test_drift_of_more_tenants_takes_no_more_queries(connection: Connection, tenants: list[Tenant]) -> None:
    one = count_queries(connection, lambda: find_drift(connection, tenants[:1]))
    assert one == count_queries(connection, lambda: find_drift(connection, tenants)) < 6


def test_a_tenant_that_could_not_be_compared_is_not_counted_among_those_that_differ() -> None:
    extra = Difference("table", "mine", "extra", None, "mine", "")
    gone = Difference("schema", "its schema t3 does not exist", "unknown", None, None, "")
    drift = Drift("_template", {"t1": [extra], "t2": [], "t3": [gone], "t4": []})
    assert str(drift) == "1 of 3 tenants differs from _template; 1 could not be compared"
    assert (drift.facts["differing"], drift.facts["not compared"], drift.facts["differences"]) == (1, 1, 1)
    assert str(Drift("_template", {"t1": [extra], "t2": []})) == "1 of 2 tenants differs from _template"
