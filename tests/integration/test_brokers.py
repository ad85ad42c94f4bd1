"""Brokers: the same handlers over memory, PostgreSQL and NATS JetStream, with exactly one effect."""

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol
from uuid import uuid4

import nats as nats_client
import pytest
from confluent_kafka.admin import AdminClient

from erpkit.database import Database, Tenant
from erpkit.errors import BrokerError, DatabaseError
from erpkit.events import CommandBus, Context, Message, append, dispatch, list_dead_letters, read_events
from erpkit.events.brokers import Broker, Consumed, Forwarded, MemoryBroker, Subscription, consume, forward
from erpkit.events.brokers.effects import Effects
from erpkit.events.brokers.kafka import KafkaBroker
from erpkit.events.brokers.nats import NatsBroker
from erpkit.events.brokers.redis import RedisBroker
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


@pytest.fixture
def nats(tmp_path: Path) -> Iterator[NatsServer]:
    server = NatsServer(tmp_path)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisBroker]:
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("redis-server is not installed: apt-get install redis-server")
    port = free_port()
    server = subprocess.Popen(
        [program, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(tmp_path), "--appendonly", "yes"],
        stdout=subprocess.DEVNULL,
    )
    wait_until(lambda: answers(port))
    broker = RedisBroker(f"redis://127.0.0.1:{port}", redeliver_after=2)
    yield broker
    broker.close()
    server.terminate()
    server.wait()


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port: int = server.getsockname()[1]
        return port


def answers(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


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


# In the order in which they were written: by transaction, then by statement.
SEEN = "SELECT name FROM catalog_categories WHERE name LIKE 'seen%' ORDER BY xmin::text::bigint, cmin::text::bigint"
TOLD = SEEN.replace("seen", "told")


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


def over_redis(request: pytest.FixtureRequest) -> Way:
    broker: RedisBroker = request.getfixturevalue("redis")
    return lambda database, tenant: forward_and_consume(database, tenant, broker)


@pytest.fixture(params=[over_postgresql, over_memory, over_nats, over_redis])
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


def test_kafka_brings_each_event_once_and_in_order(database: Database, acme: Tenant) -> None:
    """Over librdkafka's own cluster, which speaks Kafka's protocol and holds its topics in memory."""
    cluster = AdminClient({"bootstrap.servers": "made by it", "test.mock.num.brokers": 1})
    places = ",".join(f"{each.host}:{each.port}" for each in cluster.list_topics(timeout=10).brokers.values())
    send(database, acme, range(10, 200))
    with closing(KafkaBroker(f"kafka://{places}", acknowledge_within=5, redeliver_after=6)) as broker:
        forward_and_consume(database, acme, broker)
    assert select(database, acme, SEEN) == [f"seen {n:05}" for n in range(10, 200) if n != 13]
    assert select(database, acme, TOLD) == [f"told {n:05}" for n in range(10, 200) if n != 13]
    assert select(database, acme, "SELECT error FROM erpkit_dead_letters") == ["ValueError: thirteen"]


def stored(server: NatsServer) -> list[tuple[str, int, dict[str, str], bytes]]:
    """Read subject, offset, headers and body of all that is in the stream, as any other program would."""

    async def read() -> list[tuple[str, int, dict[str, str], bytes]]:
        client = await nats_client.connect(server.url)
        jetstream = client.jetstream()
        count = (await jetstream.stream_info("ERP")).state.messages
        subscription = await jetstream.subscribe("erp.>", ordered_consumer=True)
        messages = [await subscription.next_msg(timeout=10) for _ in range(count)]
        await client.close()
        found = [(each.subject, dict(each.headers or {}), each.data) for each in messages]
        return [(subject, int(headers["offset"]), headers, data) for subject, headers, data in found]

    return asyncio.run(read())


def test_an_event_looks_as_watermill_would_have_sent_it(
    database: Database, acme: Tenant, nats: NatsServer, jetstream: NatsBroker
) -> None:
    (event,) = CommandBus(database, COUNTER).send(acme, Count(7))
    jetstream.declare(GROUPS)
    assert forward(database, acme, jetstream) == Forwarded("acme", 1, 1)
    ((subject, _, headers, body),) = stored(nats)
    assert (subject, json.loads(body)) == ("erp.acme.counter.Counted", {"number": 7})
    assert headers["_watermill_message_uuid"] == headers["Nats-Msg-Id"] == str(event.uuid)
    assert {key: headers[key] for key in event.metadata} == event.metadata  # each a header of its own
    assert headers["tenant"] == "acme"


def forward_until_done(database: Database, tenant: Tenant, broker: Broker, faults: list[str]) -> threading.Thread:
    """Forward as the worker does: after a fault, once more."""

    def work() -> None:
        while True:
            try:
                if not forward(database, tenant, broker).events:
                    return
            except BrokerError as error:
                faults.append(str(error))
                time.sleep(0.1)

    thread = threading.Thread(target=work)
    thread.start()
    return thread


def checkpoint(database: Database, tenant: Tenant) -> int:
    rows = select(database, tenant, "SELECT \"offset\" FROM erpkit_checkpoints WHERE consumer_group = 'forward.nats'")
    return int(str(rows[0])) if rows else 0


@pytest.mark.parametrize("fault", ["killed", "cut off"])
def test_a_nats_server_that_goes_away_while_5000_events_are_forwarded_loses_none(
    database: Database, acme: Tenant, nats: NatsServer, jetstream: NatsBroker, fault: str
) -> None:
    write_events(database, acme, 5000)
    jetstream.declare(GROUPS)
    faults: list[str] = []
    thread = forward_until_done(database, acme, jetstream, faults)
    wait_until(lambda: checkpoint(database, acme) >= 1000)
    pid = nats.pid
    assert pid is not None
    if fault == "killed":
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        wait_until(lambda: faults)
        nats.start()
    else:
        os.kill(pid, signal.SIGSTOP)
        wait_until(lambda: faults)
        os.kill(pid, signal.SIGCONT)
    thread.join()
    assert checkpoint(database, acme) == 5000
    assert [offset for _, offset, _, _ in stored(nats)] == list(range(1, 5001))  # none lost, none twice, in order
    assert "not acknowledged" in faults[0] or "NATS" in faults[0]


def test_what_is_sent_again_has_the_same_id_and_jetstream_drops_it(
    database: Database, acme: Tenant, nats: NatsServer, jetstream: NatsBroker
) -> None:
    """A forwarder that ended between the acknowledgement and its commit sends its batch again."""
    write_events(database, acme, 50)
    jetstream.declare(GROUPS)
    forward(database, acme, jetstream)
    with database.connection() as connection:
        connection.execute("DELETE FROM tenant_acme.erpkit_checkpoints")
    assert forward(database, acme, jetstream).events == 50
    assert len(stored(nats)) == 50


def test_two_forwarders_at_once_send_each_event_once(database: Database, acme: Tenant) -> None:
    write_events(database, acme, 300)
    broker, received = MemoryBroker(), list[int | None]()
    broker.declare(GROUPS)
    threads = [threading.Thread(target=forward, args=(database, acme, broker), kwargs={"batch": 10}) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    forward(database, acme, broker)
    note = Subscription(*GROUPS[0], lambda deliveries: received.extend(each.message.offset for each in deliveries))
    with broker.consuming([note]):
        wait_until(lambda: len(received) >= 300)
    assert received == list(range(1, 301))


KILLED = """
import os, signal
from dataclasses import replace
from erpkit.database import Database, Tenant
from erpkit.events.brokers import consume
from erpkit.events.brokers.nats import NatsBroker
from tests.integration.test_brokers import COUNTER

class Deadly(NatsBroker):
    def consuming(self, subscriptions):
        def deadly(receive):
            def receive_and_die(deliveries):
                receive(deliveries)
                os.kill(os.getpid(), signal.SIGKILL)
            return receive_and_die
        return super().consuming([replace(each, receive=deadly(each.receive)) for each in subscriptions])

acme = Tenant("acme", "tenant_acme", {role!r})
consume(Database({conninfo!r}, "x"), COUNTER, Deadly({url!r}, redeliver_after=2), lambda: [acme])
"""


def test_a_consumer_that_is_killed_between_commit_and_acknowledgement_leaves_its_effect_once(
    database: Database, acme: Tenant, nats: NatsServer, jetstream: NatsBroker
) -> None:
    write_events(database, acme, 20)
    jetstream.declare(GROUPS)
    forward(database, acme, jetstream)
    code = KILLED.format(role=acme.role, conninfo=database.conninfo, url=nats.url)
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    before = select(database, acme, SEEN)
    assert before  # committed
    with consuming(database, acme, jetstream) as result:
        wait_until(lambda: not unacknowledged(nats) and len(select(database, acme, SEEN)) == 20)
    assert result[0].handled >= 20  # all came again, those with an effect too
    assert select(database, acme, SEEN) == [f"seen {n:05}" for n in range(100, 120)]
    assert select(database, acme, "SELECT count(*) FROM erpkit_dead_letters") == [0]
    assert select(database, acme, "SELECT count(*) FROM erpkit_deliveries") == [0]


def unacknowledged(server: NatsServer) -> int:
    async def read() -> int:
        client = await nats_client.connect(server.url)
        info = await client.jetstream().consumer_info("ERP", "counter-on_counted")
        await client.close()
        return (info.num_ack_pending or 0) + (info.num_pending or 0)

    return asyncio.run(read())


def test_an_event_that_ends_its_consumer_every_time_becomes_a_dead_letter_and_its_neighbours_do_not(
    database: Database, acme: Tenant
) -> None:
    """Each round is what a redelivery after the death of the process comes to."""
    write_events(database, acme, 3)
    with database.tenant_transaction(acme) as connection:
        messages = read_events(connection, "counter.Counted", 0, 3)
    effects = Effects(database, acme, FATAL, FATAL.event_handlers["counter.on_counted"])
    for _ in range(5):  # in a batch, then alone four times
        with pytest.raises(KeyboardInterrupt):
            effects.apply(messages)
    assert effects.apply(messages) == 1
    assert select(database, acme, SEEN) == ["seen 00100", "seen 00102"]
    assert select(database, acme, "SELECT error FROM erpkit_dead_letters") == [
        "ConsumerEndedError: its consumer ended 5 times with it in hand"
    ]


def _end(event: Counted, context: Context) -> None:
    context.connection.execute("INSERT INTO catalog_categories VALUES (%s)", [f"seen {event.number:05}"])
    if event.number == 101:
        raise KeyboardInterrupt


FATAL = Registry.of(
    [Module("counter", publishes=(Counted,), subscribes=(EventHandler("counter.on_counted", Counted, _end),))]
)


def test_nothing_is_acknowledged_while_the_database_is_away(database: Database, acme: Tenant) -> None:
    write_events(database, acme, 10)
    broker, stop, outages = MemoryBroker(), threading.Event(), [1, 2, 3]
    broker.declare(GROUPS)
    forward(database, acme, broker)

    def list_tenants() -> list[Tenant]:
        if outages:
            outages.pop()
            raise DatabaseError("away")
        return [acme]

    thread = threading.Thread(target=consume, args=(database, COUNTER, broker, list_tenants), kwargs={"stop": stop})
    thread.start()
    wait_until(lambda: len(select(database, acme, SEEN)) == 10)
    stop.set()
    thread.join()
    assert not outages


def test_events_of_a_suspended_tenant_wait_as_dead_letters_and_those_of_no_tenant_are_counted(
    database: Database, acme: Tenant
) -> None:
    write_events(database, acme, 2)
    broker = MemoryBroker()
    broker.declare(GROUPS)
    forward(database, acme, broker)
    broker.publish("gone", [Message("counter.Counted", {"number": 1})])
    suspended = replace(acme, status="suspended")
    assert consume(database, COUNTER, broker, lambda: [suspended], idle=0.5) == Consumed(0, 2, 1)
    assert select(database, acme, "SELECT DISTINCT error FROM erpkit_dead_letters") == [
        "NotActiveError: tenant acme is suspended"
    ]


def test_what_is_no_event_is_left_out_and_holds_up_nothing(
    database: Database, acme: Tenant, nats: NatsServer, jetstream: NatsBroker
) -> None:
    jetstream.declare(GROUPS)

    async def scribble() -> None:
        client = await nats_client.connect(nats.url)
        await client.jetstream().publish("erp.acme.counter.Counted", b"not json, no headers")
        await client.close()

    asyncio.run(scribble())
    write_events(database, acme, 1)
    forward_and_consume(database, acme, jetstream)
    assert select(database, acme, SEEN) == ["seen 00100"]
    assert unacknowledged(nats) == 0


def test_a_broker_that_is_not_there_is_named_without_its_password() -> None:
    with (
        closing(NatsBroker("nats://erp:s3cret@127.0.0.1:1", acknowledge_within=3)) as broker,
        pytest.raises(BrokerError) as caught,
    ):
        broker.publish("acme", [Message("counter.Counted", {"number": 1})])
    assert "nats://***@127.0.0.1:1" in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_the_nats_server_keeps_its_port_and_streams_and_survives_being_killed(nats: NatsServer) -> None:
    url = nats.url
    assert not nats.start()
    pid = nats.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert not nats.is_running()
    assert nats.start()
    assert nats.url == url
    assert nats.stop()
    assert not nats.stop()
