"""Where an error is said to be: file, line, column, and the statement among thousands."""

import pytest

from erpkit.database import Database, Tenant
from erpkit.errors import MigrationError
from erpkit.migrations import Migration, MigrationPlan, plan_up
from erpkit.migrations.status import Applied
from erpkit.tenants import create_tenant
from tests.migrations.fleet import CONCURRENTLY, errors, make_fleet, migrate, migration, step

MANY = 10_000


@pytest.fixture
def fleet(database: Database) -> list[Tenant]:
    with database.connection() as connection:
        return make_fleet(connection, 2)


def _many(culprit: str, head: str = "") -> Migration:
    """Ten thousand statements, the first on line 3; the culprit is in the middle, on line 5,004."""
    lines = [f"INSERT INTO items VALUES ({n});" for n in range(MANY)]
    lines[5000] = culprit
    return migration(1, "\n".join(["CREATE TABLE items (id int PRIMARY KEY);", *lines]), head=head)


@pytest.mark.parametrize(
    ("culprit", "told"),
    [
        (
            "INSERT INTO items VALUES (7);",
            'duplicate key value violates unique constraint "items_pkey" (Key (id)=(7) already exists.); '
            "line 5004: INSERT INTO items VALUES (7);",
        ),
        (
            "INSERT INTO items SELECT ident FROM items;",
            'column "ident" does not exist; line 5004, column 26: INSERT INTO items SELECT ident FROM items;',
        ),
        (
            "INSERT INTO items SELECT items.idd FROM items;",
            'column items.idd does not exist; hint: Perhaps you meant to reference the column "items.id" or the column "items.id".; '
            "line 5004, column 26: INSERT INTO items SELECT items.idd FROM items;",
        ),
        (
            "INSERT INTO items VALUS (1);",
            'syntax error at or near "VALUS"; line 5004, column 19: INSERT INTO items VALUS (1);',
        ),
        ("SELECT 1; SELECT 1 /\n 0; SELECT 2;", "division by zero; line 5004: SELECT 1 / 0;"),
        (
            "DO $$ BEGIN RAISE EXCEPTION 'no' USING HINT = 'go home', DETAIL = 'really'; END $$;",
            "no (really); hint: go home; in PL/pgSQL function inline_code_block line 1 at RAISE; line 5004: DO $$",
        ),
    ],
)
def test_one_statement_of_ten_thousand_is_named_with_all_that_postgresql_says_of_it(
    database: Database, fleet: list[Tenant], culprit: str, told: str
) -> None:
    run = migrate(database, fleet, [_many(culprit)])
    for tenant in fleet:
        assert errors(run)[tenant.slug].startswith(f"tenant {tenant.slug}: stock/00001_step.sql failed: {told}")


def test_it_is_named_without_a_transaction_and_in_a_new_tenant_too(database: Database, fleet: list[Tenant]) -> None:
    told = "line 5: SELECT 1 / 0"
    lone = migration(1, "SELECT 1;\nSELECT 2;\nSELECT 1 / 0;", head=CONCURRENTLY)
    assert f"statement 3 of 3 failed: division by zero; {told}" in errors(migrate(database, fleet[:1], [lone]))["t01"]
    with pytest.raises(
        MigrationError, match=f"00002_step.sql failed: division by zero; {told}; the tenant was not created"
    ):
        create_tenant(database, [step(1), migration(2, "SELECT 1;\nSELECT 2;\nSELECT 1 / 0;")], "acme")


def test_a_syntax_error_is_laid_to_its_own_file_although_nothing_of_the_message_was_run(
    database: Database, fleet: list[Tenant]
) -> None:
    run = migrate(database, fleet, [step(1), migration(2, "SELECT FROM WHERE;"), step(3)], workers=1)
    assert {slug: "00002_step.sql failed: syntax error" in error for slug, error in errors(run).items()} == {
        "t01": True, "t02": True,
    }  # fmt: skip


def test_a_long_statement_is_shown_around_the_position(database: Database, fleet: list[Tenant]) -> None:
    run = migrate(database, fleet[:1], [migration(1, f"SELECT '{'x' * 5000}', oops, '{'y' * 5000}';")])
    assert "oops, 'yyy" in errors(run)["t01"]
    assert len(errors(run)["t01"]) < 500


def test_values_of_the_environment_are_not_shown_but_the_line_is(database: Database, fleet: list[Tenant]) -> None:
    file = migration(1, "SELECT 1;\nSELECT 1 / 0, 's3cret';", head="-- +goose ENVSUB ON")
    told = errors(migrate(database, fleet[:1], [file]))["t01"]
    assert "s3cret" not in told
    assert told.endswith("; line 4")


def test_a_plan_refuses_the_file_that_its_run_would_refuse() -> None:
    def plan(file: Migration) -> MigrationPlan:
        return plan_up([Tenant("acme", "tenant_acme")], [file], Applied())

    for text in ("COMMIT;", "COPY t FROM stdin;", "\\\\i other.sql\nSELECT 1;".replace("\\\\", "\\")):
        with pytest.raises(MigrationError, match=r"00001_step.sql: up statement 1 \(line 3\)"):
            plan(migration(1, text))
