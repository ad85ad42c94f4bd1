"""Scoped transactions and one query over all tenants, against the same work without erpkit, in one run.

    python -m tests.benchmarks.bench_tenancy [TENANTS]

The peers: a psycopg transaction of the same query on a pooled connection; pandas.read_sql in a loop; the same statements
pipelined by bare psycopg on as many connections. Each figure is the median of several rounds that take turns.
"""

from __future__ import annotations

import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, cast

import pandas
import psycopg

from erpkit.config import Settings
from erpkit.database import Database, Tenant
from erpkit.embedded import EmbeddedServer
from erpkit.runs.sample import drop_database
from erpkit.tenants import across

NAME = "bench_tenancy"
QUERY = "SELECT id, amount, note FROM items ORDER BY id"
ROUNDS = 9

_SCHEMA = """
CREATE ROLE "{role}.read"; CREATE SCHEMA {schema}; GRANT USAGE ON SCHEMA {schema} TO "{role}.read";
CREATE TABLE {schema}.items AS SELECT n AS id, n * 1.5 AS amount, 'note ' || n AS note FROM generate_series(1, 33) n;
CREATE TABLE {schema}.b (id int); CREATE TABLE {schema}.c (id int);
GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO "{role}.read"
"""


def main(count: int) -> None:
    with _tenants(count) as (database, tenants):
        plain, scoped = _compare(lambda: _plain(database, tenants), lambda: _scoped(database, tenants), 300)
        print(
            f"scoped transaction {scoped:.3f} ms, plain transaction {plain:.3f} ms: ratio {scoped / plain:.2f} (limit 1.15)"
        )
        loop = _median([_seconds(lambda: _read_sql(database, tenants)) for _ in range(3)])
        bare, swept = _compare(lambda: _bare(database, tenants), lambda: _across(database, tenants), 1)
        print(
            f"across {swept:.0f} ms for {count} tenants; read_sql loop {1000 * loop:.0f} ms: {1000 * loop / swept:.1f} x (goal 10)"
        )
        print(f"bare pipelining {bare:.0f} ms: ratio {swept / bare:.2f} (limit 1.5)")


def _plain(database: Database, tenants: list[Tenant]) -> None:
    for tenant in tenants[:300]:
        with database._pool.connection() as connection, connection.transaction():
            connection.execute(f"SELECT id, amount, note FROM {tenant.schema}.items ORDER BY id").fetchall()


def _scoped(database: Database, tenants: list[Tenant]) -> None:
    for tenant in tenants[:300]:
        with database.tenant_transaction(tenant) as connection:
            connection.execute(QUERY).fetchall()


def _read_sql(database: Database, tenants: list[Tenant]) -> None:
    with psycopg.connect(database.conninfo, autocommit=True) as connection, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pandas knows only SQLAlchemy's connections by name
        frames = []
        for tenant in tenants:
            with connection.transaction():
                connection.execute(f"SET LOCAL search_path TO {tenant.schema}")
                frames.append(pandas.read_sql(QUERY, cast("Any", connection)).assign(tenant=tenant.slug))
        assert len(pandas.concat(frames)) == 33 * len(tenants)


def _bare(database: Database, tenants: list[Tenant], lanes: int = 3) -> None:
    def sweep(lane: list[Tenant]) -> int:
        with psycopg.connect(database.conninfo, autocommit=True) as connection:
            cursors = []
            with connection.pipeline() as pipeline:
                for tenant in lane:
                    connection.execute("BEGIN READ ONLY")
                    connection.execute(f"SET LOCAL search_path TO {tenant.schema}")
                    cursors.append(connection.execute(QUERY))
                    connection.execute("COMMIT")
                    pipeline.sync()
            return sum(len(cursor.fetchall()) for cursor in cursors)

    with ThreadPoolExecutor(lanes) as threads:
        assert sum(threads.map(sweep, [tenants[n::lanes] for n in range(lanes)])) == 33 * len(tenants)


def _across(database: Database, tenants: list[Tenant]) -> None:
    assert len(across(database, QUERY, tenants=tenants).frame) == 33 * len(tenants)


def _compare(first: Callable[[], None], second: Callable[[], None], times: int) -> tuple[float, float]:
    """Return the median milliseconds of both, run in turns after a warm-up."""
    first()
    second()
    rounds = [(_seconds(first), _seconds(second)) for _ in range(ROUNDS)]
    return 1000 * _median([a for a, _ in rounds]) / times, 1000 * _median([b for _, b in rounds]) / times


def _median(values: list[float]) -> float:
    return statistics.median(values)


def _seconds(work: Callable[[], None]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


@contextmanager
def _tenants(count: int) -> Iterator[tuple[Database, list[Tenant]]]:
    """Make `count` schemas of three tables, with a role each, in a scratch database."""
    server = EmbeddedServer(Settings.from_env().home)
    server.start()
    with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
        drop_database(connection, NAME)
        connection.execute(f"CREATE DATABASE {NAME}".encode())
        database = Database(server.url(NAME), NAME)
        tenants = [Tenant(f"t{n}", f"tenant_t{n}", f"{NAME}.tenant_t{n}") for n in range(count)]
        with database.connection() as own:
            for tenant in tenants:
                own.execute(_SCHEMA.format(schema=tenant.schema, role=tenant.role).encode())
        yield database, tenants
        database.close()
        drop_database(connection, NAME)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000)
