"""What stops start-up when messages and handlers do not fit together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from erpkit.errors import ModuleError
from erpkit.modules import (
    CommandHandler,
    EventHandler,
    Module,
    Query,
    QueryHandler,
    Registry,
    Tool,
    Upcaster,
    check_modules,
)


@dataclass(frozen=True)
class Ship:
    order: int


@dataclass(frozen=True)
class Shipped:
    order: int


@dataclass(frozen=True)
class CountShipped(Query[int]):
    pass


def do(message: object, context: object) -> None:
    pass


def count(query: object, context: object) -> int:
    return 7


def b_count(context: object) -> int:
    return 7


def same(payload: dict[str, Any]) -> dict[str, Any]:
    return payload


FAULTS = {
    "command Ship has 2 handlers, in a, b: keep one": [
        Module("a", commands=(CommandHandler(Ship, do),)),
        Module("b", commands=(CommandHandler(Ship, do),)),
    ],
    "query CountShipped has 2 handlers, in a, b: keep one": [
        Module("a", answers=(QueryHandler(CountShipped, count),)),
        Module("b", answers=(QueryHandler(CountShipped, count),)),
    ],
    "Shipped is published by a, b: let one": [Module("a", publishes=(Shipped,)), Module("b", publishes=(Shipped,))],
    "2 messages have the topic a.Shipped: rename": [
        Module("a", publishes=(Shipped, type("Shipped", (), {}))),
    ],
    "2 tools are named a_b_count, in a, a_b: rename": [
        Module("a_b", tools=(Tool(count),)),
        Module("a", tools=(Tool(b_count),)),
    ],
    "a.on_shipped subscribes to Shipped, which no module publishes: publish": [
        Module("a", subscribes=(EventHandler("a.on_shipped", Shipped, do),))
    ],
    "b has an upcaster of Shipped, which it does not publish: move": [
        Module("a", publishes=(Shipped,)),
        Module("b", upcasters=(Upcaster(Shipped, 1, same),)),
    ],
    "the upcasters of a.Shipped are from versions [1, 3]: have one from each": [
        Module("a", publishes=(Shipped,), upcasters=(Upcaster(Shipped, 3, same), Upcaster(Shipped, 1, same)))
    ],
    "the upcasters of a.Shipped are from versions [1, 1]": [
        Module("a", publishes=(Shipped,), upcasters=(Upcaster(Shipped, 1, same), Upcaster(Shipped, 1, same)))
    ],
}


@pytest.mark.parametrize("fault", FAULTS)
def test_start_up_stops_at_what_would_keep_a_message_from_its_handler(fault: str) -> None:
    with pytest.raises(ModuleError) as raised:
        Registry.of(FAULTS[fault])
    assert str(raised.value).startswith(fault)


def test_a_report_shows_all_of_them() -> None:
    modules = [
        Module("a", subscribes=(EventHandler("a.on_shipped", Shipped, do),), commands=(CommandHandler(Ship, do),) * 2)
    ]
    found = [finding.kind for finding in check_modules(modules).findings]
    assert found == ["command handled twice", "orphan handler"]


def test_an_event_is_of_the_version_that_follows_its_last_upcaster() -> None:
    module = Module("a", publishes=(Shipped,), upcasters=(Upcaster(Shipped, 2, same), Upcaster(Shipped, 1, same)))
    registry = Registry.of([module])
    assert registry.version(Shipped) == 3
    assert [upcaster.from_version for upcaster in registry.upcasters(Shipped)] == [1, 2]
    assert Registry.of([Module("a", publishes=(Shipped,))]).version(Shipped) == 1


@pytest.mark.parametrize("seconds", [0, -1.5])
def test_a_timeout_is_above_zero(seconds: float) -> None:
    with pytest.raises(ValueError, match=r"a\.on_shipped: timeout = .* is not a time"):
        EventHandler("a.on_shipped", Shipped, do, timeout=seconds)


def test_a_module_of_ones_own_making_needs_neither_answers_nor_upcasters() -> None:
    class Legacy:
        name = "legacy"
        dependencies: tuple[str, ...] = ()
        migrations = None
        commands = subscribes = ()
        publishes = (Shipped,)

    registry = Registry.of([Legacy()])
    assert (registry.topic(Shipped), registry.version(Shipped)) == ("legacy.Shipped", 1)
    with pytest.raises(ModuleError, match="query CountShipped has no handler"):
        registry.query_handler(CountShipped)
