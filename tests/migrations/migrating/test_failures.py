"""Tenants whose migrations fail, and how far the run goes on without them."""

import pytest

from erpkit.database import Database, Tenant
from erpkit.errors import MigrationError
from erpkit.migrations import Limits, apply_migration, run_plan
from tests.migrations.fleet import (
    errors,
    find_halves,
    migrate,
    migration,
    plan_for,
    session,
    step,
    steps,
    versions,
)  # fmt: skip


def _obstruct(database: Database, fleet: list[Tenant]) -> None:
    """Put a table in the way of every seventh tenant's first migration."""
    with session(database) as other:
        for tenant in fleet[6::7]:
            other.execute(f"CREATE TABLE {tenant.schema}.b1 ()".encode())


def test_every_seventh_tenant_fails_and_the_others_are_done(database: Database, fleet: list[Tenant]) -> None:
    _obstruct(database, fleet)
    run = migrate(database, fleet, steps(2))
    assert sorted(errors(run)) == ["t07", "t14"]
    assert 'relation "b1" already exists' in errors(run)["t07"]
    assert run.done_count == 2 * (len(fleet) - 2)
    with session(database) as other:
        for tenant in fleet[6::7]:
            other.execute(f"DROP TABLE {tenant.schema}.b1".encode())
    second = migrate(database, fleet, steps(2))
    assert sorted(result.tenant for result in second.results) == ["t07", "t14"]
    assert find_halves(database, fleet) == []


def test_of_migrations_that_are_sent_together_those_before_a_fault_stay_and_the_culprit_is_named(
    database: Database, fleet: list[Tenant]
) -> None:
    """All but the first tenants get theirs in one message, as they were quick there."""
    with session(database) as other:
        other.execute("CREATE TABLE tenant_t14.a3 ()")
    run = migrate(database, fleet, steps(4), workers=1)
    assert errors(run) == {
        "t14": 'tenant t14: stock/00003_step.sql failed: relation "a3" already exists; '
        "line 3: CREATE TABLE a3 (id int PRIMARY KEY);"
    }
    assert run.results[-1].done == ("stock/00001_step", "stock/00002_step")
    assert versions(database, fleet[-2:]) == {"t13": (1, 2, 3, 4), "t14": (1, 2)}
    with session(database) as other:
        other.execute("DROP TABLE tenant_t14.a3")
    assert migrate(database, fleet, steps(4)).done_count == 2
    assert find_halves(database, fleet) == []


def test_a_table_that_is_missing_is_not_taken_for_a_missing_schema(database: Database, fleet: list[Tenant]) -> None:
    run = migrate(database, fleet[:1], [migration(1, "ALTER TABLE missing ADD COLUMN note text;")])
    assert errors(run) == {
        "t01": 'tenant t01: stock/00001_step.sql failed: relation "missing" does not exist; '
        "line 3: ALTER TABLE missing ADD COLUMN note text;"
    }


def test_nothing_that_a_migration_leaves_in_its_session_reaches_the_next_tenant(
    database: Database, fleet: list[Tenant]
) -> None:
    leaves = migration(
        1,
        "CREATE TABLE seen AS SELECT current_setting('work_mem') AS setting, to_regclass('pg_temp.leftover')::text AS temporary;\n"
        "SET work_mem = '77MB';\nCREATE TEMPORARY TABLE leftover ();\n"
        "PREPARE leftover AS SELECT 1;\nSELECT pg_advisory_lock(77);",
    )
    assert migrate(database, fleet, [leaves], workers=1).is_complete
    with session(database) as other:
        usual = other.execute("SHOW work_mem").fetchone()
        for tenant in fleet:
            assert other.execute(f"SELECT setting, temporary FROM {tenant.schema}.seen".encode()).fetchone() == (
                *(usual or ()),
                None,
            )
        assert other.execute("SELECT count(*) FROM pg_locks WHERE objid = 77 AND locktype = 'advisory'").fetchone() == (
            0,
        )


def test_another_runner_that_was_faster_with_some_is_seen_in_the_midst_of_a_message(
    database: Database, fleet: list[Tenant]
) -> None:
    plan = plan_for(database, fleet, steps(4))
    migrate(database, fleet[-1:], [step(1), step(3)])
    run = run_plan(database, plan, plan.id, workers=1)
    assert run.is_complete
    assert run.results[-1].done == ("stock/00002_step", "stock/00004_step")
    assert versions(database, fleet[-1:]) == {"t14": (1, 3, 2, 4)}
    assert find_halves(database, fleet) == []


def test_on_error_stop_begins_no_other_tenant(database: Database, fleet: list[Tenant]) -> None:
    _obstruct(database, fleet)
    run = migrate(database, fleet, steps(2), on_error="stop", workers=1)
    assert list(errors(run)) == ["t07"]
    assert run.not_started == {tenant.slug: "t07 failed" for tenant in fleet[7:]}
    assert find_halves(database, fleet[:6]) == []


@pytest.mark.parametrize(("threshold", "goes_on"), [(0.0, False), (0.4, False), (0.5, True)])
def test_later_waves_are_begun_while_no_more_than_the_threshold_fails(
    database: Database, fleet: list[Tenant], threshold: float, goes_on: bool
) -> None:
    _obstruct(database, fleet)
    run = migrate(database, fleet, steps(1), canaries=["t06", "t07"], threshold=threshold)
    assert sorted(errors(run)) == (["t07", "t14"] if goes_on else ["t07"])
    assert set(run.not_started.values()) == (set() if goes_on else {"1 of 2 failed in the wave canaries"})


def test_a_statement_over_its_limit_fails_its_tenant_and_rolls_back(database: Database, fleet: list[Tenant]) -> None:
    migrate(database, fleet, steps(1))
    with session(database) as other:
        other.execute("INSERT INTO tenant_t05.a1 VALUES (2)")
    slow = migration(2, "CREATE TABLE b (id int);\nSELECT pg_sleep(60) FROM a1 WHERE id = 2;")
    run = migrate(database, fleet, [step(1), slow], limits=Limits(statement_timeout=0.2))
    assert errors(run) == {
        "t05": "tenant t05: stock/00002_step.sql failed: canceling statement due to statement timeout (limit 0.2 s); "
        "line 4: SELECT pg_sleep(60) FROM a1 WHERE id = 2;"
    }
    assert find_halves(database, fleet[4:5]) == []
    assert run.done_count == len(fleet) - 1


@pytest.mark.parametrize(
    ("statement", "why"),
    [
        ("COPY count FROM STDIN;", "copies from or to a client"),
        ("COPY count TO STDOUT WITH (FORMAT csv);", "copies from or to a client"),
        ("SELECT '\0';", "holds a zero byte"),
    ],
)
def test_what_would_end_a_message_before_its_commit_is_refused(
    database: Database, fleet: list[Tenant], statement: str, why: str
) -> None:
    with pytest.raises(MigrationError, match=rf"00002_step.sql: up statement 1 \(line 3\) {why}"):
        migrate(database, fleet, [step(1), migration(2, statement)])
    assert set(versions(database, fleet).values()) == {()}


def test_a_message_that_does_not_come_to_its_commit_is_never_taken_for_done(
    database: Database, fleet: list[Tenant]
) -> None:
    migrate(database, fleet[:1], steps(1))
    with (
        database.connection() as connection,
        pytest.raises(MigrationError, match=r"00002_step.sql failed: it ended before its COMMIT"),
    ):
        apply_migration(connection, fleet[0], migration(2, "COPY count FROM STDIN;"))
    assert versions(database, fleet[:1]) == {"t01": (1,)}
