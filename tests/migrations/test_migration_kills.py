"""The runner is killed with SIGKILL at random moments: no tenant is ever between two versions, and the next run goes on."""

import random
import time
from collections.abc import Sequence

import pytest

from erpkit.database import Connection, Database, Tenant
from erpkit.migrations import Migration, describe_status, read_applied
from tests.migrations.fleet import (
    CONCURRENTLY,
    activity,
    find_halves,
    make_fleet,
    migrate,
    migration,
    plan_for,
    receive,
    start_runner,
    steps,
    versions,
    wait_until,
)  # fmt: skip

TENANTS, KILLS = 24, 50
WORKERS = 3  # as many as run_plan takes
STEPS = steps(4, pause=0.01)
WHOLE = TENANTS * len(STEPS)


def _kill_after(database: Database, fleet: Sequence[Tenant], migrations: Sequence[Migration], seconds: float) -> None:
    """Kill a runner some seconds after it had its plan; wait until PostgreSQL has noticed."""
    process, pipe = start_runner(database.conninfo, fleet, migrations)
    with pipe:
        assert receive(pipe) == "planned"
        process.join(seconds)
        process.kill()
        process.join()
    with database.connection() as connection:
        wait_until(lambda: activity(connection, "true") == 0)


def _kill_at(database: Database, fleet: Sequence[Tenant], migrations: Sequence[Migration], done: int) -> None:
    """Kill a runner once so many migrations are done, however fast the machine is; wait until PostgreSQL has noticed."""
    process, pipe = start_runner(database.conninfo, fleet, migrations)
    with pipe, database.connection() as connection:
        assert receive(pipe) == "planned"
        wait_until(lambda: not process.is_alive() or _done(connection) >= done)
        process.kill()
        process.join()
        wait_until(lambda: activity(connection, "true") == 0)


def _done(connection: Connection) -> int:
    row = connection.execute("SELECT count(*) FROM public.erpkit_migrations WHERE state = 'done'").fetchone()
    return row[0] if row else 0


def _seconds_of_a_run(database: Database, fleet: Sequence[Tenant], migrations: Sequence[Migration]) -> float:
    process, pipe = start_runner(database.conninfo, fleet, migrations)
    with pipe:
        assert receive(pipe) == "planned"
        started = time.monotonic()
        assert receive(pipe).is_complete
    process.join()
    return time.monotonic() - started


def _start_over(database: Database, count: int) -> list[Tenant]:
    with database.connection() as connection:
        return make_fleet(connection, count)


def _advisory_locks(connection: Connection) -> list[tuple[int]]:
    return connection.execute("SELECT pid FROM pg_locks WHERE locktype = 'advisory'").fetchall()


def test_a_runner_killed_fifty_times_leaves_every_tenant_at_a_whole_version(database: Database) -> None:
    with database.connection() as connection:
        fleet = make_fleet(connection, TENANTS)
    _seconds_of_a_run(database, fleet, STEPS)  # makes the history, in a process whose sessions end with it
    assert find_halves(database, fleet) == []
    seed = random.randrange(1_000_000)
    chance = random.Random(seed)
    fleet, in_the_midst = _start_over(database, TENANTS), 0
    for number in range(KILLS):
        before = sum(map(len, versions(database, fleet).values()))
        if before > WHOLE - 4 * WORKERS:  # what the workers sent last would complete it
            fleet, before = _start_over(database, TENANTS), 0
        _kill_at(database, fleet, STEPS, before + 1 + chance.randrange((WHOLE - before) // 2))
        assert find_halves(database, fleet) == [], f"after kill {number} with seed {seed}"
        in_the_midst += before < sum(map(len, versions(database, fleet).values())) < WHOLE
        with database.connection() as connection:
            assert _advisory_locks(connection) == []
    assert in_the_midst >= KILLS / 2, f"the kills came too early or too late to show anything, with seed {seed}"
    assert migrate(database, fleet, STEPS).is_complete
    assert set(versions(database, fleet).values()) == {(1, 2, 3, 4)}
    assert find_halves(database, fleet) == []


BASE = migration(1, "CREATE TABLE bins (id int);")
LABELS = migration(
    2,
    "CREATE TABLE IF NOT EXISTS labels (id int);\nSELECT pg_sleep(0.02);\n"
    "DROP INDEX CONCURRENTLY IF EXISTS bins_id;\nCREATE INDEX CONCURRENTLY bins_id ON bins (id);\nSELECT pg_sleep(0.02);",
    head=CONCURRENTLY,
)


@pytest.mark.parametrize("share", [0.2, 0.4, 0.6, 0.8])
def test_a_no_transaction_migration_that_was_killed_is_reported_dirty_and_done_again_on_request(
    database: Database, share: float
) -> None:
    with database.connection() as connection:
        fleet = make_fleet(connection, 12)
    length = _seconds_of_a_run(database, fleet, [BASE, LABELS])
    fleet = _start_over(database, 12)
    _kill_after(database, fleet, [BASE, LABELS], length * share)

    begun = {tenant.slug for tenant in fleet if _has_labels(database, tenant)}
    whole = {slug for slug, done in versions(database, fleet).items() if 2 in done}
    with database.connection() as connection:
        applied = read_applied(connection, fleet, [BASE, LABELS])
    dirty = {status.tenant for status in describe_status(fleet, [BASE, LABELS], applied) if status.state == "dirty"}
    assert begun - whole <= dirty <= {tenant.slug for tenant in fleet} - whole
    assert len(dirty) <= 3  # as many as there are workers

    assert set(plan_for(database, fleet, [BASE, LABELS]).refused) == dirty
    migrate(database, fleet, [BASE, LABELS])
    assert {slug for slug, done in versions(database, fleet).items() if 2 not in done} == dirty
    assert migrate(database, fleet, [BASE, LABELS], retry_dirty=True).is_complete
    assert set(versions(database, fleet).values()) == {(1, 2)}
    assert plan_for(database, fleet, [BASE, LABELS]).refused == {}


def _has_labels(database: Database, tenant: Tenant) -> bool:
    with database.connection() as connection:
        return connection.execute("SELECT to_regclass(%s)", [f"{tenant.schema}.labels"]).fetchone() != (None,)
