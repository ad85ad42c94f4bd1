"""The brokers that tests start: one server of each kind for the tests of a file."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient

from erpkit.events.brokers.kafka import KafkaBroker
from erpkit.events.brokers.nats import NatsBroker
from erpkit.events.brokers.rabbit import RabbitBroker
from erpkit.events.brokers.redis import RedisBroker
from erpkit.nats import NatsServer
from tests.counting import wait_until

_RABBITMQ = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")  # Debian's own in the path would change to another user


@pytest.fixture(scope="module")
def nats(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    server = NatsServer(tmp_path_factory.mktemp("nats"))
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def jetstream(nats: NatsServer) -> Iterator[NatsBroker]:
    broker = NatsBroker(nats.url, acknowledge_within=5, redeliver_after=2)
    yield broker
    broker.close()


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisBroker]:
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("redis-server is not installed: apt-get install redis-server")
    port = _free_port()
    folder = tmp_path_factory.mktemp("redis")
    command = [program, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--appendonly", "yes"]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    wait_until(lambda: _answers(port))
    broker = RedisBroker(f"redis://127.0.0.1:{port}", redeliver_after=2)
    yield broker
    broker.close()
    server.terminate()
    server.wait()


@pytest.fixture(scope="module")
def kafka() -> Iterator[KafkaBroker]:
    """librdkafka's own cluster, which speaks Kafka's protocol and holds its topics in memory."""
    cluster = AdminClient({"bootstrap.servers": "made by it", "test.mock.num.brokers": 1})
    places = ",".join(f"{each.host}:{each.port}" for each in cluster.list_topics(timeout=10).brokers.values())
    broker = KafkaBroker(f"kafka://{places}", acknowledge_within=5, redeliver_after=6)
    yield broker
    broker.close()


@pytest.fixture(scope="module")
def rabbit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitBroker]:
    """A server with a node name, ports and folders of its own, and a name server of its own to find it by."""
    if not _RABBITMQ.exists():
        pytest.skip("rabbitmq-server is not installed: apt-get install rabbitmq-server")
    folder = tmp_path_factory.mktemp("rabbitmq")
    port, distribution, names = _free_port(), _free_port(), _free_port()
    names_server = subprocess.Popen(["epmd", "-port", str(names), "-address", "127.0.0.1", "-relaxed_command_check"])
    environment = {
        "HOME": folder,  # for the cookie
        "ERL_EPMD_PORT": names,
        "RABBITMQ_NODENAME": f"erpkit-{port}@localhost",
        "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
        "RABBITMQ_NODE_PORT": port,
        "RABBITMQ_DIST_PORT": distribution,
        "RABBITMQ_MNESIA_BASE": folder / "data",
        "RABBITMQ_LOG_BASE": folder / "log",
        "RABBITMQ_PID_FILE": folder / "pid",
        "RABBITMQ_ENABLED_PLUGINS_FILE": folder / "plugins",
        "RABBITMQ_CONFIG_FILE": folder / "rabbitmq",
        "RABBITMQ_CONF_ENV_FILE": folder / "none",
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 1:1",
    }
    server = subprocess.Popen(
        [_RABBITMQ],
        env=os.environ | {name: str(value) for name, value in environment.items()},
        stdout=(folder / "out").open("w"),
        stderr=subprocess.STDOUT,
    )
    wait_until(lambda: _answers(port))
    broker = RabbitBroker(f"amqp://guest:guest@127.0.0.1:{port}", redeliver_after=2)
    yield broker
    broker.close()
    for process in (server, names_server):
        process.terminate()
        process.wait()


def _free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port: int = server.getsockname()[1]
        return port


def _answers(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0
