"""Signals that are caught for a while."""

import signal
import threading

import pytest

from erpkit.signals import caught_signals, stop_at_interrupt


def test_signals_are_caught_for_the_time_of_the_block() -> None:
    usual, heard = signal.getsignal(signal.SIGTERM), list[int]()
    with caught_signals(heard.append, signal.SIGTERM, signal.SIGINT):
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
    assert heard == [signal.SIGTERM, signal.SIGINT]
    assert signal.getsignal(signal.SIGTERM) is usual


def test_a_hangup_that_nohup_ignores_stays_ignored() -> None:
    usual, heard = signal.signal(signal.SIGHUP, signal.SIG_IGN), list[int]()
    try:
        with caught_signals(heard.append, signal.SIGHUP, signal.SIGTERM):
            signal.raise_signal(signal.SIGHUP)
        assert not heard
    finally:
        signal.signal(signal.SIGHUP, usual)


def test_outside_the_main_thread_nothing_is_caught() -> None:
    usual, seen = signal.getsignal(signal.SIGINT), list[object]()

    def work() -> None:
        with caught_signals(print, signal.SIGINT):
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [usual]


def test_the_first_interrupt_asks_to_stop_and_the_second_one_interrupts() -> None:
    stop = threading.Event()
    with stop_at_interrupt(stop):
        signal.raise_signal(signal.SIGINT)
        assert stop.is_set()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
