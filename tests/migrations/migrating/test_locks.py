"""What a migration run does when others hold locks, run at the same time, or take a tenant away."""

import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import psycopg
import pytest

from erpkit.database import Connection, Database, Tenant
from erpkit.embedded import EmbeddedServer
from erpkit.migrations import Limits, Migration, MigrationRun, read_history, run_plan
from erpkit.tenants.lifecycle import lock_migrations
from tests.migrations.fleet import (
    CONCURRENTLY,
    WAITS,
    activity,
    errors,
    find_halves,
    in_background,
    make_fleet,
    migrate,
    migration,
    plan_for,
    receive,
    session,
    start_runner,
    states,
    step,
    steps,
    wait_until,
)  # fmt: skip


def test_a_lock_that_is_released_in_time_costs_a_retry_and_no_more(database: Database, fleet: list[Tenant]) -> None:
    migrate(database, fleet, steps(1))
    drop = migration(2, "ALTER TABLE a1 ADD COLUMN note text;")
    limits = Limits(lock_timeout=0.05, attempts=100)
    with session(database) as other, session(database) as watch, other.transaction():
        other.execute("LOCK TABLE tenant_t03.a1 IN ACCESS EXCLUSIVE MODE")
        with in_background(migrate, database, fleet, [step(1), drop], limits=limits) as runs:
            for waits in (1, 0, 1):  # a first try, its pause, and a second try
                wait_until(lambda waits=waits: activity(watch, WAITS) == waits)  # type: ignore[misc]
            other.execute("ROLLBACK")
    assert runs[0].is_complete


def test_a_lock_that_is_not_released_fails_its_tenant_and_names_who_holds_it(
    database: Database, fleet: list[Tenant]
) -> None:
    migrate(database, fleet, steps(1))
    with session(database) as other, other.transaction():
        other.execute("LOCK TABLE tenant_t03.a1 IN ACCESS EXCLUSIVE MODE")
        run = migrate(
            database, fleet, [step(1), migration(2, "ALTER TABLE a1 ADD COLUMN note text;")],
            limits=Limits(lock_timeout=0.05, attempts=2),
        )  # fmt: skip
        pid = other.info.backend_pid
    assert list(errors(run)) == ["t03"]
    assert re.fullmatch(
        r"tenant t03: stock/00002_step.sql failed: could not get a lock within 0.05 s, tried 2 times; "
        rf"held by process {pid} \(postgres, report, idle in transaction for \d+ s, last statement begun \d+ s ago\); "
        r"line 3: ALTER TABLE a1 ADD COLUMN note text;",
        errors(run)["t03"],
    )
    assert run.done_count == len(fleet) - 1
    with database.connection() as connection:
        failed = [entry for entry in read_history(connection) if entry.state == "failed"]
    assert [(entry.tenant, entry.version, entry.error) for entry in failed] == [("t03", 2, errors(run)["t03"])]


def test_the_tries_for_a_lock_are_counted_for_each_migration(database: Database, fleet: list[Tenant]) -> None:
    """Each step meets a lock once: two tries a step are enough, however many steps there are."""
    run = _run_against_locks_that_move(database, fleet[0], Limits(lock_timeout=0.05, attempts=2))
    assert errors(run) == {}


def _run_against_locks_that_move(database: Database, tenant: Tenant, limits: Limits) -> MigrationRun:
    """Three migrations, each on a table of its own, which is released as soon as the first try has failed."""
    tables = ["x1", "x2", "x3"]
    with session(database) as watch:
        for table in tables:
            watch.execute(f"CREATE TABLE {tenant.schema}.{table} (id int)".encode())
        wanted = [migration(n, f"ALTER TABLE {table} ADD COLUMN note text;") for n, table in enumerate(tables, start=1)]
        holders = [psycopg.connect(database.conninfo) for _ in tables]
        for holder, table in zip(holders, tables, strict=True):
            holder.execute(f"LOCK TABLE {tenant.schema}.{table}".encode())
        with in_background(migrate, database, [tenant], wanted, limits=limits) as runs:
            for holder in holders:
                wait_until(lambda: activity(watch, WAITS) == 1)
                wait_until(lambda: activity(watch, WAITS) == 0)
                holder.close()
    return runs[0]


def test_two_runners_that_build_indexes_concurrently_do_not_wait_for_each_other(
    database: Database, fleet: list[Tenant]
) -> None:
    """Twenty times, as a deadlock depends on who is where: a runner that waits in a statement keeps the index from its end."""
    wanted = [
        step(1),
        migration(2, "CREATE INDEX CONCURRENTLY by_id ON a1 (id);", "DROP INDEX by_id;", CONCURRENTLY),
        step(3),
    ]
    for _ in range(20):
        with session(database) as other:
            make_fleet(other, len(fleet))
        runs = _run_at_once(database, fleet, wanted, 2)
        assert [errors(run) for run in runs] == [{}, {}]
        assert sum(run.done_count for run in runs) == len(wanted) * len(fleet)
        assert set(states(database, fleet, wanted).values()) == {"current"}
    with session(database) as other:
        assert other.execute("SELECT count(*) FROM pg_index WHERE NOT indisvalid").fetchone() == (0,)


def test_of_two_runners_the_one_that_waited_tells_why_the_other_left_a_tenant_dirty(
    database: Database, fleet: list[Tenant]
) -> None:
    """And does not run the file a second time, which would fail for another reason."""
    half = migration(1, "CREATE TABLE half (id int);\nSELECT pg_sleep(0.3);\nSELECT 1 / 0;", head=CONCURRENTLY)
    runs = _run_at_once(database, fleet[:1], [half], 2)
    assert sorted("was not run again: dirty" in errors(run)["t01"] for run in runs) == [False, True]
    assert all("division by zero" in errors(run)["t01"] for run in runs)


def _run_at_once(
    database: Database, fleet: list[Tenant], wanted: Sequence[Migration], count: int
) -> list[MigrationRun]:
    """Run the same in processes of their own, none of which begins before all have their plan."""
    with ExitStack() as stack:
        for tenant in fleet:
            stack.enter_context(locked(database, tenant))
        runners = [start_runner(database.conninfo, fleet, wanted) for _ in range(count)]
        assert [receive(pipe) for _, pipe in runners] == ["planned"] * count
    runs = [receive(pipe) for _, pipe in runners]
    for process, pipe in runners:
        process.join()
        pipe.close()
    return runs


@pytest.mark.parametrize("isolation", ["read committed", "repeatable read", "serializable"])
def test_two_runners_at_once_do_each_migration_once(database: Database, fleet: list[Tenant], isolation: str) -> None:
    """In any isolation that the database has as its default: the second must see what the first one committed."""
    with session(database) as other:
        name = other.info.dbname
        other.execute(f"ALTER DATABASE {name} SET default_transaction_isolation = '{isolation}'".encode())
    runs = _run_at_once(database, fleet, steps(3, pause=0.005), 2)
    assert [errors(run) for run in runs] == [{}, {}]
    assert sum(run.done_count for run in runs) == 3 * len(fleet)
    assert find_halves(database, fleet) == []


def test_a_tenant_that_is_dropped_or_renamed_while_its_lock_is_waited_for_fails_alone(
    database: Database, fleet: list[Tenant]
) -> None:
    changes = {3: "DROP SCHEMA tenant_t03 CASCADE", 5: "ALTER SCHEMA tenant_t05 RENAME TO tenant_other"}
    migrate(database, fleet, steps(1))
    with (
        session(database) as watch, locked(database, fleet[2]) as remover, locked(database, fleet[4]) as renamer,
        in_background(migrate, database, fleet, steps(2), limits=Limits(lock_timeout=20)) as runs,
    ):  # fmt: skip
        wait_until(lambda: _count_done(watch, 2) == len(fleet) - 2)
        for other, number in ((remover, 3), (renamer, 5)):
            other.execute(changes[number].encode())
            other.commit()
    assert errors(runs[0]) == {
        f"t0{n}": f"tenant t0{n}: its schema tenant_t0{n} does not exist any more: it was dropped or renamed"
        for n in (3, 5)
    }
    assert runs[0].done_count == len(fleet) - 2


def _count_done(watch: Connection, version: int) -> int:
    row = watch.execute(
        "SELECT count(*) FROM public.erpkit_migrations WHERE version = %s AND state = 'done'", [version]
    ).fetchone()
    return int(row[0]) if row else 0


@contextmanager
def locked(database: Database, tenant: Tenant) -> Iterator[Connection]:
    """Hold a tenant's migration lock in a transaction, as its removal and its renaming do."""
    with psycopg.connect(database.conninfo) as connection:
        lock_migrations(connection, tenant)
        yield connection


def test_a_no_transaction_migration_of_a_tenant_that_is_gone_says_so(database: Database, fleet: list[Tenant]) -> None:
    plan = plan_for(database, fleet[2:3], [migration(1, "CREATE TABLE a (id int);", head=CONCURRENTLY)])
    with session(database) as other:
        other.execute("DROP SCHEMA tenant_t03 CASCADE")
    run = run_plan(database, plan, plan.id)
    assert errors(run) == {
        "t03": "tenant t03: its schema tenant_t03 does not exist any more: it was dropped or renamed"
    }


def test_more_workers_than_connections_do_not_wait_for_each_other_in_vain(
    server: EmbeddedServer, database: Database, fleet: list[Tenant]
) -> None:
    with Database(database.conninfo, "narrow", max_connections=2) as narrow:
        narrow._pool.timeout = 0.05
        assert migrate(narrow, fleet, steps(1, pause=0.1), workers=8, limits=Limits(reconnect=0)).is_complete
