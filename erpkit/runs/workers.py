"""A dispatcher in a process of its own, as `erpkit events dispatch` starts it, for rehearsals to kill."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from erpkit.errors import RunError

__all__ = ["WorkerProcess"]

_COMMAND = "from erpkit.cli import main; main()"
_PATIENCE = 60.0  # seconds


class WorkerProcess:
    """One dispatcher of a database; it is started by `start` and keeps a health file."""

    def __init__(self, conninfo: str, modules: str, health_file: Path) -> None:
        self._environment = os.environ | {"ERPKIT_DATABASE": conninfo, "ERPKIT_MODULES": modules}
        self._process: subprocess.Popen[bytes] | None = None
        self.health_file = health_file

    def start(self) -> None:
        """Start it, and wait for its first report."""
        options = ["--poll", "0.2", "--every", "0.2", "--health-file", str(self.health_file)]
        self._process = subprocess.Popen(
            [sys.executable, "-c", _COMMAND, "events", "dispatch", *options],
            env=self._environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        self.wait(self.health_file.exists)

    def wait(self, condition: Callable[[], object]) -> None:
        """Wait until `condition` holds; raises RunError when the dispatcher ends before, or a minute is over."""
        deadline = time.monotonic() + _PATIENCE
        while not condition():
            if self._process is None or self._process.poll() is not None:
                raise RunError("the rehearsal's dispatcher has ended")
            if time.monotonic() > deadline:
                raise RunError(f"the rehearsal's dispatcher was not ready within {_PATIENCE:.0f} s")
            time.sleep(0.02)

    def kill(self) -> None:
        """Kill it, as the system does when memory is short: nothing is finished, and nothing tidied up."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
