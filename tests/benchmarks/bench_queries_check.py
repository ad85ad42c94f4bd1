"""How long `erpkit queries check` takes: python -m tests.benchmarks.bench_queries_check [TENANTS]; 20 queries in each.

It works in a database of its own on the embedded server, and drops it.
"""

from __future__ import annotations

import sys
import time
from itertools import islice
from uuid import uuid4

import psycopg

from erpkit.config import Settings
from erpkit.database import Database, Tenant
from erpkit.embedded import EmbeddedServer
from erpkit.migrations import Migration, read_migrations
from erpkit.migrations.script import create_version_table
from erpkit.modules import load_modules
from erpkit.queries import Statement, check_queries, read_statements
from erpkit.runs.sample import drop_database
from erpkit.tenants.lifecycle import new_tenant, prepare_database
from erpkit.tenants.roles import create_roles, grant_schema

QUERIES = 20


def main(count: int) -> None:
    """Make `count` tenants, check them twice (sound, and one in ten with a broken query), and print the seconds."""
    modules = load_modules(Settings(modules="erpkit.sample")).modules
    statements = list(islice(read_statements(modules), QUERIES))
    server = EmbeddedServer(Settings.from_env().home)
    server.start()
    name = f"bench_{uuid4().hex[:10]}"
    with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
        with Database(server.url(name), name) as database:
            with database.connection() as own:
                prepare_database(own)
                tenants = [new_tenant(own, f"t{number}") for number in range(count)]
            _make(database, tenants, read_migrations(modules))
            _check(database, tenants, statements, "sound")
            for tenant in tenants[::10]:
                with database.connection() as own:
                    own.execute(f"ALTER TABLE {tenant.schema}.sales_customers DROP COLUMN country")
            _check(database, tenants, statements, "one in ten drifted")
        drop_database(connection, name)


def _check(database: Database, tenants: list[Tenant], statements: list[Statement], state: str) -> None:
    started = time.perf_counter()
    broken = check_queries(database, tenants, statements)
    seconds = time.perf_counter() - started
    print(f"{len(statements)} queries x {len(tenants)} tenants, {state}: {seconds:.2f} s, {len(broken)} broken")


def _make(database: Database, tenants: list[Tenant], migrations: tuple[Migration, ...]) -> None:
    for tenant in tenants:
        with database.transaction() as connection:
            connection.execute(
                f"SET LOCAL client_min_messages TO warning; CREATE SCHEMA {tenant.schema}; "
                f"SET LOCAL search_path TO {tenant.schema}"
            )
            script = (part for m in migrations for part in (create_version_table(tenant, m), *m.content.up))
            connection.execute("\n;\n".join(script).encode())
            create_roles(connection, tenant)
            grant_schema(connection, tenant)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000)
