"""Load order, and the errors that stop start-up."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from erpkit.config import Settings
from erpkit.errors import ModuleError
from erpkit.modules import EventHandler, Module, Registry, check_modules, find_modules, load_modules, load_order


@dataclass(frozen=True)
class Shipped:
    order: int


@dataclass(frozen=True)
class Lost:
    order: int


def handle(event: object, context: object) -> None:
    """Do nothing."""


def test_a_module_loads_after_those_it_depends_on() -> None:
    modules = [
        Module("billing", ("sales", "stock")),
        Module("stock", ("catalog",)),
        Module("sales", ("catalog",)),
        Module("catalog"),
    ]
    assert [m.name for m in load_order(modules)] == ["catalog", "sales", "stock", "billing"]


def test_a_cycle_is_named_in_full() -> None:
    modules = [Module("a", ("b",)), Module("b", ("c",)), Module("c", ("a",)), Module("d", ("a",))]
    with pytest.raises(ModuleError, match="a -> b -> c -> a"):
        load_order(modules)


def test_a_module_that_depends_on_itself_is_a_cycle() -> None:
    with pytest.raises(ModuleError, match="a -> a"):
        load_order([Module("a", ("a",))])


def test_a_missing_dependency_is_named_with_who_needs_it() -> None:
    with pytest.raises(ModuleError, match="module sales depends on catalog, which is not registered"):
        load_order([Module("sales", ("catalog",))])


def test_a_duplicate_is_named() -> None:
    with pytest.raises(ModuleError, match="more than one module is named sales"):
        load_order([Module("sales"), Module("sales")])


def test_two_handlers_of_one_name_are_refused() -> None:
    handlers = (EventHandler("a.on_shipped", Shipped, handle), EventHandler("a.on_shipped", Lost, handle))
    with pytest.raises(ModuleError, match=r"handler is named a\.on_shipped"):
        load_order([Module("a", subscribes=handlers)])


@pytest.mark.parametrize("candidate", [42, "sales", Module, object()])
def test_an_object_that_is_no_module_is_named(candidate: object) -> None:
    with pytest.raises(ModuleError, match="is no module"):
        load_order([candidate])


@pytest.mark.parametrize("name", ["", "Sales", "sales-eu", 'x"; drop schema acme; --', "a" * 41])
def test_a_bad_name_is_refused(name: str) -> None:
    with pytest.raises(ModuleError, match="no module name"):
        load_order([Module(name)])


def test_any_object_with_a_modules_attributes_is_one() -> None:
    class Legacy:
        name = "legacy"
        dependencies: tuple[str, ...] = ()
        migrations: Path | None = None
        commands = ()
        publishes = ()
        subscribes = ()

    assert [m.name for m in load_order([Legacy()])] == ["legacy"]


def test_the_sample_erp_loads_through_its_entry_points() -> None:
    registry = load_modules(Settings(modules="erpkit.sample"))
    assert [m.name for m in registry.modules] == ["catalog", "sales", "inventory", "billing"]


def test_a_group_without_modules_is_an_error_that_names_it() -> None:
    with pytest.raises(ModuleError, match="entry-point group no.such.group"):
        find_modules(Settings(modules="no.such.group"))


def test_a_configured_database_never_falls_back_to_the_sample_erp() -> None:
    with pytest.raises(ModuleError, match=r"entry-point group erpkit\.modules"):
        find_modules(Settings(database="dbname=mine"))


def test_an_event_that_no_module_declares_has_no_topic() -> None:
    with pytest.raises(ModuleError, match="no module publishes or handles Lost"):
        Registry.of([Module("a", publishes=(Shipped,))]).topic(Lost)


def test_findings_name_every_fault_at_once() -> None:
    modules = [
        Module("a", ("b", "nowhere"), publishes=(Shipped,)),
        Module("b", ("a",), subscribes=(EventHandler("b.on_lost", Lost, handle),)),
        Module("c", subscribes=(EventHandler("c.on_shipped", Shipped, handle),)),
        Module("c"),
        42,
    ]
    check = check_modules(modules)
    assert sorted(f.kind for f in check.findings) == [
        "cycle", "duplicate", "missing dependency", "no module", "orphan handler", "undeclared dependency",
    ]  # fmt: skip
    assert check.cycle == ("a", "b", "a")
    assert check.order == ()


def test_a_sound_graph_has_no_findings() -> None:
    check = check_modules(find_modules(Settings(modules="erpkit.sample")))
    assert check.findings == ()
    assert check.order == ("catalog", "sales", "inventory", "billing")
