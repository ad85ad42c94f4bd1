"""Appending to the event log and dispatching from it, against bare COPY, in one run.

    python -m tests.benchmarks.bench_events [EVENTS]

One by one: a handler with effects outside the database that inserts a row, against BEGIN, INSERT, COMMIT on one connection.
Append: messages in transactions of 1,000, against COPY of the same rows, made into text beforehand, in transactions of the same
size into such a table without the trigger and the index for traces. Dispatch: one tenant, a handler that does nothing, with inbox
and checkpoint. NOTIFY: single appends by eight connections to eight tenants, beside a worker: without it, each time, and as append
does it. Each figure is the median of rounds that take turns.
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
from erpkit.database import Connection, Database, Tenant
from erpkit.embedded import EmbeddedServer
from erpkit.events import Context, Message, Worker, append, dispatch
from erpkit.events.log import announce, append_lock
from erpkit.migrations import read_migrations
from erpkit.modules import EventHandler, Module, Registry
from erpkit.runs.sample import drop_database
from erpkit.tenants import create_tenant, list_tenants
from tests.processes import start

NAME = "bench_events"
BATCH = 1000
ROUNDS = 5


@dataclass(frozen=True)
class Ticked:
    number: int
    text: str


@dataclass(frozen=True)
class Rung:
    number: int


ERP = Registry.of(
    [Module("clock", publishes=(Ticked,), subscribes=(EventHandler("clock.on_ticked", Ticked, lambda *_: None),))]
)


def _mail(event: Ticked, context: Context) -> None:
    context.connection.execute("INSERT INTO mails VALUES (%s)", [event.number])


MAILER = Registry.of(
    [
        Module(
            "clock",
            publishes=(Ticked,),
            subscribes=(EventHandler("clock.mail", Ticked, _mail, effects="outside", start="beginning"),),
        )
    ]
)


def main(events: int) -> None:
    server = EmbeddedServer(Settings.from_env().home)
    server.start()
    with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
        drop_database(connection, NAME)
        connection.execute(f"CREATE DATABASE {NAME}".encode())
        with Database(server.url(NAME), NAME) as database:
            tenants = [create_tenant(database, read_migrations([]), f"t{n}") for n in range(8)]
            _compare_append(database, tenants[0], tenants[1], events)
            _measure_dispatch(database, tenants[0], events)
            _compare_one_by_one(database, tenants[0], events // 10)
            _compare_notify(database, tenants)
        drop_database(connection, NAME)


def _compare_append(database: Database, tenant: Tenant, bare_log: Tenant, events: int) -> None:
    copied, appended = [], []
    with database.connection() as connection:
        connection.execute(f"DROP TRIGGER erpkit_events_take_offset ON {bare_log.schema}.erpkit_events".encode())
        connection.execute(f"DROP INDEX {bare_log.schema}.erpkit_events_correlation".encode())
    for _ in range(ROUNDS):
        _empty(database, bare_log)
        rows = [(m.uuid, m.topic, json.dumps(m.payload), json.dumps(m.metadata)) for m in _messages(events)]
        copied.append(_seconds(lambda rows=rows: _copy(database, bare_log, rows)))  # type: ignore[misc]
        _empty(database, tenant)
        messages = _messages(events)
        appended.append(_seconds(lambda messages=messages: _append(database, tenant, messages)))  # type: ignore[misc]
    bare, own = statistics.median(copied), statistics.median(appended)
    print(
        f"append {events / own:,.0f} events/s, bare COPY {events / bare:,.0f} rows/s: ratio {bare / own:.2f} (goal 0.8)"
    )


def _measure_dispatch(database: Database, tenant: Tenant, events: int) -> None:
    rates = []
    for _ in range(ROUNDS):
        _empty(database, tenant)
        _append(database, tenant, _messages(events))
        rates.append(events / _seconds(lambda: dispatch(database, tenant, ERP)))
    print(f"dispatch {statistics.median(rates):,.0f} events/s, slowest round {min(rates):,.0f} (goal 30,000)")


def _compare_one_by_one(database: Database, tenant: Tenant, events: int) -> None:
    with database.connection() as connection:
        connection.execute(
            f'CREATE TABLE {tenant.schema}.mails (number int); GRANT ALL ON {tenant.schema}.mails TO "{tenant.role}"'.encode()
        )
    bare, own = [], []
    for _ in range(ROUNDS):
        _empty(database, tenant)
        _append(database, tenant, _messages(events))
        bare.append(events / _seconds(lambda: _insert_bare(database, tenant, events)))
        own.append(events / _seconds(lambda: dispatch(database, tenant, MAILER)))
    usual, rate = statistics.median(bare), statistics.median(own)
    print(
        f"one by one {rate:,.0f} events/s, BEGIN, INSERT, COMMIT {usual:,.0f}/s: ratio {rate / usual:.2f} (goal 0.35)"
    )


def _insert_bare(database: Database, tenant: Tenant, events: int) -> None:
    with database.connection() as connection:
        for number in range(events):
            connection.execute("BEGIN")
            connection.execute(f"INSERT INTO {tenant.schema}.mails VALUES (%s)".encode(), [number])
            connection.execute("COMMIT")


def _compare_notify(database: Database, tenants: Sequence[Tenant], each: int = 200) -> None:
    """Compare transactions that take the append's lock and insert one row, beside a worker: silent, noisy, and as append does."""

    def work(tenant: Tenant, notify: Callable[[Connection], object]) -> None:
        for _ in range(each):
            with database.tenant_transaction(tenant, write=True) as connection, connection.pipeline():
                connection.execute(f"SELECT pg_advisory_xact_lock({append_lock('current_schema()')})".encode())
                notify(connection)
                connection.execute(
                    "INSERT INTO erpkit_events (uuid, topic, payload) VALUES (gen_random_uuid(), 'clock.Ticked', '{}')"
                )

    def all_at_once(notify: Callable[[Connection], object]) -> float:
        with ThreadPoolExecutor(len(tenants)) as threads:
            return len(tenants) * each / _seconds(lambda: list(threads.map(lambda one: work(one, notify), tenants)))

    ways: dict[str, Callable[[Connection], object]] = {
        "without NOTIFY": lambda _: None,
        "NOTIFY each time": lambda one: one.execute("SELECT pg_notify('erpkit_events', current_schema())"),
        "as append does": announce,
    }
    worker = start(_work, database.conninfo)
    rounds = [[all_at_once(way) for way in ways.values()] for _ in range(ROUNDS)]
    worker.kill()
    rates = dict(zip(ways, map(statistics.median, zip(*rounds, strict=True)), strict=True))
    without = rates["without NOTIFY"]
    for name, rate in rates.items():
        print(f"single appends by {len(tenants)} at once, {name}: {rate:,.0f}/s, {rate / without:.2f}")


def _work(conninfo: str) -> None:
    """Be a worker that hears of all and has nothing to do."""
    idle = Registry.of(
        [Module("clock", publishes=(Ticked, Rung), subscribes=(EventHandler("clock.on_rung", Rung, print),))]
    )
    Worker(Database(conninfo, NAME), idle, list_tenants, lambda _: None).run()


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
