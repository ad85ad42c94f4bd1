"""Which code is a module's: its declared package, or the one that holds its record; what is not read is said, file by file."""

import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from erpkit.config import Settings
from erpkit.couplings import find_couplings, inspect_modules
from erpkit.modules import Couplings, Edge, Module, ModuleLike, Rules, Unread, check_modules


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that Python imports from."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name in [name for name in sys.modules if name.partition(".")[0] == "wide_shop"]:
        del sys.modules[name]


RECORD = "import erpkit\nmodule = erpkit.Module({!r}, package={!r})\n"


def _write(folder: Path, files: dict[str, str]) -> None:
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)


def _modules(*names: str) -> list[ModuleLike]:
    found: list[Any] = [import_module(f"wide_shop.{name}").module for name in names]
    return found


def _read(modules: list[ModuleLike]) -> tuple[list[str], list[str]]:
    couplings = find_couplings(modules, None, use_database=False)
    return [edge.evidence for edge in couplings.edges], [str(one) for one in couplings.not_read]


def test_a_declared_package_is_read_though_the_record_lies_elsewhere(site: Path) -> None:
    _write(site, {
        "wide_shop/records/sales.py": RECORD.format("sales", "wide_shop.sales"),
        "wide_shop/records/stock.py": RECORD.format("stock", "wide_shop.stock"),
        "wide_shop/sales/a.py": "x = 1\n", "wide_shop/stock/deep/b.py": "from wide_shop.sales import a\n",
    })  # fmt: skip
    edges, not_read = _read(_modules("records.sales", "records.stock"))
    assert (edges, not_read) == (["wide_shop/stock/deep/b.py:1 imports wide_shop.sales.a"], [])


def test_a_declared_package_that_is_not_there_is_named(site: Path) -> None:
    modules: list[ModuleLike] = [Module("sales", package="wide_shop.sales"), Module("b", package="erpkit.gone")]
    assert _read(modules)[1] == [
        "imports of b were not read: there is no package erpkit.gone",
        "imports of sales were not read: there is no package wide_shop.sales",
    ]


def test_folders_without_an_init_file_are_read(site: Path) -> None:
    _write(site, {
        "wide_shop/sales/module.py": RECORD.format("sales", None), "wide_shop/stock/module.py": RECORD.format("stock", None),
        "wide_shop/sales/deep/er/x.py": "import wide_shop.stock.y\n", "wide_shop/stock/y.py": "",
    })  # fmt: skip
    assert _read(_modules("sales.module", "stock.module")) == (
        ["wide_shop/sales/deep/er/x.py:1 imports wide_shop.stock.y"], [],
    )  # fmt: skip


def test_modules_that_are_a_file_each_are_told_apart(site: Path) -> None:
    _write(site, {
        "wide_shop/sales.py": RECORD.format("sales", None) + "from wide_shop import stock\n",
        "wide_shop/stock.py": RECORD.format("stock", None),
        "wide_shop/everyone.py": "from wide_shop.sales import module as sales\nfrom wide_shop.stock import module as stock\n",
    })  # fmt: skip
    modules = _modules("sales", "stock")
    import_module("wide_shop.everyone")
    assert _read(modules) == (["wide_shop/sales.py:3 imports wide_shop.stock"], [])


def test_what_lies_beside_a_package_that_was_found_is_named(site: Path) -> None:
    _write(site, {
        "wide_shop/sales/__init__.py": RECORD.format("sales", None),
        "wide_shop/stock/api/__init__.py": RECORD.format("stock", None),
        "wide_shop/stock/models.py": "import wide_shop.sales\n", "wide_shop/main.py": "import wide_shop.sales\n",
    })  # fmt: skip
    (told,) = _read(_modules("sales", "stock.api"))[1]
    assert told.startswith(
        "wide_shop/stock/models.py: imports were not read, as the record of stock is in wide_shop.stock.api"
    )
    assert 'write package="wide_shop.stock" in the record' in told


def test_a_modules_toml_names_packages_beside_it(tmp_path: Path) -> None:
    _write(tmp_path, {
        "modules.toml": '[[module]]\nname = "sales"\npackage = "toml_shop.sales"\n'
        '[[module]]\nname = "stock"\npackage = "toml_shop.stock"\n[[module]]\nname = "ledger"\n',
        "src/toml_shop/sales/a.py": "from toml_shop.stock import b\n", "src/toml_shop/stock/b.py": "",
    })  # fmt: skip
    check = inspect_modules(Settings(modules=str(tmp_path / "modules.toml")), use_database=False)
    found = {finding.kind: finding for finding in check.findings}
    assert found["undeclared dependency"].modules == ("sales", "stock")
    (place,) = found["undeclared dependency"].places
    assert (place.path, place.line, place.column) == (f"{tmp_path}/src/toml_shop/sales/a.py", 1, 1)
    assert (found["not read"].problem, found["not read"].severity) == (
        "imports of ledger were not read: they are not written in Python", "info",
    )  # fmt: skip


def test_what_was_not_read_is_an_error_where_the_check_is_strict() -> None:
    couplings = Couplings((), (Unread("a.py:3: not Python", "a.py", 3, ("a",)),))
    for strict, severity in ((False, "warning"), (True, "error")):
        (finding,) = check_modules([Module("a")], couplings, rules=Rules(strict=strict)).findings
        assert (finding.severity, finding.modules, str(finding.places[0])) == (severity, ("a",), "a.py:3")


def test_a_module_of_which_a_file_was_not_read_is_not_told_that_it_uses_nothing(site: Path) -> None:
    _write(site, {
        "wide_shop/sales/__init__.py": "import erpkit\nmodule = erpkit.Module('sales', ('stock',))\n",
        "wide_shop/sales/broken.py": "def\n",
        "wide_shop/stock/__init__.py": "import erpkit\nmodule = erpkit.Module('stock')\n",
    })  # fmt: skip
    couplings = find_couplings(_modules("sales", "stock"), None, use_database=False)
    assert "sales" in couplings.partly_read
    assert {edge for edge in couplings.edges if isinstance(edge, Edge)} == set()


def test_a_folder_of_queries_that_is_not_there_or_is_empty_costs_no_other_module_its_queries(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "q.sql").write_text("-- name: Find :many\nSELECT sku FROM catalog_products;\n")
    modules = [
        Module("catalog", queries=tmp_path / "empty"), Module("sales", queries=tmp_path / "full"),
        Module("gone", queries=tmp_path / "gone"),
    ]  # fmt: skip
    couplings = find_couplings(modules, None, use_database=False)
    assert [(edge.source, edge.target, edge.kind) for edge in couplings.edges] == [("sales", "catalog", "query")]
    told = [str(one) for one in couplings.not_read if "queries" in str(one)]
    assert told == [f"queries were not read: module gone: there is no queries folder {tmp_path}/gone"]
    assert ("gone" in couplings.partly_read, couplings.not_read[0].modules) == (True, ("gone",))


def test_what_a_go_erps_imports_would_say_is_named_as_not_read(tmp_path: Path) -> None:
    _write(
        tmp_path,
        {"modules.toml": '[[module]]\nname = "sales"\n[[module]]\nname = "stock"\n', "go.mod": "module shop\n"},
    )
    settings = Settings(modules=str(tmp_path / "modules.toml"))
    (finding,) = inspect_modules(settings, use_database=False).findings
    assert (finding.kind, finding.severity) == ("not read", "info")
    assert finding.problem == "imports of sales, stock were not read: they are not written in Python"
    (finding,) = inspect_modules(settings, rules=Rules(strict=True), use_database=False).findings
    assert finding.severity == "error"
