"""The picture of the module graph: where things are put, and what is left out of it."""

import html
import re
import subprocess
import sys
from dataclasses import replace
from random import Random

from erpkit.modules import Couplings, Edge, Module, ModuleCheck, check_modules
from erpkit.modules.picture import draw_modules
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


def test_an_arrow_tells_its_evidence_and_what_nobody_declared_is_dashed() -> None:
    check = check_modules(
        [Module("a"), Module("c")], Couplings((Edge("c", "a", "query", 'FindA (a.sql:3) uses "a_x"'),))
    )
    svg = draw_modules(check).svg
    assert 'xlink:title="c needs a&#10;query: FindA (a.sql:3) uses &quot;a_x&quot;"' in svg
    assert "stroke-dasharray" in svg
    assert "not declared itself" in svg


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
from erpkit.modules.picture import draw_modules
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
    assert 'role="img" aria-label="load order: catalog, sales, &lt;b&gt;"' in page
    assert repr(draw_modules(check_modules([Module("a", ("b",)), Module("b", ("a",))]))) == "cycle: a -> b -> a"
    assert repr(draw_modules(check_modules([]))) == "no modules"


def test_of_five_hundred_modules_the_interesting_ones_are_drawn_and_the_rest_is_counted() -> None:
    check = _many(500, 2500)
    svg = draw_modules(check).svg
    drawn = [label.split()[0] for label in _drawn_names(svg)]
    assert "40 of 500 modules: those that findings name and those that most others need" in svg
    assert len(drawn) == 40
    assert set(check.components[0].path) <= set(drawn)
    assert "module_0" in drawn
    assert len(svg) < 300_000


def test_around_a_module_is_drawn_what_depends_on_it() -> None:
    check = check_modules([Module("a"), Module("b", ("a",)), Module("c", ("b",)), Module("x"), Module("y", ("x",))])
    svg = draw_modules(check, around="a").svg
    assert sorted(_drawn_names(svg)) == ["a", "b", "c"]


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
