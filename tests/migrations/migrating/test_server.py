"""PostgreSQL is restarted, killed or gone in the midst of a run."""

import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import psycopg
import pytest

from erpkit.database import Database, PooledConnection, Tenant
from erpkit.embedded import EmbeddedServer
from erpkit.migrations import Limits, Migration, MigrationRun, read_history
from tests.migrations.fleet import (
    errors,
    find_halves,
    in_background,
    make_fleet,
    migrate,
    migration,
    own_server,
    plan_for,
    session,
    step,
    steps,
    wait_until,
)  # fmt: skip


@pytest.fixture(scope="module")
def mortal_server() -> Iterator[EmbeddedServer]:
    """A server that may be killed; whoever stops it starts it again."""
    with own_server() as server:
        yield server


def test_a_run_goes_on_when_postgresql_is_restarted_or_killed_and_does_nothing_twice(
    mortal_server: EmbeddedServer,
) -> None:
    with Database(mortal_server.url(), "own") as database:
        with database.connection() as connection:
            fleet = make_fleet(connection, 14)
        for wanted, number in (
            (steps(2, 0.03), None),
            (steps(4, 0.03), signal.SIGKILL),
            (steps(6, 0.03), signal.SIGQUIT),
        ):
            run = _run_and_restart(mortal_server, database, fleet, wanted, number)
            assert errors(run) == {}
            assert run.is_complete
            assert find_halves(database, fleet) == []
            assert plan_for(database, fleet, wanted).is_empty


def _run_and_restart(
    server: EmbeddedServer, database: Database, fleet: list[Tenant], wanted: Sequence[Migration], number: int | None
) -> MigrationRun:
    some_done = threading.Event()
    with in_background(migrate, database, fleet, wanted, progress=lambda _: some_done.set()) as runs:
        assert some_done.wait(60)
        if number is None:
            server.stop()
        else:
            os.kill(int((server.data / "postmaster.pid").read_text().split()[0]), number)
        wait_until(lambda: not server.is_running())
        server.start()
    return runs[0]


def test_a_server_that_stays_away_ends_the_run_and_names_who_is_left(mortal_server: EmbeddedServer) -> None:
    with Database(mortal_server.url(), "own") as database:
        database._wait = 1  # not half a minute: the test would only wait longer
        with database.connection() as connection:
            fleet = make_fleet(connection, 14)
        some_done = threading.Event()
        with in_background(
            migrate, database, fleet, steps(3, 0.05), progress=lambda _: some_done.set(), limits=Limits(reconnect=1)
        ) as runs:
            assert some_done.wait(60)
            mortal_server.stop()
    mortal_server.start()
    with Database(mortal_server.url(), "own") as database:  # the pool of the other one has lost heart for a while
        (run,) = runs
        done = {result.tenant for result in run.results if result.error is None}
        assert done | set(errors(run)) | set(run.not_started) == {tenant.slug for tenant in fleet}
        assert 1 <= len(errors(run)) <= 3
        assert all("own did not answer for" in why for why in run.not_started.values())
        assert find_halves(database, fleet) == []
        assert migrate(database, fleet, steps(3)).is_complete
        assert find_halves(database, fleet) == []


class LosesConnections(Database):
    """Loses its connection when a tenant is done, as when the server dies just after the last commit."""

    @contextmanager
    def visit(self, tenants: Sequence[Tenant]) -> Iterator[PooledConnection]:
        with super().visit(tenants) as connection:
            yield connection
        raise psycopg.OperationalError("server closed the connection unexpectedly")


def test_a_connection_that_is_lost_after_the_last_commit_is_no_failure(database: Database, fleet: list[Tenant]) -> None:
    with LosesConnections(database.conninfo, "flaky") as flaky:
        assert migrate(flaky, fleet, steps(2)).is_complete
    assert find_halves(database, fleet) == []


def test_a_migration_in_which_the_server_is_lost_again_and_again_is_not_tried_for_ever(
    database: Database, fleet: list[Tenant]
) -> None:
    kills = migration(2, "SELECT pg_terminate_backend(pg_backend_pid()) FROM a1 WHERE id = 2;")
    migrate(database, fleet, steps(1))
    with session(database) as other:
        other.execute("INSERT INTO tenant_t05.a1 VALUES (2)")
    run = migrate(database, fleet, [step(1), kills], workers=1, limits=Limits(attempts=2))
    assert errors(run) == {
        "t05": "tenant t05: stock/00002_step.sql failed: terminating connection due to administrator command; "
        "line 3: SELECT pg_terminate_backend(pg_backend_pid()) FROM a1 WHERE id = 2;"
    }
    assert run.done_count == 4
    assert set(run.not_started.values()) == {"the server was lost 2 times in stock/00002_step of t05"}
    with database.connection() as connection:
        assert [entry.tenant for entry in read_history(connection) if entry.state == "failed"] == ["t05"]
