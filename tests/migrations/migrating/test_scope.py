"""Files that leave the tenant's schema: nothing of them stays, or it is said what does."""

import pytest

from erpkit.database import Database, Tenant
from erpkit.errors import MigrationError
from erpkit.tenants import create_tenant
from tests.migrations.fleet import CONCURRENTLY, errors, migrate, migration, session, states, step, versions

STRAYS = [
    "SET search_path TO public;",
    "SET LOCAL search_path TO public;",
    "SELECT pg_catalog.set_config('search_path', '', false);",
    "SET SCHEMA 'public';",
    "RESET search_path;",
    "DISCARD ALL;",
    "SET ROLE pg_read_all_data;",
    "SET LOCAL SESSION AUTHORIZATION pg_monitor;",
    "RESET ALL;",
]


@pytest.mark.parametrize("stray", [stray for stray in STRAYS if "DISCARD" not in stray])
def test_a_file_that_changes_path_or_role_is_rolled_back_and_named(
    database: Database, fleet: list[Tenant], stray: str
) -> None:
    table = (
        "" if "ROLE" in stray or "AUTH" in stray or "''" in stray else "CREATE TABLE IF NOT EXISTS strayed (id int);"
    )
    run = migrate(database, fleet[:2], [step(1), migration(2, f"{stray}\n{table}")])
    assert sorted(errors(run)) == ["t01", "t02"]
    for tenant in fleet[:2]:
        assert (
            f"tenant {tenant.slug}: stock/00002_step.sql failed: it leaves the tenant's schema"
            in errors(run)[tenant.slug]
        )
    assert set(versions(database, fleet[:2]).values()) == {(1,)}
    assert _strayed(database) == []


@pytest.mark.parametrize("stray", [stray for stray in STRAYS if "LOCAL" not in stray])  # LOCAL does nothing here
def test_without_a_transaction_the_file_stops_at_the_statement_that_leaves_and_the_tenant_is_dirty(
    database: Database, fleet: list[Tenant], stray: str
) -> None:
    file = migration(2, f"{stray}\nCREATE TABLE IF NOT EXISTS strayed (id int);", head=CONCURRENTLY)
    run = migrate(database, fleet[:1], [step(1), file])
    assert "stopped half way: statement 1 of 2 failed: it leaves the tenant's schema" in errors(run)["t01"]
    assert states(database, fleet[:1], [step(1), file]) == {"t01": "dirty"}
    assert _strayed(database) == []


def test_a_file_that_comes_back_before_its_end_is_let_through(database: Database, fleet: list[Tenant]) -> None:
    there_and_back = "SET LOCAL ROLE pg_monitor;\nRESET ROLE;\nCREATE TABLE kept (id int);"
    assert migrate(database, fleet[:1], [migration(1, there_and_back)]).is_complete


def test_a_new_tenant_is_not_made_from_a_file_that_leaves_its_schema(database: Database) -> None:
    with pytest.raises(
        MigrationError, match="it leaves the tenant's schema: afterwards the role is postgres, search_path public"
    ):
        create_tenant(database, [migration(1, "SET search_path TO public;\nCREATE TABLE strayed (id int);")], "acme")
    assert _strayed(database) == []


def _strayed(database: Database) -> list[tuple[object, ...]]:
    with session(database) as other:
        return other.execute("SELECT schemaname FROM pg_tables WHERE tablename = 'strayed'").fetchall()
