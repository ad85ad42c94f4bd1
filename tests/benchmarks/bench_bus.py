"""The event bus in memory and the router, in messages a second; no database.

    python -m tests.benchmarks.bench_bus [MESSAGES]

Each figure is the median of seven rounds that take turns. "looked at" is a handler that reads its message, so that an id and JSON
have to be made; "router" is `handle` on a message that is JSON already, as dispatch calls it for each event of its log.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from erpkit.database import Tenant
from erpkit.events import EVERY, Consumer, Context, EventBus, Message, handle
from erpkit.modules import EventHandler, Module, Registry

GOAL = 300_000
ROUNDS = 7


@dataclass(frozen=True)
class Ticked:
    number: int


def _count(event: Ticked, context: Context) -> None:
    _handled.append(event.number)


def _look(event: Ticked, context: Context) -> None:
    _handled.append(context.message.payload["number"])


_handled: list[int] = []
HANDLER = EventHandler("clock.on_ticked", Ticked, _count)


def main(messages: int) -> None:
    works: dict[str, Callable[[int], int]] = {
        "bare calls": _bare,
        "one handler": _publish(EventBus(_registry(_count)), 1),
        "three handlers": _publish(EventBus(_registry(_count, _count, _count)), 3),
        "looked at": _publish(EventBus(_registry(_look)), 1),
        "with middleware": _publish(EventBus(_registry(_count), middleware=EVERY), 1),
        "router": _route,
    }
    rates: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(ROUNDS):
        for name, work in works.items():
            rates[name].append(_rate(work, messages if name in ("bare calls", "one handler") else messages // 10))
    for name, figures in rates.items():
        goal = f" (goal {GOAL:,})" if name == "one handler" else ""
        print(f"{name:16} {statistics.median(figures):>12,.0f} messages/s{goal}, {min(figures):,.0f} at the least")


def _rate(work: Callable[[int], int], messages: int) -> float:
    _handled.clear()
    started = time.perf_counter()
    expected = work(messages)
    seconds = time.perf_counter() - started
    assert len(_handled) == expected
    return messages / seconds


def _registry(*functions: Callable[..., None]) -> Registry:
    handlers = tuple(EventHandler(f"clock.{number}", Ticked, function) for number, function in enumerate(functions))
    return Registry.of([Module("clock", publishes=(Ticked,), subscribes=handlers)])


def _bare(messages: int) -> int:
    context: Any = None
    for number in range(messages):
        _count(Ticked(number), context)
    return messages


def _publish(bus: EventBus, handlers: int) -> Callable[[int], int]:
    def work(messages: int) -> int:
        for number in range(messages):
            bus.publish(Ticked(number))
        return messages * handlers

    return work


def _route(messages: int) -> int:
    consumer, connection = Consumer(Tenant("memory", "tenant_memory"), _registry(_count), HANDLER), _nothing()
    message = Message("clock.Ticked", {"number": 1})
    for _ in range(messages):
        handle(connection, consumer, message)
    return messages


def _nothing() -> Any:
    return None


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 300_000)
