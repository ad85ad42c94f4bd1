"""Running migrations over tenants, and what stays when one fails."""

import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from erpkit.database import TEMPLATE, Database, Tenant
from erpkit.errors import MigrationError, PlanChangedError
from erpkit.migrations import (
    Migration,
    MigrationPlan,
    MigrationRun,
    apply_migration,
    parse_migration,
    plan_down,
    plan_up,
    read_applied,
    run_plan,
)  # fmt: skip
from erpkit.tenants import create_tenant, ensure_template, list_tenants
from tests.conftest import count_queries


def migration(version: int, up: str, down: str = "", head: str = "") -> Migration:
    text = f"{head}\n-- +goose Up\n{up}\n-- +goose Down\n{down}"
    return Migration("stock", version, Path(f"stock/migrations/{version:05}_step.sql"), parse_migration(text))


FIRST = migration(1, "CREATE TABLE bins (id int PRIMARY KEY);", "DROP TABLE bins;")
SECOND = migration(2, "INSERT INTO bins VALUES (1);", "DELETE FROM bins;")


@pytest.fixture
def fleet(database: Database) -> list[Tenant]:
    """`_template` and three tenants without any migration."""
    for slug in ("acme", "bluebird", "cobalt"):
        create_tenant(database, [], slug)
    with database.connection() as connection:
        return [ensure_template(connection), *list_tenants(connection)]


def _plan(database: Database, fleet: Sequence[Tenant], migrations: Sequence[Migration]) -> MigrationPlan:
    with database.connection() as connection:
        return plan_up(fleet, migrations, read_applied(connection, fleet))


def _up(database: Database, fleet: Sequence[Tenant], migrations: Sequence[Migration]) -> MigrationRun:
    plan = _plan(database, fleet, migrations)
    return run_plan(database, plan, plan.id)


def _versions(database: Database, fleet: Sequence[Tenant]) -> dict[str, tuple[int, ...]]:
    with database.connection() as connection:
        applied = read_applied(connection, fleet)
    return {tenant.slug: applied.of(tenant.schema, "goose_db_version_stock") for tenant in fleet}


def test_up_applies_everything_everywhere_and_then_nothing(database: Database, fleet: list[Tenant]) -> None:
    assert _up(database, fleet, [FIRST, SECOND]).done_count == 8
    assert set(_versions(database, fleet).values()) == {(1, 2)}
    assert _plan(database, fleet, [FIRST, SECOND]).is_empty


def test_a_tenant_that_fails_is_named_and_does_not_stop_the_others(database: Database, fleet: list[Tenant]) -> None:
    _up(database, fleet, [FIRST])
    with database.connection() as connection:
        connection.execute("INSERT INTO tenant_bluebird.bins VALUES (1)")
    run = _up(database, fleet, [FIRST, SECOND])
    assert [(r.tenant, r.error) for r in run.failed] == [
        ("bluebird", "tenant bluebird: stock/00002_step.sql failed: duplicate key value violates unique constraint "
                     '"bins_pkey" (Key (id)=(1) already exists.); line 3: INSERT INTO bins VALUES (1);'),
    ]  # fmt: skip
    assert _versions(database, fleet) == {"_template": (1, 2), "acme": (1, 2), "bluebird": (1,), "cobalt": (1, 2)}


def test_a_migration_that_fails_half_way_leaves_its_tenant_at_a_whole_version(
    database: Database, fleet: list[Tenant]
) -> None:
    broken = migration(2, "CREATE TABLE half (id int);\nSELECT oops;")
    _up(database, fleet, [FIRST])
    with database.connection() as connection:
        with pytest.raises(
            MigrationError, match="tenant acme: stock/00002_step.sql failed: column .oops. does not exist"
        ):
            apply_migration(connection, fleet[1], broken)
        assert connection.execute("SELECT to_regclass('tenant_acme.half')").fetchone() == (None,)
    assert _versions(database, fleet)["acme"] == (1,)


def test_when_the_template_fails_no_tenant_is_tried(database: Database, fleet: list[Tenant]) -> None:
    run = _up(database, fleet, [migration(1, "SELECT oops;")])
    assert [result.tenant for result in run.failed] == ["_template"]
    assert dict(run.not_started) == dict.fromkeys(("acme", "bluebird", "cobalt"), "1 of 1 failed in the wave _template")
    assert set(_versions(database, fleet).values()) == {()}


def test_a_stale_plan_id_does_nothing(database: Database, fleet: list[Tenant]) -> None:
    shown = _plan(database, fleet, [FIRST])
    create_tenant(database, [], "delta")
    with database.connection() as connection:
        plan = _plan(database, [TEMPLATE, *list_tenants(connection)], [FIRST])
    with pytest.raises(PlanChangedError):
        run_plan(database, plan, shown.id)
    assert set(_versions(database, fleet).values()) == {()}


def test_the_version_table_is_gooses(database: Database, fleet: list[Tenant]) -> None:
    _up(database, fleet, [FIRST])
    with database.connection() as connection:
        columns = connection.execute(
            "SELECT column_name, data_type, is_nullable FROM information_schema.columns "
            "WHERE table_schema = 'tenant_acme' AND table_name = 'goose_db_version_stock' ORDER BY ordinal_position"
        ).fetchall()
        rows = connection.execute(
            "SELECT version_id, is_applied FROM tenant_acme.goose_db_version_stock ORDER BY id"
        ).fetchall()
    assert columns == [
        ("id", "integer", "NO"), ("version_id", "bigint", "NO"), ("is_applied", "boolean", "NO"),
        ("tstamp", "timestamp without time zone", "NO"),
    ]  # fmt: skip
    assert rows == [(0, True), (1, True)]


def test_down_removes_the_row_and_what_the_migration_made(database: Database, fleet: list[Tenant]) -> None:
    _up(database, fleet, [FIRST, SECOND])
    with database.connection() as connection:
        plan = plan_down(fleet[1:2], [FIRST, SECOND], read_applied(connection, fleet), "stock", 0)
        assert run_plan(database, plan, plan.id).done_count == 2
        assert connection.execute("SELECT to_regclass('tenant_acme.bins')").fetchone() == (None,)
    assert _versions(database, fleet)["acme"] == ()


def test_a_migration_marked_no_transaction_may_build_an_index_concurrently(
    database: Database, fleet: list[Tenant]
) -> None:
    concurrent = migration(2, "CREATE INDEX CONCURRENTLY bins_id ON bins (id);", head="-- +goose NO TRANSACTION")
    assert not _up(database, fleet, [FIRST, concurrent]).failed
    assert set(_versions(database, fleet).values()) == {(1, 2)}


def test_two_runners_at_once_apply_each_migration_once(database: Database, fleet: list[Tenant]) -> None:
    _up(database, fleet, [FIRST])
    plan = _plan(database, fleet, [FIRST, SECOND])
    runs: list[MigrationRun] = []
    threads = [threading.Thread(target=lambda: runs.append(run_plan(database, plan, plan.id))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [run.failed for run in runs] == [(), ()]
    assert sum(run.done_count for run in runs) == 4
    with database.connection() as connection:
        assert connection.execute("SELECT count(*) FROM tenant_acme.bins").fetchone() == (1,)


def test_a_schema_that_is_gone_fails_its_tenant_only(database: Database, fleet: list[Tenant]) -> None:
    plan = _plan(database, fleet, [FIRST])
    with database.connection() as connection:
        connection.execute("DROP SCHEMA tenant_acme CASCADE")
    assert _plan(database, fleet, [FIRST]).refused == {"acme": "its schema tenant_acme does not exist"}
    run = run_plan(database, plan, plan.id)
    assert [(r.tenant, r.error) for r in run.failed] == [
        ("acme", "tenant acme: its schema tenant_acme does not exist any more: it was dropped or renamed")
    ]


def test_status_of_many_tenants_takes_as_many_queries_as_of_one(database: Database, fleet: list[Tenant]) -> None:
    _up(database, fleet, [FIRST, SECOND])
    with (
        database.connection() as connection
    ):  # the version tables, their rows, whether there is a history, what stopped half way
        assert count_queries(connection, lambda: read_applied(connection, fleet)) == 4
        assert count_queries(connection, lambda: read_applied(connection, fleet[:1])) == 4
