"""The findings for other programs: JSON, SARIF and GitHub's annotations, each with its rule and its place."""

import json
from pathlib import Path
from typing import Any

import pytest

from erpkit.modules import Couplings, Edge, Module, ModuleCheck, Unread, check_modules
from erpkit.modules.kinds import FINDINGS
from erpkit.modules.reports import as_annotations, as_document, as_sarif

MODULES = (Module("billing"), Module("catalog"))
IMPORT = Edge("billing", "catalog", "import", "shop/a.py:3 imports shop.catalog", "shop/a.py", 3, 5)
KEY = Edge("billing", "catalog", "foreign key", "lines_sku, billing_lines -> catalog_products")
UNREAD = Unread("shop/100%,b.py:2: not Python", "shop/100%,b.py", 2, ("billing",))


def _check(*edges: Edge, **more: Any) -> ModuleCheck:
    return check_modules(MODULES, Couplings(edges, **more))


def _sarif(check: ModuleCheck) -> Any:
    return json.loads(json.dumps(as_sarif(check)))


def test_sarif_has_each_finding_with_its_rule_level_and_place() -> None:
    document = _sarif(_check(IMPORT, not_read=(UNREAD,)))
    (run,) = document["runs"]
    undeclared, unread = run["results"]
    assert (document["version"], run["tool"]["driver"]["name"]) == ("2.1.0", "erpkit")
    assert (undeclared["ruleId"], undeclared["level"]) == ("undeclared-dependency", "warning")
    assert undeclared["message"]["text"].startswith(
        "billing uses catalog without declaring it: import; declare catalog"
    )
    place = undeclared["locations"][0]["physicalLocation"]
    assert place == {"artifactLocation": {"uri": "shop/a.py"}, "region": {"startLine": 3, "startColumn": 5}}
    rules = run["tool"]["driver"]["rules"]
    assert [rules[result["ruleIndex"]]["id"] for result in run["results"]] == ["undeclared-dependency", "not-read"]
    assert unread["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == "shop/100%25,b.py"


def test_a_finding_keeps_its_fingerprint_when_its_line_moves() -> None:
    def prints(edge: Edge) -> str:
        (result,) = _sarif(_check(edge))["runs"][0]["results"]
        found: str = result["partialFingerprints"]["erpkit/v1"]
        return found

    moved = Edge("billing", "catalog", "import", "shop/a.py:99 imports shop.catalog", "shop/a.py", 99, 5)
    other = Edge("billing", "catalog", "import", "shop/c.py:3 imports shop.catalog", "shop/c.py", 3, 5)
    assert prints(IMPORT) == prints(moved) != prints(other)


def test_a_finding_that_stands_in_no_file_is_shown_where_its_module_is_described() -> None:
    homes = {"billing": "shop/billing/__init__.py"}
    (result,) = _sarif(_check(KEY, homes=homes))["runs"][0]["results"]
    assert [one["physicalLocation"]["artifactLocation"]["uri"] for one in result["locations"]] == [homes["billing"]]
    (line,) = as_annotations(_check(KEY, homes=homes))
    assert line.startswith("::warning file=shop/billing/__init__.py,line=1,title=undeclared dependency::")
    (line,) = as_annotations(_check(KEY))
    assert line.startswith("::warning file=pyproject.toml,line=1,")


def test_a_path_outside_of_the_working_folder_is_a_file_uri(tmp_path: Path) -> None:
    edge = Edge("billing", "catalog", "import", f"{tmp_path}/a b.py:1", f"{tmp_path}/a b.py", 1)
    (result,) = _sarif(_check(edge))["runs"][0]["results"]
    assert result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == f"file://{tmp_path}/a%20b.py"


def test_annotations_escape_what_would_end_them() -> None:
    lines = list(as_annotations(_check(IMPORT, not_read=(UNREAD,))))
    assert lines[0] == (
        "::warning file=shop/a.py,line=3,col=5,title=undeclared dependency::billing uses catalog without declaring it: import; "
        "declare catalog in billing, or stop using it"
    )
    assert lines[1] == "::warning file=shop/100%25%2Cb.py,line=2,title=not read::shop/100%25,b.py:2: not Python"


@pytest.mark.parametrize(("modules", "command"), [((Module("A-b"),), "error"), (MODULES, "notice")])
def test_an_annotation_is_as_severe_as_its_finding(modules: tuple[Module, ...], command: str) -> None:
    maybe = Edge("billing", "catalog", "function", "billing_f names catalog_products", certain=False)
    lines = list(as_annotations(check_modules(modules, Couplings((maybe,)))))
    assert lines[0].startswith(f"::{command} ")


def test_json_has_a_version_rules_and_places() -> None:
    document = json.loads(json.dumps(as_document(_check(IMPORT))))
    (finding,) = document["findings"]
    assert (document["version"], finding["rule"], finding["severity"], finding["kind"]) == (
        1, "undeclared-dependency", "warning", "undeclared dependency",
    )  # fmt: skip
    assert finding["evidence"] == ["import: shop/a.py:3 imports shop.catalog"]
    text = "import: shop/a.py:3 imports shop.catalog"
    assert finding["places"] == [{"path": "shop/a.py", "line": 3, "column": 5, "text": text}]


def test_the_names_of_rules_do_not_change() -> None:
    assert sorted(kind.replace(" ", "-") for kind in FINDINGS) == [
        "bad-handler", "bad-migrations", "bad-name", "cannot-be-loaded", "command-handled-twice",
        "cycle", "duplicate", "event-published-twice",
        "expired-allowance", "forbidden-coupling", "handler-named-twice", "hidden-cycle", "invalid-manifest", "layer-violation",
        "missing-dependency", "missing-folder", "misspelt-dependency", "no-longer-happens", "no-module", "no-modules", "no-start",
        "not-installable", "not-read", "orphan-handler", "orphan-upcaster", "possible-dependency", "query-handled-twice",
        "registered-twice", "split-projection", "taken-over-alive", "tool-named-twice", "topic-used-twice", "undeclared-dependency",
        "unhandled-event", "unknown-layer", "unknown-module", "unused-allowance", "unused-dependency", "upcaster-gap",
    ]  # fmt: skip
