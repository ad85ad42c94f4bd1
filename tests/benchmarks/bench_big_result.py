"""One tenant's large result, against pandas.read_sql of the same query, in one run.

    python -m tests.benchmarks.bench_big_result [ROWS]

The time is the median of rounds that take turns. The memory is that of a fresh process for each: the peak above the start, as a
multiple of what the frame holds.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pandas
import psycopg

from erpkit.config import Settings
from erpkit.database import Database, Tenant
from erpkit.embedded import EmbeddedServer
from erpkit.runs.sample import drop_database
from erpkit.tenants import across

NAME = "bench_big_result"
ROUNDS = 7
QUERIES = {
    "integers, floats, text, timestamps": "SELECT id, customer, amount, note, ordered, changed FROM orders",
    "with exact decimals": "SELECT id, customer, price, note, ordered, changed FROM orders",
}
_TENANT = Tenant("acme", "tenant_acme", f"{NAME}.tenant_acme")
_TABLE = """
CREATE TABLE tenant_acme.orders AS SELECT n AS id, n::bigint * 7 AS customer, n * 1.25::float8 AS amount, n * 1.05 AS price,
'note ' || n AS note, timestamp '2020-01-01' + n * interval '1 minute' AS ordered,
timestamptz '2020-01-01 00:00+00' + n * interval '1 minute' AS changed FROM generate_series(1, {rows}) n;
GRANT USAGE ON SCHEMA tenant_acme TO "{role}.read"; GRANT SELECT ON ALL TABLES IN SCHEMA tenant_acme TO "{role}.read"
"""


def main(rows: int) -> None:
    with _database(rows) as database:
        for what, query in QUERIES.items():
            rounds = [(_seconds(_read_sql, database, query), _seconds(_across, database, query)) for _ in range(ROUNDS)]
            sql, ours = (statistics.median(times) for times in zip(*rounds, strict=True))
            goal = 1.3 if "decimals" in what else 3
            print(f"{rows:,} rows, {what}: across {ours:.2f} s, read_sql {sql:.2f} s: {sql / ours:.1f} x (goal {goal})")
            print(f"  peak memory {_memory(database, query):.2f} x the frame's (limit 2)")


def _read_sql(database: Database, query: str) -> pandas.DataFrame:
    with psycopg.connect(database.conninfo, autocommit=True) as connection, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pandas knows only SQLAlchemy's connections by name
        connection.execute("SET search_path TO tenant_acme")
        return pandas.read_sql(query, cast("Any", connection))


def _across(database: Database, query: str) -> pandas.DataFrame:
    result = across(database, query, tenants=[_TENANT], limit=None)
    assert not result.errors, result.errors
    return result.frame


def _memory(database: Database, query: str) -> float:
    """Return the peak of a process that runs the query, above what it had before, as a multiple of the frame's memory."""
    arguments = [sys.executable, "-m", "tests.benchmarks.bench_big_result", "--memory", database.conninfo, query]
    return float(subprocess.run(arguments, check=True, capture_output=True, text=True).stdout)


def _measure(conninfo: str, query: str) -> None:
    with Database(conninfo, NAME) as database:
        across(database, f"{query} LIMIT 1", tenants=[_TENANT], limit=None)
        before = _status("VmRSS")
        frame = _across(database, query)
        print((_status("VmHWM") - before) / frame.memory_usage(deep=True).sum())


def _status(name: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024


def _seconds(work: Any, database: Database, query: str) -> float:
    started = time.perf_counter()
    work(database, query)
    return time.perf_counter() - started


@contextmanager
def _database(rows: int) -> Iterator[Database]:
    server = EmbeddedServer(Settings.from_env().home)
    server.start()
    with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
        drop_database(connection, NAME)
        connection.execute(f"CREATE DATABASE {NAME}".encode())
        with Database(server.url(NAME), NAME) as database:
            with database.connection() as own:
                own.execute(f'CREATE ROLE "{_TENANT.role}.read"; CREATE SCHEMA tenant_acme'.encode())
                own.execute(_TABLE.format(rows=rows, role=_TENANT.role).encode())
                own.execute("VACUUM ANALYZE tenant_acme.orders")
            yield database
        drop_database(connection, NAME)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--memory"]:
        _measure(*sys.argv[2:4])
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)
