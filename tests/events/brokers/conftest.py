"""The brokers that tests start: one server of each kind for the tests of a file."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient

from erpkit.events.brokers.kafka import KafkaBroker
from erpkit.events.brokers.nats import NatsBroker
from erpkit.events.brokers.rabbit import RabbitBroker
from erpkit.events.brokers.redis import RedisBroker
from tests.conftest import SCRATCH
from tests.events.brokers.servers import MortalNats, RabbitServer, RedisServer


@pytest.fixture(scope="module")
def scratch() -> Iterator[Path]:
    """A folder for the servers' data, in memory where there is room: what they acknowledge waits for no busy disk."""
    folder = Path(tempfile.mkdtemp(prefix="erpkit-brokers-", dir=SCRATCH))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def nats(scratch: Path) -> Iterator[MortalNats]:
    server = MortalNats(scratch / "nats")
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def jetstream(nats: MortalNats) -> Iterator[NatsBroker]:
    broker = NatsBroker(nats.url, acknowledge_within=10, redeliver_after=2)
    yield broker
    broker.close()


@pytest.fixture(scope="module")
def redis_server(scratch: Path) -> Iterator[RedisServer]:
    server = RedisServer(scratch / "redis")
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
    broker = KafkaBroker(f"kafka://{places}", acknowledge_within=60, redeliver_after=6)
    yield broker
    broker.close()


@pytest.fixture(scope="module")
def rabbit_server(scratch: Path) -> Iterator[RabbitServer]:
    server = RabbitServer(scratch / "rabbitmq")
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def rabbit(rabbit_server: RabbitServer) -> Iterator[RabbitBroker]:
    broker = RabbitBroker(rabbit_server.url, redeliver_after=2)
    yield broker
    broker.close()
