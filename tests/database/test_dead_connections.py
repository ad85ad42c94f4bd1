"""Connections that died while the pool held them, or while they were lent: after a restart, or when somebody ended them."""

import socket
import socketserver
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, suppress
from itertools import cycle

import psycopg
import pytest

from erpkit.database import Connection, Database, Tenant
from erpkit.embedded import EmbeddedServer
from erpkit.errors import DatabaseError
from erpkit.tenants import across, create_tenant, inspect_tenants
from tests.migrations.fleet import own_server

Way = Callable[[Database, Tenant], None]
Lend = Callable[[], AbstractContextManager[Connection]]

HELD = 5
_END_ALL = (
    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
    "WHERE datname = current_database() AND pid <> pg_backend_pid()"
)


@pytest.fixture(scope="module")
def mortal_server() -> Iterator[EmbeddedServer]:
    """A server that may be stopped."""
    with own_server() as server:
        yield server


@pytest.fixture(scope="module")
def mortal(mortal_server: EmbeddedServer) -> Iterator[tuple[Database, Tenant]]:
    with Database(mortal_server.url(), "embedded") as database:
        yield database, create_tenant(database, [], "acme")


def _fill(database: Database) -> None:
    """Let the pool hold five connections that nobody uses."""
    with ExitStack() as stack:
        for _ in range(HELD):
            stack.enter_context(database.connection())


def _end_all(database: Database) -> None:
    """End all sessions without waiting until they are gone."""
    with psycopg.connect(database.conninfo, autocommit=True) as other:
        row = other.execute(_END_ALL).fetchone()
    assert row is not None
    assert row[0] >= HELD


def _write(database: Database, tenant: Tenant) -> None:
    with database.tenant_transaction(tenant, write=True) as connection:
        assert connection.execute("SELECT current_schema()").fetchone() == ("tenant_acme",)


def _read(database: Database, tenant: Tenant) -> None:
    with database.tenant_transaction(tenant) as connection:
        assert connection.execute("SELECT current_user::text").fetchone() == (tenant.reader,)


def _lend(database: Database, _: Tenant) -> None:
    with database.connection() as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


def _begin(database: Database, _: Tenant) -> None:
    with database.transaction() as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


def _visit(database: Database, tenant: Tenant) -> None:
    with database.visit([tenant]) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


def _visit_at_once(database: Database, tenant: Tenant) -> None:
    with database.visit_at_once([[tenant]] * 3) as pairs:
        assert [connection.execute("SELECT 1").fetchone() for connection, _ in pairs] == [(1,)] * 3


def _across(database: Database, tenant: Tenant) -> None:
    result = across(database, "SELECT 1 AS n", tenants=[tenant])
    assert (list(result.frame["n"]), result.errors) == ([1], {})


def _inspect(database: Database, tenant: Tenant) -> None:
    with database.connection() as connection:
        (found,) = inspect_tenants(connection, [tenant], [])
    assert found.tenant == tenant


WAYS: list[Way] = [_write, _read, _lend, _begin, _visit, _visit_at_once, _across, _inspect]


@pytest.mark.parametrize("way", WAYS)
def test_sessions_that_were_ended_are_replaced_before_anything_runs(way: Way, mortal: tuple[Database, Tenant]) -> None:
    database, tenant = mortal
    for _ in range(3):
        _fill(database)
        _end_all(database)
        for _ in range(HELD):
            way(database, tenant)


@pytest.mark.parametrize("way", [_write, _read, _lend, _visit])
def test_threads_that_meet_dead_connections_together_all_get_new_ones(
    way: Way, mortal: tuple[Database, Tenant]
) -> None:
    database, tenant = mortal
    for _ in range(3):
        _fill(database)
        _end_all(database)
        with ThreadPoolExecutor(HELD) as threads:
            list(threads.map(lambda _: way(database, tenant), range(4 * HELD)))


def test_after_a_restart_of_the_server_each_way_in_works_at_first_try(
    mortal: tuple[Database, Tenant], mortal_server: EmbeddedServer
) -> None:
    database, tenant = mortal
    for way in WAYS:
        _fill(database)
        assert mortal_server.stop()
        mortal_server.start()
        way(database, tenant)


@pytest.mark.parametrize("is_held", [True, False])
def test_a_server_that_stays_down_is_named_in_one_line_and_soon(
    is_held: bool, mortal: tuple[Database, Tenant], mortal_server: EmbeddedServer
) -> None:
    """Also where the pool holds no connection; and when the server is back, the next try finds it."""
    database, tenant = mortal
    with Database(database.conninfo, "the books") as own:
        if is_held:
            _fill(own)
        mortal_server.stop()
        try:
            some: tuple[Way, ...] = (_write, _across)
            for way in some:
                started = time.monotonic()
                with pytest.raises(DatabaseError, match="^cannot connect to the books: No such file or directory$"):
                    way(own, tenant)
                assert time.monotonic() - started < 10  # and not the half minute that a busy pool is waited for
        finally:
            mortal_server.start()
        for way in WAYS:
            way(own, tenant)


class _CutsAtFirstQuery(socketserver.BaseRequestHandler):
    """Between a client and the server: lets sessions begin, and ends each with its first query."""

    target = ""

    def handle(self) -> None:
        with socket.socket(socket.AF_UNIX) as server:
            server.connect(self.target)
            for side in cycle((self.request, server)):
                if (said := side.recv(2**16)).startswith((b"Q", b"X")):
                    return
                (server if side is self.request else self.request).sendall(said)


def test_a_server_that_ends_new_sessions_too_is_named_after_the_second(
    mortal: tuple[Database, Tenant], mortal_server: EmbeddedServer
) -> None:
    _, tenant = mortal
    handler = type("Handler", (_CutsAtFirstQuery,), {"target": str(mortal_server.socket_folder / ".s.PGSQL.5432")})
    with (
        tempfile.TemporaryDirectory(dir="/tmp") as folder,
        socketserver.ThreadingUnixStreamServer(f"{folder}/.s.PGSQL.5432", handler) as proxy,
    ):
        threading.Thread(target=proxy.serve_forever, args=(0.01,)).start()
        with Database(f"host={folder} dbname=erpkit user=postgres", "the books") as cut:
            for way in WAYS[:-1]:
                with pytest.raises(DatabaseError, match="^the books closed 3 connections in a row, the last ones new"):
                    way(cut, tenant)
        proxy.shutdown()


def test_who_waits_while_the_server_restarts_gets_a_connection_of_the_new_one(
    mortal: tuple[Database, Tenant], mortal_server: EmbeddedServer
) -> None:
    database, tenant = mortal
    with Database(database.conninfo, "one", max_connections=1) as one, ThreadPoolExecutor(3) as threads:
        # Reads are lent by a pool of their own: both are held, or a read would begin and be cut by the restart.
        with (
            pytest.raises(psycopg.OperationalError),
            one.connection() as connection,
            one.tenant_transaction(tenant),
        ):
            waiting = [threads.submit(way, one, tenant) for way in (_write, _read, _lend)]
            mortal_server.stop()
            mortal_server.start()
            connection.execute("SELECT 1")
        for each in waiting:
            each.result(timeout=60)


@pytest.mark.parametrize("write", [True, False])
def test_a_block_that_has_begun_is_never_run_again(write: bool, mortal: tuple[Database, Tenant]) -> None:
    database, tenant = mortal
    ran = []
    with pytest.raises(psycopg.OperationalError), database.tenant_transaction(tenant, write=write) as connection:
        ran.append(connection.info.backend_pid)
        _fill(database)
        _end_all(database)
        connection.execute("SELECT 1")
    assert len(ran) == 1
    _write(database, tenant)


def test_the_error_of_a_block_is_told_rather_than_that_the_connection_died_too(mortal: tuple[Database, Tenant]) -> None:
    database, tenant = mortal
    ways: list[Lend] = [
        database.connection, database.transaction, lambda: database.tenant_transaction(tenant, write=True)
    ]  # fmt: skip
    for lend in ways:
        with pytest.raises(ZeroDivisionError), lend():
            _fill(database)
            _end_all(database)
            _ = 1 / 0


def test_what_was_read_before_the_connection_died_is_no_failure(mortal: tuple[Database, Tenant]) -> None:
    database, tenant = mortal
    ways: list[Lend] = [database.connection, lambda: database.tenant_transaction(tenant)]
    for lend in ways:
        with lend() as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
            _fill(database)
            _end_all(database)


def test_a_lost_connection_that_a_block_does_not_mind_is_told_at_the_end(mortal: tuple[Database, Tenant]) -> None:
    database, tenant = mortal
    with (
        pytest.raises(DatabaseError, match="tenant acme: the connection was lost: the transaction was rolled"),
        database.tenant_transaction(tenant, write=True) as connection,
        pytest.raises(psycopg.OperationalError),
    ):
        _fill(database)
        _end_all(database)
        connection.execute("SELECT 1")


def test_a_commit_whose_answer_was_lost_is_told_and_never_repeated(mortal: tuple[Database, Tenant]) -> None:
    database, tenant = mortal
    with database.connection() as connection:
        connection.execute(
            "CREATE TABLE tenant_acme.orders (id int); "
            "CREATE FUNCTION tenant_acme.dies() RETURNS trigger SECURITY DEFINER LANGUAGE plpgsql AS "
            "'BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END'; "
            "CREATE CONSTRAINT TRIGGER at_the_end AFTER INSERT ON tenant_acme.orders DEFERRABLE INITIALLY DEFERRED "
            "FOR EACH ROW EXECUTE FUNCTION tenant_acme.dies()"
        )
    ran = 0
    with (
        pytest.raises(DatabaseError, match="tenant acme: the connection was lost during the commit .*: check whether"),
        database.tenant_transaction(tenant, write=True) as connection,
    ):
        ran += 1
        connection.execute("INSERT INTO orders VALUES (1)")
    assert ran == 1
    with database.tenant_transaction(tenant) as connection:
        assert connection.execute("SELECT count(*) FROM orders").fetchone() == (0,)


def test_a_connection_that_is_cut_at_any_moment_costs_what_has_begun_and_nothing_else(
    mortal: tuple[Database, Tenant],
) -> None:
    """While somebody ends sessions all the time, only errors of the connection come up, and the pool survives them."""
    database, tenant = mortal
    stop = threading.Event()

    def cut() -> None:
        with psycopg.connect(database.conninfo, autocommit=True, application_name="cutter") as other:
            while not stop.wait(0.01):
                other.execute(f"{_END_ALL} AND application_name <> 'cutter'")

    cutter = threading.Thread(target=cut)
    cutter.start()
    try:
        until = time.monotonic() + 1
        with ThreadPoolExecutor(4) as threads:

            def work(way: Way) -> None:
                while time.monotonic() < until:
                    with suppress(DatabaseError, psycopg.OperationalError):
                        way(database, tenant)

            list(threads.map(work, (_write, _read, _lend, _visit)))
    finally:
        stop.set()
        cutter.join()
    for way in WAYS:
        way(database, tenant)
