"""Catch signals for a while, so that work ends in order instead of being interrupted."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def caught_signals(on_signal: Callable[[int], object], *numbers: signal.Signals) -> Iterator[None]:
    """Call `on_signal` with the number of each of these signals during the block; then restore the old handlers.

    Outside the main thread it does nothing, as only that one handles signals in Python. A SIGHUP that this process was
    started to ignore, as by nohup, stays ignored.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    wanted = [number for number in numbers if not (number == signal.SIGHUP and _is_ignored(number))]
    before = {number: signal.signal(number, lambda number, _: on_signal(number)) for number in wanted}
    try:
        yield
    finally:
        for number, usual in before.items():
            _restore(number, usual)


@contextmanager
def stop_at_interrupt(stop: threading.Event) -> Iterator[None]:
    """Let the first Ctrl-C set `stop`, so that the batch in flight ends; the second one interrupts at once."""
    usual = signal.getsignal(signal.SIGINT)

    def ask(_number: int) -> None:
        stop.set()
        _restore(signal.SIGINT, usual)

    with caught_signals(ask, signal.SIGINT):
        yield


@contextmanager
def stop_at_signals() -> Iterator[threading.Event]:
    """Lend an event that Ctrl-C and SIGTERM set, so that a worker stops between two pieces of work."""
    stop = threading.Event()
    with caught_signals(lambda _: stop.set(), signal.SIGTERM, signal.SIGINT):
        yield stop


def exit_at_sigterm() -> None:
    """Let SIGTERM raise SystemExit, so that context managers stop what they started."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))


def _is_ignored(number: int) -> bool:
    return signal.getsignal(number) == signal.SIG_IGN


def _restore(number: signal.Signals, usual: signal._HANDLER) -> None:
    signal.signal(number, signal.SIG_DFL if usual is None else usual)  # None: it was not set from Python
