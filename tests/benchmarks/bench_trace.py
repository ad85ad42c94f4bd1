"""Tracing one correlation among many events, and what the index for it costs an append.

    python -m tests.benchmarks.bench_trace [EVENTS]

Two tenants have EVENTS (1,000,000 unless given) in their logs, one of them without the index. Appends of 10,000 events, in
transactions of 1,000, take turns. Goals: a trace in less than 100 ms, and append at 0.9 of what it is without the index.
"""

from __future__ import annotations

import statistics
import sys
import time
from uuid import uuid4

import psycopg

from erpkit.config import Settings
from erpkit.database import Database, Tenant
from erpkit.embedded import EmbeddedServer
from erpkit.events import Message, append
from erpkit.events.trace import trace
from erpkit.migrations import read_migrations
from erpkit.runs.sample import drop_database
from erpkit.tenants import create_tenant
from tests.benchmarks.bench_events import ERP

NAME = "bench_trace"
ROUNDS, EACH = 15, 10_000


def main(events: int) -> None:
    server = EmbeddedServer(Settings.from_env().home)
    server.start()
    with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
        drop_database(connection, NAME)
        connection.execute(f"CREATE DATABASE {NAME}".encode())
        try:
            with Database(server.url(NAME), NAME) as database:
                with_index, without = (
                    create_tenant(database, read_migrations([]), slug) for slug in ("with_it", "without")
                )
                for tenant in (with_index, without):
                    _fill(database, tenant, events)
                with database.connection() as own:
                    own.execute(f"DROP INDEX {without.schema}.erpkit_events_correlation; CHECKPOINT".encode())
                _time_traces(database, with_index, events)
                _compare_appends(database, with_index, without)
                _time_traces(database, with_index, events + ROUNDS * EACH)
        finally:
            drop_database(connection, NAME)


def _fill(database: Database, tenant: Tenant, events: int) -> None:
    with database.connection() as connection:
        connection.execute(
            f"SELECT set_config('erpkit.append', '{tenant.schema}.erpkit_events'::regclass::oid::text, false)".encode()
        )
        connection.execute(
            f"""
            INSERT INTO {tenant.schema}.erpkit_events (uuid, topic, payload, metadata)
            SELECT gen_random_uuid(), 'clock.Ticked', jsonb_build_object('number', n, 'text', 'tick ' || n),
                jsonb_build_object('name', 'Ticked', 'correlation_id', gen_random_uuid(), 'causation_id', gen_random_uuid())
            FROM generate_series(1, {events}) n
            """.encode()
        )
        connection.execute(f"VACUUM ANALYZE {tenant.schema}.erpkit_events".encode())


def _time_traces(database: Database, tenant: Tenant, events: int) -> None:
    times = []
    with database.connection() as connection:
        ids = connection.execute(
            f"SELECT metadata->>'correlation_id' FROM {tenant.schema}.erpkit_events ORDER BY random() LIMIT {ROUNDS}".encode()
        ).fetchall()
        for (wanted,) in ids:
            started = time.perf_counter()
            assert len([one for one in trace(connection, [tenant], ERP, wanted).entries if one.kind == "event"]) == 1
            times.append(time.perf_counter() - started)
    print(
        f"one correlation among {events:,} events traced in {statistics.median(times) * 1000:.0f} ms, "
        f"slowest {max(times) * 1000:.0f} ms (goal 100)"
    )


def _compare_appends(database: Database, with_index: Tenant, without: Tenant) -> None:
    times: dict[str, list[float]] = {with_index.slug: [], without.slug: []}
    for _ in range(ROUNDS):
        for tenant in (with_index, without):
            messages = [
                Message("clock.Ticked", {"number": n, "text": f"tick {n}"}, uuid4(),
                        {"name": "Ticked", "correlation_id": str(uuid4()), "causation_id": str(uuid4())})
                for n in range(EACH)
            ]  # fmt: skip
            started = time.perf_counter()
            for first in range(0, EACH, 1000):
                with database.tenant_transaction(tenant, write=True) as connection:
                    append(connection, messages[first : first + 1000])
            times[tenant.slug].append(time.perf_counter() - started)
    ratios = [b / a for a, b in zip(times[with_index.slug], times[without.slug], strict=True)]
    print(
        f"append with the index {EACH / statistics.median(times[with_index.slug]):,.0f}/s, without "
        f"{EACH / statistics.median(times[without.slug]):,.0f}/s: median ratio of rounds {statistics.median(ratios):.2f} (goal 0.9)"
    )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)
