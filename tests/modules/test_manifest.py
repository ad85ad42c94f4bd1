"""modules.toml: an ERP in any language, and what is said of one that is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from erpkit.config import Settings
from erpkit.errors import ModuleError, UsageError
from erpkit.modules import check_modules, find_modules, is_foreign, load_modules, tables_of
from erpkit.queries import generate

SHOP = """
[[module]]
name = "billing"
depends = ["sales"]
subscribes = ["sales.OrderPlaced"]
tables = ["invoices", "ledger_*"]

[[module]]
name = "sales"
migrations = "db/sales"
publishes = ["OrderPlaced", "sales.OrderCancelled"]
prefix = "so_"
version_table = "goose_db_version"
"""


def written(folder: Path, text: str) -> Settings:
    (folder / "db" / "sales").mkdir(parents=True, exist_ok=True)
    path = folder / "modules.toml"
    path.write_text(text)
    return Settings(modules=str(path))


def test_a_manifest_gives_modules_in_load_order_with_their_topics_and_tables(tmp_path: Path) -> None:
    registry = load_modules(written(tmp_path, SHOP))
    sales, billing = registry.modules
    assert (sales.name, sales.migrations, tables_of(sales)) == ("sales", tmp_path / "db" / "sales", ("so_*",))
    assert tables_of(billing) == ("invoices", "ledger_*")
    assert [registry.topic(event) for event in sales.publishes] == ["sales.OrderPlaced", "sales.OrderCancelled"]
    assert [registry.topic(handler.events[0]) for handler in billing.subscribes] == ["sales.OrderPlaced"]
    assert all(map(is_foreign, registry.modules))


def test_a_manifests_graph_and_findings_are_those_of_any_modules(tmp_path: Path) -> None:
    loop = SHOP.replace('name = "sales"\n', 'name = "sales"\ndepends = ["billing"]\nsubscribes = ["stock.Gone"]\n')
    check = check_modules(find_modules(written(tmp_path, loop)))
    assert set(check.graph.edges) == {("billing", "sales"), ("sales", "billing")}
    assert {finding.problem for finding in check.findings} == {
        "billing -> sales -> billing",
        "sales.on_stock_Gone subscribes to Gone, which no module publishes",
        "no module handles sales.OrderCancelled",
    }


def test_handlers_in_another_language_never_run_here(tmp_path: Path) -> None:
    registry = load_modules(written(tmp_path, SHOP))
    assert registry.event_handlers == {}
    with pytest.raises(UsageError, match="sales and the others: their handlers are written in another language"):
        registry.check_handlers()


def test_no_python_is_generated_for_another_language(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="sales is described by a modules.toml .* no Python is generated"):
        generate(load_modules(written(tmp_path, SHOP)).modules)


FAULTS = {
    "[[module]": "modules.toml: is not TOML: ",
    "a = " + "[" * 20_000: "modules.toml: is ",
    "": "modules.toml: describes no module: write [[module]] and its name",
    "module = []": "modules.toml: describes no module",
    "module = 3": "modules.toml: module: input should be a valid list",
    "module = [3]": "modules.toml: module number 1: it: input should be a valid dictionary",
    "[modules.sales]": "modules.toml: unknown key modules; did you mean module?",
    "[[module]]\ndepends = []": "modules.toml: module number 1: has no name",
    "[[module]]\nname = 7": "modules.toml: module number 1: name: input should be a valid string",
    "[[module]]\nname = 'a'\ndepend = []": "modules.toml: module a: unknown key depend; did you mean depends?",
    "[[module]]\nname = 'a'\nzzz = 1": "modules.toml: module a: unknown key zzz; there are name, depends, ",
    "[[module]]\nname = 'a'\ndepends = 'b'": "modules.toml: module a: depends: input should be a valid list",
    "[[module]]\nname = 'a'\ndepends = [1]": "modules.toml: module a: depends: input should be a valid string",
    "[[module]]\nname = 'a'\nmigrations = 'gone'": "module a: migrations: there is no folder ",
    "[[module]]\nname = 'a'\npublishes = ['b.C']": "module a: publishes: 'b.C' is not an event of a: write its name alone",
    "[[module]]\nname = 'a'\nsubscribes = ['C']": "module a: subscribes: 'C' is not a topic: write sales.OrderPlaced",
    "[[module]]\nname = 'a'\n[[module]]\nname = 'a'": "more than one module is named a",
    "[[module]]\nname = 'a'\ndepends = ['b']": "module a depends on b, which is not registered",
    "[[module]]\nname = 'A b'": "'A b' is not a module name",
    "[[module]]\nname = 'a'\ndepends = ['a']": "module a depends on itself (a -> a)",
}


@pytest.mark.parametrize("text", FAULTS)
def test_a_manifest_that_is_wrong_is_one_line_that_names_the_module_and_the_key(tmp_path: Path, text: str) -> None:
    with pytest.raises(ModuleError) as raised:
        load_modules(written(tmp_path, text))
    assert FAULTS[text] in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_manifest_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModuleError, match=r"nowhere\.toml: No such file or directory: see ERPKIT_MODULES"):
        find_modules(Settings(modules=str(tmp_path / "nowhere.toml")))
    with pytest.raises(ModuleError, match="Is a directory: see ERPKIT_MODULES"):
        find_modules(Settings(modules=f"{tmp_path}/"))
    (tmp_path / "latin.toml").write_bytes(b"name = '\xe9'")
    with pytest.raises(ModuleError, match=r"latin\.toml: is not UTF-8"):
        find_modules(Settings(modules=str(tmp_path / "latin.toml")))


def test_a_thousand_modules_are_read_and_sorted(tmp_path: Path) -> None:
    needs = {n: [f"m{n // k}" for k in (2, 3, 5) if n // k < n] for n in range(1000)}
    text = "\n".join(f'[[module]]\nname = "m{n}"\ndepends = {names}' for n, names in needs.items())
    registry = load_modules(written(tmp_path, text))
    place = {module.name: position for position, module in enumerate(registry.modules)}
    assert all(place[m.name] > place[other] for m in registry.modules for other in m.dependencies)


def test_a_byte_order_mark_before_the_text_is_no_part_of_it(tmp_path: Path) -> None:
    settings = written(tmp_path, "\ufeffshared_schemas = ['common']\n" + SHOP)
    assert [module.name for module in load_modules(settings).modules] == ["sales", "billing"]
    assert Settings.from_env({"ERPKIT_MODULES": str(settings.modules)}).shared_schemas == ("common",)


def test_what_a_modules_toml_declares_has_the_line_of_its_module(tmp_path: Path) -> None:
    (edge,) = [edge for edge in check_modules(find_modules(written(tmp_path, SHOP))).edges if edge.kind == "declared"]
    assert (edge.path, edge.line, edge.evidence) == (f"{tmp_path}/modules.toml", 2, f"{tmp_path}/modules.toml:2")
    one_line = "module = [{ name = 'a' }, { name = 'b', depends = ['a'] }]"
    (edge,) = [
        edge for edge in check_modules(find_modules(written(tmp_path, one_line))).edges if edge.kind == "declared"
    ]
    assert edge.line == 1
