"""Couplings that an adversary plants in Python code and in files of SQL, where no statement imports and no query names them."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from erpkit.couplings import find_couplings
from erpkit.modules import Edge, Module, ModuleLike

MIGRATION = "-- +goose Up\nCREATE TABLE billing_x (id int);\nCREATE FUNCTION billing_f() RETURNS int LANGUAGE sql AS 'SELECT 1';\n"

# What the file corner/catalog/deep.py holds, the evidence, and whether it is certain.
IN_CODE = {
    "import_module": ("import importlib\nx = importlib.import_module('corner.billing.api')", "2 reaches corner.billing.api", True),
    "import_module under another name": (
        "from importlib import import_module as load\nx = load('corner.billing.api')", "2 reaches corner.billing.api", True),
    "import_module with its argument named": (
        "import importlib\nx = importlib.import_module(name='corner.billing.api')", "2 reaches corner.billing.api", True),
    "a relative import_module": (
        "import importlib\nx = importlib.import_module('..billing.api', __package__)", "2 reaches corner.billing.api", True),
    "__import__": ("def f():\n    return __import__('corner.billing')", "2 reaches corner.billing", True),
    "an entry point's text": ("HOOK = 'corner.billing.api:run'", "1 names corner.billing.api.run", False),
    "a string": ("HOOK = {\n 'use': 'corner.billing.api.Invoice'}", "2 names corner.billing.api.Invoice", False),
    "an attribute": ("import corner\n\ndef f():\n    return corner.billing.api.X", "4 reaches corner.billing.api.X", True),
    "an attribute under another name": ("import corner as c\nx = c.billing.api.X", "2 reaches corner.billing.api.X", True),
    "an attribute of a package from a package": (
        "from corner import groups\nx = groups.far.api", "2 reaches corner.groups.far.api", True),
    "an attribute among a call's arguments": (
        "import corner\nx = print(corner.billing.api.X).y", "2 reaches corner.billing.api.X", True),
    "getattr": ("import corner\nx = getattr(corner, 'billing')", "2 reaches corner.billing", True),
    "shared code": (
        "from corner.shared.prices import price",
        "1 imports corner.shared.prices, which imports corner.billing.api (corner/shared/prices.py:2)", True),
    "shared code at second hand": (
        "from ..shared import second",
        "1 imports corner.shared.second, which imports corner.shared.prices (corner/shared/second.py:1), "
        "which imports corner.billing.api (corner/shared/prices.py:2)", True),
    "shared code beside the package": (
        "import beside", "1 imports beside, which imports corner.billing.api (beside.py:1)", True),
    "a name that the package above re-exports": (
        "from corner import Invoice", "1 imports corner, which imports corner.billing.api (corner/__init__.py:1)", True),
    "an attribute that the package above re-exports": (
        "import corner\nx = corner.Invoice", "2 imports corner, which imports corner.billing.api (corner/__init__.py:1)", True),
    "a statement of SQL": ("def f(c):\n    c.execute('SELECT 1 FROM billing_x')", "2 uses billing_x", True),
    "SQL over several lines": ("SQL = '''\nSELECT 1\nFROM billing_x\n'''", "3 uses billing_x", True),
    "SQL in an f-string": ("def f(s):\n    return f'UPDATE {s}.billing_x SET id = {s}'", "2 uses billing_x", True),
    "SQL that calls a function": ("SQL = 'SELECT billing_f()'", "1 uses billing_f", True),
    "SQL in bytes": ("SQL = b'SELECT 1 FROM billing_x'", "1 uses billing_x", True),
    "SQL behind comments and brackets": ("SQL = '/* a */ (SELECT 1 FROM billing_x)'", "1 uses billing_x", True),
    "shared code that imports by a function": (
        "from corner.shared import loads",
        "1 imports corner.shared.loads, which imports corner.billing.api (corner/shared/loads.py:2)", True),
    "shared code that uses an attribute": (
        "from corner.shared import attribute",
        "1 imports corner.shared.attribute, which imports corner.billing.api.X (corner/shared/attribute.py:2)", True),
    "SQL in shared code": (
        "from corner.shared import sql", "1 imports corner.shared.sql, which uses billing_x (corner/shared/sql.py:2)", True),
    "half a statement": ("SQL = 'JOIN billing_x USING (id)'", "1 names billing_x", False),
    "a table's name": ("from psycopg.sql import Identifier\nx = Identifier('billing_x')", "2 names billing_x", False),
}  # fmt: skip

SILENT = {
    "a docstring": "def f():\n    '''SELECT 1 FROM billing_x, as corner.billing.api does.'''",
    "a comment": "x = 1  # SELECT 1 FROM billing_x; importlib.import_module('corner.billing.api')",
    "a topic": "TOPIC = 'corner.billing_done'",
    "another name that the package above has": "from corner import VERSION\nimport corner\nx = corner.VERSION",
    "shared code that imports for types alone": "from corner.shared import typed",
    "shared code that only has words": "from corner.shared import words",
    "its own": "import corner\nx = corner.catalog.deep\ny = 'SELECT 1 FROM catalog_x'",
    "prose": "x = 'the billing_total is due from billing_nothing'",
}

FILES = {
    "beside.py": "from corner.billing.api import X\n",
    "corner/__init__.py": "from .billing.api import X as Invoice\nVERSION = 1\n",
    "corner/shared/prices.py": "\nfrom corner.billing import api\n\ndef price(): ...\n",
    "corner/shared/second.py": "from . import prices\n",
    "corner/shared/typed.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from corner.billing import api\n",
    "corner/shared/loads.py": "from importlib import import_module\nx = import_module('corner.billing.api')\n",
    "corner/shared/attribute.py": "import corner\nx = corner.billing.api.X\n",
    "corner/shared/sql.py": "\nSQL = 'SELECT 1 FROM billing_x'\nMORE = 'billing_x'\n",
    "corner/shared/words.py": "NAME = 'billing_x'\nHOOK = 'corner.billing.api:run'\n",
    "corner/billing/api.py": "X = 1\n",
    "corner/groups/far/api.py": "",
    "corner/billing/00001_x.sql": MIGRATION,
}

Find = Callable[[str], list[Edge]]


@pytest.fixture
def find(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Find]:
    """Find the couplings of the module catalog, given the text of one of its files."""
    for name, place in {"catalog": "catalog", "billing": "billing", "far": "groups/far"}.items():
        (tmp_path / "corner" / place).mkdir(parents=True)
        (tmp_path / "corner" / place / "__init__.py").write_text(
            f"import erpkit\nfrom pathlib import Path\nmodule = erpkit.Module('{name}', migrations=Path(__file__).parent)\n"
        )
    (tmp_path / "corner" / "shared").mkdir()
    for path, text in FILES.items():
        (tmp_path / path).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    from corner import billing, catalog  # type: ignore[import-not-found]
    from corner.groups import far  # type: ignore[import-not-found]

    modules: list[ModuleLike] = [catalog.module, billing.module, far.module]

    def edges(text: str) -> list[Edge]:
        (tmp_path / "corner" / "catalog" / "deep.py").write_text(text)
        return [edge for edge in find_couplings(modules, None, use_database=False).edges if edge.source == "catalog"]

    yield edges
    for name in [name for name in sys.modules if name.partition(".")[0] in ("corner", "beside")]:
        del sys.modules[name]


@pytest.mark.parametrize("what", IN_CODE)
def test_what_code_uses_of_another_module_is_found_at_its_line(find: Find, what: str) -> None:
    text, words, certain = IN_CODE[what]
    (edge,) = find(text)
    line = int(words.partition(" ")[0])
    assert (edge.evidence, edge.certain) == (f"corner/catalog/deep.py:{words}", certain)
    assert (edge.path, edge.line) == ("corner/catalog/deep.py", line)


@pytest.mark.parametrize("what", SILENT)
def test_what_only_looks_like_a_coupling_is_none(find: Find, what: str) -> None:
    assert find(SILENT[what]) == []


def test_of_all_ways_through_shared_code_the_shortest_is_told(find: Find) -> None:
    (edge,) = find("from corner.shared import second\nfrom corner.shared import prices")
    assert edge.evidence.startswith(
        "corner/catalog/deep.py:2 imports corner.shared.prices, which imports corner.billing.api "
    )


def test_the_evidence_in_a_package_is_its_init_file(find: Find, tmp_path: Path) -> None:
    init = tmp_path / "corner" / "catalog" / "__init__.py"
    init.write_text(f"{init.read_text()}from corner.billing import api\n")
    (edge,) = find("")
    assert edge.evidence == "corner/catalog/__init__.py:4 imports corner.billing.api"


def _migrations(tmp_path: Path, text: str) -> list[Edge]:
    (tmp_path / "billing").mkdir()
    (tmp_path / "billing" / "00001_x.sql").write_text(MIGRATION)
    (tmp_path / "sales").mkdir()
    (tmp_path / "sales" / "00001_x.sql").write_text(
        f"-- +goose Up\n{text}\n-- +goose Down\n-- billing_x is not touched\n"
    )
    modules = [Module(name, migrations=tmp_path / name) for name in ("sales", "billing")]
    return [edge for edge in find_couplings(modules, None, use_database=False).edges if edge.source == "sales"]


@pytest.mark.parametrize("text", [
    "ALTER TABLE billing_x ADD COLUMN n int;", "CREATE TABLE sales_x (id int REFERENCES billing_x);",
    "CREATE INDEX more ON billing_x (id);", "DROP TABLE IF EXISTS sales_x, shop.billing_x;",
    "INSERT INTO sales_x SELECT a.id FROM sales_y a, billing_x b;", "TRUNCATE billing_x;", "COMMENT ON TABLE billing_x IS 'x';",
    "CREATE TRIGGER t BEFORE UPDATE ON billing_x EXECUTE FUNCTION sales_f();", "SELECT billing_f();",
    "CREATE FUNCTION sales_f() RETURNS void LANGUAGE plpgsql AS $$BEGIN DELETE FROM billing_x; END$$;",
    "DO LANGUAGE plpgsql $$BEGIN DELETE FROM billing_x; END$$;", "GRANT SELECT ON billing_x TO PUBLIC;", "LOCK TABLE ONLY billing_x;",
    "CREATE TABLE sales_x () INHERITS (billing_x);", "CREATE TABLE sales_x (LIKE billing_x);",
    "CREATE POLICY p ON billing_x USING (true);", "CREATE TABLE sales_x (id int DEFAULT nextval('billing_x_id_seq'::regclass));",
])  # fmt: skip
def test_a_migration_that_touches_another_modules_table_is_found(tmp_path: Path, text: str) -> None:
    (edge,) = _migrations(tmp_path, text)
    assert (edge.target, edge.kind, edge.line, edge.certain) == ("billing", "migration", 2, True)
    assert edge.evidence.startswith(f"{tmp_path}/sales/00001_x.sql:2 uses billing_")


def test_a_migration_that_names_a_table_in_a_string_is_found_and_said_to_be_uncertain(tmp_path: Path) -> None:
    (edge,) = _migrations(tmp_path, "DO $$BEGIN EXECUTE 'TRUNCATE billing_x'; END$$;")
    assert (edge.kind, edge.certain) == ("migration", False)


def test_a_column_named_as_another_modules_tables_are_is_no_coupling(tmp_path: Path) -> None:
    assert _migrations(tmp_path, "CREATE TABLE sales_x (id int, billing_total int CHECK (billing_total > 0));") == []
