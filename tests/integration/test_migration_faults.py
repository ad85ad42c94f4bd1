"""What a migration run survives: locks, timeouts, a full disk, interrupts, other runners, tenants that go."""

import os
import re
import resource
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path

import psycopg
import pytest

from erpkit.database import Connection, Database, PooledConnection, Tenant
from erpkit.embedded import EmbeddedServer
from erpkit.errors import MigrationError
from erpkit.migrations import (
    Limits,
    Migration,
    MigrationRun,
    TenantResult,
    apply_migration,
    describe_status,
    read_applied,
    read_history,
)
from erpkit.tenants.lifecycle import lock_migrations
from tests.integration.fleet import (
    CONCURRENTLY,
    TABLE,
    activity,
    find_halves,
    make_fleet,
    migrate,
    migration,
    plan_for,
    receive,
    start_runner,
    step,
    steps,
    versions,
    wait_until,
)  # fmt: skip

SLEEPS = "wait_event = 'PgSleep'"
WAITS = "wait_event_type = 'Lock'"


@pytest.fixture
def fleet(database: Database) -> list[Tenant]:
    """Fourteen tenants without any migration."""
    with database.connection() as connection:
        return make_fleet(connection, 14)


@pytest.fixture
def own_server() -> Iterator[EmbeddedServer]:
    """A server that may be killed."""
    home = Path(tempfile.mkdtemp(prefix="erpkit-faults-", dir="/tmp"))
    home.chmod(0o755)
    server = EmbeddedServer(home)
    server.start()
    yield server
    server.stop()
    shutil.rmtree(home)


@contextmanager
def session(database: Database) -> Iterator[Connection]:
    """Somebody else's session."""
    with psycopg.connect(database.conninfo, autocommit=True, application_name="report") as connection:
        yield connection


@contextmanager
def in_background(target: Callable[..., MigrationRun], *args: object, **kwargs: object) -> Iterator[list[MigrationRun]]:
    """Run in a thread of its own while the block lasts; the list has its result afterwards."""
    runs: list[MigrationRun] = []
    thread = threading.Thread(target=lambda: runs.append(target(*args, **kwargs)))
    thread.start()
    try:
        yield runs
    finally:
        thread.join()


def errors(run: MigrationRun) -> dict[str, str]:
    return {result.tenant: result.error for result in run.failed if result.error}


def interrupt(process: BaseProcess, *numbers: int) -> None:
    for number in numbers:
        os.kill(process.pid or 0, number)


def states(database: Database, fleet: list[Tenant], migrations: Sequence[Migration]) -> dict[str, str]:
    with database.connection() as connection:
        applied = read_applied(connection, fleet, migrations)
    return {status.tenant: status.state for status in describe_status(fleet, migrations, applied)}


# Locks of others


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
        r"tenant t03: stock/00002_step.sql failed: a lock was not to be had within 0.05 s, tried 2 times; "
        rf"held by process {pid} \(postgres, report, idle in transaction for \d+ s\)",
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


# Limits and full disks


def test_a_statement_over_its_limit_fails_its_tenant_and_rolls_back(database: Database, fleet: list[Tenant]) -> None:
    migrate(database, fleet, steps(1))
    with session(database) as other:
        other.execute("INSERT INTO tenant_t05.a1 VALUES (2)")
    slow = migration(2, "CREATE TABLE b (id int);\nSELECT pg_sleep(60) FROM a1 WHERE id = 2;")
    run = migrate(database, fleet, [step(1), slow], limits=Limits(statement_timeout=0.2))
    assert errors(run) == {
        "t05": "tenant t05: stock/00002_step.sql failed: canceling statement due to statement timeout (limit 0.2 s)"
    }
    assert find_halves(database, fleet[4:5]) == []
    assert run.done_count == len(fleet) - 1


def test_a_tenant_that_needs_more_room_than_there_is_fails_and_rolls_back(
    own_server: EmbeddedServer,
) -> None:
    """The server's processes may make no file over 17 MB, as if no more were left: PostgreSQL's own log takes 16 MB."""
    fill = migration(
        2,
        "CREATE TABLE full_rows (text text);\n"
        "INSERT INTO full_rows SELECT repeat('x', 1900) FROM a1, generate_series(1, 10000) WHERE a1.id = 2;",
    )
    own_server.stop()
    with _files_up_to(17 * 2**20):
        own_server.start()
    with Database(own_server.url(), "own") as database:
        with session(database) as other:
            fleet = make_fleet(other, 14)
            migrate(database, fleet, steps(1))
            other.execute("INSERT INTO tenant_t05.a1 VALUES (2)")
        run = migrate(database, fleet, [step(1), fill])
        assert find_halves(database, fleet[4:5]) == []
    assert list(errors(run)) == ["t05"]
    assert re.search(
        r"00002_step.sql failed: could not (extend|write) .*(File too large|wrote only)", errors(run)["t05"]
    )
    own_server.stop()
    own_server.start()
    with Database(own_server.url(), "own") as database:
        assert migrate(database, fleet, [step(1), fill]).done_count == 1


@contextmanager
def _files_up_to(size: int) -> Iterator[None]:
    """Limit the files of this process, and of those that it starts meanwhile."""
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, usual[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)


# The server goes


def test_a_run_goes_on_when_postgresql_is_restarted_or_killed_and_does_nothing_twice(
    own_server: EmbeddedServer,
) -> None:
    with Database(own_server.url(), "own") as database:
        with database.connection() as connection:
            fleet = make_fleet(connection, 14)
        for wanted, number in (
            (steps(2, 0.03), None),
            (steps(4, 0.03), signal.SIGKILL),
            (steps(6, 0.03), signal.SIGQUIT),
        ):
            run = _run_and_restart(own_server, database, fleet, wanted, number)
            assert errors(run) == {}
            assert run.is_complete
            assert find_halves(database, fleet) == []
            assert plan_for(database, fleet, wanted).is_empty


def _run_and_restart(
    server: EmbeddedServer, database: Database, fleet: list[Tenant], wanted: Sequence[Migration], number: int | None
) -> MigrationRun:
    some_done = threading.Event()
    with in_background(migrate, database, fleet, wanted, progress=lambda _: some_done.set()) as runs:
        assert some_done.wait(30)
        if number is None:
            server.stop()
        else:
            os.kill(int((server.data / "postmaster.pid").read_text().split()[0]), number)
        wait_until(lambda: not server.is_running())
        server.start()
    return runs[0]


def test_a_server_that_stays_away_ends_the_run_and_names_who_is_left(own_server: EmbeddedServer) -> None:
    with Database(own_server.url(), "own") as database:
        database._wait = 1  # not half a minute: the test would only wait longer
        with database.connection() as connection:
            fleet = make_fleet(connection, 14)
        some_done = threading.Event()
        with in_background(
            migrate, database, fleet, steps(3, 0.05), progress=lambda _: some_done.set(), limits=Limits(reconnect=1)
        ) as runs:
            assert some_done.wait(30)
            own_server.stop()
    own_server.start()
    with Database(own_server.url(), "own") as database:  # the pool of the other one has lost heart for a while
        (run,) = runs
        done = {result.tenant for result in run.results if result.error is None}
        assert done | set(errors(run)) | set(run.not_started) == {tenant.slug for tenant in fleet}
        assert 1 <= len(errors(run)) <= 3
        assert all("own was not to be had for" in why for why in run.not_started.values())
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


# Interrupts


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


# Several at once


@pytest.mark.parametrize("isolation", ["read committed", "repeatable read", "serializable"])
def test_two_runners_at_once_do_each_migration_once(database: Database, fleet: list[Tenant], isolation: str) -> None:
    """In any isolation that the database has as its default: the second must see what the first one committed."""
    with session(database) as other:
        name = other.info.dbname
        other.execute(f"ALTER DATABASE {name} SET default_transaction_isolation = '{isolation}'".encode())
    wanted = steps(3, pause=0.005)
    runners = [start_runner(database.conninfo, fleet, wanted) for _ in range(2)]
    assert [receive(pipe) for _, pipe in runners] == ["planned", "planned"]
    runs = [receive(pipe) for _, pipe in runners]
    for process, pipe in runners:
        process.join()
        pipe.close()
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
        wait_until(lambda: activity(watch, WAITS) == 2)
        for other, number in ((remover, 3), (renamer, 5)):
            other.execute(changes[number].encode())
            other.commit()
    assert errors(runs[0]) == {
        f"t0{n}": f"tenant t0{n}: its schema tenant_t0{n} does not exist any more: it was dropped or renamed"
        for n in (3, 5)
    }
    assert runs[0].done_count == len(fleet) - 2


@contextmanager
def locked(database: Database, tenant: Tenant) -> Iterator[Connection]:
    """Hold a tenant's migration lock in a transaction, as its removal and its renaming do."""
    with psycopg.connect(database.conninfo) as connection:
        lock_migrations(connection, tenant)
        yield connection


def test_a_no_transaction_migration_of_a_tenant_that_is_gone_says_so(database: Database, fleet: list[Tenant]) -> None:
    with session(database) as other:
        other.execute("DROP SCHEMA tenant_t03 CASCADE")
    run = migrate(database, fleet[2:3], [migration(1, "CREATE TABLE a (id int);", head=CONCURRENTLY)])
    assert errors(run) == {
        "t03": "tenant t03: its schema tenant_t03 does not exist any more: it was dropped or renamed"
    }


def test_more_workers_than_connections_do_not_wait_for_each_other_in_vain(
    server: EmbeddedServer, database: Database, fleet: list[Tenant]
) -> None:
    with Database(database.conninfo, "narrow", max_connections=2) as narrow:
        narrow._pool.timeout = 0.05
        assert migrate(narrow, fleet, steps(1, pause=0.1), workers=8, limits=Limits(reconnect=0)).is_complete


# Tenants that fail


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


# Files that lie


@pytest.mark.parametrize(
    ("statement", "why"),
    [
        ("COPY count FROM STDIN;", "copies from or to the client"),
        ("COPY count TO STDOUT WITH (FORMAT csv);", "copies from or to the client"),
        ("SELECT '\0';", "holds a zero byte"),
    ],
)
def test_what_would_end_a_message_before_its_commit_is_refused(
    database: Database, fleet: list[Tenant], statement: str, why: str
) -> None:
    with pytest.raises(MigrationError, match=rf"00002_step.sql: up statement 1 {why}"):
        migrate(database, fleet, [step(1), migration(2, statement)])
    assert set(versions(database, fleet).values()) == {()}


def test_a_message_that_does_not_come_to_its_commit_is_never_taken_for_done(
    database: Database, fleet: list[Tenant]
) -> None:
    migrate(database, fleet[:1], steps(1))
    with (
        database.connection() as connection,
        pytest.raises(MigrationError, match=r"00002_step.sql failed: it did not come to its COMMIT"),
    ):
        apply_migration(connection, fleet[0], migration(2, "COPY count FROM STDIN;"))
    assert versions(database, fleet[:1]) == {"t01": (1,)}


# What goose does


@pytest.mark.parametrize("table", ["goose_db_version", TABLE])
def test_goose_and_erpkit_go_on_from_each_other(database: Database, fleet: list[Tenant], table: str) -> None:
    tenant = fleet[0]
    wanted = [migration(n, f"CREATE TABLE a{n} ();", f"DROP TABLE a{n};", table=table) for n in (1, 2, 3)]
    with session(database) as goose:
        goose.execute(f"SET search_path TO {tenant.schema}".encode())
        _goose_creates(goose, table)
        _goose(goose, table, "up", 1, "CREATE TABLE a1 ()")
        assert [m.version for m in plan_for(database, [tenant], wanted).migrations] == [2, 3]
        assert migrate(database, [tenant], wanted).done_count == 2
        assert _goose_versions(goose, table) == [3, 2, 1, 0]
        _goose(goose, table, "down", 3, "DROP TABLE a3")
        assert [m.version for m in plan_for(database, [tenant], wanted).migrations] == [3]
        assert migrate(database, [tenant], wanted).done_count == 1
        assert _goose_versions(goose, table) == [3, 2, 1, 0]


def _goose_creates(goose: Connection, table: str) -> None:
    """Do what goose does in a database that it does not know yet."""
    goose.execute(
        f"CREATE TABLE {table} (id integer PRIMARY KEY GENERATED BY DEFAULT AS IDENTITY, version_id bigint NOT NULL, "
        "is_applied boolean NOT NULL, tstamp timestamp NOT NULL DEFAULT now())".encode()
    )
    goose.execute(f"INSERT INTO {table} (version_id, is_applied) VALUES (0, true)".encode())


def _goose(goose: Connection, table: str, direction: str, version: int, statement: str) -> None:
    """Do what goose does with one migration."""
    with goose.transaction():
        goose.execute(statement.encode())
        if direction == "up":
            goose.execute(f"INSERT INTO {table} (version_id, is_applied) VALUES ({version}, true)".encode())
        else:
            goose.execute(f"DELETE FROM {table} WHERE version_id = {version}".encode())


def _goose_versions(goose: Connection, table: str) -> list[int]:
    """Read what goose reads: all versions, the last one first."""
    return [version for (version,) in goose.execute(f"SELECT version_id FROM {table} ORDER BY id DESC".encode())]


def test_what_goose_ended_is_not_dirty_any_more(database: Database, fleet: list[Tenant]) -> None:
    broken = migration(2, "CREATE TABLE extra ();\nSELECT oops;", head=CONCURRENTLY)
    migrate(database, fleet[:1], [step(1), broken])
    assert states(database, fleet[:1], [step(1), broken]) == {"t01": "dirty"}
    with session(database) as goose:
        goose.execute("SET search_path TO tenant_t01")
        _goose(goose, TABLE, "up", 2, "SELECT 1")
    assert states(database, fleet[:1], [step(1), broken]) == {"t01": "current"}


def test_a_no_transaction_migration_that_runs_at_present_is_called_running(
    database: Database, fleet: list[Tenant]
) -> None:
    slow = migration(1, "SELECT pg_sleep(600);", head=CONCURRENTLY)
    process, pipe = start_runner(database.conninfo, fleet[:1], [slow])
    with pipe, session(database) as watch:
        wait_until(lambda: activity(watch, SLEEPS) == 1)
        assert plan_for(database, fleet[:1], [slow]).refused["t01"].endswith(": is still running")
        process.kill()
        process.join()
        watch.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'PgSleep'")
        wait_until(lambda: activity(watch, SLEEPS) == 0)
    assert plan_for(database, fleet[:1], [slow]).refused["t01"].endswith(": was begun and never ended")


def test_an_edited_file_is_seen_until_its_version_is_redone(database: Database, fleet: list[Tenant]) -> None:
    migrate(database, fleet[:2], steps(2))
    edited = [step(1), migration(2, "CREATE TABLE a2 ();")]
    assert states(database, fleet[:2], edited) == {"t01": "edited", "t02": "edited"}
    with session(database) as goose:
        goose.execute("SET search_path TO tenant_t01")
        _goose(goose, TABLE, "down", 2, "DROP TABLE b2, a2")
        _goose(goose, TABLE, "up", 2, "CREATE TABLE a2 ()")
    assert states(database, fleet[:2], edited) == {"t01": "current", "t02": "edited"}
    assert plan_for(database, fleet[:2], edited).is_empty


def test_a_schema_that_was_made_anew_is_not_called_edited_for_its_predecessor(
    database: Database, fleet: list[Tenant]
) -> None:
    migrate(database, fleet[:1], steps(2))
    edited = [step(1), migration(2, "CREATE TABLE a2 ();")]
    with session(database) as other:
        other.execute("DROP SCHEMA tenant_t01 CASCADE; CREATE SCHEMA tenant_t01")
    migrate(database, fleet[:1], edited)
    assert states(database, fleet[:1], edited) == {"t01": "current"}


def test_a_late_file_is_refused_until_it_is_asked_for_and_then_runs(database: Database, fleet: list[Tenant]) -> None:
    migrate(database, fleet[:1], [step(1), step(3)])
    assert states(database, fleet[:1], steps(3)) == {"t01": "out of order"}
    assert plan_for(database, fleet[:1], steps(3)).refused == {"t01": "out of order: stock/00002_step"}
    assert migrate(database, fleet[:1], steps(3), out_of_order=True).is_complete
    assert versions(database, fleet[:1]) == {"t01": (1, 3, 2)}


def test_a_version_without_a_file_is_unknown(database: Database, fleet: list[Tenant]) -> None:
    migrate(database, fleet[:1], steps(3))
    assert states(database, fleet[:1], steps(2)) == {"t01": "unknown"}
