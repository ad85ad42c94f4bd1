"""What start-up refuses, the check refuses, too, in the same words."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from erpkit.config import Settings
from erpkit.errors import ModuleError
from erpkit.modules import (
    CommandHandler,
    EventHandler,
    Module,
    Query,
    QueryHandler,
    Registry,
    Upcaster,
    check_modules,
    load_modules,
    read_candidates,
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


def handle(event: Any, context: Any) -> None:
    """Do nothing."""


def count(query: Any, context: Any) -> int:
    return 7


def alone(event: Any) -> None:
    """Take too little."""


def eager(event: Any, context: Any, third: Any) -> None:
    """Take too much."""


def named(event: Any, *, context: Any) -> None:
    """Take the context by its name."""


async def later(event: Any, context: Any) -> None:
    """Do nothing, and never."""


def lazy(event: Any, context: Any) -> Iterator[None]:
    yield


class Later:
    async def __call__(self, event: Any, context: Any) -> None:
        """Do nothing, and never."""


def lenient(event: Any, context: Any, more: Any = None) -> None:
    """Take more, but not need it."""


class Reserve:
    def __call__(self, event: Any, context: Any) -> None:
        """Do nothing."""


def _module(function: Any) -> list[Any]:
    return [Module("a", publishes=(Shipped,), subscribes=(EventHandler("a.on_shipped", Shipped, function),))]


def _commanded(function: Any) -> list[Any]:
    return [Module("a", commands=(CommandHandler(Ship, function),))]


FAULTS: dict[str, list[Any]] = {
    "'A-b' is not a module name: use a-z": [Module("A-b")],
    "42 is not a module (it lacks name": [42],
    "more than one module is named a: names must be unique": [Module("a"), Module("a")],
    "module a depends on itself (a -> a): remove": [Module("a", ("a",))],
    "module b depends on slaes, which is not registered: did you mean sales?": [Module("sales"), Module("b", ("slaes",))],
    "module b depends on x, which is not registered: register it": [Module("sales"), Module("b", ("x",))],
    "more than one event handler is named a.on, in a, b: names must be unique": [
        Module("a", publishes=(Shipped,), subscribes=(EventHandler("a.on", Shipped, handle),)),
        Module("b", subscribes=(EventHandler("a.on", Shipped, handle),)),
    ],
    "the handler a.on_shipped is 42, which is no function: give a function that is called as function(event, context)":
        _module(42),
    "the handler a.on_shipped takes (event: Any) -> None: give": _module(alone),
    "the handler a.on_shipped takes (event: Any, context: Any, third: Any) -> None": _module(eager),
    "the handler a.on_shipped takes (event: Any, *, context: Any) -> None": _module(named),
    "the handler a.on_shipped is an async function": _module(later),
    "the handler a.on_shipped is an async function, which": _module(Later()),
    "the handler a.on_shipped is a generator, whose body never runs": _module(lazy),
    "the lifespan of a takes (event: Any, context: Any) -> None: give": [Module("a", lifespan=handle)],  # type: ignore[arg-type]
    "the handler of command a.Ship takes (event: Any) -> None": _commanded(alone),
    "the handler of query a.CountShipped is 'count', which is no function": [
        Module("a", answers=(QueryHandler(CountShipped, "count"),))  # type: ignore[arg-type]
    ],
    "the upcaster of a.Shipped takes (event: Any, context: Any) -> None: give a function that is called as function(payload)": [
        Module("a", publishes=(Shipped,), upcasters=(Upcaster(Shipped, 1, handle),))  # type: ignore[arg-type]
    ],
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_what_start_up_refuses_is_an_error_of_the_check_in_the_same_words(fault: str) -> None:
    with pytest.raises(ModuleError) as raised:
        Registry.of(FAULTS[fault])
    assert str(raised.value).startswith(fault)
    found = [finding for finding in check_modules(FAULTS[fault]).findings if finding.severity == "error"]
    assert [f"{finding.problem}: {finding.remedy}" for finding in found] == [str(raised.value)]


@pytest.mark.parametrize("text", ['[[module]]\nname = "A-b"\n', '[[module]]\nname = "a"\n[[module]]\nname = "a"\n'])
def test_so_is_what_a_modules_toml_describes(text: str, tmp_path: Path) -> None:
    (tmp_path / "modules.toml").write_text(text)
    settings = Settings(modules=str(tmp_path / "modules.toml"))
    (finding,) = check_modules(read_candidates(settings).modules).findings
    assert finding.severity == "error"
    with pytest.raises(ModuleError, match=finding.problem):
        load_modules(settings)


@pytest.mark.parametrize(
    "function",
    [handle, Reserve(), Reserve().__call__, partial(eager, None), lambda *_: None, lenient],
)  # fmt: skip
def test_whatever_can_be_called_with_an_event_and_a_context_is_a_handler(function: Callable[..., None]) -> None:
    assert check_modules(_module(function)).findings == ()
    Registry.of(_module(function))


def test_a_folder_of_migrations_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    (finding,) = check_modules([Module("a", migrations=tmp_path / "gone")]).findings
    assert (finding.kind, finding.severity) == ("missing folder", "error")
    assert finding.problem == f"module a: there is no migrations folder {tmp_path}/gone"


def test_the_place_of_a_bad_handler_is_told() -> None:
    (finding,) = check_modules(_module(alone)).findings
    (place,) = finding.places
    assert (place.path, place.line) == ("tests/modules/test_faults.py", alone.__code__.co_firstlineno)
