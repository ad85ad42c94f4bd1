"""Brokers: the same handlers over memory, PostgreSQL and NATS JetStream, with exactly one effect."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from uuid import uuid4

import pytest

from erpkit.database import Database, Tenant
from erpkit.events import CommandBus, Context, Message, append, dispatch, list_dead_letters
from erpkit.events.brokers import Broker, Consumed, MemoryBroker, consume, forward
from erpkit.events.brokers.nats import NatsBroker
from erpkit.migrations import Migration
from erpkit.modules import CommandHandler, EventHandler, Module, Registry
from erpkit.nats import NatsServer
from erpkit.tenants import create_tenant


@dataclass(frozen=True)
class Count:
    number: int


@dataclass(frozen=True)
class Counted:
    number: int


@dataclass(frozen=True)
class Noticed:
    number: int


def _count(command: Count, context: Context) -> None:
    context.publish(Counted(command.number))


def _tally(event: Counted, context: Context) -> None:
    """Fail on thirteen; write the others down in the order in which they came, and tell of it."""
    context.connection.execute("INSERT INTO catalog_categories VALUES (%s)", [f"seen {event.number:05}"])
    if event.number == 13:
        raise ValueError("thirteen")
    context.publish(Noticed(event.number))


def _follow(event: Noticed, context: Context) -> None:
    context.connection.execute("INSERT INTO catalog_categories VALUES (%s)", [f"told {event.number:05}"])


COUNTER = Registry.of(
    [
        Module(
            "counter",
            commands=(CommandHandler(Count, _count),),
            publishes=(Counted, Noticed),
            subscribes=(
                EventHandler("counter.on_counted", Counted, _tally),
                EventHandler("counter.on_noticed", Noticed, _follow),
            ),
        )
    ]
)
GROUPS = [("counter.on_counted", "counter.Counted"), ("counter.on_noticed", "counter.Noticed")]


@pytest.fixture
def acme(database: Database, migrations: tuple[Migration, ...]) -> Tenant:
    return create_tenant(database, migrations, "acme")


@pytest.fixture(scope="session")
def nats_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    home = tmp_path_factory.mktemp("nats")
    yield home
    NatsServer(home).stop()


@pytest.fixture
def nats(tmp_path: Path) -> Iterator[NatsServer]:
    server = NatsServer(tmp_path)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def jetstream(nats: NatsServer) -> Iterator[NatsBroker]:
    broker = NatsBroker(nats.url, acknowledge_within=3, redeliver_after=2)
    yield broker
    broker.close()


@contextmanager
def consuming(database: Database, tenant: Tenant, broker: Broker) -> Iterator[list[Consumed]]:
    """Consume beside the block; the result is in the list after it."""
    stop, result = threading.Event(), list[Consumed]()
    thread = threading.Thread(
        target=lambda: result.append(consume(database, COUNTER, broker, lambda: [tenant], stop=stop))
    )
    thread.start()
    try:
        yield result
    finally:
        stop.set()
        thread.join()


def forward_and_consume(database: Database, tenant: Tenant, broker: Broker) -> None:
    """Take what is in the log to the handlers, and what they publish, until each event was handled or is a dead letter."""
    broker.declare(GROUPS)
    with consuming(database, tenant, broker):
        wait_until(lambda: not forward(database, tenant, broker).events and not missing(database, tenant))


def missing(database: Database, tenant: Tenant) -> object:
    return select(database, tenant, MISSING)[0]


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


MISSING = (
    "SELECT (SELECT count(*) FROM erpkit_events) - (SELECT count(*) FROM erpkit_inbox) "
    "- (SELECT count(*) FROM erpkit_dead_letters)"
)


def select(database: Database, tenant: Tenant, query: str) -> list[object]:
    with database.tenant_transaction(tenant) as connection:
        return [value for (value,) in connection.execute(query.encode()).fetchall()]


def send(database: Database, tenant: Tenant, numbers: range) -> None:
    CommandBus(database, COUNTER).send_all(tenant, [Count(n) for n in numbers], [uuid4() for _ in numbers])


def write_events(database: Database, tenant: Tenant, count: int) -> None:
    with database.tenant_transaction(tenant, write=True) as connection:
        append(connection, [Message("counter.Counted", {"number": 100 + number}) for number in range(count)])


SEEN = "SELECT name FROM catalog_categories WHERE name LIKE 'seen%' ORDER BY ctid"
TOLD = "SELECT name FROM catalog_categories WHERE name LIKE 'told%' ORDER BY ctid"


class Way(Protocol):
    def __call__(self, database: Database, tenant: Tenant) -> None: ...


def over_postgresql(request: pytest.FixtureRequest) -> Way:
    def way(database: Database, tenant: Tenant) -> None:
        dispatch(database, tenant, COUNTER)

    return way


def over_memory(request: pytest.FixtureRequest) -> Way:
    broker = MemoryBroker()
    return lambda database, tenant: forward_and_consume(database, tenant, broker)


def over_nats(request: pytest.FixtureRequest) -> Way:
    broker: NatsBroker = request.getfixturevalue("jetstream")
    return lambda database, tenant: forward_and_consume(database, tenant, broker)


@pytest.fixture(params=[over_postgresql, over_memory, over_nats])
def to_handlers(request: pytest.FixtureRequest) -> Way:
    way: Callable[[pytest.FixtureRequest], Way] = request.param
    return way(request)


def test_each_event_has_its_effect_once_and_in_order(database: Database, acme: Tenant, to_handlers: Way) -> None:
    send(database, acme, range(100, 350))
    to_handlers(database, acme)
    assert select(database, acme, SEEN) == [f"seen {n:05}" for n in range(100, 350)]
    assert select(database, acme, TOLD) == [f"told {n:05}" for n in range(100, 350)]  # what a handler published
    to_handlers(database, acme)
    assert select(database, acme, "SELECT count(*) FROM erpkit_inbox") == [500]


def test_an_event_that_keeps_failing_becomes_a_dead_letter_and_holds_up_nobody(
    database: Database, acme: Tenant, to_handlers: Way
) -> None:
    send(database, acme, range(12, 15))
    to_handlers(database, acme)
    assert select(database, acme, SEEN) == ["seen 00012", "seen 00014"]
    with database.connection() as connection:
        (letter,) = list_dead_letters(connection, [acme])
    assert (letter.handler, letter.offset, letter.error, letter.attempts) == (
        "counter.on_counted", 2, "ValueError: thirteen", 3,
    )  # fmt: skip


def test_a_payload_that_does_not_fit_its_type_becomes_a_dead_letter(
    database: Database, acme: Tenant, to_handlers: Way
) -> None:
    with database.tenant_transaction(acme, write=True) as connection:
        append(connection, [Message("counter.Counted", {"number": "many"})])
    to_handlers(database, acme)
    with database.connection() as connection:
        (letter,) = list_dead_letters(connection, [acme])
    assert letter.error.startswith("PayloadError: Counted.number")
