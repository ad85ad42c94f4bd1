"""How reports and their index look in a real browser: what is wrong comes first, on a phone too, and in the dark it can be read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import nbformat
import pytest

pytest.importorskip("playwright.sync_api", reason="there is no playwright: pip install playwright")
pytest.importorskip("axe_playwright_python", reason="there is no axe-core: pip install axe-playwright-python")

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from erpkit.database import Database
from erpkit.runs import open_notebook, run_notebook
from erpkit.runs.fleet import FleetResult
from erpkit.runs.fleet_file import FleetFile
from erpkit.sample.demo import Planted

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

LONG = "close_the_month_of_each_tenant_and_send_the_bookkeepers_what_is_open"
BROKEN = """
from erpkit import Finding, Summary
display(Summary("Books", {"books": 1}, [Finding("open", "acme", "is open", remedy="erpkit tenants list --status active")]))
raise RuntimeError("there is no exchange rate for CHF, " + "in_which_it_was_paid_" * 9)
"""
NOTEBOOKS = ("inspect_tenants", "event_health", "check_modules", "run_migrations")
WIDE, PHONE = {"width": 1280, "height": 1000}, {"width": 390, "height": 800}
MANY = """
from erpkit import Summary
from erpkit.finding import Finding
from erpkit.table import Column, Table
names = [f"tenant_{n:04}" for n in range(400)]
wrong = names[::6]
found = [Finding("pending", name, "behind on migrations", remedy="erpkit migrate up") for name in wrong]
Summary("400 tenants", {"tenants": 400}, found)
"""
TABLE = """
pending = Column("pending", lambda name: 1 if name in wrong else 0, tone=lambda name: "warning" if name in wrong else "")
Table([Column("tenant", str), pending], names, about=("pending",))
"""


@pytest.fixture(scope="module")
def runs(planted: Planted, shared_database: Database, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the reports of four notebooks and of one that fails, their index, and the page of a fleet."""
    folder, results = tmp_path_factory.mktemp("looked-at"), {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ERPKIT_DATABASE", shared_database.conninfo)
        patch.setenv("ERPKIT_MODULES", "erpkit.sample")
        for name in NOTEBOOKS:
            result = run_notebook(open_notebook(name), {}, folder, name)
            assert result.outcome in ("ok", "findings"), result.error
            results[name] = result
        results["broken"] = run_notebook(open_notebook(_write_broken(folder)), {}, folder, "broken")
    FleetFile(folder / "fleet.jsonl").write_page("A fleet", FleetResult(results, {}), str(folder))
    return folder


def _write_broken(folder: Path) -> str:
    """Write a notebook with a long name that finds something, and then fails with a long error."""
    texts = [
        nbformat.v4.new_markdown_cell(text) for text in ("# Close the month\n\nEach night.", "## Books", "## Later")
    ]
    cells = [*texts[:2], nbformat.v4.new_code_cell(BROKEN), texts[2], nbformat.v4.new_code_cell("1")]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), folder / f"{LONG}.ipynb")
    return str(folder / f"{LONG}.ipynb")


@pytest.mark.parametrize("name", [*NOTEBOOKS, "broken", "fleet", "index"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_serious_fault_in_a_report_by_day_and_by_night(
    browser: Browser, runs: Path, name: str, scheme: str
) -> None:
    for size in (WIDE, PHONE):
        page = browser.new_page(viewport=size, color_scheme=scheme)  # type: ignore[arg-type]
        page.goto((runs / f"{name}.html").as_uri())
        for closed in page.locator("details:not([open]) > summary").all():
            closed.click()
        found = Axe().run(page).response
        assert "color-contrast" in {rule["id"] for rule in found["passes"]}  # it did look
        grave = [rule for rule in found["violations"] if rule["impact"] in ("serious", "critical")]
        assert [(rule["id"], [node["html"] for node in rule["nodes"]]) for rule in grave] == []
        page.close()


@pytest.mark.parametrize("name", [*NOTEBOOKS, "broken", "fleet", "index"])
def test_a_phone_never_scrolls_a_page_sideways(page: Page, runs: Path, name: str) -> None:
    page.set_viewport_size(PHONE)  # type: ignore[arg-type]
    page.goto((runs / f"{name}.html").as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]


def test_on_a_phone_pending_migrations_dead_letters_and_drift_are_in_view(page: Page, runs: Path) -> None:
    page.set_viewport_size(PHONE)  # type: ignore[arg-type]
    page.goto((runs / "inspect_tenants.html").as_uri())
    for head in ("migrations pending", "dead letters", "drift"):
        cell = page.locator(".erpkit-scroll th", has_text=head).first
        box = cell.bounding_box()
        assert box is not None
        assert box["x"] >= 0, head
        assert box["x"] + box["width"] <= PHONE["width"], head


def test_a_report_begins_with_what_is_wrong_and_each_line_leads_to_its_section(
    page: Page, runs: Path, planted: Planted
) -> None:
    page.set_viewport_size(WIDE)  # type: ignore[arg-type]
    page.goto((runs / "inspect_tenants.html").as_uri())
    expect(page.locator("main > *").first).to_contain_text("warning")
    expect(page.get_by_text("Each morning, before and after")).not_to_be_visible()
    sections = {planted.behind: "migration-versions", planted.drifted: "drift", planted.suspended: "all-tenants"}
    for tenant, anchor in sections.items():
        line = page.locator(".headline li", has_text=tenant).first
        assert line.locator("a").get_attribute("href") == f"#{anchor}"
        expect(line.locator("code")).to_contain_text("erpkit ")
        assert page.locator(f"#{anchor}").count() == 1
    first = page.locator(".erpkit-scroll").first.locator("tbody tr").first
    assert first.locator("td[style*='background']").count() >= 1  # a row in trouble
    page.get_by_role("link", name="All runs").first.click()
    expect(page.get_by_role("heading", name="Runs", exact=True)).to_be_visible()


def test_the_index_tells_the_first_finding_and_finds_by_words_and_by_trouble(page: Page, runs: Path) -> None:
    page.goto((runs / "index.html").as_uri())
    rows = page.locator("table.all tbody tr")
    expect(rows).to_have_count(len(NOTEBOOKS) + 1)
    expect(rows.filter(has_text="inspect_tenants")).to_contain_text("dead letters")
    expect(page.locator(".trend")).to_have_count(len(NOTEBOOKS) + 1)
    expect(page.locator("table.runs tbody tr").first).to_contain_text(
        "RuntimeError: there is no exchange rate"
    )  # the worst first
    assert page.evaluate("document.documentElement.scrollWidth") == page.evaluate("innerWidth")
    page.get_by_label("only what needs a look").check()
    expect(rows.filter(has_text="check_modules")).not_to_be_visible()
    expect(rows.filter(has_text="inspect_tenants")).to_be_visible()
    page.get_by_label("only what needs a look").uncheck()
    page.get_by_label("search").fill("CHECK_modules")
    expect(rows.filter(visible=True)).to_have_count(1)
    page.get_by_label("search").fill("")
    expect(rows.filter(visible=True)).to_have_count(len(NOTEBOOKS) + 1)


def test_at_400_tenants_trouble_and_all_tenants_take_at_most_three_screens(page: Page, tmp_path: Path) -> None:
    cells = [nbformat.v4.new_code_cell(MANY), nbformat.v4.new_markdown_cell("## All"), nbformat.v4.new_code_cell(TABLE)]
    cells += [nbformat.v4.new_markdown_cell("## Details")]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), tmp_path / "many.ipynb")
    report = run_notebook(open_notebook(str(tmp_path / "many.ipynb")), {}, tmp_path / "runs", "many").report
    page.set_viewport_size(WIDE)  # type: ignore[arg-type]
    page.goto(report.as_uri())
    expect(page.locator(".headline li")).to_have_count(1)
    box = page.get_by_role("heading", name="Details").bounding_box()
    assert box is not None
    assert box["y"] < 3 * WIDE["height"]
    assert page.locator(".erpkit-scroll tbody tr").count() == 200
    assert page.locator("td[style*='background']").count() == 67  # all that are behind
