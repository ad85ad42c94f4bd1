"""Seconds to inspect a fleet: `python -m tests.benchmarks.bench_inspection [TENANTS]`, in a scratch database."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import psycopg

from erpkit.config import Settings
from erpkit.database import Database
from erpkit.embedded import EmbeddedServer
from erpkit.events import consumer_groups
from erpkit.migrations import plan_up, read_applied, read_migrations, run_plan
from erpkit.modules import load_modules
from erpkit.runs.sample import drop_database
from erpkit.tenants import create_tenant, ensure_template, find_drift, inspect_tenant, inspect_tenants, list_tenants

NAME = "bench_inspection"


def main(count: int) -> None:
    """Make `count` tenants of the sample ERP, without data, and measure on a fresh connection each time."""
    server = EmbeddedServer(Settings.from_env().home)
    server.start()
    registry = load_modules(Settings(modules="erpkit.sample"))
    migrations, groups = read_migrations(registry.modules), consumer_groups(registry)
    with psycopg.connect(server.url("postgres"), autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {NAME}")
        try:
            with Database(server.url(NAME), NAME) as database:
                with database.connection() as connection:
                    template = ensure_template(connection)
                    plan = plan_up([template], migrations, read_applied(connection, [template]))
                run_plan(database, plan, plan.id)
                with ThreadPoolExecutor(3) as executor:
                    list(executor.map(lambda n: create_tenant(database, migrations, f"t{n:05d}"), range(count)))
                with database.connection() as connection:
                    tenants = list_tenants(connection)
                    connection.execute("ANALYZE")
            for name, work in {
                "inspection": lambda c: inspect_tenants(c, tenants, migrations, groups=groups),
                "drift": lambda c: find_drift(c, tenants),
                "detail": lambda c: inspect_tenant(c, tenants[0], migrations, groups=groups),
            }.items():
                _measure(server.url(NAME), name, work)
        finally:
            drop_database(admin, NAME)


def _measure(url: str, name: str, work: Callable[[psycopg.Connection[tuple[object, ...]]], object]) -> None:
    for _ in range(3):
        with psycopg.connect(url, autocommit=True) as connection:
            started = time.perf_counter()
            work(connection)
            print(f"{name}: {time.perf_counter() - started:.2f} s")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000)
