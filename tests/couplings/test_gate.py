"""`erpkit modules check` as a gate: rules, a baseline, and the forms that CI and editors read."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from erpkit.cli import erpkit
from erpkit.errors import UsageError

TOML = """
[[module]]
name = "catalog"
package = "gate_shop.catalog"
[[module]]
name = "sales"
package = "gate_shop.sales"
"""


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An ERP with an import that is not declared."""
    files = {"sales/a.py": "import gate_shop.catalog.b\n", "catalog/b.py": "", "catalog/c.py": ""}
    for path, text in files.items():
        (tmp_path / "gate_shop" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "gate_shop" / path).write_text(text)
    (tmp_path / "modules.toml").write_text(TOML)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ERPKIT_MODULES", "modules.toml")
    return tmp_path


def _check(*options: str, code: int) -> Result:
    result = CliRunner().invoke(erpkit, ["modules", "check", "--no-database", *options], standalone_mode=False)
    assert (result.return_value or 0) == code, result.output
    return result


def test_with_a_baseline_it_is_a_gate_from_the_first_day(shop: Path) -> None:
    _check(code=3)
    assert "written: modules-baseline.json: 1 finding\n" in _check("--baseline", code=0).stderr
    assert _check(code=0).stderr.splitlines()[-2:] == ["1 finding is in the baseline", "no new findings"]
    (shop / "gate_shop" / "sales" / "new.py").write_text("import gate_shop.catalog.c\n")
    text = _check("-o", "table", code=3).stdout
    assert "    import: gate_shop/sales/new.py:1 imports gate_shop.catalog.c\n" in text
    assert "gate_shop/sales/a.py" not in text
    (shop / "gate_shop" / "sales" / "new.py").unlink()
    (shop / "gate_shop" / "sales" / "a.py").write_text("")
    assert (
        "- no longer happens: the baseline has undeclared-dependency of sales, catalog"
        in _check("-o", "table", code=0).stdout
    )


def test_a_file_that_cannot_be_read_fails_though_a_baseline_is_written(shop: Path) -> None:
    (shop / "gate_shop" / "sales" / "broken.py").write_text("def\n")
    assert "! not read: gate_shop/sales/broken.py:1: not Python" in _check("--baseline", code=3).stderr
    assert "! not read: gate_shop/sales/broken.py:1: not Python" in _check("-o", "table", code=3).stdout
    with (shop / "modules.toml").open("a") as file:
        file.write('[tool.erpkit.modules]\nexclude = ["*/broken.py"]\n')
    _check(code=0)


def test_the_forms_for_other_programs_are_all_of_standard_output(shop: Path) -> None:
    assert (
        json.loads(_check("-o", "sarif", code=3).stdout)["runs"][0]["results"][0]["ruleId"] == "undeclared-dependency"
    )
    assert json.loads(_check("-o", "json", code=3).stdout) == json.loads(_check("--json", code=3).stdout)
    (line,) = _check("-o", "github", code=3).stdout.splitlines()
    assert line.startswith(
        "::warning file=gate_shop/sales/a.py,line=1,col=1,title=undeclared dependency::sales uses catalog"
    )


def test_what_was_not_read_is_an_error_with_strict(shop: Path) -> None:
    (shop / "gate_shop" / "sales" / "broken.py").write_text("def\n")
    found = json.loads(_check("-o", "json", "--strict", code=3).stdout)["findings"]
    assert [finding["severity"] for finding in found if finding["rule"] == "not-read"] == ["error"]


def test_rules_that_are_not_understood_stop_the_check(shop: Path) -> None:
    with (shop / "modules.toml").open("a") as file:
        file.write("[tool.erpkit.modules]\nlayer = []\n")
    with pytest.raises(UsageError, match="unknown key layer; did you mean layers?"):
        CliRunner().invoke(erpkit, ["modules", "check"], standalone_mode=False, catch_exceptions=False)


def test_rules_in_the_pyproject_are_those_of_a_check(shop: Path) -> None:
    (shop / "pyproject.toml").write_text(
        '[[tool.erpkit.modules.allowed]]\nfrom = "sales"\nto = "catalog"\nreason = "prices"\n'
    )
    _check(code=0)
    assert (
        "layer violation: sales (layer 2) needs catalog"
        not in _check("--layers", "catalog > sales", "-o", "table", code=0).stdout
    )
