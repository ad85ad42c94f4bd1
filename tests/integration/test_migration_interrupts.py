"""Ctrl-C and SIGTERM: every tenant is left at a whole version."""

import os
import signal
from multiprocessing.process import BaseProcess

import pytest

from erpkit.database import Database, Tenant
from erpkit.migrations import TenantResult, read_history
from tests.integration.fleet import (
    CONCURRENTLY,
    SLEEPS,
    activity,
    errors,
    find_halves,
    in_background,
    make_fleet,
    migrate,
    migration,
    receive,
    session,
    start_runner,
    states,
    steps,
    versions,
    wait_until,
)  # fmt: skip


@pytest.fixture(scope="module")
def database(shared_database: Database) -> Database:
    """One database for all of these: to make one takes longer than most of them."""
    return shared_database


@pytest.fixture
def fleet(database: Database) -> list[Tenant]:
    """Fourteen tenants without any migration."""
    with database.connection() as connection:
        return make_fleet(connection, 14)


def interrupt(process: BaseProcess, *numbers: int) -> None:
    for number in numbers:
        os.kill(process.pid or 0, number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_lets_the_migrations_in_hand_end_and_names_who_is_left(
    database: Database, fleet: list[Tenant], number: signal.Signals
) -> None:
    process, pipe = start_runner(database.conninfo, fleet, steps(2, pause=0.3))
    with pipe, session(database) as watch:
        wait_until(lambda: activity(watch, SLEEPS) == 3)
        interrupt(process, number)
        assert receive(pipe) == "planned"
        run = receive(pipe)
        process.join()
    assert process.exitcode == 0
    assert set(errors(run).values()) <= {
        f"stopped before stock/0000{n}_step, at a whole version: interrupted" for n in (1, 2)
    }
    assert run.done_count >= 3
    assert set(run.not_started.values()) == {"interrupted"}
    assert find_halves(database, fleet) == []
    assert migrate(database, fleet, steps(2)).is_complete


def test_a_second_interrupt_cancels_the_migrations_in_hand(database: Database, fleet: list[Tenant]) -> None:
    process, pipe = start_runner(database.conninfo, fleet, steps(1, pause=600))
    with pipe, session(database) as watch:
        wait_until(lambda: activity(watch, SLEEPS) == 3)
        interrupt(process, signal.SIGINT, signal.SIGTERM)
        assert receive(pipe) == "planned"
        run = receive(pipe)
        process.join()
    assert len(errors(run)) == 3
    assert all("canceling statement due to user request" in error for error in errors(run).values())
    assert set(versions(database, fleet).values()) == {()}
    assert find_halves(database, fleet) == []


def test_a_second_interrupt_cancels_a_migration_without_a_transaction_too(
    database: Database, fleet: list[Tenant]
) -> None:
    slow = migration(1, "CREATE TABLE a (id int);\nSELECT pg_sleep(600);", head=CONCURRENTLY)
    process, pipe = start_runner(database.conninfo, fleet, [slow])
    with pipe, session(database) as watch:
        wait_until(lambda: activity(watch, SLEEPS) == 3)
        interrupt(process, signal.SIGINT, signal.SIGTERM)
        assert receive(pipe) == "planned"
        run = receive(pipe)
        process.join()
    assert all("stopped half way: statement 2 of 2 failed: canceling" in error for error in errors(run).values())
    dirty = {slug for slug, state in states(database, fleet, [slow]).items() if state == "dirty"}
    assert dirty == set(errors(run))
    assert len(dirty) == 3


def test_one_interrupt_cancels_nothing_even_after_a_tenant_failed(database: Database, fleet: list[Tenant]) -> None:
    with session(database) as other:
        other.execute("CREATE TABLE tenant_t01.a1 ()")
    process, pipe = start_runner(database.conninfo, fleet, steps(1, pause=0.3), on_error="stop")
    with pipe, session(database) as watch:
        assert receive(pipe) == "planned"
        wait_until(lambda: activity(watch, SLEEPS) == 2)
        wait_until(lambda: [entry for entry in read_history(watch) if entry.state == "failed"])
        interrupt(process, signal.SIGINT)
        run = receive(pipe)
        process.join()
    assert list(errors(run)) == ["t01"]
    assert run.done_count == 2
    assert find_halves(database, fleet[1:]) == []


def test_a_run_in_a_thread_leaves_interrupts_to_the_main_thread(database: Database, fleet: list[Tenant]) -> None:
    usual = signal.getsignal(signal.SIGINT)
    with in_background(migrate, database, fleet, steps(1)) as runs:
        assert signal.getsignal(signal.SIGINT) is usual
    assert runs[0].is_complete


def test_progress_that_fails_ends_the_run_at_whole_versions(database: Database, fleet: list[Tenant]) -> None:
    def fail(result: TenantResult) -> None:
        raise BrokenPipeError(result.tenant)

    with pytest.raises(BrokenPipeError):
        migrate(database, fleet, steps(2, pause=0.05), progress=fail, workers=2)
    assert () in set(versions(database, fleet).values())
    assert find_halves(database, fleet) == []
