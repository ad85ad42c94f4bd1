"""A replay of the sample's whole log to its replayable handlers, over many tenants: its plan, and its rate.

    python -m tests.benchmarks.bench_fleet_replay [TENANTS]

One tenant does business, and the others (1,000 unless given) are copies of it. Goals: the plan in less than 3 s, and with two
workers three times the 2,000 events a second of one that handed over one event at a time.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date

import psycopg
from psycopg import sql

from erpkit.config import Settings
from erpkit.database import Connection, Database, Tenant
from erpkit.embedded import EmbeddedServer
from erpkit.events import ReplayPlan, RunOptions, Selection, plan_replay, run_replay
from erpkit.migrations import read_migrations
from erpkit.modules import Registry, load_modules
from erpkit.runs.sample import drop_database
from erpkit.sample.data import Size, do_business
from erpkit.tenants import create_tenant

NAME = "bench_fleet_replay"
ROUNDS = 3


def main(count: int) -> None:
    with _fleet(count) as (database, registry, tenants):
        seconds = statistics.median(_timed_plan(database, registry, tenants)[0] for _ in range(ROUNDS))
        print(f"plan over {count} tenants: {seconds:.2f} s (goal 3)")
        for workers in (1, 2):
            plan = _timed_plan(database, registry, tenants)[1]
            started = time.perf_counter()
            run = run_replay(database, registry, plan, plan.id, RunOptions(workers=workers))
            seconds = time.perf_counter() - started
            print(
                f"{run.handled:,} events to handlers by {workers} worker(s), {run.failed} failed: {run.handled / seconds:,.0f}/s"
            )


def _timed_plan(database: Database, registry: Registry, tenants: Sequence[Tenant]) -> tuple[float, ReplayPlan]:
    started = time.perf_counter()
    with database.connection() as connection:
        plan = plan_replay(connection, tenants, registry, Selection())
    return time.perf_counter() - started, plan


@contextmanager
def _fleet(count: int) -> Iterator[tuple[Database, Registry, list[Tenant]]]:
    settings = Settings(modules="erpkit.sample")
    registry = load_modules(settings)
    server = EmbeddedServer(Settings.from_env().home)
    server.start()
    with psycopg.connect(server.url("postgres"), autocommit=True) as admin:
        drop_database(admin, NAME)
        admin.execute(f"CREATE DATABASE {NAME}")
        database = Database(server.url(NAME), NAME)
        try:
            migrations = read_migrations(registry.modules)
            tenants = [create_tenant(database, migrations, f"t{number:04}") for number in range(count)]
            do_business(database, registry, tenants[0], 1, Size(), date(2026, 9, 30))
            with database.connection() as connection:
                for tenant in tenants[1:]:
                    _copy(connection, tenants[0], tenant)
                connection.execute("ANALYZE")
            yield database, registry, tenants
        finally:
            database.close()
            drop_database(admin, NAME)


def _copy(connection: Connection, source: Tenant, target: Tenant) -> None:
    names = connection.execute(
        "SELECT tablename FROM pg_tables WHERE schemaname = %s AND tablename !~ '^goose'", [source.schema]
    ).fetchall()
    with connection.transaction(), connection.pipeline():
        connection.execute("SET LOCAL session_replication_role TO replica")
        everything = sql.SQL(", ").join(sql.Identifier(target.schema, name) for (name,) in names)
        connection.execute(sql.SQL("TRUNCATE {}").format(everything))
        for (name,) in names:
            connection.execute(
                sql.SQL("INSERT INTO {} OVERRIDING SYSTEM VALUE SELECT * FROM {}").format(
                    sql.Identifier(target.schema, name), sql.Identifier(source.schema, name)
                )
            )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000)
