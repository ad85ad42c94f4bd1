"""The picture of the module graph: where things are put, and what is left out of it."""

from random import Random

import pytest

from erpkit.modules import Couplings, Edge, Module, ModuleCheck, check_modules
from erpkit.ui import couplings_table, explore_modules, findings_table, plot_modules
from erpkit.ui.module_layout import lay_out, without_implied

PAIRS = [("sales", "catalog"), ("stock", "catalog"), ("billing", "sales"), ("billing", "catalog")]


def _many(size: int, edges: int) -> ModuleCheck:
    random = Random(5)
    needs: dict[int, set[int]] = {number: set() for number in range(size)}
    for _ in range(edges):
        number = random.randrange(1, size)
        needs[number].add(int(number * random.random() ** 2))
    needs[3].add(size - 1)
    return check_modules(
        [Module(f"module_{n}", tuple(f"module_{m}" for m in sorted(needs[n]))) for n in range(size)]
    )  # fmt: skip


def test_a_module_stands_to_the_right_of_all_that_it_needs() -> None:
    places = lay_out(["catalog", "sales", "stock", "billing"], PAIRS).places
    assert all(places[source][0] > places[target][0] for source, target in PAIRS)
    assert places["catalog"][0] == 0


def test_no_two_boxes_of_a_layer_overlap_and_long_arrows_pass_between_them() -> None:
    layout = lay_out(["catalog", "sales", "stock", "billing"], PAIRS)
    in_layer = sorted(height for layer, height in layout.places.values() if layer == 1)
    bends = layout.bends["billing", "catalog"]
    assert in_layer[1] - in_layer[0] >= 1
    assert [layer for layer, _ in bends] == [1]
    assert all(abs(bends[0][1] - height) > 0.7 for height in in_layer)


def test_a_cycle_is_laid_out_by_what_is_left_of_it_without_the_cut() -> None:
    pairs = [("a", "b"), ("b", "c"), ("c", "a")]
    layout = lay_out("abc", pairs, back=[("c", "a")])
    assert {name: layer for name, (layer, _) in layout.places.items()} == {"c": 0, "b": 1, "a": 2}
    with pytest.raises(ValueError, match="there is a cycle"):
        lay_out("abc", pairs)


def test_a_row_of_a_thousand_is_laid_out_without_recursion() -> None:
    pairs = [(str(n + 1), str(n)) for n in range(999)]
    assert lay_out([str(n) for n in range(1000)], pairs).layers == 1000


def test_what_others_imply_is_left_out_unless_it_is_to_be_kept() -> None:
    assert without_implied(PAIRS) == PAIRS[:3]
    assert without_implied(PAIRS, keep=PAIRS[3:]) == PAIRS


def test_the_picture_says_the_same_in_words() -> None:
    modules = [Module("catalog"), Module("sales", ("catalog",)), Module("<b>", ("sales",))]
    page = plot_modules(check_modules(modules))._repr_html_()
    assert 'role="img" aria-label="load order: catalog, sales, &lt;b&gt;"' in page
    assert repr(plot_modules(check_modules([Module("a", ("b",)), Module("b", ("a",))]))) == "cycle: a -> b -> a"
    assert repr(plot_modules(check_modules([]))) == "no modules"


def test_of_five_hundred_modules_the_interesting_ones_are_drawn_and_the_rest_is_counted() -> None:
    check = _many(500, 2500)
    svg = plot_modules(check).svg
    drawn = [name for name in check.names if f"<!-- {name} " in svg or f"<!-- {name}  +" in svg]
    assert "<!-- 40 of 500 modules: those that findings name and those that most others need -->" in svg
    assert len(drawn) <= 40
    assert set(check.knots[0].path) <= set(drawn)
    assert "module_0" in drawn
    assert len(svg) < 300_000


def test_around_a_module_is_drawn_what_depends_on_it() -> None:
    check = check_modules([Module("a"), Module("b", ("a",)), Module("c", ("b",)), Module("x"), Module("y", ("x",))])
    svg = plot_modules(check, around="a").svg
    assert [f"<!-- {name} -->" in svg for name in "abcxy"] == [True, True, True, False, False]


def test_the_table_of_couplings_shows_first_what_nobody_declared() -> None:
    couplings = Couplings((Edge("b", "a", "view", "v"), Edge("b", "a", "view", "w"), Edge("c", "a", "query", "q")))
    table = couplings_table(check_modules([Module("a"), Module("b", ("a",)), Module("c")], couplings))
    assert table.to_dict("records") == [
        {"module": "c", "needs": "a", "declared": "no", "found": "query", "evidence": "q"},
        {"module": "b", "needs": "a", "declared": "yes", "found": "view (2)", "evidence": "v; w"},
    ]


def test_the_table_of_findings_shows_what_is_behind_each() -> None:
    check = check_modules([Module("a"), Module("c")], Couplings((Edge("c", "a", "query", "FindA (a.sql:3) uses a_x"),)))
    assert list(findings_table(check)["evidence"]) == ["query: FindA (a.sql:3) uses a_x"]


def test_the_explorer_answers_what_is_picked() -> None:
    check = check_modules([Module("a", ("b",)), Module("b", ("a",)), Module("c", ("a",))])
    explorer = explore_modules(check)
    assert (explorer.impact_view.value, explorer.cut_view.value) == ("", "")
    assert explorer.cut.options[0] in ("a->b", "b->a")  # the smallest cut stands first
    explorer.impact.value = "b"
    assert "2 modules depend on b: a; by way of these: c" in explorer.impact_view.value
    explorer.cut.value = ["b->a"]
    assert "no cycle would be left" in explorer.cut_view.value
    assert "load order then: b, a, c" in explorer.cut_view.value


def test_without_a_browser_the_explorer_shows_what_it_was_opened_on() -> None:
    check = check_modules([Module("a"), Module("b", ("a",))])
    shown = explore_modules(check, impact="a", cut=["b -> a"])._repr_mimebundle_()
    assert "1 module depends on a: b" in shown["text/html"]
    assert "without b -&gt; a: 1 place to change" in shown["text/html"]
    assert "Give the parameters" in explore_modules(check)._repr_mimebundle_()["text/html"]
