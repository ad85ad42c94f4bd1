"""kill -9 of a dispatcher at random moments: each effect exactly once, none missing, order kept per tenant.

    python -m tests.benchmarks.kill_dispatcher [EVENTS] [KILLS]

The events of two tenants are handed to their handler by a worker in a process of its own, which is killed and started again;
then what the handler did is compared with what was appended.
"""

from __future__ import annotations

import random
import signal
import sys
import time
from dataclasses import dataclass

import psycopg

from erpkit.config import Settings
from erpkit.database import Database, Tenant
from erpkit.embedded import EmbeddedServer
from erpkit.events import Context, Message, Worker, WorkerOptions, WorkerReport, append, list_dead_letters
from erpkit.migrations import read_migrations
from erpkit.modules import EventHandler, Module, Registry
from erpkit.runs.sample import drop_database
from erpkit.tenants import create_tenant, list_tenants
from tests.processes import start

NAME = "kill_dispatcher"
_SLUGS = ("acme", "bluebird")


@dataclass(frozen=True)
class Struck:
    number: int


@dataclass(frozen=True)
class Echoed:
    number: int


def _echo(event: Struck, context: Context) -> None:
    context.connection.execute("INSERT INTO effects (number) VALUES (%s)", [event.number])
    context.publish(Echoed(event.number))


ERP = Registry.of(
    [Module("bells", publishes=(Struck, Echoed), subscribes=(EventHandler("bells.on_struck", Struck, _echo),))]
)


def kill_often(database: Database, events: int, kills: int, seed: int = 1) -> int:
    """Append, dispatch and kill in an empty database; return how many kills struck. Raises AssertionError for a wrong effect."""
    dice = random.Random(seed)
    tenants = [_make_tenant(database, slug, events // len(_SLUGS)) for slug in _SLUGS]
    killed = 0
    for number in range(kills):
        share = events * (number + dice.random()) / (kills + 1)  # of the events, so that the kills strike all along
        killed += _kill_after(database, tenants, share, dice.uniform(0, 0.01))
    _serve_the_rest(database)
    for tenant in tenants:
        _check(database, tenant, list(range(events // len(_SLUGS))))
    return killed


def serve(conninfo: str) -> None:
    """Be the process that is killed."""
    Worker(Database(conninfo, "x"), ERP, list_tenants, str, WorkerOptions(batch=20)).run()


def _serve_the_rest(database: Database) -> None:
    def stop_when_done(report: WorkerReport) -> None:
        if not report.waiting:
            worker.stop()

    worker = Worker(database, ERP, list_tenants, stop_when_done, WorkerOptions(report_every=0.1))
    worker.run()


def _kill_after(database: Database, tenants: list[Tenant], share: float, more: float) -> int:
    worker = start(serve, database.conninfo)
    with psycopg.connect(database.conninfo, autocommit=True) as connection:
        before = done = _done(connection, tenants)
        while (done < share or done == before) and worker.is_alive() and done < _total(connection, tenants):
            time.sleep(0.002)  # the dispatcher needs the processor more than this look does
            done = _done(connection, tenants)
    time.sleep(more)  # somewhere in a batch, not only after its commit
    worker.kill()
    worker.join()
    return int(worker.exitcode == -signal.SIGKILL)


def _done(connection: psycopg.Connection[tuple[int]], tenants: list[Tenant]) -> int:
    return sum(_count(connection, f"{tenant.schema}.effects") for tenant in tenants)


def _total(connection: psycopg.Connection[tuple[int]], tenants: list[Tenant]) -> int:
    return sum(_count(connection, f"{tenant.schema}.erpkit_events WHERE topic = 'bells.Struck'") for tenant in tenants)


def _count(connection: psycopg.Connection[tuple[int]], table: str) -> int:
    row = connection.execute(f"SELECT count(*) FROM {table}".encode()).fetchone()
    return row[0] if row else 0


def _check(database: Database, tenant: Tenant, numbers: list[int]) -> None:
    with database.tenant_transaction(tenant) as connection:
        effects = [n for (n,) in connection.execute("SELECT number FROM effects ORDER BY id")]
        echoes = connection.execute(
            "SELECT payload['number']::int FROM erpkit_events WHERE topic = 'bells.Echoed' ORDER BY \"offset\""
        )
        echoed = [n for (n,) in echoes]
    with database.connection() as connection:
        letters = list_dead_letters(connection, [tenant])
    assert effects == numbers, f"{tenant.slug}: {len(effects)} effects of {len(numbers)}, or not in order"
    assert echoed == numbers, f"{tenant.slug}: {len(echoed)} events published of {len(numbers)}, or not in order"
    assert letters == [], f"{tenant.slug}: {letters}"


def _make_tenant(database: Database, slug: str, events: int) -> Tenant:
    tenant = create_tenant(database, read_migrations([]), slug)
    with database.connection() as connection:
        connection.execute(
            f"CREATE TABLE {tenant.schema}.effects (id bigserial PRIMARY KEY, number int); "
            f'GRANT ALL ON {tenant.schema}.effects, {tenant.schema}.effects_id_seq TO "{tenant.role}"'.encode()
        )
    with database.tenant_transaction(tenant, write=True) as connection:
        append(connection, [Message("bells.Struck", {"number": number}) for number in range(events)])
    return tenant


def main(events: int, kills: int) -> None:
    server = EmbeddedServer(Settings.from_env().home)
    server.start()
    with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
        drop_database(connection, NAME)
        connection.execute(f"CREATE DATABASE {NAME}".encode())
        with Database(server.url(NAME), NAME) as database:
            killed = kill_often(database, events, kills, seed=int(time.time()))
        drop_database(connection, NAME)
    print(f"{killed} kills in {events} events: each effect exactly once, none missing, in order")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20_000, int(sys.argv[2]) if len(sys.argv) > 2 else 100)
