"""The brokers that tests start: one server of each kind for the tests of a file."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from confluent_kafka.admin import AdminClient

from erpkit.events.brokers.kafka import KafkaBroker
from erpkit.events.brokers.nats import NatsBroker
from erpkit.events.brokers.rabbit import RabbitBroker
from erpkit.events.brokers.redis import RedisBroker
from tests.events.brokers.servers import MortalNats, RabbitServer, RedisServer


@pytest.fixture(scope="module")
def nats(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MortalNats]:
    server = MortalNats(tmp_path_factory.mktemp("nats"))
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def jetstream(nats: MortalNats) -> Iterator[NatsBroker]:
    broker = NatsBroker(nats.url, acknowledge_within=5, redeliver_after=2)
    yield broker
    broker.close()


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="module")
def redis(redis_server: RedisServer) -> Iterator[RedisBroker]:
    broker = RedisBroker(redis_server.url, redeliver_after=2)
    yield broker
    broker.close()


@pytest.fixture(scope="module")
def kafka() -> Iterator[KafkaBroker]:
    """librdkafka's own cluster, which speaks Kafka's protocol and holds its topics in memory."""
    cluster = AdminClient({"bootstrap.servers": "made by it", "test.mock.num.brokers": 1})
    places = ",".join(f"{each.host}:{each.port}" for each in cluster.list_topics(timeout=10).brokers.values())
    broker = KafkaBroker(f"kafka://{places}", acknowledge_within=5, redeliver_after=6)
    yield broker
    broker.close()


@pytest.fixture(scope="module")
def rabbit_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitServer]:
    server = RabbitServer(tmp_path_factory.mktemp("rabbitmq"))
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def rabbit(rabbit_server: RabbitServer) -> Iterator[RabbitBroker]:
    broker = RabbitBroker(rabbit_server.url, redeliver_after=2)
    yield broker
    broker.close()
