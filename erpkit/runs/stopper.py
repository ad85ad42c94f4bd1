"""Stopping a run from outside its kernel: at a time limit, at Ctrl-C, at SIGTERM."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from erpkit.runs.result import Outcome
from erpkit.signals import caught_signals

MEGABYTE = 1_000_000
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True)
class TimeLimits:
    """How many seconds the whole of a run and each of its cells may take (None: for ever), and then have to end politely.

    `output` is how many bytes of output are kept of each cell.
    """

    run: float | None = None
    cell: float | None = None
    grace: float = 10
    output: int = 20 * MEGABYTE


class Stopper:
    """Knows the kernel of the run, interrupts it when the run has to stop, and kills it when that does not help.

    Nothing is raised in the run's thread: its cell ends with KeyboardInterrupt, or its kernel is found dead. `reason` then
    says which it was: a time limit or a person.
    """

    def __init__(self, limits: TimeLimits) -> None:
        self.limits = limits
        self.reason: tuple[Outcome, str] | None = None
        self.provisioner: Any = None
        self.run = ""  # its id, which all processes of its kernel have in their environment
        self._stopped = threading.Event()
        self._deadline = None if limits.run is None else time.monotonic() + limits.run
        self._timers: list[threading.Timer] = []
        self._in_cell = False

    def left(self) -> float | None:
        """Return the seconds that the whole run has left, or None for a run without a limit."""
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    @contextmanager
    def cell(self) -> Iterator[None]:
        """Watch the time of a cell while it runs."""
        left, most = self.left(), self.limits.cell
        self._in_cell = True
        timers = [self._after(left, f"the run took more than {self.limits.run:g} s")] if left is not None else []
        timers += [self._after(most, f"the cell took more than {most:g} s")] if most is not None else []
        try:
            yield
        finally:
            self._in_cell = False
            for timer in timers:
                timer.cancel()

    def stop(self, outcome: Outcome, why: str) -> None:
        """Interrupt the cell that is running; kill the kernel if it goes on, at once when called again."""
        if self.reason is not None:
            self._kill()
            return
        self.reason = (outcome, why)
        self._stopped.set()
        if self._in_cell:
            self._signal(signal.SIGINT)
        self._start(threading.Timer(self.limits.grace, self._kill))

    def is_over(self) -> bool:
        """Tell whether the run has to stop; the next cell is not begun then."""
        if self.reason is None and self.left() == 0:
            self.reason = ("timed out", f"the run took more than {self.limits.run:g} s")
        return self.reason is not None

    def pause(self, seconds: float) -> bool:
        """Wait between two attempts; tell whether there may be another one."""
        if self.reason is not None and self.reason[0] == "interrupted":
            return False
        self.reason = None
        self._stopped.clear()
        left = self.left()
        self._stopped.wait(seconds if left is None else min(seconds, left))
        return not self.is_over()

    def close(self) -> None:
        """End what still waits, and whatever the kernel of a stopped run has left behind, in sessions of its own, too."""
        for timer in self._timers:
            timer.cancel()
        if self.reason is not None:
            self._kill()
            kill_marked(self.run)

    @contextmanager
    def signals(self) -> Iterator[None]:
        """Let Ctrl-C, SIGTERM and a closed terminal stop the run."""
        with caught_signals(self._on_signal, *_SIGNALS):
            yield

    def _on_signal(self, number: int) -> None:
        self.stop("interrupted", f"by {signal.Signals(number).name}")

    def _after(self, seconds: float, why: str) -> threading.Timer:
        return self._start(threading.Timer(seconds, self._time_out, [why]))

    def _time_out(self, why: str) -> None:
        if self.reason is None:  # a limit that is met while the run stops already is not a second request to stop
            self.stop("timed out", why)

    def _start(self, timer: threading.Timer) -> threading.Timer:
        timer.daemon = True
        timer.start()
        self._timers.append(timer)
        return timer

    def _kill(self) -> None:
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        if getattr(self.provisioner, "send_now", lambda _: False)(number):
            return
        group, pid = getattr(self.provisioner, "pgid", None), getattr(self.provisioner, "pid", None)
        with suppress(ProcessLookupError, PermissionError):
            if group:
                os.killpg(group, number)
            elif pid:
                os.kill(pid, number)


RUN = "ERPKIT_RUN"  # the variable that holds the id of the run in its kernel, and in what that starts


def kill_marked(run: str) -> None:
    """Kill the processes that have a run's id in their environment: those that left the kernel's process group as well.

    A process that started with another environment is not found, nor is any where the system has no /proc.
    """
    mark = f"{RUN}={run}\0".encode()
    for folder in Path("/proc").glob("[0-9]*") if run else ():
        with suppress(OSError):
            if mark in (folder / "environ").read_bytes() and int(folder.name) != os.getpid():
                os.kill(int(folder.name), signal.SIGKILL)
