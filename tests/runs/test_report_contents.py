"""A report shows offline what a notebook shows: formulas, diagrams and pictures as what they are, and nothing of it acts."""

import base64
import re
from pathlib import Path
from urllib.parse import unquote

import nbformat
import pytest

from erpkit.runs import RunResult, open_notebook, run_notebook
from erpkit.runs.entries import head
from erpkit.runs.harmless import harmless
from erpkit.runs.index import write_index
from erpkit.runs.rendering import embed_images, render_latex, render_markdown
from tests.tiny import write_notebook

pytestmark = pytest.mark.usefixtures("warm_runs")

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
DATA = f"data:image/png;base64,{base64.b64encode(PNG).decode()}"


def _run(path: Path, *texts: str) -> RunResult:
    node = nbformat.read(path, as_version=4)
    node.cells += [nbformat.v4.new_markdown_cell(text) for text in texts]
    nbformat.write(node, path)
    return run_notebook(open_notebook(str(path)), {}, path.parent / "runs")


def test_formulas_in_texts_and_outputs_are_mathml_which_needs_no_script(tmp_path: Path) -> None:
    path = write_notebook(tmp_path / "math.ipynb", "from IPython.display import Math\nMath(r'\\sum_{i=1}^n i')")
    report = _run(path, "A root $\\sqrt{x}$ and\n\n$$\\frac{a}{b} < c$$").report.read_text()
    assert report.count("<math") == 3
    for tag in ("<msqrt>", "<mfrac>", "<munderover>"):
        assert tag in report
    assert "<script" not in report


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("from $5 to $6", "from $5 to $6"),
        ("$x$ costs $5", "</math> costs $5"),
        ("```mermaid\ngraph TD; A-->B\n```", "<figcaption>Mermaid</figcaption><pre>graph TD; A--&gt;B</pre>"),
        ("```python\nx\n```", "<pre>"),
    ],
)
def test_what_is_no_formula_is_shown_as_what_it_is(text: str, shown: str) -> None:
    assert shown in harmless(render_markdown(text, {}))


def test_latex_that_is_no_formula_is_shown_as_its_source() -> None:
    assert "<pre>\\begin{tabular}{l}a\\end{tabular}</pre>" in render_latex("\\begin{tabular}{l}a\\end{tabular}")
    assert "<mfrac>" in render_latex("\\begin{equation*}\\frac{1}{2}\\end{equation*}")
    assert "<script" not in harmless(render_latex("$\\text{<script>alert(1)</script>}$"))


def test_pictures_in_files_are_put_into_the_report_and_one_that_is_missing_is_named(tmp_path: Path) -> None:
    (tmp_path / "a plot.png").write_bytes(PNG)
    cell = (
        "from IPython.display import HTML, Markdown, display\n"
        "display(HTML('<img alt=\"x\" src=\"a plot.png\">'), Markdown('![y](a%20plot.png)'))"
    )
    path = write_notebook(tmp_path / "pictures.ipynb", cell)
    texts = ["![one](a%20plot.png) <img src='a plot.png'>", "![gone](gone.png)", "![z](attachment:z.png)"]
    texts.append("![far](https://example.com/x.png)")
    report = _run(path, *texts).report.read_text()
    assert report.count(DATA) == 4
    for missing in (
        "[picture gone.png: not in",
        "[picture https://example.com/x.png: not in",
        "[picture z.png: not in",
    ):
        assert missing in report
    assert not re.search(r'<img[^>]*src="(?!data:)', report)


def test_what_is_no_picture_is_not_put_into_a_report(tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("secret")
    (tmp_path / "folder.png").mkdir()
    for source in ("secret.txt", "folder.png", "file:///etc/passwd", "//host/x.png", "\x00.png"):
        assert "data:" not in embed_images(f'<img src="{source}">', [tmp_path])


def test_links_of_the_index_work_with_every_file_name(tmp_path: Path) -> None:
    names = ["50% off", "a#b", "what?", "x:y", "ä ö", "quo'te\"", "a&b"]
    for n, name in enumerate(names):
        entry = {
            "notebook": name,
            "title": name,
            "key": name,
            "tenants": [],
            "outcome": "ok",
            "verdict": "ok",
            "seconds": 1.0,
        }
        (tmp_path / f"{name}.html").write_text(head(entry | {"started": f"2026-01-0{n + 1}T00:00:00+00:00"}))
    links = set(re.findall(r'<a href="([^"]*)"', write_index(tmp_path).read_text()))
    assert len(links) == len(names)
    for link in links:
        assert not set(link) & set("#?:&'\"< ")
        assert (tmp_path / unquote(link)).is_file()


def test_a_script_in_an_output_or_a_text_is_not_in_the_report(tmp_path: Path) -> None:
    cell = (
        "from IPython.display import HTML, SVG, Javascript, Latex, Markdown, display\n"
        "evil = '<script>alert(1)</script><img src=x onerror=alert(2)><a href=\"javascript:alert(3)\">x</a>'\n"
        "display(HTML(evil), Markdown(evil), Latex(evil), Javascript('alert(4)'))\n"
        "display({'text/vnd.mermaid': evil}, raw=True)\n"
        "display({'image/svg+xml': f'<svg onload=\"alert(5)\">{evil}</svg>'}, raw=True)\n"
        "print(evil)"
    )
    report = _run(
        write_notebook(tmp_path / "evil.ipynb", cell), "<script>alert(6)</script>[x](javascript:alert(7))"
    ).report
    page = report.read_text()
    assert "<script" not in page
    assert not re.search(r"<[^>]*\s(?:onerror|onload|href\s*=\s*[\"']?javascript)", page)
    assert "default-src 'none'" in page


def test_a_report_of_a_run_that_failed_folds_its_purpose_and_ends_where_the_run_did(tmp_path: Path) -> None:
    path = write_notebook(tmp_path / "fails.ipynb", "1 / 0", "print('after')")
    node = nbformat.read(path, as_version=4)
    texts = [nbformat.v4.new_markdown_cell(text) for text in ("# A title\n\nWhat for.", "## Never reached")]
    node.cells = [texts[0], *node.cells[:-1], texts[1], node.cells[-1]]
    nbformat.write(node, path)
    report = _run(path).report.read_text()
    assert "Failed: ZeroDivisionError: division by zero; 1 cell was not run" in report
    assert report.index("About this notebook") < report.index("What for.")
    assert "Never reached" not in report
    assert report.count(">A title<") == 2  # the title of the page and its heading


def test_the_first_line_of_a_rehearsal_says_that_it_is_one_and_is_not_green(tmp_path: Path) -> None:
    cell = "from erpkit import Summary\nSummary('REHEARSAL', {'rehearsal': 'proved', 'plan': 'repair-1', 'left': 0})"
    report = _run(write_notebook(tmp_path / "rehearsal.ipynb", cell)).report.read_text()
    assert 'class="headline rehearsal"' in report
    assert "Rehearsal on a scratch copy: proved. No problems found" in report
    assert '<div class="words"><dd>repair-1</dd>' in report  # a text is no large figure


def test_only_a_report_beside_an_index_has_a_link_to_it(tmp_path: Path) -> None:
    notebook = open_notebook(str(write_notebook(tmp_path / "lone.ipynb", "1")))
    assert "All runs" in run_notebook(notebook, {}, tmp_path / "runs").report.read_text()
    assert "All runs" not in run_notebook(notebook, {}, tmp_path / "lone", index=False).report.read_text()
    run_notebook(notebook, {}, f"file://{tmp_path}/far", "lone")
    assert "All runs" not in (tmp_path / "far" / "lone.html").read_text()
