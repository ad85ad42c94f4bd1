"""Couplings in fact: read from code, queries and a real database, and checked against what modules declare."""

import errno
import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from erpkit.cli import erpkit
from erpkit.config import Settings
from erpkit.couplings import find_couplings, inspect_modules
from erpkit.database import Connection, Database
from erpkit.errors import DatabaseError, MigrationError
from erpkit.migrations import plan_up, read_applied, read_migrations, run_plan
from erpkit.modules import Edge, Module, ModuleLike, Registry, check_modules
from erpkit.modules.registry import Candidates
from erpkit.tenants import ensure_template


@pytest.fixture(scope="module")
def migrated(shared_database: Database, registry: Registry) -> Database:
    """A database with the sample ERP's `_template`, and no tenant."""
    with shared_database.connection() as connection:
        template = ensure_template(connection)
        plan = plan_up([template], read_migrations(registry.modules), read_applied(connection, [template]))
    run_plan(shared_database, plan, plan.id)
    return shared_database


@pytest.fixture
def template(migrated: Database) -> Iterator[Connection]:
    """A connection on the schema `_template`, which is afterwards as it was."""
    with migrated.connection() as connection:
        connection.execute("SET search_path = _template")
        yield connection
        connection.execute("DROP VIEW IF EXISTS catalog_sold")
        connection.execute("DROP MATERIALIZED VIEW IF EXISTS catalog_margins")
        connection.execute("ALTER TABLE catalog_products DROP COLUMN IF EXISTS last_order")
        connection.execute("RESET search_path")


def _between(edges: tuple[Edge, ...], source: str, target: str) -> list[str]:
    return [f"{edge.kind}: {edge.evidence}" for edge in edges if (edge.source, edge.target) == (source, target)]


def test_the_sample_erp_declares_what_it_uses_and_uses_what_it_declares(migrated: Database) -> None:
    check = inspect_modules(Settings(database=migrated.conninfo, modules="erpkit.sample"))
    assert (check.findings, check.not_read, check.components) == ((), (), ())
    assert check.order == ("catalog", "sales", "inventory", "billing")
    assert {(edge.source, edge.target, edge.kind) for edge in check.edges if edge.kind != "declared"} == {
        ("sales", "catalog", "foreign key"), ("sales", "catalog", "query"), ("sales", "catalog", "migration"),
        ("inventory", "catalog", "foreign key"), ("inventory", "catalog", "migration"),
        ("inventory", "sales", "event"), ("inventory", "sales", "import"), ("billing", "inventory", "event"),
        ("billing", "inventory", "import"),
    }  # fmt: skip


def test_each_coupling_says_where_it_is(migrated: Database, registry: Registry) -> None:
    edges = find_couplings(registry.modules, migrated).edges
    assert _between(edges, "sales", "catalog") == [
        "query: FindPrices (erpkit/sample/sales/queries/orders.sql:17) uses catalog_products",
        "migration: erpkit/sample/sales/migrations/00001_orders.sql:16 uses catalog_products",
        "foreign key: sales_order_lines_sku_fkey, sales_order_lines -> catalog_products",
    ]
    assert (
        "import: erpkit/sample/billing/events.py:9 imports erpkit.sample.inventory.messages"
    ) in _between(edges, "billing", "inventory")  # fmt: skip


def test_a_dependency_that_is_no_longer_needed_is_found(migrated: Database, registry: Registry) -> None:
    idle = [replace(m, dependencies=("inventory", "sales")) if m.name == "billing" else m for m in _records(registry)]
    modules = [_same_package(module, original) for module, original in zip(idle, registry.modules, strict=True)]
    (finding,) = check_modules(modules, find_couplings(modules, migrated)).findings
    assert (finding.kind, finding.modules) == ("unused dependency", ("billing", "sales"))


def test_foreign_keys_and_views_that_close_a_cycle_are_found(
    template: Connection, migrated: Database, registry: Registry
) -> None:
    template.execute("CREATE VIEW catalog_sold AS SELECT sku, sum(quantity) FROM sales_order_lines GROUP BY sku")
    template.execute("CREATE MATERIALIZED VIEW catalog_margins AS SELECT * FROM billing_ledger")
    template.execute("ALTER TABLE catalog_products ADD COLUMN last_order uuid REFERENCES sales_orders (order_id)")
    check = check_modules(registry.modules, find_couplings(registry.modules, migrated))
    kinds = [(finding.kind, finding.modules) for finding in check.findings]
    assert kinds == [
        ("hidden cycle", ("billing", "catalog", "inventory", "sales")),
        ("undeclared dependency", ("catalog", "billing")),
        ("undeclared dependency", ("catalog", "sales")),
    ]
    assert check.findings[1].evidence == ("view: materialized view catalog_margins reads billing_ledger",)
    assert check.findings[2].evidence == (
        "foreign key: catalog_products_last_order_fkey, catalog_products -> sales_orders",
        "view: view catalog_sold reads sales_order_lines",
    )
    (component,) = check.components
    assert (component.is_declared, len(component.cut.edges), component.cut.is_smallest) == (False, 2, True)


def test_an_embedded_server_that_does_not_run_is_not_started_and_what_was_not_read_is_said(tmp_path: Path) -> None:
    check = inspect_modules(Settings(home=tmp_path, modules="erpkit.sample"))
    assert check.not_read == ("the database was not read: no database",)
    (finding,) = check.findings  # inventory's foreign key to catalog was not seen, and yet is not called unused
    assert (finding.kind, finding.severity) == ("not read", "warning")
    assert list(tmp_path.iterdir()) == []


def test_a_configured_database_that_does_not_answer_is_an_error_unless_it_is_not_asked() -> None:
    settings = Settings(database="host=127.0.0.1 port=1 dbname=none", modules="erpkit.sample")
    with pytest.raises(DatabaseError):
        inspect_modules(settings)
    assert inspect_modules(settings, use_database=False).findings == ()


def test_without_a_template_the_first_tenant_stands_for_it(
    database: Database, migrations: tuple[object, ...], registry: Registry
) -> None:
    assert any("no schema _template" in str(text) for text in find_couplings(registry.modules, database).not_read)
    with database.connection() as connection:
        connection.execute("CREATE SCHEMA shop; CREATE TABLE shop.catalog_x (id int PRIMARY KEY)")
        connection.execute("CREATE TABLE shop.sales_x (id int REFERENCES shop.catalog_x)")
    couplings = find_couplings(registry.modules, database, "SELECT 'shop' AS slug, 'shop' AS schema_name")
    assert "foreign key: sales_x_id_fkey, sales_x -> catalog_x" in _between(couplings.edges, "sales", "catalog")


def test_a_query_is_read_for_the_tables_that_it_names_and_for_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "q.sql").write_text(
        "-- name: Mixed :many\n-- catalog_comment is no table.\n"
        "WITH catalog_own AS (SELECT 1) SELECT o.sales_total, 'catalog_text' FROM catalog_own, sales_orders o\n"
        "WHERE sku = ANY (sqlc.arg(catalog_skus)::text[]);\n\n"
        "-- name: Grow :exec\nUPDATE Catalog_Stock SET n = n + 1 FROM (SELECT 1 FROM billing_x) b;\n"
    )
    modules = [Module("catalog"), Module("billing"), Module("sales", queries=tmp_path)]
    couplings = find_couplings(modules, None)
    assert [(edge.target, edge.evidence.split(" ", 1)[0], edge.evidence.rsplit(" ", 1)[1]) for edge in couplings.edges] == [
        ("billing", "Grow", "billing_x"), ("catalog", "Grow", "catalog_stock"),
    ]  # fmt: skip
    assert f"{tmp_path}/q.sql:6" in couplings.edges[0].evidence


def test_a_query_that_is_not_understood_is_told_and_keeps_nobody_from_the_rest(tmp_path: Path) -> None:
    (tmp_path / "q.sql").write_text("-- name: Odd :many\nSELECT FROM WHERE (catalog_x;\n")
    not_read = find_couplings([Module("catalog"), Module("sales", queries=tmp_path)], None).not_read
    assert any(
        text.problem.startswith(f"queries were not read: {tmp_path}/q.sql:1: not understood") for text in not_read
    )


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[ModuleLike]]:
    """Two packages of one root, of which the first imports the second in a way that a grep would miss."""
    for name in ("stock", "orders"):
        (tmp_path / "corner_shop" / name).mkdir(parents=True)
        (tmp_path / "corner_shop" / name / "__init__.py").write_text(
            f"import erpkit\nmodule = erpkit.Module('{name}')\n"
        )
    (tmp_path / "corner_shop" / "__init__.py").write_text("")
    (tmp_path / "corner_shop" / "stock" / "deep.py").write_text("\n\ndef f():\n    from ..orders import util\n")
    (tmp_path / "corner_shop" / "orders" / "util.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    from corner_shop import orders, stock  # type: ignore[import-not-found]

    yield [stock.module, orders.module]
    for name in [name for name in sys.modules if name.startswith("corner_shop")]:
        del sys.modules[name]


def test_an_import_inside_a_function_is_found_without_running_it(shop: list[ModuleLike]) -> None:
    (edge,) = find_couplings(shop, None).edges
    assert (edge.source, edge.target, edge.kind) == ("stock", "orders", "import")
    assert edge.evidence == "corner_shop/stock/deep.py:4 imports corner_shop.orders.util"


def test_a_file_that_is_no_python_costs_its_own_imports_and_no_others(shop: list[ModuleLike], tmp_path: Path) -> None:
    broken = tmp_path / "corner_shop" / "stock" / "broken.py"
    broken.write_text("x = 1\ndef f(:\n")
    found = find_couplings(shop, None, use_database=False)
    assert [edge.evidence for edge in found.edges] == ["corner_shop/stock/deep.py:4 imports corner_shop.orders.util"]
    (unread,) = found.not_read
    assert (unread.path, unread.line, unread.modules) == ("corner_shop/stock/broken.py", 2, ("stock",))
    assert unread.problem.startswith("corner_shop/stock/broken.py:2: not Python: ")


def test_a_folder_that_may_not_be_listed_is_named(
    shop: list[ModuleLike], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As root may read everything, the system's refusal is made up."""
    for name in ("code", "sql"):
        (tmp_path / "corner_shop" / "stock" / name).mkdir()
    (tmp_path / "corner_shop" / "stock" / "code" / "a.py").write_text("import corner_shop.orders\n")

    def refusing(listed: Callable[..., Any]) -> Callable[..., Any]:
        def call(folder: Any = ".") -> Any:
            if Path(str(folder)).name in ("code", "sql"):
                raise PermissionError(errno.EACCES, "Permission denied", str(folder))
            return listed(folder)

        return call

    monkeypatch.setattr(os, "scandir", refusing(os.scandir))
    monkeypatch.setattr(os, "listdir", refusing(os.listdir))
    monkeypatch.setattr(Path, "read_bytes", refusing(Path.read_bytes))
    sql = Module("stock", migrations=tmp_path / "corner_shop" / "stock" / "sql", package="corner_shop.stock")
    modules: list[ModuleLike] = [sql, shop[1]]
    not_read = [str(one) for one in find_couplings(modules, None, use_database=False).not_read]
    assert "corner_shop/stock/code: Permission denied; its imports were not read" in not_read
    assert "corner_shop/stock/sql: Permission denied" in not_read


def test_links_to_folders_are_followed_once_and_not_in_a_circle(shop: list[ModuleLike], tmp_path: Path) -> None:
    elsewhere, stock = tmp_path / "elsewhere", tmp_path / "corner_shop" / "stock"
    elsewhere.mkdir()
    (elsewhere / "more.py").write_text("import corner_shop.orders.util\n")
    for link, target in (
        (stock / "a", elsewhere),
        (stock / "b", elsewhere),
        (elsewhere / "c", stock),
        (stock / "d", stock),
    ):
        link.symlink_to(target)
    found = find_couplings(shop, None, use_database=False)
    assert {edge.path for edge in found.edges} == {"corner_shop/stock/a/more.py", "corner_shop/stock/deep.py"}
    assert len(found.edges) == 2


@pytest.mark.parametrize(
    "wrong", [{"name": 5}, {"migrations": "folder"}, {"publishes": ("Event",)}, {"publishes": int}]
)
def test_what_is_no_module_is_a_finding_and_no_traceback(
    wrong: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    candidates = Candidates((Module(**{"name": "a", **wrong}),))
    monkeypatch.setattr("erpkit.modules.registry.read_candidates", lambda _: candidates)
    found = inspect_modules(Settings(modules="any"), use_database=False).findings
    assert [finding.kind for finding in found] == ["no module", "no modules"]


def test_migrations_that_start_up_refuses_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("00001_a.sql", "1_b.sql"):
        (tmp_path / name).write_text("-- +goose Up\nSELECT 1;\n")
    module = Module("a", migrations=tmp_path)
    candidates = Candidates((module,))
    monkeypatch.setattr("erpkit.modules.registry.read_candidates", lambda _: candidates)
    finding = inspect_modules(Settings(modules="any"), use_database=False).findings[0]
    assert (finding.kind, finding.severity) == ("bad migrations", "error")
    with pytest.raises(MigrationError, match=finding.problem):
        read_migrations([module])


def test_modules_without_a_package_of_their_own_are_named() -> None:
    not_read = find_couplings([Module("a"), Module("b")], None).not_read
    assert "imports of a, b were not read: no Python package of its own was found" in [str(one) for one in not_read]


def _run(*arguments: str, code: int = 0, **environment: str) -> str:
    result = CliRunner().invoke(erpkit, ["modules", *arguments], env=environment, standalone_mode=False)
    assert (result.return_value or 0) == code, result.output
    return result.stdout


def test_the_command_line_names_its_target_and_what_it_did_not_read() -> None:
    lines = _run("check", "--no-database", "-o", "table", ERPKIT_MODULES="erpkit.sample").splitlines()
    assert lines == [
        "target: erpkit.sample, no database",
        "not read: the database was not read, as asked for",
        "load order: catalog, sales, inventory, billing",
        "no findings",
    ]


def test_findings_on_the_command_line_have_their_evidence_and_exit_code_three(tmp_path: Path) -> None:
    for name, needs in (("a", "b"), ("b", "a")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__manifest__.py").write_text(f"{{'name': 'x',\n'depends': ['{needs}']}}")
    text = _run("check", "--odoo", str(tmp_path), "-o", "table", code=3)
    assert "! cycle: a -> b -> a; cut a -> b: let the needed module" in text
    assert f"    a -> b: declared, {tmp_path}/a/__manifest__.py:2" in text
    found = json.loads(_run("check", "--odoo", str(tmp_path), "--json", code=3))
    assert (found["cycle"], found["cycles"][0]["cut"], found["findings"][0]["kind"]) == (
        ["a", "b", "a"], [["a", "b"]], "cycle",
    )  # fmt: skip


def test_the_graph_is_written_in_three_forms(tmp_path: Path) -> None:
    options = ("graph", "--no-database")
    assert _run(*options, ERPKIT_MODULES="erpkit.sample").startswith("flowchart LR\n")
    found = json.loads(_run(*options, "--format", "json", ERPKIT_MODULES="erpkit.sample"))
    wanted = {"source": "sales", "target": "catalog", "kind": "declared", "evidence": "dependencies of sales"}
    assert any(wanted.items() <= edge.items() for edge in found["edges"])
    _run(*options, "--format", "svg", "--output", str(tmp_path / "graph.svg"), ERPKIT_MODULES="erpkit.sample")
    assert ">inventory</text>" in (tmp_path / "graph.svg").read_text()


def test_the_graph_answers_questions(tmp_path: Path) -> None:
    asked = ("graph", "--no-database", "--impact", "catalog", "--what-if", "sales->catalog")
    text = _run(*asked, "-o", "table", ERPKIT_MODULES="erpkit.sample")
    rows = [line.split("\t") for line in _run(*asked, ERPKIT_MODULES="erpkit.sample").splitlines()]
    assert [row[:2] for row in rows][-1] == ["billing", "by way of others"]  # those of the first question alone
    assert "3 modules depend on catalog: inventory, sales; by way of these: billing" in text
    assert "without sales -> catalog: 3 places to change; there is no cycle now, and there would be none" in text


def _records(registry: Registry) -> list[Module]:
    assert all(isinstance(module, Module) for module in registry.modules)
    return [module for module in registry.modules if isinstance(module, Module)]


class _Packaged:
    """A module that tells its package itself."""

    def __init__(self, module: Module, package: str) -> None:
        self._module, self.package = module, package

    def __getattr__(self, name: str) -> object:
        return getattr(self._module, name)


def _same_package(module: Module, original: ModuleLike) -> ModuleLike:
    packaged = _Packaged(module, f"erpkit.sample.{original.name}")
    assert isinstance(packaged, ModuleLike)
    return packaged
