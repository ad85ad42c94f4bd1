"""A broker that is closed leaves nothing running."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading

import pytest

from erpkit.events.brokers.nats import NatsBroker


def test_a_closed_broker_leaves_no_thread_and_no_task_even_where_the_end_of_one_starts_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    unraisable: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", unraisable.append)
    before = set(threading.enumerate())
    broker = NatsBroker("nats://127.0.0.1:1")
    ended: list[object] = []

    async def wait_forever(left: int) -> None:
        loop = asyncio.get_running_loop()
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(left)
            loop.call_soon(ended.append, "late")  # fails once the loop is closed
            if left:
                tasks.append(loop.create_task(wait_forever(left - 1)))

    tasks: list[asyncio.Task[None]] = []

    async def begin() -> None:
        tasks.append(asyncio.get_running_loop().create_task(wait_forever(3)))

    broker._portal.call(begin)
    broker.close()
    assert set(threading.enumerate()) == before
    tasks.clear()
    gc.collect()
    assert (ended.count("late"), unraisable) == (4, [])
