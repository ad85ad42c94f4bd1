"""The event bus in memory, and the middleware that needs no database."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import dataclass
from uuid import UUID

import pytest

from erpkit.errors import ModuleError, UsageError
from erpkit.events import EVERY, Context, EventBus, Message, PayloadError
from erpkit.events.middleware import HandlerError, Middleware, correlation, recoverer, retry, throttle
from erpkit.modules import EventHandler, Module, Registry, Upcaster

seen: list[tuple[str, object]] = []
contexts: list[Context] = []


@dataclass(frozen=True)
class Ordered:
    number: int


@dataclass(frozen=True)
class Billed:
    number: int


@dataclass(frozen=True)
class Unheard:
    number: int


def note(event: Ordered, context: Context) -> None:
    seen.append((context.handler, event))
    contexts.append(context)


def bill(event: Ordered, context: Context) -> None:
    context.publish(Billed(event.number))
    seen.append((context.handler, event))  # before what it published is handled
    contexts.append(context)


def fail(event: Ordered, context: Context) -> None:
    seen.append((context.handler, event))
    raise ValueError(f"attempt {context.attempt}")


def leave(event: Ordered, context: Context) -> None:
    sys.exit("bye")


def interrupt(event: Ordered, context: Context) -> None:
    raise KeyboardInterrupt


def save(event: Ordered, context: Context) -> None:
    context.connection.execute("SELECT 1")


def _registry(*handlers: EventHandler) -> Registry:
    return Registry.of([Module("shop", publishes=(Ordered, Billed, Unheard), subscribes=handlers)])


def _one(function: object) -> Registry:
    return _registry(EventHandler("shop.on_ordered", Ordered, function))  # type: ignore[arg-type]


SHOP = _registry(
    EventHandler("shop.bill", Ordered, bill),
    EventHandler("shop.note", Ordered, note),
    EventHandler("shop.on_billed", Billed, note),
)


@pytest.fixture(autouse=True)
def _fresh() -> None:
    seen.clear()
    contexts.clear()


@pytest.mark.parametrize("middleware", [None, EVERY], ids=["plain", "middleware"])
def test_an_event_goes_to_all_its_handlers_and_then_what_they_published(
    middleware: tuple[Middleware, ...] | None,
) -> None:
    bus = EventBus(SHOP, middleware=middleware)
    bus.publish(Ordered(1))
    assert seen == [("shop.bill", Ordered(1)), ("shop.note", Ordered(1)), ("shop.on_billed", Billed(1))]
    first, second, third = (context.message for context in contexts)
    assert first == second
    assert (third.topic, third.payload) == ("shop.Billed", {"number": 1})
    assert third.correlation_id == first.correlation_id == str(first.uuid)
    assert third.metadata["causation_id"] == str(first.uuid)


def test_an_event_that_has_upcasters_is_written_in_its_present_version() -> None:
    handler = EventHandler("shop.on_ordered", Ordered, note)
    old = Upcaster(Ordered, 1, lambda _: {"number": -1})
    registry = Registry.of([Module("shop", publishes=(Ordered,), subscribes=(handler,), upcasters=(old,))])
    EventBus(registry, middleware=EVERY).publish(Ordered(5))
    assert seen == [("shop.on_ordered", Ordered(5))]


def test_a_queued_bus_hands_nothing_on_before_it_is_run() -> None:
    bus = EventBus(SHOP, queued=True)
    bus.publish(Ordered(1))
    bus.publish(Ordered(2))
    assert seen == []
    assert bus.run() == 6
    assert [event for handler, event in seen if handler == "shop.on_billed"] == [Billed(1), Billed(2)]
    assert bus.run() == 0


def test_a_handler_ends_before_what_it_published_is_handled_even_over_the_bus_itself() -> None:
    def relay(event: Ordered, context: Context) -> None:
        bus.publish(Billed(event.number))
        seen.append((context.handler, event))

    bus = EventBus(_registry(EventHandler("shop.relay", Ordered, relay), EventHandler("shop.on_billed", Billed, note)))
    bus.publish(Ordered(1))
    assert seen == [("shop.relay", Ordered(1)), ("shop.on_billed", Billed(1))]


def test_an_error_reaches_the_publisher_and_what_is_behind_it_waits() -> None:
    bus = EventBus(_registry(EventHandler("shop.fail", Ordered, fail), EventHandler("shop.note", Ordered, note)))
    with pytest.raises(ValueError, match="attempt 1"):
        bus.publish(Ordered(1))
    assert bus.run() == 1
    assert seen == [("shop.fail", Ordered(1)), ("shop.note", Ordered(1))]


@pytest.mark.parametrize("middleware", [None, EVERY], ids=["plain", "middleware"])
def test_an_event_that_no_module_publishes_is_refused_and_one_that_nobody_handles_is_not(
    middleware: tuple[Middleware, ...] | None,
) -> None:
    bus = EventBus(SHOP, middleware=middleware)
    bus.publish(Unheard(1))
    with pytest.raises(ModuleError, match="no module publishes or handles str"):
        bus.publish("text")


def test_a_bus_with_middleware_refuses_an_event_that_could_not_be_read_back() -> None:
    with pytest.raises(PayloadError, match=r"Ordered\.number"):
        EventBus(SHOP, middleware=EVERY).publish(Ordered("many"))  # type: ignore[arg-type]


def test_a_handler_that_wants_the_database_is_told_to_give_the_bus_one() -> None:
    with pytest.raises(UsageError, match=r"shop\.on_ordered wants the database: give the EventBus"):
        EventBus(_one(save)).publish(Ordered(1))


def test_a_handler_with_a_time_limit_runs_without_a_database() -> None:
    registry = _registry(EventHandler("shop.on_ordered", Ordered, note, timeout=5))
    EventBus(registry, middleware=EVERY).publish(Ordered(1))
    assert seen == [("shop.on_ordered", Ordered(1))]


def test_a_handler_cannot_end_the_process_but_ctrl_c_can() -> None:
    with pytest.raises(HandlerError, match=r"tenant memory: shop\.on_ordered on shop\.Ordered, \S+: SystemExit: bye"):
        EventBus(_one(leave), middleware=(recoverer,)).publish(Ordered(1))
    with pytest.raises(KeyboardInterrupt):
        EventBus(_one(interrupt), middleware=(recoverer,)).publish(Ordered(1))


def test_an_error_keeps_its_type_and_says_where_it_came_from() -> None:
    with pytest.raises(ValueError, match="attempt 1") as raised:
        EventBus(_one(fail), middleware=(recoverer,)).publish(Ordered(1))
    assert raised.value.__notes__[0].startswith("tenant memory: shop.on_ordered on shop.Ordered, ")


def test_a_handler_is_tried_again_a_bounded_number_of_times() -> None:
    with pytest.raises(ValueError, match="attempt 4"):
        EventBus(_one(fail), middleware=(retry(4, first=0.001),)).publish(Ordered(1))
    assert len(seen) == 4


def test_a_payload_that_does_not_fit_is_not_tried_again() -> None:
    calls: list[int] = []

    def count(following: object) -> object:
        def handle(context: Context) -> object:
            calls.append(context.attempt)
            raise PayloadError("does not fit")

        return handle

    with pytest.raises(PayloadError):
        EventBus(_one(note), middleware=(retry(4), count)).publish(Ordered(1))  # type: ignore[arg-type]
    assert calls == [1]


def test_the_first_middleware_is_the_outermost() -> None:
    def mark(name: str) -> Middleware:
        def middleware(following: object) -> object:
            def handle(context: Context) -> object:
                seen.append((name, "in"))
                published = following(context)  # type: ignore[operator]
                seen.append((name, "out"))
                return published

            return handle

        return middleware  # type: ignore[return-value]

    EventBus(_one(note), middleware=(mark("a"), mark("b"))).publish(Ordered(1))
    assert [name for name, _ in seen] == ["a", "b", "shop.on_ordered", "b", "a"]


def test_throttle_spreads_messages_evenly() -> None:
    bus = EventBus(_one(note), middleware=(throttle(200),))
    started = time.monotonic()
    for number in range(21):
        bus.publish(Ordered(number))
    assert time.monotonic() - started >= 20 / 200


def test_a_message_that_came_about_in_another_way_gets_its_cause_too() -> None:
    cause = Message("a.B", {}, UUID(int=1), {"correlation_id": "c", "traceparent": "t"})
    context = Context(None, None, cause, SHOP, "x")  # type: ignore[arg-type]
    (message,) = correlation(lambda _: [Message("a.C", {}, UUID(int=2), {"name": "C"})])(context)
    assert message.metadata == {
        "name": "C", "correlation_id": "c", "causation_id": str(UUID(int=1)), "traceparent": "t",
    }  # fmt: skip


def test_handlers_run_where_opentelemetry_is_not_installed() -> None:
    code = (
        "import sys; sys.modules['opentelemetry'] = None\n"
        "from tests.events.test_event_bus import *\n"
        "EventBus(SHOP, middleware=EVERY).publish(Ordered(1))\n"
        "assert len(seen) == 3"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
