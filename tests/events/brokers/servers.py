"""Servers of brokers that tests start, kill and wipe."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import pytest

from erpkit.nats import NatsServer
from tests.counting import wait_until

_RABBITMQ = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")  # Debian's own in the path would change to another user


class Mortal(Protocol):
    """A server that can be killed, and lose all that it had."""

    def start(self) -> object: ...

    def kill(self) -> None: ...

    def wipe(self) -> None: ...


@dataclass(frozen=True)
class MortalNats(NatsServer):
    def kill(self) -> None:
        pid = self.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)

    def wipe(self) -> None:
        shutil.rmtree(self.data / "jetstream")


@dataclass
class RedisServer:
    folder: Path
    port: int = field(default_factory=lambda: free_port())
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def start(self) -> None:
        program = shutil.which("redis-server")
        if program is None:
            pytest.skip("redis-server is not installed: apt-get install redis-server")
        self.folder.mkdir(exist_ok=True)
        words = [program, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder)]
        self.process = subprocess.Popen([*words, "--appendonly", "yes"], stdout=subprocess.DEVNULL)
        wait_until(lambda: answers(self.port))

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def wipe(self) -> None:
        shutil.rmtree(self.folder / "appendonlydir", ignore_errors=True)
        for file in self.folder.glob("*.[ra][do][bf]"):
            file.unlink()


@dataclass
class RabbitServer:
    """A server with a node name, ports and folders of its own, and a name server of its own to find it by."""

    folder: Path
    port: int = field(default_factory=lambda: free_port())
    distribution: int = field(default_factory=lambda: free_port())
    names: int = field(default_factory=lambda: free_port())
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@127.0.0.1:{self.port}"

    def start(self) -> None:
        if not _RABBITMQ.exists():
            pytest.skip("rabbitmq-server is not installed: apt-get install rabbitmq-server")
        self.folder.mkdir(exist_ok=True)
        if not self.processes:
            names = ["epmd", "-port", str(self.names), "-address", "127.0.0.1", "-relaxed_command_check"]
            self.processes.append(subprocess.Popen(names))
        environment = {
            "HOME": self.folder,  # for the cookie
            "ERL_EPMD_PORT": self.names,
            "RABBITMQ_NODENAME": f"erpkit-{self.port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": self.port,
            "RABBITMQ_DIST_PORT": self.distribution,
            "RABBITMQ_MNESIA_BASE": self.folder / "data",
            "RABBITMQ_LOG_BASE": self.folder / "log",
            "RABBITMQ_PID_FILE": self.folder / "pid",
            "RABBITMQ_ENABLED_PLUGINS_FILE": self.folder / "plugins",
            "RABBITMQ_CONFIG_FILE": self._write_config(),
            "RABBITMQ_CONF_ENV_FILE": self.folder / "none",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 1:1",
        }
        with (self.folder / "out").open("ab") as out:
            server = subprocess.Popen(
                [_RABBITMQ], env=os.environ | {name: str(value) for name, value in environment.items()},
                stdout=out, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        self.processes.append(server)
        wait_until(lambda: answers(self.port))

    def _write_config(self) -> Path:
        path = self.folder / "rabbitmq.conf"
        path.write_text("max_message_size = 1000000\n")
        return path

    def kill(self) -> None:
        """Let it go down at once, but in order.

        RabbitMQ 3.10 that is killed seconds after it declared a queue may leave that queue without a leader for ever.
        """
        server = self.processes.pop()
        os.killpg(server.pid, signal.SIGTERM)
        server.wait()
        wait_until(lambda: not answers(self.port))

    def wipe(self) -> None:
        shutil.rmtree(self.folder / "data")

    def stop(self) -> None:
        for process in reversed(self.processes):
            process.terminate()
            process.wait()


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port: int = server.getsockname()[1]
        return port


def answers(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0
