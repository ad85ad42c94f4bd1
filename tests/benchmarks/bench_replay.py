"""Reading the log for a replay, against a bare server-side cursor; and a projection rebuilt from many events.

    python -m tests.benchmarks.bench_replay [EVENTS [READ]]

EVENTS are rebuilt (1,000,000 unless given) and READ of them read (200,000). Each figure of the reading is the median of
rounds that take turns; memory is the process's own, after a tenth of the rebuild and at its end.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg

from erpkit.config import Settings
from erpkit.database import Database, Tenant
from erpkit.embedded import EmbeddedServer
from erpkit.events import Context, RunOptions, Selection, rebuild_projection
from erpkit.events.replay.selection import Span, read_selected, stream_selected
from erpkit.migrations import read_migrations
from erpkit.modules import EventHandler, Module, Registry
from erpkit.runs.sample import drop_database
from erpkit.tenants import create_tenant

NAME = "bench_replay"
ROUNDS = 5


@dataclass(frozen=True)
class Sold:
    """So much of an item was sold."""

    item: int
    amount: int


def _add(event: Sold, context: Context) -> None:
    context.connection.execute(
        "INSERT INTO totals VALUES (%s, %s) ON CONFLICT (item) DO UPDATE SET amount = totals.amount + EXCLUDED.amount",
        [event.item, event.amount],
    )


SHOP = Registry.of(
    [
        Module(
            "shop",
            publishes=(Sold,),
            subscribes=(EventHandler("shop.on_sold", Sold, _add, replayable=True, writes=("totals",)),),
        )
    ]
)


def main(events: int, read: int) -> None:
    with _tenant(events) as (database, tenant):
        selection = Selection(last_offset=read)
        ways = [
            lambda: _bare(database, tenant, read),
            lambda: _stream(database, tenant, selection),
            lambda: _batches(database, tenant, selection, read),
        ]
        bare, stream, batches = _medians(ways)
        print(f"{read} events read: bare server-side cursor {read / bare:,.0f}/s")
        print(f"stream_selected {read / stream:,.0f}/s: ratio {bare / stream:.2f} (limit 0.7)")
        print(f"read_selected, 500 a transaction {read / batches:,.0f}/s: ratio {bare / batches:.2f}")
        _rebuild(database, tenant, events)


def _rebuild(database: Database, tenant: Tenant, events: int) -> None:
    done, early, started = 0, 0, time.perf_counter()

    def watch(count: int) -> None:
        nonlocal done, early
        done += count
        if not early and done >= events / 10:
            early = _memory()

    diff = rebuild_projection(database, SHOP, tenant, "shop.on_sold", RunOptions(watch))
    seconds = time.perf_counter() - started
    print(
        f"{diff.shadow.events} events rebuilt in {seconds:.0f} s: {diff.shadow.events / seconds:,.0f}/s, {diff.count} rows put "
        f"in place; memory {early / 1024:.0f} MiB after a tenth, {_memory() / 1024:.0f} MiB at the end"
    )


def _bare(database: Database, tenant: Tenant, read: int) -> None:
    with psycopg.connect(database.conninfo) as connection, connection.cursor(name="bare") as cursor:
        cursor.itersize = 2000
        cursor.execute(
            'SELECT "offset", uuid, topic, payload, metadata, recorded_at FROM '
            f'{tenant.schema}.erpkit_events WHERE "offset" <= {read} ORDER BY "offset"'.encode()
        )
        assert sum(1 for _ in cursor) == read


def _stream(database: Database, tenant: Tenant, selection: Selection) -> None:
    with database.tenant_transaction(tenant) as connection:
        assert sum(1 for _ in stream_selected(connection, selection)) == selection.last_offset


def _batches(database: Database, tenant: Tenant, selection: Selection, read: int) -> None:
    after = 0
    while after < read:
        with database.tenant_transaction(tenant) as connection:
            after = read_selected(connection, selection, Span(["shop.Sold"], after, read), 500)[-1].offset or 0


def _medians(ways: list[Callable[[], None]]) -> list[float]:
    rounds = [[_seconds(way) for way in ways] for _ in range(ROUNDS)]
    return [statistics.median(times) for times in zip(*rounds, strict=True)]


def _seconds(way: Callable[[], None]) -> float:
    started = time.perf_counter()
    way()
    return time.perf_counter() - started


def _memory() -> int:
    """Return the resident memory of this process in KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1])


@contextmanager
def _tenant(events: int) -> Iterator[tuple[Database, Tenant]]:
    server = EmbeddedServer(Settings.from_env().home)
    server.start()
    with psycopg.connect(server.url("postgres"), autocommit=True) as admin:
        drop_database(admin, NAME)
        admin.execute(f"CREATE DATABASE {NAME}")
        database = Database(server.url(NAME), NAME)
        try:
            tenant = create_tenant(database, read_migrations(SHOP.modules), "bench")
            with database.connection() as connection:
                connection.execute(
                    f"""
                    CREATE TABLE {tenant.schema}.totals (item int PRIMARY KEY, amount bigint NOT NULL);
                    INSERT INTO {tenant.schema}.erpkit_events (uuid, topic, payload, metadata)
                    SELECT gen_random_uuid(), 'shop.Sold', jsonb_build_object('item', n % 10000, 'amount', 1),
                        jsonb_build_object('name', 'Sold', 'correlation_id', gen_random_uuid(), 'causation_id', gen_random_uuid())
                    FROM generate_series(1, {events}) n;
                    INSERT INTO {tenant.schema}.erpkit_checkpoints VALUES ('shop.on_sold', {events});
                    ANALYZE {tenant.schema}.erpkit_events
                    """.encode()
                )
            yield database, tenant
        finally:
            database.close()
            drop_database(admin, NAME)


if __name__ == "__main__":
    given = [int(argument) for argument in sys.argv[1:]]
    main(*(given + [1_000_000, 200_000][len(given) :]))
