"""What is left of runs, in a real browser: their index and their reports."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import nbformat
import pytest

pytest.importorskip("playwright.sync_api", reason="there is no playwright: pip install playwright")
pytest.importorskip("erpkit.runs.report", reason="runs leave no index page yet")

from playwright.sync_api import expect

if TYPE_CHECKING:
    from playwright.sync_api import Page

CELL = """
import pandas
from erpkit import Summary, ui
from erpkit.result import Picture

Picture('<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9" width="90"><circle r="4" cx="5" cy="5"/></svg>', "orders: 2 values")
"""
TABLE = (
    """ui.Table.of_frame(pandas.DataFrame({"a rather long name of a column " + str(n): range(5) for n in range(6)}))"""
)


def write(folder: Path, name: str, last: str) -> str:
    """Write a notebook of a heading, a picture, a table that is wider than a phone, and a last line."""
    cells = [
        nbformat.v4.new_markdown_cell(f"# The notebook {name}"),
        *map(nbformat.v4.new_code_cell, (CELL, TABLE, last)),
    ]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), folder / f"{name}.ipynb")
    return str(folder / f"{name}.ipynb")


def test_the_index_opens_filters_and_leads_to_a_report_that_fits_a_phone(page: Page, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    endings = {"morning": 'Summary("All is well", {"orders": 7})', "evening": 'Summary("Look", {}, ["a thing"])'}
    erpkit = [sys.executable, "-c", "from erpkit.cli import main; main()"]
    commands = [[*erpkit, "run", write(tmp_path, name, last), "--output", str(runs)] for name, last in endings.items()]
    for process in [subprocess.Popen(command, stdout=subprocess.DEVNULL) for command in commands]:
        process.wait(120)
    page.goto((runs / "index.html").as_uri())
    rows = page.locator("table.all tbody tr")
    expect(rows).to_have_count(2)
    page.get_by_label("morning").check()
    expect(rows.filter(visible=True)).to_have_count(1)
    page.set_viewport_size({"width": 390, "height": 800})
    rows.get_by_role("link", name="morning").click()
    expect(page.get_by_role("heading", name="The notebook morning")).to_be_visible()
    expect(page.get_by_text("All is well").first).to_be_visible()
    expect(page.get_by_label("orders: 2 values", exact=True)).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    table = page.locator(".erpkit-scroll")
    assert table.evaluate("box => box.scrollWidth > box.clientWidth")
