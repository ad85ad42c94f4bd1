"""What cells of a notebook print cannot act in a report: in a real browser nothing of it runs, asks or leads away."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import nbformat
import pytest

pytest.importorskip("playwright.sync_api", reason="there is no playwright: pip install playwright")

from playwright.sync_api import expect

from erpkit.runs import open_notebook, run_notebook

if TYPE_CHECKING:
    from playwright.sync_api import Page

ACT = "window.acted=(window.acted||0)+1;document.title=`acted`"
HOSTILE = [
    f"<script>{ACT}</script>",
    f"<SCRIPT >{ACT}</SCRIPT\n>",
    f'<img src="x" onerror="{ACT}">',
    f"<img src=x onerror={ACT.replace(' ', '')}>",
    f"<svg onload=\"{ACT}\"><script>{ACT}</script><animate onbegin=\"{ACT}\" attributeName=x dur=1s></svg>",
    f'<a id="link" href="javascript:{ACT}">a link</a>',
    f'<a class="sly" href="&#106;ava\tscript:{ACT}">a sly link</a>',
    f'<svg><a xlink:href="javascript:{ACT}"><text y="20">in a picture</text></a></svg>',
    f'<iframe srcdoc="<script>parent.{ACT}</script>"></iframe><iframe src="javascript:parent.{ACT}"></iframe>',
    '<meta http-equiv="refresh" content="0;url=data:text/html,gone"><base href="https://example.org/">',
    '<form action="https://example.org/"><input name=a><button>go</button></form>',
    '<link rel="stylesheet" href="https://example.org/a.css"><style>@import "https://example.org/b.css";</style>',
    '<div style="background:url(https://example.org/c.png)">text</div><img src="https://example.org/d.png">',
    '<div style="position:fixed;inset:0;background:red">covers all</div>',
    f'<object data="data:text/html,<script>{ACT}</script>"></object><embed src="https://example.org/e.swf">',
    f"<math><mtext><table><mglyph><style><img src=x onerror=\"{ACT}\"></style></mglyph></table></mtext></math>",
    f"<noscript><p title=\"</noscript><img src=x onerror={ACT}>\"></noscript>",
    f"<details open ontoggle=\"{ACT}\">more</details><video src=x onerror=\"{ACT}\"></video><body onload=\"{ACT}\">",
    "</div></div></main></body></html><h1>a forged end</h1>",
    "<!-- never closed",
    "<textarea><plaintext>",
    "<title>stolen",
]  # fmt: skip
GOOD = """
import pandas
from erpkit import Summary, ui
from erpkit.result import Picture
from IPython.display import HTML, Javascript, Latex, Markdown, SVG, display
display(Picture('<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9" width="90"></svg>', "orders: 2 values"))
display(pandas.DataFrame({"amount": [1, 2]}).style.map(lambda _: "color: rgb(1, 2, 3)"))
display(SVG('<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9" width="90"><circle id="dot" r="4" cx="5" cy="5"/></svg>'))
display(Markdown("some **bold** words <script>ACT</script>"), Latex("$x < y$"), Javascript("ACT"))
display({"image/png": '"><script>ACT</script>', "text/plain": "a broken picture"}, raw=True)
display({"text/html": "<b>kept</b>"}, raw=True, metadata={"text/html": {"isolated": True}})
display(SVG('<svg xmlns="http://www.w3.org/2000/svg" onload="ACT"><script>ACT</script></svg>'))
""".replace("ACT", ACT)


def _write(path: Path) -> Path:
    cells = [
        nbformat.v4.new_markdown_cell(f"# Hostile <script>{ACT}</script>"),
        nbformat.v4.new_markdown_cell(f'Text <img src=x onerror="{ACT}"> [link](javascript:{ACT.replace(" ", "")})'),
        nbformat.v4.new_raw_cell(f"<script>{ACT}</script>"),
        nbformat.v4.new_code_cell(GOOD),
        nbformat.v4.new_code_cell(f"for text in {HOSTILE!r}:\n    display(HTML(text))"),
        nbformat.v4.new_code_cell(f"print('<script>{ACT[:20]}</script>', '\\x1b]0;title\\x07\\u202e')"),
        nbformat.v4.new_code_cell(f"Summary({HOSTILE[0]!r}, {{{HOSTILE[2]!r}: {HOSTILE[2]!r}}}, {HOSTILE[:4]!r})"),
    ]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), path)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile")
    result = run_notebook(open_notebook(str(_write(folder / "hostile.ipynb"))), {}, folder / "runs", "hostile")
    assert result.outcome == "findings", result.error
    return folder / "runs"


@pytest.mark.parametrize("has_policy", [True, False])
def test_nothing_in_a_report_acts_with_its_policy_or_without(page: Page, folder: Path, has_policy: bool) -> None:
    report = folder / "hostile.html"
    if not has_policy:
        text = report.read_text()
        report = folder / "no_policy.html"
        report.write_text(text.replace("Content-Security-Policy", "x"))
    page.goto(report.as_uri())  # the page's fixture looks for requests to others
    for link in ("a link", "a sly link", "in a picture", "link"):
        page.get_by_text(link, exact=True).first.click(force=True)
    expect(page.get_by_text("some bold words")).to_be_visible()
    expect(page.get_by_text("kept", exact=True)).to_be_visible()
    expect(page.locator("math", has_text="x<y")).to_be_visible()
    assert page.evaluate("window.acted") is None
    assert page.title().startswith("Hostile")
    assert page.url.partition("#")[0] == report.as_uri()
    assert (
        page.locator(
            "script, iframe, object, embed, base, link, meta[http-equiv=refresh], main form, main input"
        ).count()
        == 0
    )


def test_tables_styles_and_pictures_stay_as_they_were(page: Page, folder: Path) -> None:
    page.goto((folder / "hostile.html").as_uri())
    expect(page.get_by_label("orders: 2 values", exact=True).locator("svg")).to_be_visible()
    assert page.locator("td.data").last.evaluate("cell => getComputedStyle(cell).color") == "rgb(1, 2, 3)"
    assert page.locator("#dot").evaluate("dot => dot.getBoundingClientRect().width") > 50
    expect(page.get_by_text("covers all")).to_be_visible()
    assert page.get_by_text("covers all").evaluate("box => getComputedStyle(box).position") == "static"
    expect(page.locator("main").get_by_text("a forged end")).to_have_count(1)
    page.screenshot(path=str(folder / "hostile.png"), full_page=True)


def test_the_index_runs_nothing_that_a_report_says_of_itself(page: Page, folder: Path) -> None:
    page.goto((folder / "index.html").as_uri())
    expect(page.get_by_role("link", name="hostile").first).to_be_visible()
    assert page.evaluate("window.acted") is None
    assert page.locator("meta[http-equiv='Content-Security-Policy']").count() == 1
