"""What a check of modules finds: each fault with what shows it, and none that is not there."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from erpkit.config import Settings
from erpkit.couplings.tables import TableOwners
from erpkit.errors import ModuleError, UsageError
from erpkit.modules import (
    Couplings,
    Edge,
    EventHandler,
    Layers,
    Module,
    ModuleCheck,
    Rules,
    Unread,
    check_modules,
    cut_edges,
    find_impact,
)
from erpkit.modules.picture import as_mermaid
from erpkit.modules.registry import read_source


@dataclass(frozen=True)
class Placed:
    order: int


@dataclass(frozen=True)
class Forgotten:
    order: int


def handle(event: object, context: object) -> None:
    """Do nothing."""


SHOP = (Module("catalog"), Module("sales", ("catalog",)), Module("billing", ("sales",)))
SEEN = (Edge("sales", "catalog", "foreign key", "lines_sku"), Edge("billing", "sales", "import", "billing/a.py:3"))


def _kinds(check: ModuleCheck) -> dict[str, tuple[str, ...]]:
    return {finding.kind: finding.modules for finding in check.findings}


def test_what_is_declared_and_used_has_no_findings() -> None:
    assert check_modules(SHOP, Couplings(SEEN)).findings == ()


def test_a_coupling_that_nobody_declared_is_found_once_with_all_that_shows_it() -> None:
    hidden = (Edge("billing", "catalog", "query", "FindPrices (a.sql:1)"), Edge("billing", "catalog", "view", "prices"))
    (finding,) = check_modules(SHOP, Couplings((*SEEN, *hidden))).findings
    assert (finding.kind, finding.modules) == ("undeclared dependency", ("billing", "catalog"))
    assert finding.evidence == ("query: FindPrices (a.sql:1)", "view: prices")


def test_what_is_declared_by_way_of_others_is_well_enough_where_that_is_the_custom() -> None:
    edges = (*SEEN, Edge("billing", "catalog", "import", "billing/a.py:4"))
    assert check_modules(SHOP, Couplings(edges), indirect=True).findings == ()


def test_a_declared_dependency_that_nothing_needs_is_found_where_all_was_read() -> None:
    (finding,) = check_modules(SHOP, Couplings(SEEN[:1])).findings
    assert (finding.kind, finding.modules) == ("unused dependency", ("billing", "sales"))


def test_where_not_all_was_read_nothing_is_called_unused() -> None:
    assert check_modules(SHOP, Couplings(SEEN[:1], partly_read=frozenset({"billing"}))).findings == ()
    assert check_modules(SHOP).findings == ()


def test_a_cycle_through_what_nobody_declared_is_found_with_the_edge_to_cut() -> None:
    check = check_modules(SHOP, Couplings((*SEEN, Edge("catalog", "billing", "view", "view margins reads invoices"))))
    assert _kinds(check) == {
        "hidden cycle": ("billing", "catalog", "sales"),
        "undeclared dependency": ("catalog", "billing"),
    }
    hidden = check.findings[0]
    assert hidden.problem == "billing -> sales -> catalog -> billing"
    assert "cut catalog -> billing:" in hidden.remedy
    assert hidden.evidence[0] == "catalog -> billing: view, view margins reads invoices"
    assert check.order == ("catalog", "sales", "billing")  # start-up is not hindered
    assert check.cycle == ()


def test_each_cycle_of_start_up_is_one_finding() -> None:
    modules = [Module("a", ("b",)), Module("b", ("a",)), Module("c", ("d",)), Module("d", ("c",)), Module("e", ("e",))]
    problems = [finding.problem for finding in check_modules(modules).findings if finding.kind == "cycle"]
    assert problems == ["module e depends on itself (e -> e)", "a -> b -> a", "c -> d -> c"]


def test_an_event_that_nobody_handles_is_found() -> None:
    (finding,) = check_modules([Module("sales", publishes=(Forgotten,))]).findings
    assert (finding.kind, finding.problem) == ("unhandled event", "no module handles sales.Forgotten")


def test_a_handler_of_an_event_that_nobody_publishes_is_found_with_its_place() -> None:
    (finding,) = check_modules([Module("b", subscribes=(EventHandler("b.on_placed", Placed, handle),))]).findings
    assert finding.kind == "orphan handler"
    assert finding.evidence[0].startswith("tests/modules/test_module_findings.py:")


def test_a_lower_layer_that_needs_a_higher_one_is_found() -> None:
    layers = Layers.parse("catalog > sales, billing")
    found = [
        finding
        for finding in check_modules(SHOP, rules=Rules(layers=layers)).findings
        if finding.kind == "layer violation"
    ]
    assert [finding.modules for finding in found] == [("sales", "catalog")]
    assert check_modules(SHOP, rules=Rules(layers=Layers.parse("billing > sales > cat*"))).findings == ()


def test_a_layer_that_names_nobody_is_a_finding_and_one_without_a_name_an_error() -> None:
    (finding,) = check_modules(SHOP, rules=Rules(layers=Layers.parse("billing > salse"))).findings
    assert "salse" in finding.problem
    with pytest.raises(UsageError, match="a name is missing"):
        Layers.parse("billing > > sales")


def test_a_table_belongs_to_the_longest_pattern() -> None:
    owners = TableOwners(
        [
            Module("sales"),
            Module("sales_eu"),
            Module("hr", tables=("people", "pay_*")),
            Module("misc", tables=("*_log",)),
        ]
    )
    tables = ("sales_orders", "sales_eu_orders", "people", "pay_slips", "audit_log", "erpkit_events", "sales")
    assert [owners.find(table) for table in tables] == ["sales", "sales_eu", "hr", "hr", "misc", None, None]


def test_what_if_tells_what_would_have_to_change_and_what_is_left() -> None:
    check = check_modules([Module("a", ("b", "c")), Module("b", ("a",)), Module("c", ("a",))])
    one = cut_edges(check, ["b->a"])
    assert ([edge.evidence for edge in one.edges], [component.path for component in one.after]) == (
        ["dependencies of b"], [("a", "c", "a")],
    )  # fmt: skip
    both = cut_edges(check, ["b -> a", "c->a"])
    assert (both.after, both.order) == ((), ("b", "c", "a"))
    assert str(both).endswith("no cycle would be left")


@pytest.mark.parametrize(
    ("edge", "told"), [("sales->catlog", "did you mean sales->catalog"), ("sales", "is not an edge")]
)
def test_an_edge_that_there_is_not_is_refused(edge: str, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        cut_edges(check_modules(SHOP), [edge])


def test_impact_tells_who_depends_on_a_module_directly_and_in_the_end() -> None:
    modules = [*SHOP, Module("reports", ("billing",)), Module("alone")]
    impact = find_impact(check_modules(modules, Couplings(SEEN)), "catalog")
    assert (impact.direct, impact.indirect) == (("sales",), ("billing", "reports"))
    assert [edge.kind for edge in impact.edges] == ["declared", "foreign key"]
    with pytest.raises(UsageError, match="did you mean catalog"):
        find_impact(check_modules(SHOP), "catalogue")


def test_mermaid_shows_undeclared_edges_dotted_and_cycles_red() -> None:
    text = as_mermaid(check_modules(SHOP, Couplings((*SEEN, Edge("catalog", "billing", "view", "v")))))
    assert 'm0["catalog"]' in text
    assert "m2 -.->|view, to cut| m0" in text
    assert "m0 -->|foreign key| m1" in text
    assert "linkStyle 0,1,2 stroke:#dc2626" in text


def _distribution(folder: Path, name: str, entries: dict[str, str]) -> None:
    info = folder / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    lines = "".join(f"{entry} = {value}\n" for entry, value in entries.items())
    (info / "entry_points.txt").write_text(f"[test.shop]\n{lines}")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of installed distributions."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("import no_such_library_at_all", "ModuleNotFoundError: No module named 'no_such_library_at_all'"),
        ("raise SystemExit('bye')", "SystemExit: bye"),
        ("module = 1 / 0", "ZeroDivisionError"),
        ("other = 1", "AttributeError"),
        ("def", "SyntaxError"),
    ],
)
def test_an_entry_point_that_cannot_be_imported_is_a_finding_and_the_others_are_checked(
    code: str, told: str, site: Path
) -> None:
    (site / "shop_good.py").write_text("import erpkit\nmodule = erpkit.Module('good')\n")
    (site / "shop_bad.py").write_text(code)
    _distribution(site, "shop", {"good": "shop_good:module", "bad": "shop_bad:module"})
    source = read_source(Settings(modules="test.shop"))
    check = check_modules(source.candidates, findings=source.findings)
    (finding,) = check.findings
    assert (finding.kind, finding.modules, check.names) == ("cannot be loaded", ("bad",), ("good",))
    assert finding.problem.startswith(f"entry point bad (shop_bad:module) cannot be loaded: {told}")


def test_two_entry_points_of_one_name_are_a_finding_that_names_both_distributions(site: Path) -> None:
    (site / "shop_good.py").write_text(
        "import erpkit\nmodule = erpkit.Module('good')\nother = erpkit.Module('other')\n"
    )
    _distribution(site, "shop", {"good": "shop_good:module"})
    _distribution(site, "shop-fork", {"good": "shop_good:other"})
    (finding,) = read_source(Settings(modules="test.shop")).findings
    assert finding.modules == ("good",)
    assert "shop_good:module, from shop; shop_good:other, from shop-fork" in finding.problem


def test_a_modules_toml_is_checked_with_its_events_and_layers(tmp_path: Path) -> None:
    (tmp_path / "modules.toml").write_text(
        '[[module]]\nname = "sales"\npublishes = ["OrderPlaced", "Lost"]\n'
        '[[module]]\nname = "stock"\nsubscribes = ["sales.OrderPlaced", "sales.Never"]\n'
    )
    source = read_source(Settings(modules=str(tmp_path / "modules.toml")))
    check = check_modules(
        source.candidates, findings=source.findings, rules=Rules(layers=Layers.parse("sales > stock"))
    )
    assert {finding.kind: finding.evidence for finding in check.findings} == {
        "orphan handler": (),
        "unhandled event": ("published by sales",),
    }


def test_an_object_with_a_wrong_attribute_is_no_module_and_the_others_are_checked() -> None:
    check = check_modules([*SHOP, 42, Module, Module("odd", dependencies=(3,))])  # type: ignore[arg-type]
    assert [finding.kind for finding in check.findings] == ["no module"] * 3
    assert check.names == ("catalog", "sales", "billing")


def test_a_group_with_nothing_in_it_is_an_error() -> None:
    with pytest.raises(ModuleError, match=r"no\.such\.group"):
        read_source(Settings(modules="no.such.group"))


def test_no_modules_are_a_finding_and_not_a_sound_graph() -> None:
    (finding,) = check_modules([]).findings
    assert (finding.kind, finding.severity) == ("no modules", "warning")


def test_what_could_not_be_read_is_a_finding_and_what_was_not_to_be_read_is_none() -> None:
    check = check_modules(
        SHOP, Couplings(SEEN, (Unread("imports were not read: grimp is missing"),), not_asked=("no database",))
    )
    assert _kinds(check) == {"not read": ()}
    assert check.not_read == ("imports were not read: grimp is missing", "no database")


def test_what_start_up_refuses_is_an_error_and_the_rest_a_warning() -> None:
    cycle = check_modules([Module("a", ("b",)), Module("b", ("a",))]).findings
    hidden = check_modules(SHOP, Couplings((*SEEN, Edge("catalog", "billing", "view", "v")))).findings
    assert {f.severity for f in cycle} == {"error"}
    assert {f.severity for f in hidden} == {"warning"}
