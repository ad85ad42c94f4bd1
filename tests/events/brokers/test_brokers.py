"""Brokers: the same handlers over memory, PostgreSQL, NATS, Redis, RabbitMQ and Kafka, with exactly one effect."""

from typing import Protocol
from uuid import uuid4

import pytest

from erpkit.database import Database, Tenant
from erpkit.errors import BrokerError
from erpkit.events import ConsumerGroup, Message, append, consumer_groups, dispatch, list_dead_letters, read_lag
from erpkit.events.brokers import Broker, MemoryBroker, Route, Subscription
from erpkit.events.brokers.kafka import KafkaBroker
from erpkit.events.brokers.rabbit import RabbitBroker
from erpkit.events.brokers.redis import RedisBroker
from erpkit.migrations import Migration
from tests.counting import COUNTER, SEEN, TOLD, forward_and_consume, new_tenant, select, send, wait_until


class Way(Protocol):
    def __call__(self, database: Database, tenant: Tenant) -> None: ...


@pytest.fixture(scope="module")
def memory() -> Broker:
    return MemoryBroker()


def _over_the_log(database: Database, tenant: Tenant) -> None:
    dispatch(database, tenant, COUNTER)


def _over(broker: Broker) -> Way:
    return lambda database, tenant: forward_and_consume(database, tenant, broker)


@pytest.fixture(params=["postgresql", "memory", "nats", "redis", "rabbit"], scope="module")
def to_handlers(request: pytest.FixtureRequest) -> Way:
    if request.param == "postgresql":
        return _over_the_log
    return _over(request.getfixturevalue("jetstream" if request.param == "nats" else request.param))


@pytest.fixture
def acme(shared_database: Database, migrations: tuple[Migration, ...]) -> Tenant:
    return new_tenant(shared_database, migrations)


def _waiting(database: Database, tenant: Tenant) -> dict[str, int]:
    with database.connection() as connection:
        return {one.handler: one.waiting for one in read_lag(connection, [tenant], consumer_groups(COUNTER))}


def test_each_event_has_its_effect_once_and_in_order_and_none_is_said_to_wait(
    shared_database: Database, acme: Tenant, to_handlers: Way
) -> None:
    send(shared_database, acme, range(100, 350))
    assert _waiting(shared_database, acme) == {"counter.on_counted": 250, "counter.on_noticed": 0}
    to_handlers(shared_database, acme)
    assert select(shared_database, acme, SEEN) == [f"seen {n:05}" for n in range(100, 350)]
    assert select(shared_database, acme, TOLD) == [f"told {n:05}" for n in range(100, 350)]  # what a handler published
    assert _waiting(shared_database, acme) == {"counter.on_counted": 0, "counter.on_noticed": 0}
    dispatch(shared_database, acme, COUNTER)
    assert select(shared_database, acme, "SELECT count(*) FROM erpkit_inbox") == [500]


def test_what_cannot_be_handled_becomes_a_dead_letter_and_holds_up_nobody(
    shared_database: Database, acme: Tenant, to_handlers: Way
) -> None:
    """One fails each time, and one's payload does not fit its type."""
    send(shared_database, acme, range(12, 15))
    with shared_database.tenant_transaction(acme, write=True) as connection:
        append(connection, [Message("counter.Counted", {"number": "many"})])
    to_handlers(shared_database, acme)
    assert select(shared_database, acme, SEEN) == ["seen 00012", "seen 00014"]
    with shared_database.connection() as connection:
        thirteen, many = sorted(list_dead_letters(connection, [acme]), key=lambda letter: letter.offset)
    assert (thirteen.handler, thirteen.offset, thirteen.error, thirteen.attempts) == (
        "counter.on_counted", 2, "ValueError: thirteen", 3,
    )  # fmt: skip
    assert many.error.startswith("PayloadError: Counted.number")
    assert _waiting(shared_database, acme) == {"counter.on_counted": 0, "counter.on_noticed": 0}


def test_what_is_replayed_to_another_subject_reaches_no_handler(
    shared_database: Database, acme: Tenant, redis: RedisBroker
) -> None:
    heard: list[str] = []
    message = Message("counter.Counted", {"number": 1}, replay_id=uuid4())
    redis.declare([], Route("audit"))
    redis.publish(acme.slug, [message], Route("audit"))
    redis.publish(acme.slug, [message])
    listen = Subscription("spy", "counter.Counted", lambda deliveries: heard.extend(d.tenant for d in deliveries))
    with redis.consuming([listen]):
        wait_until(lambda: acme.slug in heard)
    assert heard.count(acme.slug) == 1


@pytest.mark.parametrize("kind", ["jetstream", "redis", "rabbit", "kafka"])
def test_headers_that_are_not_ascii_come_back_as_they_were_sent(
    acme: Tenant, request: pytest.FixtureRequest, kind: str
) -> None:
    """As the name of a class `Geändert` is one of them; NATS takes only ASCII for a header's name."""
    broker: Broker = request.getfixturevalue(kind)
    metadata = {"name": "Geändert", "note": "ü 🚀", "correlation_id": "Müller"} | (
        {} if kind == "jetstream" else {"ü": "ö"}
    )
    message, heard = Message("counter.Counted", {"number": 1, "note": "ü"}, metadata=metadata), list[Message]()
    listen = Subscription(
        f"spy.{acme.slug}",
        "counter.Counted",
        lambda deliveries: heard.extend(one.message for one in deliveries if one.tenant == acme.slug),
    )
    broker.declare([ConsumerGroup(listen.group, (listen.topic,))])
    broker.publish(acme.slug, [message])
    with broker.consuming([listen]):
        wait_until(lambda: heard)
    assert (heard[0].metadata, heard[0].payload) == (metadata, message.payload)


def test_rabbitmq_says_that_a_subject_has_no_queue_when_something_is_replayed_to_it(
    acme: Tenant, rabbit: RabbitBroker
) -> None:
    rabbit.declare([], Route("audit"))
    with pytest.raises(BrokerError, match="1 of 1 message was not acknowledged"):
        rabbit.publish(acme.slug, [Message("counter.Counted", {"number": 1}, replay_id=uuid4())], Route("audit"))


def test_kafka_brings_each_event_once_and_in_order(shared_database: Database, acme: Tenant, kafka: KafkaBroker) -> None:
    """On its own, as a consumer group's start takes seconds."""
    send(shared_database, acme, range(10, 200))
    forward_and_consume(shared_database, acme, kafka)
    assert select(shared_database, acme, SEEN) == [f"seen {n:05}" for n in range(10, 200) if n != 13]
    assert select(shared_database, acme, TOLD) == [f"told {n:05}" for n in range(10, 200) if n != 13]
    assert select(shared_database, acme, "SELECT error FROM erpkit_dead_letters") == ["ValueError: thirteen"]
    assert _waiting(shared_database, acme) == {"counter.on_counted": 0, "counter.on_noticed": 0}
