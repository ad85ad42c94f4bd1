"""Handling signals for the time of a block."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["STOPS", "exit_at_sigterm", "handle_signals", "stop_at_signals"]

STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # Ctrl-C, a supervisor's stop, a closed terminal


@contextmanager
def handle_signals(handler: Callable[[int], object], *numbers: int) -> Iterator[None]:
    """Call `handler` with the number of each of these signals that arrives during the block.

    What handled them before does so again afterwards. Python sets handlers in the main thread only: elsewhere nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, lambda number, _: handler(number)) for number in numbers}
    try:
        yield
    finally:
        for number, usual in before.items():
            # None is a handler that was not set from Python, which Python cannot set again.
            signal.signal(number, signal.SIG_DFL if usual is None else usual)


@contextmanager
def stop_at_signals() -> Iterator[threading.Event]:
    """Lend an event that Ctrl-C and SIGTERM set, so that a worker ends between two pieces of work."""
    stop = threading.Event()
    with handle_signals(lambda _: stop.set(), signal.SIGTERM, signal.SIGINT):
        yield stop


def exit_at_sigterm() -> None:
    """Let SIGTERM unwind the program as an error would, so that what was started is stopped."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
