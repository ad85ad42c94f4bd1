"""Large results of few tenants: the same limits, errors and interruptions as small results of many."""

import os
import signal
import threading
import time
from collections.abc import Iterator

import pandas
import pytest

from erpkit.database import Database, Tenant, open_stream
from erpkit.embedded import EmbeddedServer
from erpkit.tenants import across
from tests.conftest import _new_database

ENDLESS = "SELECT count(*) AS endless FROM generate_series(1, 1000000000000) n"
TENANTS = [Tenant("acme", "tenant_acme"), Tenant("blue", "tenant_blue")]


@pytest.fixture(scope="module")
def shared(server: EmbeddedServer) -> Iterator[Database]:
    for database in _new_database(server):
        with database.connection() as connection:
            connection.execute("CREATE SCHEMA tenant_acme; CREATE SCHEMA tenant_blue")
            for number, tenant in enumerate(TENANTS):
                rows = f"SELECT n, n % 7 = {number} AS yes, n * 0.5 AS half, 'note ' || n AS note FROM generate_series(1, 12000) n"
                connection.execute(f"CREATE TABLE {tenant.schema}.items AS {rows}".encode())
        yield database


def test_a_large_result_is_the_same_frame_as_a_small_one(shared: Database) -> None:
    query = "SELECT * FROM items WHERE n <= 9000 ORDER BY n"
    small, large = (across(shared, query, tenants=TENANTS, limit=limit).frame for limit in (10_000, None))
    pandas.testing.assert_frame_equal(small, large)
    assert len(large) == 18_000


def test_a_large_limit_holds_for_each_tenant_and_says_who_had_more(shared: Database) -> None:
    query = "SELECT n FROM items WHERE current_schema() = 'tenant_acme' OR n < 5 ORDER BY n"
    done: list[int] = []
    result = across(shared, query, tenants=TENANTS, limit=11_000, progress=done.append)
    assert dict(result.frame["tenant"].value_counts()) == {"acme": 11_000, "blue": 4}
    assert (result.truncated, result.frame["n"].max(), sum(done)) == (("acme",), 11_000, 2)


def test_a_tenant_that_fails_after_many_rows_is_named_beside_those_of_the_others(shared: Database) -> None:
    query = "SELECT 1 / (n - CASE current_schema() WHEN 'tenant_acme' THEN 11000 ELSE 0 END) AS x FROM items"
    ghost = Tenant("ghost", "tenant_ghost")
    result = across(shared, query, tenants=[*TENANTS, ghost], limit=None)
    assert dict(result.frame["tenant"].value_counts()) == {"blue": 12_000}
    assert result.errors["acme"] == "division by zero"
    assert "no schema tenant_ghost" in result.errors["ghost"]
    assert across(shared, "SELECT nowhere", tenants=TENANTS, limit=None).errors == {
        tenant.slug: 'column "nowhere" does not exist' for tenant in TENANTS
    }


def test_time_is_limited_for_all_tenants_together(shared: Database) -> None:
    started = time.monotonic()
    result = across(shared, ENDLESS, tenants=TENANTS, limit=None, timeout=0.3)
    assert time.monotonic() - started < 60  # and not without end
    assert set(result.errors) == {"acme", "blue"}


def test_a_large_result_is_read_only_and_in_the_tenants_own_schema(shared: Database) -> None:
    query = "SELECT current_setting('transaction_read_only') AS r, current_setting('search_path') AS s"
    frame = across(shared, query, tenants=TENANTS, limit=None).frame
    assert list(frame["r"]) == ["on", "on"]
    assert list(frame["s"]) == [f"{tenant.schema}, pg_temp" for tenant in TENANTS]


def test_an_interrupt_cancels_the_query_on_the_server(shared: Database) -> None:
    def interrupt() -> None:
        while _running(shared) == 0:
            pass
        os.kill(os.getpid(), signal.SIGINT)

    helper = threading.Thread(target=interrupt)
    helper.start()
    with pytest.raises(KeyboardInterrupt):
        across(shared, ENDLESS, tenants=TENANTS, limit=None)
    helper.join()
    assert _running(shared) == 0
    assert not across(shared, "SELECT 1 AS n", tenants=TENANTS, limit=None).errors


def test_an_interrupt_between_two_chunks_leaves_a_connection_that_works(shared: Database) -> None:
    deadline = time.monotonic() + 60
    with (
        pytest.raises(KeyboardInterrupt),
        open_stream(shared, TENANTS[0], b"SELECT generate_series(1, 1000000000)", deadline=deadline) as stream,
    ):
        for _ in stream.read(["c1"]):
            raise KeyboardInterrupt
    assert not stream.connection.closed
    assert len(across(shared, "SELECT n FROM items", tenants=TENANTS, limit=None).frame) == 24_000


def _running(database: Database) -> int:
    with database.connection() as connection:
        row = connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%endless%' AND pid <> pg_backend_pid()"
        ).fetchone()
    assert row is not None
    return int(row[0])
