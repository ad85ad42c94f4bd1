"""Appending to the event log and dispatching from it, against bare COPY, in one run.

    python -m tests.benchmarks.bench_events [EVENTS]

Append: messages in transactions of 1,000, against COPY of the same rows, made into text beforehand, into the same table in
transactions of the same size. Dispatch: one tenant, a handler that does nothing, with inbox and checkpoint. NOTIFY: single
appends by eight connections to eight tenants, with it and without. Each figure is the median of rounds that take turns.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from uuid import uuid4

import psycopg

from erpkit.config import Settings
from erpkit.database import Database, Tenant
from erpkit.embedded import EmbeddedServer
from erpkit.events import Message, append, dispatch
from erpkit.migrations import read_migrations
from erpkit.modules import EventHandler, Module, Registry
from erpkit.runs.rehearsal import drop_database
from erpkit.tenants import create_tenant

NAME = "bench_events"
BATCH = 1000
ROUNDS = 5


@dataclass(frozen=True)
class Ticked:
    number: int
    text: str


ERP = Registry.of(
    [Module("clock", publishes=(Ticked,), subscribes=(EventHandler("clock.on_ticked", Ticked, lambda *_: None),))]
)


def main(events: int) -> None:
    server = EmbeddedServer(Settings.from_env().home)
    server.start()
    with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
        drop_database(connection, NAME)
        connection.execute(f"CREATE DATABASE {NAME}".encode())
        with Database(server.url(NAME), NAME) as database:
            tenants = [create_tenant(database, read_migrations([]), f"t{n}") for n in range(8)]
            _compare_append(database, tenants[0], events)
            _measure_dispatch(database, tenants[0], events)
            _compare_notify(database, tenants)
        drop_database(connection, NAME)


def _compare_append(database: Database, tenant: Tenant, events: int) -> None:
    copied, appended = [], []
    for _ in range(ROUNDS):
        _empty(database, tenant)
        rows = [(m.uuid, m.topic, json.dumps(m.payload), json.dumps(m.metadata)) for m in _messages(events)]
        copied.append(_seconds(lambda rows=rows: _copy(database, tenant, rows)))  # type: ignore[misc]
        _empty(database, tenant)
        messages = _messages(events)
        appended.append(_seconds(lambda messages=messages: _append(database, tenant, messages)))  # type: ignore[misc]
    bare, own = statistics.median(copied), statistics.median(appended)
    print(
        f"append {events / own:,.0f} events/s, bare COPY {events / bare:,.0f} rows/s: ratio {bare / own:.2f} (goal 0.5)"
    )


def _measure_dispatch(database: Database, tenant: Tenant, events: int) -> None:
    rates = []
    for _ in range(ROUNDS):
        _empty(database, tenant)
        _append(database, tenant, _messages(events))
        rates.append(events / _seconds(lambda: dispatch(database, tenant, ERP)))
    print(f"dispatch {statistics.median(rates):,.0f} events/s, slowest round {min(rates):,.0f} (goal 5,000)")


def _compare_notify(database: Database, tenants: Sequence[Tenant], each: int = 200) -> None:
    """Compare transactions that take the append's lock and insert one row, with NOTIFY and without."""

    def work(tenant: Tenant, notify: str) -> None:
        for _ in range(each):
            with database.tenant_transaction(tenant, write=True) as connection, connection.pipeline():
                connection.execute(
                    f"SELECT pg_advisory_xact_lock(hashtextextended(current_schema(), 0)){notify}".encode()
                )
                connection.execute(
                    "INSERT INTO erpkit_events (uuid, topic, payload) VALUES (gen_random_uuid(), 'clock.Ticked', '{}')"
                )

    def all_at_once(notify: str) -> float:
        with ThreadPoolExecutor(len(tenants)) as threads:
            return len(tenants) * each / _seconds(lambda: list(threads.map(lambda one: work(one, notify), tenants)))

    with psycopg.connect(database.conninfo, autocommit=True) as listener:
        listener.execute("LISTEN erpkit_events")
        rounds = [
            (all_at_once(""), all_at_once(", pg_notify('erpkit_events', current_schema())")) for _ in range(ROUNDS)
        ]
    without, with_it = (statistics.median(column) for column in zip(*rounds, strict=True))
    print(
        f"single appends by {len(tenants)} at once: {with_it:,.0f}/s with NOTIFY, {without:,.0f}/s without: {with_it / without:.2f}"
    )


def _messages(count: int) -> list[Message]:
    return [
        Message(
            "clock.Ticked", {"number": number, "text": f"tick {number}"}, uuid4(),
            {"name": "Ticked", "correlation_id": str(uuid4()), "causation_id": str(uuid4())},
        )
        for number in range(count)
    ]  # fmt: skip


def _append(database: Database, tenant: Tenant, messages: Sequence[Message]) -> None:
    for first in range(0, len(messages), BATCH):
        with database.tenant_transaction(tenant, write=True) as connection:
            append(connection, messages[first : first + BATCH])


def _copy(database: Database, tenant: Tenant, rows: Sequence[tuple[object, ...]]) -> None:
    for first in range(0, len(rows), BATCH):
        with (
            database.tenant_transaction(tenant, write=True) as connection,
            connection.cursor().copy("COPY erpkit_events (uuid, topic, payload, metadata) FROM STDIN") as copy,
        ):
            for row in rows[first : first + BATCH]:
                copy.write_row(row)


def _empty(database: Database, tenant: Tenant) -> None:
    with database.connection() as connection:
        tables = ", ".join(f"{tenant.schema}.erpkit_{name}" for name in ("events", "inbox", "checkpoints"))
        connection.execute(f"TRUNCATE {tables} RESTART IDENTITY".encode())


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20_000)
