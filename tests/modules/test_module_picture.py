"""The picture of the module graph: where things are put, and what is left out of it."""

import html
import re
import subprocess
import sys
from dataclasses import replace
from random import Random

import pytest

from erpkit.errors import UsageError
from erpkit.modules import Couplings, Edge, Module, ModuleCheck, check_modules
from erpkit.modules.picture import as_mermaid, draw_modules
from erpkit.modules.wiring import KINDS
from erpkit.ui import explore_modules


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


def _drawn_names(svg: str) -> list[str]:
    """Return the labels of the boxes, as a reader sees them."""
    nodes = re.findall(r'class="node">.*?</g>\n</g>', svg, re.DOTALL)
    return [html.unescape(match[1]) for node in nodes if (match := re.search(r"<text [^>]*>(.*?)</text>", node))]


def _left_of(svg: str, name: str) -> float:
    match = re.search(rf'<text [^>]*x="([\d.]+)"[^>]*>{name}</text>', svg)
    assert match is not None
    return float(match[1])


def test_a_module_stands_to_the_right_of_all_that_it_needs() -> None:
    needs = {"catalog": (), "sales": ("catalog",), "stock": ("catalog",), "billing": ("sales", "catalog")}
    svg = draw_modules(check_modules([Module(name, some) for name, some in needs.items()])).svg
    assert all(_left_of(svg, target) < _left_of(svg, source) for source, some in needs.items() for target in some)


def _strokes(svg: str) -> list[str]:
    """Return the dashes of the arrows, "" for a solid one."""
    arrows = re.findall(r'class="edge">.*?</g>\n</g>', svg, re.DOTALL)
    return [
        dashes[1] if (dashes := re.search(r'<path [^>]*stroke-dasharray="([^"]*)"', arrow)) else "" for arrow in arrows
    ]


def test_an_arrow_tells_its_evidence_and_what_nobody_declared_is_dotted() -> None:
    check = check_modules(
        [Module("a"), Module("c")], Couplings((Edge("c", "a", "query", 'FindA (a.sql:3) uses "a_x"'),))
    )
    svg = draw_modules(check).svg
    assert 'xlink:title="c needs a&#10;query: FindA (a.sql:3) uses &quot;a_x&quot;"' in svg
    assert _strokes(svg) == ["1,5"]
    assert "not declared itself" in svg


def test_a_subscription_is_a_dashed_arrow_apart_and_moves_no_box() -> None:
    listens = Edge("a", "b", "event", "a.on_paid handles b.Paid", relation="listens")
    needs = [Module("a"), Module("b", ("a",)), Module("c", ("b",))]
    svg = draw_modules(check_modules(needs, Couplings((listens,)))).svg
    assert sorted(_strokes(svg)) == ["", "", "5,2"]
    assert 'xlink:title="a listens to b&#10;event: a.on_paid handles b.Paid"' in svg
    assert _left_of(svg, "a") < _left_of(svg, "b") < _left_of(svg, "c")
    assert "not declared itself" not in svg


def test_modules_that_only_listen_to_each_other_stand_in_one_column() -> None:
    listens = Edge("a", "b", "event", "a.on_paid handles b.Paid", relation="listens")
    svg = draw_modules(check_modules([Module("a"), Module("b")], Couplings((listens,)))).svg
    assert _left_of(svg, "a") == _left_of(svg, "b")


def test_a_module_that_needs_another_and_listens_to_it_has_both_arrows() -> None:
    listens = Edge("b", "a", "event", "b.on_paid handles a.Paid", relation="listens")
    svg = draw_modules(check_modules([Module("a"), Module("b", ("a",))], Couplings((listens,)))).svg
    assert sorted(_strokes(svg)) == ["", "5,2"]


def test_a_coupling_of_any_kind_is_drawn() -> None:
    for kind in KINDS:
        assert (
            "c needs a"
            in draw_modules(check_modules([Module("a"), Module("c")], Couplings((Edge("c", "a", kind, "x"),)))).svg
        )


def test_a_picture_has_no_ground_of_its_own_and_the_colour_of_the_text_around_it() -> None:
    svg = draw_modules(check_modules([Module("a"), Module("b", ("a",))])).svg
    assert 'fill="currentColor"' in svg
    assert 'fill="white" stroke="none"' not in svg


def test_a_hostile_name_is_text_in_the_picture() -> None:
    name = '<script>"\\N\\" ] }; x'
    svg = draw_modules(check_modules([Module("a"), replace(Module("b", ("a",)), name=name)])).svg
    assert name in _drawn_names(svg)
    assert "<script" not in svg


def test_drawing_prints_nothing_and_without_graphviz_the_picture_is_mermaids_text() -> None:
    code = """
import sys
if sys.argv[1:]: sys.modules["pygraphviz"] = None
from erpkit.modules import Module, check_modules
from erpkit.modules.picture import as_mermaid, draw_modules
from erpkit.modules.wiring import KINDS
print(draw_modules(check_modules([Module("a"), Module("b", ("a",))])).svg)
"""
    drawn = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert drawn.stdout.startswith("<svg")
    assert drawn.stderr == ""
    told = subprocess.run([sys.executable, "-c", code, "without"], capture_output=True, text=True, check=True)
    assert told.stdout.startswith("pip install 'erpkit[graph]'")
    assert "flowchart LR" in told.stdout


def test_the_picture_says_the_same_in_words() -> None:
    modules = [Module("catalog"), Module("sales", ("catalog",)), Module("<b>", ("sales",))]
    page = draw_modules(check_modules(modules))._repr_html_()
    assert 'role="img" tabindex="0" aria-label="load order: catalog, sales, &lt;b&gt;"' in page
    assert repr(draw_modules(check_modules([Module("a", ("b",)), Module("b", ("a",))]))) == "cycle: a -> b -> a"
    assert repr(draw_modules(check_modules([]))) == "no modules"


def test_of_many_modules_the_most_needed_are_drawn_with_how_many_need_each() -> None:
    for size, edges in ((70, 300), (400, 1600), (1000, 5000)):
        check = _many(size, edges)
        svg = draw_modules(check).svg
        labels = _drawn_names(svg)
        counts = {label.split()[0]: label for label in labels}
        needing = len({source for source, target in check.pairs if target == "module_0"})
        assert counts["module_0"] == f"module_0 ({needing})"
        assert f"of {size:,} modules: those that findings name and those that most others need" in svg
        assert len(labels) < 60
        assert len(svg) < 200_000


def test_a_component_of_many_modules_is_one_box_with_a_cycle_and_its_cuts_in_a_frame() -> None:
    check = _many(500, 2500)
    (component,) = check.components
    labels = _drawn_names(draw_modules(check).svg)
    assert any(label.startswith(f"{len(component.modules)} modules in a cycle (") for label in labels)
    assert {*component.path, *component.cut.edges[0]} <= set(labels)


def test_a_large_component_that_is_the_whole_graph_is_drawn() -> None:
    needs = {n: {(n + 1) % 200, (n * 7) % 200} - {n} for n in range(200)}
    check = check_modules([Module(f"m{n}", tuple(f"m{m}" for m in sorted(some))) for n, some in needs.items()])
    assert "200 modules in a cycle" in draw_modules(check).svg.replace("\n", "")


def test_arrows_are_drawn_before_boxes_so_that_none_hides_a_label() -> None:
    svg = draw_modules(check_modules([Module("a", ("c",)), Module("b", ("a",)), Module("c", ("b",))])).svg
    assert svg.rindex('class="edge"') < svg.index('class="node"')


def test_a_long_name_is_wrapped_and_not_cut_off() -> None:
    name = "account_reconciliation_of_bank_statements_by_their_references_and_amounts"
    svg = draw_modules(check_modules([Module(name), Module("b", (name,))])).svg
    assert "".join(re.findall(r"<text [^>]*>(\w+)</text>", svg)).count(name) == 1


def test_around_a_module_is_drawn_what_it_needs_and_what_depends_on_it() -> None:
    needs = {"base": (), "a": ("base",), "b": ("a",), "c": ("b",), "x": (), "y": ("x",)}
    svg = draw_modules(check_modules([Module(name, some) for name, some in needs.items()]), around="a").svg
    assert sorted(_drawn_names(svg)) == ["a", "b", "base", "c"]
    assert "a, what it needs and what depends on it: 4 of 6 modules" in svg


def test_a_module_that_is_not_there_is_no_picture() -> None:
    with pytest.raises(UsageError, match="there is no module typo"):
        draw_modules(check_modules([Module("a")]), around="typo")


def test_around_a_module_that_hundreds_need_the_most_needed_are_drawn_and_the_others_counted() -> None:
    modules = [
        Module("base"),
        *(Module(f"m{n}", ("base",)) for n in range(300)),
        *(Module(f"x{n}", ("m299",)) for n in range(50)),
    ]
    labels = _drawn_names(draw_modules(check_modules(modules), around="base").svg)
    assert {"base", "m299", "and 261 more that need it", "and 50 more that need these"} <= set(labels)
    assert len(labels) == 42


def test_around_a_module_that_needs_hundreds_the_others_are_counted() -> None:
    modules = [*(Module(f"m{n}") for n in range(300)), Module("all", tuple(f"m{n}" for n in range(300)))]
    assert "and 261 more that it needs" in _drawn_names(draw_modules(check_modules(modules), around="all").svg)


def _limits(text: str) -> tuple[int, int]:
    return len(re.findall(r"^    m\d+ \S+> m\d+|^    m\d+ -.*", text, re.MULTILINE)), len(text)


def test_mermaids_text_stays_below_its_limits_and_says_which_part_it_shows() -> None:
    few = as_mermaid(_many(100, 400))
    assert few.startswith("flowchart LR\n")
    many = as_mermaid(_many(1000, 5000))
    assert many.startswith('---\ntitle: "')
    assert " of 1,000 modules: those that findings name" in many.splitlines()[1]
    long = as_mermaid(check_modules([Module(f"{'x' * 39}{n}") for n in range(1000)]))
    assert "of 1,000 modules" in long
    around = as_mermaid(_many(1000, 5000), around="module_7")
    assert "module_7, what it needs and what depends on it" in around
    for text in (few, many, long, around):
        edges, characters = _limits(text)
        assert (edges <= 500, characters <= 50_000) == (True, True)


def test_in_mermaids_text_a_subscription_ends_in_a_circle() -> None:
    listens = Edge("a", "b", "event", "a.on_paid handles b.Paid", relation="listens")
    text = as_mermaid(check_modules([Module("a"), Module("b", ("a",))], Couplings((listens,))))
    assert "    m1 -.-o|event| m0" in text.splitlines()


def test_the_table_of_couplings_shows_first_what_nobody_declared() -> None:
    couplings = Couplings((Edge("b", "a", "view", "v"), Edge("b", "a", "view", "w"), Edge("c", "a", "query", "q")))
    table = check_modules([Module("a"), Module("b", ("a",)), Module("c")], couplings).coupling_table
    assert table.records() == [
        {"module": "c", "needs": "a", "declared": "no", "found": "query", "evidence": "q"},
        {"module": "b", "needs": "a", "declared": "yes", "found": "view (2)", "evidence": "v; w"},
    ]


def test_the_table_of_findings_shows_what_is_behind_each() -> None:
    check = check_modules([Module("a"), Module("c")], Couplings((Edge("c", "a", "query", "FindA (a.sql:3) uses a_x"),)))
    assert list(check.finding_table.frame["evidence"]) == ["query: FindA (a.sql:3) uses a_x"]


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
