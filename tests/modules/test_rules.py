"""The rules of a check: what they allow and forbid, how severe a finding is, and which files count."""

from datetime import date
from pathlib import Path
from typing import Any

import pytest

from erpkit.errors import UsageError
from erpkit.modules import Couplings, Edge, Module, ModuleCheck, Rule, Rules, Unread, check_modules, read_rules

SHOP = (Module("catalog"), Module("sales", ("catalog",)), Module("billing"))
KEY = Edge("billing", "catalog", "foreign key", "lines_sku")
IMPORT = Edge("billing", "catalog", "import", "shop/billing/a.py:3", "shop/billing/a.py", 3, 1)
TYPES = Edge("billing", "catalog", "import", "shop/billing/t.py:1", "shop/billing/t.py", 1, for_types=True)
LISTENS = Edge("catalog", "sales", "event", "catalog.on_paid handles sales.Paid", relation="listens")
USED = Edge("sales", "catalog", "query", "q.sql:1")
DAY = date(2026, 6, 1)


def _check(rules: Rules, *edges: Edge, **more: Any) -> ModuleCheck:
    return check_modules(SHOP, Couplings((USED, *edges), **more), rules=rules, today=DAY)


def _found(check: ModuleCheck) -> list[tuple[str, str]]:
    return [(finding.kind, finding.severity) for finding in check.findings]


def _allowed(**more: Any) -> Rules:
    return Rules(allowed=(Rule("billing", "cat*", "the price list is shared", **more),), path="pyproject.toml")


def test_an_allowed_coupling_is_no_finding_and_closes_no_cycle() -> None:
    back = Edge("catalog", "billing", "view", "margins")
    rules = Rules(allowed=(Rule("billing", "catalog", "x"), Rule("catalog", "billing", "y", ("view",))))
    check = _check(rules, KEY, back)
    assert (check.findings, check.components) == ((), ())
    assert [kind for kind, _ in _found(_check(Rules(), KEY, back))] == ["hidden cycle"] + ["undeclared dependency"] * 2


def test_only_the_kinds_that_a_rule_names_are_allowed() -> None:
    (finding,) = _check(_allowed(kinds=("foreign key",)), KEY, IMPORT).findings
    assert (finding.kind, finding.evidence) == ("undeclared dependency", ("import: shop/billing/a.py:3",))


def test_a_coupling_is_allowed_up_to_its_date_and_told_with_the_reason_after_that() -> None:
    assert _found(_check(_allowed(until=DAY), KEY)) == []
    check = _check(_allowed(until=date(2026, 5, 31)), KEY)
    assert _found(check) == [("undeclared dependency", "warning"), ("expired allowance", "warning")]
    assert check.findings[1].problem == "billing -> cat* was allowed until 2026-05-31, as the price list is shared"


def test_an_allowance_that_nothing_needs_is_said() -> None:
    assert _found(_check(_allowed())) == [("unused allowance", "info")]


def test_a_dependency_that_start_up_refuses_is_allowed_by_no_rule() -> None:
    loop = [Module("a", ("b",)), Module("b", ("a",))]
    check = check_modules(loop, rules=Rules(allowed=(Rule("*", "*", "x"),)))
    assert _found(check) == [("cycle", "error")]


def test_a_forbidden_coupling_is_found_where_it_is_declared_and_where_it_only_listens() -> None:
    rules = Rules(forbidden=(Rule("sales", "cat*", "sales is to be sold"), Rule("catalog", "*", relation="listens")))
    check = _check(rules, LISTENS)
    assert [(finding.kind, finding.modules) for finding in check.findings] == [
        ("forbidden coupling", ("sales", "catalog")), ("forbidden coupling", ("catalog", "sales")),
    ]  # fmt: skip
    assert check.findings[0].problem == "sales -> catalog is forbidden, as sales is to be sold: declared, query"
    assert _found(_check(Rules(forbidden=(Rule("catalog", "*", relation="requires"),)), LISTENS)) == []


def test_what_is_forbidden_for_all_may_be_allowed_for_one() -> None:
    rules = Rules(forbidden=(Rule("*", "catalog"),), allowed=(Rule("sales", "catalog", "they are one"),))
    assert _found(_check(rules)) == []


def test_files_that_are_excluded_do_not_count_be_they_read_or_not() -> None:
    broken = Unread("shop/billing/old.py:1: not Python", "shop/billing/old.py", 1, ("billing",))
    check = _check(Rules(excluded=("shop/billing/*",)), IMPORT, not_read=(broken,))
    assert (check.findings, check.not_read) == ((), ())
    assert _found(_check(Rules(), IMPORT, not_read=(broken,))) == [
        ("undeclared dependency", "warning"), ("not read", "warning"),
    ]  # fmt: skip


def test_imports_for_types_count_unless_the_rules_leave_them_out() -> None:
    assert _found(_check(Rules(), TYPES)) == [("undeclared dependency", "warning")]
    assert _found(_check(Rules(for_types=False), TYPES)) == []


def test_severities_are_by_kind_and_one_that_is_off_is_no_finding() -> None:
    assert _found(_check(Rules(severities={"undeclared dependency": "error"}), KEY)) == [
        ("undeclared dependency", "error")
    ]
    check = _check(Rules(severities={"undeclared dependency": "info"}), KEY)
    assert (_found(check), check.summary.exit_code) == ([("undeclared dependency", "info")], 0)
    assert _found(_check(Rules(severities={"undeclared dependency": "off"}), KEY)) == []


WHOLE = """
[tool.erpkit.modules]
layers = ["billing", "sales, inventory", "catalog*"]
exclude = ["*/tests/*"]
type_checking_imports = false
strict = true
baseline = "known.json"

[tool.erpkit.modules.severity]
unused-dependency = "off"
"hidden cycle" = "error"

[[tool.erpkit.modules.forbidden]]
from = "catalog"
to = "*"
relation = "listens"

[[tool.erpkit.modules.allowed]]
from = "billing"
to = "catalog"
kinds = ["foreign key", "view"]
reason = "until the price list is copied"
until = 2026-12-31
"""


def test_the_rules_are_read_from_the_nearest_pyproject(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pyproject.toml").write_text("\ufeff" + WHOLE)
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "pyproject.toml").write_text("[project]\nname = 'x'\n")
    monkeypatch.chdir(tmp_path / "a" / "b")
    rules = read_rules()
    assert rules.layers.patterns == (("billing",), ("sales", "inventory"), ("catalog*",))
    assert (rules.excluded, rules.for_types, rules.strict) == (("*/tests/*",), False, True)
    assert rules.severities == {"unused dependency": "off", "hidden cycle": "error"}
    assert rules.forbidden == (Rule("catalog", "*", relation="listens"),)
    reason, kinds = "until the price list is copied", ("foreign key", "view")
    assert rules.allowed == (Rule("billing", "catalog", reason, kinds, until=date(2026, 12, 31)),)
    assert (rules.baseline, rules.path) == (tmp_path / "known.json", str(tmp_path / "pyproject.toml"))


def test_those_in_a_modules_toml_come_first(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(WHOLE)
    manifest = tmp_path / "modules.toml"
    manifest.write_text("[[module]]\nname = 'a'\n")
    assert read_rules(manifest).path == str(tmp_path / "pyproject.toml")
    manifest.write_text("[[module]]\nname = 'a'\n[tool.erpkit.modules]\nstrict = true\n")
    assert (read_rules(manifest).path, read_rules(manifest).layers.patterns) == (str(manifest), ())


def test_without_any_rules_there_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert read_rules() == Rules(baseline=tmp_path / "modules-baseline.json")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("layer = 'a'", "unknown key layer; did you mean layers?"),
        ("zzz = 1", "unknown key zzz; there are layers, forbidden,"),
        ("layers = 'a > > b'", "layers 'a >  > b': a name is missing"),
        ("layers = 3", "layers: input should be a valid list"),
        ("strict = 'yes'", "strict: input should be a valid boolean"),
        ("exclude = 'tests'", "exclude: input should be a valid list"),
        ("severity = { 'undeclared-dependancy' = 'off' }", "'undeclared dependancy'; did you mean 'undeclared dependency'?"),
        ("severity = { cycle = 'fatal' }", "severity.cycle: input should be 'error', 'warning'"),
        ("severity = { not-read = 'off' }", "'not read' cannot be 'off': list files that are not to be read under exclude"),
        ("severity = { missing-folder = 'off' }", "'missing folder' cannot be 'off', as start-up refuses it"),
        ("severity = { cycle = 'off' }", "'cycle' cannot be 'off', as start-up refuses it"),
        ("allowed = [{ from = 'a', to = 'b' }]", "allowed.number 1.reason is missing"),
        ("allowed = [{ from = 'a', to = 'b', reason = 'x', kinds = ['imports'] }]", "allowed.number 1.kinds.number 1: input should be"),
        ("allowed = [{ from = 'a', to = 'b', reason = 'x', until = '2026' }]", "allowed.number 1.until: input should be a valid date"),
        ("forbidden = [{ from = 'a' }]", "forbidden.number 1.to is missing"),
        ("forbidden = [{ from = 'a', to = 'b', untl = 2026-01-01 }]", "unknown key forbidden.number 1.untl; there are from, to,"),
        ("forbidden = 3", "forbidden: input should be a valid list"),
    ],
)  # fmt: skip
def test_rules_that_are_not_understood_are_named_by_file_and_key(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "modules.toml"
    path.write_text(f"[tool.erpkit.modules]\n{text}\n")
    with pytest.raises(UsageError) as raised:
        read_rules(path)
    assert str(raised.value).startswith(f"{path}: [tool.erpkit.modules]: ")
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("text", ["[[tool.erpkit.modules]]\nstrict = true\n", "tool.erpkit.modules = 3\n"])
def test_rules_that_are_no_table_are_refused_rather_than_passed_over(text: str, tmp_path: Path) -> None:
    path = tmp_path / "modules.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match="is no table"):
        read_rules(path)


def test_a_forbidden_coupling_of_a_module_that_there_is_not_is_said() -> None:
    rules = Rules(forbidden=(Rule("saels", "cat*"), Rule("saels", "*")), path="pyproject.toml")
    check = _check(rules)
    assert _found(check) == [("unknown module", "warning")]
    assert check.findings[0].problem == "no module is named saels, which a forbidden coupling names"


def test_a_pyproject_that_cannot_be_read_is_an_error_rather_than_no_rules(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.erpkit\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        UsageError, match=r"pyproject\.toml: cannot be read, so its \[tool\.erpkit\.modules\] is not known"
    ):
        read_rules()
