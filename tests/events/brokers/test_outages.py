"""Brokers, databases and consumers that are killed, and brokers that lose all they had, while events are on their way."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial

import pytest

from erpkit.database import Database, Tenant
from erpkit.errors import BrokerError
from erpkit.events.brokers import Broker, forward, prepare, read_forward_findings
from erpkit.events.brokers.redis import RedisBroker
from erpkit.migrations import Migration
from tests.counting import GROUPS, SEEN, consuming, new_tenant, select, wait_until, write_events
from tests.events.brokers.servers import Mortal, RedisServer
from tests.migrations.fleet import own_server


@pytest.fixture
def acme(shared_database: Database, migrations: tuple[Migration, ...]) -> Tenant:
    return new_tenant(shared_database, migrations)


@contextmanager
def forwarding(database: Database, tenant: Tenant, broker: Broker) -> Iterator[None]:
    """Forward beside the block, as the command does: after a fault, once more."""
    stop = threading.Event()

    def work() -> None:
        while not stop.wait(0.05):
            with suppress(BrokerError):
                prepare(database, [tenant], GROUPS, broker, {})
                forward(database, tenant, broker, batch=50)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _count_seen(database: Database, tenant: Tenant) -> int:
    return len(select(database, tenant, SEEN))


def _has_seen(database: Database, tenant: Tenant, number: int) -> bool:
    return _count_seen(database, tenant) > number


_PAIRS = {"nats": ("nats", "jetstream"), "redis": ("redis_server", "redis"), "rabbit": ("rabbit_server", "rabbit")}


@pytest.mark.parametrize("fault", ["killed", "wiped"])
@pytest.mark.parametrize("kind", _PAIRS)
def test_a_broker_that_is_killed_in_the_middle_changes_neither_effects_nor_their_order_even_if_it_loses_all(
    shared_database: Database, acme: Tenant, request: pytest.FixtureRequest, kind: str, fault: str
) -> None:
    server: Mortal = request.getfixturevalue(_PAIRS[kind][0])
    broker: Broker = request.getfixturevalue(_PAIRS[kind][1])
    write_events(shared_database, acme, 1500)
    with forwarding(shared_database, acme, broker), consuming(shared_database, acme, broker):
        wait_until(lambda: _count_seen(shared_database, acme) > 300)
        server.kill()
        if fault == "wiped":
            server.wipe()
        server.start()
        write_events(shared_database, acme, 100, first=1600)
        wait_until(lambda: _count_seen(shared_database, acme) == 1600)
    assert select(shared_database, acme, SEEN) == [f"seen {number:05}" for number in range(100, 1700)]
    with shared_database.connection() as connection:
        found = read_forward_findings(connection, [acme], broker.scheme)
    assert [one.kind for one in found] == (["wiped broker"] if fault == "wiped" else [])


CONSUMER = """
import sys
from erpkit.database import Database, Tenant
from erpkit.events.brokers import consume
from erpkit.events.brokers.redis import RedisBroker
from tests.counting import COUNTER

acme = Tenant({slug!r}, {schema!r}, {role!r})
consume(Database({conninfo!r}, "x"), COUNTER, RedisBroker({url!r}, redeliver_after=1), lambda: [acme])
"""


def test_consumers_that_are_killed_or_stall_for_longer_than_the_redelivery_leave_each_effect_once_and_in_order(
    shared_database: Database, acme: Tenant, redis_server: RedisServer, redis: RedisBroker
) -> None:
    """What a stalled reader has not acknowledged goes to another one, which has later events already."""
    code = CONSUMER.format(
        slug=acme.slug, schema=acme.schema, role=acme.role, conninfo=shared_database.conninfo, url=redis_server.url
    )
    write_events(shared_database, acme, 2000)
    prepare(shared_database, [acme], GROUPS, redis, {})
    forward(shared_database, acme, redis)
    readers = [_start(code), _start(code)]
    for number in range(6):
        wait_until(partial(_has_seen, shared_database, acme, 200 * number))
        reader = readers[number % 2]
        if number in (1, 4):
            reader.send_signal(signal.SIGSTOP)
            time.sleep(2)  # the redelivery comes after one second
            reader.send_signal(signal.SIGCONT)
        else:
            reader.kill()
            reader.wait()
            readers[number % 2] = _start(code)
    wait_until(lambda: _count_seen(shared_database, acme) == 2000)
    for reader in readers:
        os.kill(reader.pid, signal.SIGKILL)
        reader.wait()
    assert select(shared_database, acme, SEEN) == [f"seen {number:05}" for number in range(100, 2100)]


def _start(code: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)


def test_a_database_that_is_killed_and_restarted_changes_neither_effects_nor_their_order(
    migrations: tuple[Migration, ...], redis: RedisBroker
) -> None:
    with own_server() as server, Database(server.url(), "own") as database:
        acme = new_tenant(database, migrations)
        write_events(database, acme, 1500)
        prepare(database, [acme], GROUPS, redis, {})
        forward(database, acme, redis)
        with consuming(database, acme, redis):
            for number, seen in ((signal.SIGQUIT, 200), (signal.SIGINT, 700)):
                wait_until(partial(_has_seen, database, acme, seen))
                os.kill(int((server.data / "postmaster.pid").read_text().split()[0]), number)
                wait_until(lambda: not server.is_running())
                server.start()
                database.renew()
            wait_until(lambda: _count_seen(database, acme) == 1500)
        assert select(database, acme, SEEN) == [f"seen {number:05}" for number in range(100, 1600)]
