"""Load order, and the errors that stop start-up."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from erpkit.config import Settings
from erpkit.errors import ModuleError
from erpkit.modules import (
    EventHandler,
    Module,
    Registry,
    check_modules,
    find_modules,
    load_modules,
    load_order,
    read_candidates,
    register,
    tables_of,
)
from erpkit.modules.registry import dependency_graph, find_cycles


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


def test_cycles_that_have_nothing_in_common_are_each_named_in_full() -> None:
    modules = [Module("a", ("b",)), Module("b", ("a",)), Module("x", ("y",)), Module("y", ("z",)), Module("z", ("x",))]
    with pytest.raises(ModuleError) as raised:
        load_order([*modules, Module("between", ("a", "x"))])
    assert str(raised.value) == (
        "modules depend on each other in 2 cycles: a -> b -> a; x -> y -> z -> x; remove one dependency of each"
    )


def test_of_a_component_of_modules_a_short_cycle_is_named_and_not_each_of_a_million() -> None:
    names = [f"m{n:03d}" for n in range(300)]
    component = [Module(name, tuple(other for other in names if other != name)) for name in names]
    assert find_cycles(dependency_graph(component)) == [["m000", "m001", "m000"]]


def test_a_cycle_of_five_hundred_is_named_in_full() -> None:
    ring = [Module(f"m{n:03d}", (f"m{(n + 1) % 500:03d}",)) for n in range(500)]
    with pytest.raises(ModuleError) as raised:
        load_order(ring)
    assert " -> ".join(f"m{n % 500:03d}" for n in range(501)) in str(raised.value)


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
    with pytest.raises(ModuleError, match="is not a module"):
        load_order([candidate])


@pytest.mark.parametrize("name", ["", "Sales", "sales-eu", 'x"; drop schema acme; --', "a" * 41])
def test_a_bad_name_is_refused(name: str) -> None:
    with pytest.raises(ModuleError, match="not a module name"):
        load_order([Module(name)])


class Bent:
    """A module of one's own making with something wrong in it."""

    name = "bent"
    dependencies: Any = ()
    migrations: Any = None
    commands: Any = ()
    publishes: Any = ()
    subscribes: Any = ()
    tables: Any = None


BENT = {
    "dependencies": ("sales", "its dependencies is 'sales', not a tuple of names"),
    "migrations": ("migrations", "its migrations is 'migrations', not a pathlib.Path or None"),
    "publishes": (("OrderPlaced",), "its publishes is ('OrderPlaced',), not a tuple of classes"),
    "subscribes": ((handle,), "not a tuple of erpkit.EventHandler"),
    "commands": (None, "its commands is None, not a tuple of erpkit.CommandHandler"),
    "tables": ("sales_*", "its tables is 'sales_*', not a tuple of names"),
    "name": (property(lambda _: 1 / 0), "its name raises ZeroDivisionError"),
}


@pytest.mark.parametrize("attribute", BENT)
def test_an_attribute_of_the_wrong_type_is_named(attribute: str) -> None:
    value, said = BENT[attribute]
    with pytest.raises(ModuleError) as raised:
        register(type("Crooked", (Bent,), {attribute: value})())
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


def test_registering_returns_the_module_itself() -> None:
    module = Bent()
    assert register(module) is module


def test_a_modules_tables_begin_with_its_name_unless_it_says_otherwise() -> None:
    assert tables_of(Module("sales")) == ("sales_*",)
    assert tables_of(Module("sales", tables=("orders", "so_*"))) == ("orders", "so_*")


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


def installed(folder: Path, distribution: str, entries: str, **files: str) -> None:
    info = folder / f"{distribution}-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Name: {distribution}\nVersion: 1\n")
    (info / "entry_points.txt").write_text(entries)
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)


def test_two_entry_points_of_one_name_are_refused_with_who_registers_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for distribution in ("shop", "shop_fork"):
        installed(tmp_path / distribution, distribution, "[twice.modules]\nstock = erpkit.sample.sales:module\n")
        monkeypatch.syspath_prepend(tmp_path / distribution)
    with pytest.raises(ModuleError) as raised:
        find_modules(Settings(modules="twice.modules"))
    assert str(raised.value) == (
        "entry point stock is registered 2 times under twice.modules: erpkit.sample.sales:module, from shop; "
        "erpkit.sample.sales:module, from shop_fork; uninstall or rename all but one"
    )


def test_an_entry_point_that_fails_is_named_with_the_cause_and_the_others_are_still_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = "[bad.modules]\n" + "".join(f"{n} = bad_{n}:module\n" for n in ("gone", "zero", "exits", "empty", "fine"))
    installed(
        tmp_path,
        "bad",
        entries,
        bad_zero="import json\nmodule = 1 / 0\n",
        bad_exits="import sys\nsys.exit('no\\nway')\n",
        bad_empty="",
        bad_fine="from erpkit import Module\nmodule = Module('fine')\n",
    )
    monkeypatch.syspath_prepend(tmp_path)
    found = read_candidates(Settings(modules="bad.modules"))
    assert found.modules == (Module("fine"),)
    problems = {fault.modules[0]: fault.problem for fault in found.faults}
    assert problems["gone"].startswith("entry point gone (bad_gone:module) cannot be loaded: ModuleNotFoundError: No ")
    assert problems["zero"].endswith(f"ZeroDivisionError: division by zero ({tmp_path / 'bad_zero.py'}:2)")
    assert problems["exits"].endswith(f"SystemExit: no ({tmp_path / 'bad_exits.py'}:2)")
    assert problems["empty"].endswith("AttributeError: module 'bad_empty' has no attribute 'module'")
    with pytest.raises(ModuleError, match=r"entry point \w+ \(bad_\w+:module\) cannot be loaded: .*; fix its import"):
        find_modules(Settings(modules="bad.modules"))


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
        "cycle", "duplicate", "missing dependency", "no module", "orphan handler",
    ]  # fmt: skip
    assert check.cycle == ("a", "b", "a")
    assert check.order == ()


def test_a_sound_graph_has_no_findings() -> None:
    check = check_modules(find_modules(Settings(modules="erpkit.sample")))
    assert check.findings == ()
    assert check.order == ("catalog", "sales", "inventory", "billing")
