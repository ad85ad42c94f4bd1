"""What a pooled connection may keep: nothing. And the same behind PgBouncer."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import date

import psycopg
import pytest

from erpkit.database import TENANTS_A_CONNECTION, Connection, Database, Tenant
from erpkit.embedded import EmbeddedServer
from erpkit.errors import DatabaseError
from erpkit.events import Message, Worker, WorkerOptions, WorkerReport, append, dispatch
from erpkit.migrations import Migration, plan_up, read_applied, run_plan
from erpkit.modules import Registry
from erpkit.sample.data import do_business
from erpkit.sample.demo import Planted
from erpkit.tenants import across, create_tenant, list_tenants
from tests.bouncer import pgbouncer
from tests.conftest import SMALL

SESSION_SETTINGS = [
    "SET work_mem TO '1MB'",
    "SET search_path TO pg_catalog",
    "SET ROLE pg_read_all_data",
    "SET SESSION AUTHORIZATION pg_monitor",
    "SET application_name TO 'mine'",
    "SET statement_timeout TO 1",
    "SET default_transaction_read_only TO on",
    "SELECT set_config('work_mem', '2MB', false)",
    "CREATE TEMP TABLE leftover (id int)",
    "PREPARE leftover AS SELECT 1",
    "SELECT pg_advisory_lock(42)",
    "LISTEN leftover",
    "DECLARE leftover CURSOR WITH HOLD FOR SELECT 1",
]
_STATE = """
SELECT current_user::text, session_user::text, current_setting('work_mem'), current_setting('search_path'),
       current_setting('application_name'), current_setting('statement_timeout'), current_setting('default_transaction_read_only'),
       to_regclass('pg_temp.leftover')::text, (SELECT count(*) FROM pg_prepared_statements), (SELECT count(*) FROM pg_cursors),
       (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()),
       (SELECT count(*) FROM pg_listening_channels())
"""


@pytest.fixture
def one(
    server: EmbeddedServer, database: Database, migrations: tuple[Migration, ...]
) -> Iterator[tuple[Database, Tenant]]:
    """A pool of a single connection, so that the next borrower gets the one that came back; and a tenant."""
    tenant = create_tenant(database, migrations, "acme")
    with Database(database.conninfo, "one connection", max_connections=1) as single:
        yield single, tenant


def _state(database: Database) -> tuple[object, ...]:
    with database.connection() as connection:
        row = connection.execute(_STATE).fetchone()
    assert row is not None
    return row


@pytest.mark.parametrize("setting", SESSION_SETTINGS)
def test_no_setting_survives_the_return_of_a_connection(one: tuple[Database, Tenant], setting: str) -> None:
    database, _ = one
    before = _state(database)
    with database.connection() as connection:
        connection.execute(setting.encode())
    assert _state(database) == before


@pytest.mark.parametrize("setting", SESSION_SETTINGS)
def test_no_setting_survives_a_tenant_transaction(one: tuple[Database, Tenant], setting: str) -> None:
    database, tenant = one
    before = _state(database)
    plain = Tenant(tenant.slug, tenant.schema)  # without the role, as it may not do all of this
    with database.tenant_transaction(plain, write=True) as connection:
        connection.execute(setting.encode())
    assert _state(database) == before


def _fails(connection: Connection) -> None:
    connection.execute("SELECT 1 / 0")


def _takes_too_long(connection: Connection) -> None:
    connection.execute("SET LOCAL statement_timeout TO 30; SELECT pg_sleep(5)")


def _is_cancelled(connection: Connection) -> None:
    connection.execute("SELECT pg_cancel_backend(pg_backend_pid()), pg_sleep(5)")


@pytest.mark.parametrize("setting", [setting for setting in SESSION_SETTINGS if "TEMP" not in setting])
def test_nothing_survives_a_tenant_transaction_that_only_reads(one: tuple[Database, Tenant], setting: str) -> None:
    database, tenant = one
    before = _state(database)
    with database.tenant_transaction(Tenant(tenant.slug, tenant.schema)) as connection:
        connection.execute(setting.encode())
    assert _state(database) == before


@pytest.mark.parametrize("trouble", [_fails, _takes_too_long, _is_cancelled])
@pytest.mark.parametrize("write", [True, False])
def test_no_setting_survives_an_error_or_a_cancelled_query(
    one: tuple[Database, Tenant], trouble: Callable[[Connection], None], write: bool
) -> None:
    database, tenant = one
    before = _state(database)
    with (
        pytest.raises(psycopg.Error),
        database.tenant_transaction(Tenant(tenant.slug, tenant.schema), write=write) as connection,
    ):
        connection.execute("SET work_mem TO '1MB'; SET ROLE pg_read_all_data")
        trouble(connection)
    assert _state(database) == before


def test_a_lock_that_a_tenants_own_function_takes_is_released_at_once(one: tuple[Database, Tenant]) -> None:
    database, tenant = one
    with database.tenant_transaction(Tenant(tenant.slug, tenant.schema), write=True) as connection:
        connection.execute(
            "CREATE FUNCTION hides() RETURNS void LANGUAGE plpgsql AS $$ BEGIN "
            "PERFORM pg_advisory_lock(42); EXECUTE 'PREPARE leftover AS SELECT 1'; END $$"
        )
    with database.tenant_transaction(Tenant(tenant.slug, tenant.schema)) as connection:
        connection.execute("SELECT hides()")
    with psycopg.connect(database.conninfo) as other:
        assert other.execute("SELECT pg_try_advisory_xact_lock(42)").fetchone() == (True,)
    assert _state(database)[8] == 0


def _swallow(connection: Connection) -> None:
    with pytest.raises(psycopg.errors.DivisionByZero):
        connection.execute("SELECT 1 / 0")


def test_an_error_that_is_swallowed_is_told_at_the_end(one: tuple[Database, Tenant]) -> None:
    database, tenant = one
    with (
        pytest.raises(DatabaseError, match="a statement failed"),
        database.tenant_transaction(tenant, write=True) as connection,
    ):
        _swallow(connection)


def test_a_transaction_that_is_ended_inside_is_told_at_the_end(one: tuple[Database, Tenant]) -> None:
    database, tenant = one
    with (
        pytest.raises(DatabaseError, match="was ended inside"),
        database.tenant_transaction(tenant, write=True) as connection,
    ):
        connection.execute("COMMIT")


def test_a_connection_is_replaced_after_a_few_hundred_tenants(one: tuple[Database, Tenant]) -> None:
    database, _ = one
    with database.connection() as connection:
        for number in range(TENANTS_A_CONNECTION + 1):
            connection.execute(f"CREATE SCHEMA tenant_n{number}".encode())
    pids = []
    for number in range(TENANTS_A_CONNECTION + 1):
        with database.tenant_transaction(Tenant(f"n{number}", f"tenant_n{number}")) as connection:
            pids.append(connection.info.backend_pid)
    assert pids.count(pids[0]) == TENANTS_A_CONNECTION
    assert pids[-1] != pids[0]


def test_a_sweep_in_groups_meets_connections_that_know_its_tenants(
    database: Database, migrations: tuple[Migration, ...]
) -> None:
    made = [create_tenant(database, migrations, slug) for slug in ("acme", "bluebird", "cobalt")]
    with Database(database.conninfo, "three", max_connections=3) as three:
        for _ in range(4):
            across(three, "SELECT 1 AS n", tenants=made)
            with three.visit_at_once([[made[0]], [made[1]], [made[2]]]) as pairs:
                assert [connection.visited for connection, _ in pairs] == [{tenant.schema} for tenant in made]
            with three.connection():
                pass  # the pool hands out another one first the next time


def test_a_sweep_goes_on_with_the_connections_that_are_left(
    database: Database, migrations: tuple[Migration, ...]
) -> None:
    made = [create_tenant(database, migrations, slug) for slug in ("acme", "bluebird", "cobalt")]
    with Database(database.conninfo, "two", max_connections=2) as two, two.connection():
        assert list(across(two, "SELECT 1 AS n", tenants=made).frame["tenant"]) == ["acme", "bluebird", "cobalt"]


_PREPARED = "SELECT count(*) AS n FROM pg_prepared_statements"


def test_only_postgresql_itself_is_sent_a_statement_to_keep_for_the_sweep(
    one: tuple[Database, Tenant], bouncer: Database
) -> None:
    database, tenant = one
    assert list(across(database, _PREPARED, tenants=[tenant]).frame["n"]) == [1]
    assert list(across(bouncer, _PREPARED, tenants=[tenant]).frame["n"]) == [0]
    assert _state(database)[8] == 0


@pytest.fixture
def bouncer(server: EmbeddedServer, database: Database) -> Iterator[Database]:
    """PgBouncer in transaction mode with one server connection, so that each transaction meets what the last one left."""
    with pgbouncer(server, database, "transaction", connections=1) as behind:
        yield behind


def test_everything_works_behind_pgbouncer_in_transaction_mode(
    bouncer: Database, erp: Planted, registry: Registry, migrations: tuple[Migration, ...]
) -> None:
    tenant = create_tenant(bouncer, migrations, "zebra")
    do_business(bouncer, registry, tenant, 3, SMALL, date(2026, 10, 31))
    assert dispatch(bouncer, tenant, registry).handled == 0
    with bouncer.connection() as connection:
        tenants = list_tenants(connection)
    frame = across(bouncer, "SELECT count(*) AS orders FROM sales_orders", tenants=tenants).frame
    assert set(frame["orders"]) >= {10}
    scope = across(bouncer, "SELECT current_schema() AS schema, current_user::text AS role", tenants=tenants).frame
    assert list(scope["schema"]) == [one.schema for one in tenants if one.is_active]
    assert list(scope["role"]) == [one.reader for one in tenants if one.is_active]
    with bouncer.connection() as connection:
        plan = plan_up(tenants, migrations, read_applied(connection, tenants, migrations))
    run = run_plan(bouncer, plan, plan.id, workers=2)
    assert run.is_complete
    assert [result.tenant for result in run.results] == [erp.behind]
    with bouncer.tenant_transaction(tenant) as connection:
        assert connection.execute("SELECT current_schema(), current_user::text").fetchone() == (
            tenant.schema,
            tenant.reader,
        )
    with bouncer.connection() as connection:
        assert connection.execute("SELECT current_schema(), current_user::text").fetchone() == ("public", "postgres")


def test_sessions_that_were_ended_behind_pgbouncer_are_replaced_too(bouncer: Database, database: Database) -> None:
    tenant = create_tenant(database, [], "acme")
    for _ in range(5):
        with bouncer.tenant_transaction(tenant) as connection:
            connection.execute("SELECT 1")
        with psycopg.connect(database.conninfo, autocommit=True) as other:
            other.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        with bouncer.tenant_transaction(tenant) as connection:
            assert connection.execute("SELECT current_schema()").fetchone() == ("tenant_acme",)


def test_a_worker_behind_pgbouncer_finds_events_by_looking_and_leaves_no_lock_to_others(
    bouncer: Database, database: Database, migrations: tuple[Migration, ...], registry: Registry
) -> None:
    """LISTEN, and locks of a session, are with whoever gets the server connection next."""
    tenant = create_tenant(database, migrations, "acme")

    def stop_when_done(report: WorkerReport) -> None:
        if report.handled or report.dead:
            worker.stop()

    worker = Worker(bouncer, registry, list_tenants, stop_when_done, WorkerOptions(poll=0.1, report_every=0.1))
    with ThreadPoolExecutor() as threads:
        run = threads.submit(worker.run)
        with database.tenant_transaction(tenant, write=True) as connection:
            append(connection, [Message("inventory.StockShort", {})])
        assert run.result(timeout=30).dead == 1
    with database.connection() as connection:
        held = (
            "SELECT count(*) FROM pg_locks l JOIN pg_database d ON d.oid = l.database AND datname = current_database()"
        )
        assert connection.execute(f"{held} WHERE locktype = 'advisory'").fetchone() == (0,)
