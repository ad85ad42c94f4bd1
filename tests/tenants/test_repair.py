"""Repairing a drifted tenant: what is run, what is left for a person, and that it is all or nothing."""

from collections.abc import Iterator

import pytest

from erpkit.database import TEMPLATE, Connection, Database, Tenant
from erpkit.errors import DatabaseError, PlanChangedError, UsageError
from erpkit.migrations import Migration, plan_down, plan_up, read_applied, run_plan
from erpkit.tenants import (
    create_tenant,
    ensure_template,
    find_drift,
    lint_repair,
    plan_repair,
    read_repair,
    run_repair,
)
from erpkit.tenants.drift import Difference
from erpkit.tenants.fingerprints import read_fingerprints
from tests.tenants.test_drift import CHANGES


@pytest.fixture(scope="module")
def tenants(shared_database: Database, migrations: tuple[Migration, ...]) -> list[Tenant]:
    with shared_database.connection() as connection:
        template = ensure_template(connection)
        plan = plan_up([template], migrations, read_applied(connection, [template]))
    assert not run_plan(shared_database, plan, plan.id).failed
    return [create_tenant(shared_database, migrations, slug) for slug in ("acme", "other")]


@pytest.fixture
def connection(shared_database: Database) -> Iterator[Connection]:
    with shared_database.connection() as connection:
        yield connection


def _change(connection: Connection, tenant: Tenant, statements: str) -> None:
    with connection.transaction():
        connection.execute(f"SET LOCAL search_path TO {tenant.schema}, public; {statements}")


def _words(connection: Connection, tenant: Tenant) -> list[str]:
    return [str(one) for one in find_drift(connection, [tenant])[tenant.slug]]


def _difference(kind: str, name: str, ddl: str) -> Difference:
    return Difference(kind, name, "other", "a", "b", ddl)


def test_only_what_is_safe_is_planned_unless_a_risk_is_accepted() -> None:
    tenant = Tenant("acme", "tenant_acme")
    differences = [
        _difference("index", "i", "CREATE INDEX i ON t (c);"),
        _difference("column", "t.a", "-- destructive: ALTER TABLE t DROP COLUMN a;"),
        _difference("column", "t.b", "-- fails where rows exist: ALTER TABLE t ADD COLUMN b text\nDEFAULT 'x';"),
        _difference("enum", "e", "-- by hand: enum e is [a], not [b]"),
    ]
    plan = plan_repair(tenant, differences)
    assert [step.statement for step in plan.steps] == ["CREATE INDEX i ON t (c);"]
    assert sorted(step.risk for step in plan.left) == ["by hand", "fails", "loses"]
    more = plan_repair(tenant, differences, ["fails", "loses", "by hand"])
    assert "ALTER TABLE t ADD COLUMN b text\nDEFAULT 'x';" in [step.statement for step in more.steps]
    assert [step.risk for step in more.left] == ["by hand"]
    assert len({plan.id, more.id, plan_repair(tenant, differences[:1], ["loses"]).id}) == 2


def test_a_line_of_code_that_looks_like_a_mark_stays_code() -> None:
    body = "CREATE OR REPLACE FUNCTION f() RETURNS int AS $$\n-- destructive: SELECT 1\nSELECT 2 $$;"
    plan = plan_repair(Tenant("acme", "tenant_acme"), [_difference("function", "f()", body)])
    assert [step.statement for step in plan.steps] == [body]


def test_a_schema_that_could_not_be_compared_is_not_repaired() -> None:
    locked = Difference("lock", "process 7 has locked t", "unknown", None, None, "-- could not be compared")
    with pytest.raises(UsageError, match="tenant acme could not be compared: process 7 has locked t"):
        plan_repair(Tenant("acme", "tenant_acme"), [locked])


_SAFE = [
    "view late is extra",
    "table sales_accounts is missing",
    "table catalog_price_history is missing",
]


@pytest.mark.parametrize("words", _SAFE)
def test_a_repair_undoes_the_drift_and_touches_no_other_tenant(
    words: str,
    shared_database: Database,
    tenants: list[Tenant],
    migrations: tuple[Migration, ...],
    connection: Connection,
) -> None:
    acme, other = tenants
    _change(connection, acme, CHANGES[words])
    before = read_fingerprints(connection, [other.schema, TEMPLATE.schema])
    plan = read_repair(connection, acme, migrations)
    run = run_repair(shared_database, "acme", migrations, plan.id)
    assert (run.left, _words(connection, acme)) == ((), [])
    assert read_fingerprints(connection, [other.schema, TEMPLATE.schema]) == before


def test_values_are_lost_only_when_that_was_asked_for(
    shared_database: Database, tenants: list[Tenant], migrations: tuple[Migration, ...], connection: Connection
) -> None:
    acme = tenants[0]
    _change(connection, acme, "ALTER TABLE sales_orders ADD hotfix_note text; DROP INDEX billing_payments_invoice")
    plan = read_repair(connection, acme, migrations)
    assert "require-concurrent-index-creation" in {finding.rule for finding in lint_repair(plan).findings}
    run = run_repair(shared_database, "acme", migrations, plan.id)
    assert [str(one) for one in run.left] == _words(connection, acme) == ["column sales_orders.hotfix_note is extra"]
    asked = read_repair(connection, acme, migrations, ["loses"])
    with pytest.raises(PlanChangedError, match="nothing was changed"):
        run_repair(shared_database, "acme", migrations, asked.id)
    run_repair(shared_database, "acme", migrations, asked.id, ["loses"])
    assert _words(connection, acme) == []


def test_a_repair_that_fails_half_way_leaves_the_schema_as_it_was(
    shared_database: Database, tenants: list[Tenant], migrations: tuple[Migration, ...], connection: Connection
) -> None:
    acme = tenants[0]
    _change(
        connection, acme,
        "DROP INDEX billing_payments_invoice; ALTER TABLE billing_invoices DROP CONSTRAINT billing_invoices_order_id_key; "
        "INSERT INTO billing_invoices SELECT gen_random_uuid(), o, 1, now() FROM gen_random_uuid() o, generate_series(1, 2)",
    )  # fmt: skip
    before = _words(connection, acme)
    plan = read_repair(connection, acme, migrations)
    with pytest.raises(
        DatabaseError, match="tenant acme was not repaired: could not create unique index .* nothing was changed"
    ):
        run_repair(shared_database, "acme", migrations, plan.id)
    assert _words(connection, acme) == before
    _change(connection, acme, "DELETE FROM billing_invoices")
    run_repair(shared_database, "acme", migrations, plan.id)
    assert _words(connection, acme) == []


def test_drift_that_has_moved_since_the_plan_is_not_repaired(
    shared_database: Database, tenants: list[Tenant], migrations: tuple[Migration, ...], connection: Connection
) -> None:
    acme = tenants[0]
    _change(connection, acme, "DROP INDEX billing_payments_invoice")
    plan = read_repair(connection, acme, migrations)
    _change(connection, acme, "CREATE VIEW late AS SELECT 1 AS a")
    with pytest.raises(PlanChangedError, match="is not the id of the present plan"):
        run_repair(shared_database, "acme", migrations, plan.id)
    assert len(_words(connection, acme)) == 2
    again = read_repair(connection, acme, migrations)
    run_repair(shared_database, "acme", migrations, again.id)
    assert _words(connection, acme) == []


def test_a_tenant_that_lacks_migrations_is_migrated_first(
    shared_database: Database, tenants: list[Tenant], migrations: tuple[Migration, ...], connection: Connection
) -> None:
    other = tenants[1]
    down = plan_down([other], migrations, read_applied(connection, [other]), "billing", 3)
    run_plan(shared_database, down, down.id)
    with pytest.raises(UsageError, match="other: billing is pending: migrate it before you repair its drift"):
        read_repair(connection, other, migrations)
