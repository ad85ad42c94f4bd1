"""kill -9 of a dispatcher whose handler has effects outside the database: each at least once, and once more a kill at most.

    python -m tests.benchmarks.kill_mailer [EVENTS] [KILLS]

The handler writes a line to a file, as if it sent a mail. The process that works is killed at random moments, half of them between
the effect and the commit; then the lines are compared with the events.
"""

from __future__ import annotations

import random
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

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

NAME = "kill_mailer"


@dataclass(frozen=True)
class Billed:
    number: int


def _erp(sent: Path) -> Registry:
    def mail(event: Billed, context: Context) -> None:
        with sent.open("a") as file:
            file.write(f"{event.number}\n")
        context.connection.execute("SELECT 1")  # the mail is sent, and nothing is committed yet

    handler = EventHandler("post.mail", Billed, mail, effects="outside", start="beginning")
    return Registry.of([Module("post", publishes=(Billed,), subscribes=(handler,))])


def kill_often(database: Database, sent: Path, events: int, kills: int, seed: int = 1) -> int:
    """Append, dispatch and kill in an empty database; return how many kills struck. Raises AssertionError for a wrong effect."""
    dice = random.Random(seed)
    tenant = create_tenant(database, read_migrations([]), "acme")
    with database.tenant_transaction(tenant, write=True) as connection:
        append(connection, [Message("post.Billed", {"number": number}) for number in range(events)])
    sent.touch()
    killed, in_flight = 0, Counter[int]()
    for number in range(kills):
        wanted = int(events * (number + dice.random()) / (kills + 1))
        if _kill_after(database, sent, wanted, dice.choice((0.0, dice.uniform(0, 0.005)))):
            killed += 1
            in_flight += Counter(_marked(database, tenant))
    _serve_the_rest(database, sent)
    _check(database, tenant, sent, events, in_flight)
    return killed


def serve(conninfo: str, sent: str) -> None:
    """Be the process that is killed."""
    Worker(Database(conninfo, "x"), _erp(Path(sent)), list_tenants, str, WorkerOptions(batch=100)).run()


def _kill_after(database: Database, sent: Path, wanted: int, more: float) -> bool:
    before = _count(sent)
    worker = start(serve, database.conninfo, str(sent))
    while _count(sent) <= max(wanted, before) and worker.is_alive():
        time.sleep(0.001)
    time.sleep(more)
    worker.kill()
    worker.join()
    return bool(worker.exitcode == -signal.SIGKILL)


def _marked(database: Database, tenant: Tenant) -> list[int]:
    """Return the number of the event that the killed process had in flight, once the server knows that it has gone."""
    with psycopg.connect(database.conninfo, autocommit=True) as connection:
        while connection.execute(
            "SELECT FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() "
            "AND backend_type = 'client backend' AND state <> 'idle'"
        ).fetchone():
            time.sleep(0.001)
        rows = connection.execute(
            f"SELECT in_hand FROM {tenant.schema}.erpkit_checkpoints WHERE in_hand IS NOT NULL".encode()
        )
        return [offset - 1 for (offset,) in rows]


def _count(sent: Path) -> int:
    return sent.read_bytes().count(b"\n")


def _serve_the_rest(database: Database, sent: Path) -> None:
    def stop_when_done(report: WorkerReport) -> None:
        if not report.waiting:
            worker.stop()

    worker = Worker(database, _erp(sent), list_tenants, stop_when_done, WorkerOptions(report_every=0.1))
    worker.run()


def _check(database: Database, tenant: Tenant, sent: Path, events: int, in_flight: Counter[int]) -> None:
    lines = Counter(map(int, sent.read_text().split()))
    with database.connection() as connection:
        letters = [letter.offset - 1 for letter in list_dead_letters(connection, [tenant])]
    assert set(lines) == set(range(events)), f"{events - len(lines)} were never sent"
    again = Counter({number: count - 1 for number, count in lines.items() if count > 1})
    assert again <= in_flight, f"sent again without a kill: {again - in_flight}"
    assert set(letters) <= {number for number, kills in in_flight.items() if kills >= 3}, letters


def main(events: int, kills: int) -> None:
    server = EmbeddedServer(Settings.from_env().home)
    server.start()
    with (
        psycopg.connect(server.url("postgres"), autocommit=True) as connection,
        tempfile.TemporaryDirectory() as folder,
    ):
        drop_database(connection, NAME)
        connection.execute(f"CREATE DATABASE {NAME}".encode())
        with Database(server.url(NAME), NAME) as database:
            killed = kill_often(database, Path(folder) / "sent", events, kills, seed=int(time.time()))
        drop_database(connection, NAME)
    print(f"{killed} kills in {events} events: each effect at least once, again only where it was in flight")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20_000, int(sys.argv[2]) if len(sys.argv) > 2 else 100)
