"""What an analyst sees: JupyterLab in a real browser, on the sample ERP."""

from __future__ import annotations

import os
import re
import time
from typing import TYPE_CHECKING

import nbformat
import pytest

from erpkit.database import Database
from erpkit.sample.demo import Planted
from tests.browser.conftest import _PATIENCE, Lab, grave

pytest.importorskip("playwright.sync_api", reason="there is no playwright: pip install playwright")

from playwright.sync_api import expect

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

ERROR = "[data-mime-type='application/vnd.jupyter.error'], [data-mime-type='application/vnd.jupyter.stderr']"


@pytest.fixture(autouse=True, scope="module")
def _patience() -> None:
    expect.set_options(timeout=_PATIENCE)


def run_all(page: Page) -> None:
    page.get_by_text(
        re.compile(r"^Python 3 \(.*\) \| Idle$")
    ).wait_for()  # what is run before there is a kernel is lost
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()


def write_cells(lab: Lab, name: str, *cells: str, kernel: str = "python3") -> None:
    """Put a notebook with these cells into JupyterLab's folder."""
    metadata = {"kernelspec": {"name": kernel, "display_name": kernel, "language": "python"}}
    node = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells], metadata=metadata)
    nbformat.write(node, lab.folder / f"{name}.ipynb")


def outputs(page: Page, cell: int) -> Locator:
    return page.locator(".jp-Notebook .jp-CodeCell").nth(cell).locator(".jp-OutputArea-output")


def test_jupyterlab_opens_on_the_notebooks_and_one_runs_all_its_cells(page: Page, lab: Lab, planted: Planted) -> None:
    """The inspection of all tenants, whose table sorts and filters."""
    page.goto(f"{lab.url}?token={lab.token}")
    listing = page.locator(".jp-DirListing-item")
    for name in ("inspect_tenants", "explore_tenants", "run_migrations"):
        expect(listing.filter(has_text=f"{name}.ipynb")).to_be_visible()
    expect(page.get_by_role("heading", name="Welcome to erpkit")).to_be_visible()
    run_all(page)
    expect(page.get_by_role("cell", name="4 active, 1 suspended")).to_be_visible()
    expect(page.get_by_text("to look at", exact=True)).to_be_in_viewport()
    expect(page.locator(ERROR)).to_have_count(0)
    expect(page.get_by_text("Jupyter news")).to_have_count(0)
    page.get_by_role("link", name="runbook drifted_tenant").first.click()
    expect(page.get_by_role("heading", name="Runbook: a tenant's schema has drifted")).to_be_visible()
    lab.open(page, "welcome")
    page.get_by_role("link", name="inspect_tenants").click()
    expect(page.get_by_role("heading", name="Inspect tenants")).to_be_visible()
    lab.open(page, "inspect_tenants")
    run_all(page)
    expect(page.get_by_text("5 tenants inspected on")).to_be_visible()
    expect(page.locator(ERROR)).to_have_count(0)
    expect(page.locator(".jupyter-button[title='Run']")).to_be_in_viewport()
    sort_and_filter(page.locator(".dt-container").first, planted)


def test_a_command_that_a_finding_names_works_in_jupyterlabs_terminal(page: Page, lab: Lab) -> None:
    """However JupyterLab was started: by its full path from another folder, or by a service."""
    page.goto(f"{lab.url}lab?token={lab.token}&reset")
    page.locator(".jp-LauncherCard", has_text="Terminal").click()
    page.locator(".jp-Terminal .xterm-screen").wait_for()
    page.keyboard.type("erpkit tenants list --json > listed.json; touch ended\n")
    deadline = time.monotonic() + _PATIENCE / 1000
    while not (lab.folder / "ended").exists() and time.monotonic() < deadline:
        page.wait_for_timeout(100)
    assert "bluebird" in (lab.folder / "listed.json").read_text()


def test_a_cell_that_fails_is_in_sight_after_all_cells_were_run(page: Page, lab: Lab) -> None:
    shown = [f"print('\\n' * 20, {number})" for number in range(8)]
    write_cells(lab, "fails", "from erpkit import ui\nui.look_here()", *shown, "1 / 0", *shown)
    lab.open(page, "fails")
    run_all(page)
    expect(page.locator(ERROR)).to_be_in_viewport()


def sort_and_filter(table: Locator, planted: Planted) -> None:
    """Click on a head, twice, and type into the filter of the table of all tenants."""
    lines = table.locator("tbody tr")
    expect(lines).to_have_count(5)
    for _ in range(2):
        table.get_by_role("button", name="dead letters: Activate to").click()
    expect(lines.first).to_contain_text(planted.dead_letters)
    table.get_by_role("button", name="rows: Activate to sort").click()
    expect(table.locator("th[aria-sort=ascending]")).to_have_text("rows")
    counts = [int(line.split("\t")[7].replace(",", "")) for line in lines.all_inner_texts()]
    assert counts == sorted(counts)
    table.get_by_placeholder("filter").fill("suspended")
    expect(lines).to_have_count(1)
    expect(lines).to_contain_text(planted.suspended)
    table.get_by_placeholder("filter").fill("")


def test_a_replay_is_set_by_the_form_guarded_by_its_plans_id_and_stopped_by_a_button(
    page: Page, lab: Lab, planted: Planted
) -> None:
    lab.open(page, "replay_events")
    run_all(page)
    expect(page.get_by_text(re.compile("Dry run: plan replay-"))).to_be_visible()
    plan = page.get_by_text(re.compile(r"^replay-\w+: .* on .*"))
    expect(plan).to_contain_text("of 4 tenants")

    set_the_form(page)
    expect(plan).to_contain_text("of 1 tenant")
    confirm, apply = page.get_by_label("Plan's id"), page.locator("button[title='Apply']")
    expect(page.get_by_text(re.compile("Dry run: plan replay-"))).to_be_visible()
    expect(apply).to_be_disabled()
    confirm.fill("replay-0000000000")
    expect(page.get_by_role("alert")).to_contain_text("is not the id of the present plan, replay-")
    expect(apply).to_be_disabled()
    confirm.fill(plan.inner_text().partition(":")[0])
    apply.click()
    expect(page.get_by_text(re.compile(r"^\d+ of \d+ events"))).to_be_visible()
    page.locator("button[title='Stop']").click()
    expect(page.get_by_text(re.compile(r"^replay \S+ cancelled: \d+ handled, 0 failed"))).to_be_visible()
    page.locator("button[title='Resume']").click()
    expect(page.get_by_text(re.compile(r"^replay \S+ done: \d+ handled, 0 failed"))).to_be_visible()
    expect(page.get_by_text(re.compile("Applied: plan replay-")).first).to_be_visible()
    page.get_by_role("button", name="Verify: run the cells below").click()
    expect(page.get_by_role("cell", name="done", exact=True)).to_be_visible()
    expect(page.locator(ERROR)).to_have_count(0)
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        expect(page.locator("body")).to_have_attribute("data-jp-theme-light", str(scheme == "light").lower())
        assert grave(page, ".jp-OutputArea-output, .jp-RenderedMarkdown") == []


def set_the_form(page: Page) -> None:
    """Enter what is wrong and be told so at the fields, mend it, and run the cells below."""
    tenants, rate = page.get_by_label("tenants", exact=True), page.get_by_label("rate", exact=True)
    for name in ("bluebird", "acne"):
        tenants.fill(name)
        tenants.press("Enter")
        expect(page.locator(".jupyter-widget-tag", has_text=name)).to_be_visible()
        expect(tenants).to_have_value("")  # the kernel has taken it, and empties the field
    rate.fill("fast")
    rate.press("Enter")
    run = page.locator(".jupyter-button[title='Run']")
    expect(page.get_by_role("alert")).to_have_text(
        ["there is no tenant 'acne': did you mean acme?", "'fast' is not a number"]
    )
    expect(run).to_be_disabled()
    page.locator(".jupyter-widget-tag", has_text="acne").locator("i").click()
    rate.fill("4")
    rate.press("Enter")
    expect(page.get_by_role("alert")).to_have_count(0)
    expect(page.get_by_text("Set here: tenants = bluebird; rate = 4.0.")).to_be_visible()
    expect(page.get_by_text("The results below are from before this change: press Run.")).to_be_visible()
    run.click()


def test_what_the_form_set_is_kept_when_all_cells_are_run_again(page: Page, lab: Lab) -> None:
    lab.open(page, "event_health")
    run_all(page)
    age = page.get_by_label("max_age", exact=True)
    age.fill("900000")
    age.press("Enter")
    expect(page.get_by_text("Set here: max_age = 900000.")).to_be_visible()
    run_all(page)
    expect(page.get_by_text("press Run")).to_have_count(0)  # of the form that was made anew
    expect(age).to_have_value("900000")
    expect(page.get_by_text("Set here: max_age = 900000.")).to_be_visible()
    page.locator(".jupyter-button[title='Reset']").click()
    expect(age).to_have_value("300")
    expect(page.locator(ERROR)).to_have_count(0)
    expect(page.get_by_text("The kernel was restarted")).to_have_count(0)
    for path in lab.connection_files():
        os.utime(path, (0, 0))  # as of a kernel that was started long ago
    page.get_by_role("menuitem", name="Kernel", exact=True).click()
    page.get_by_role("menuitem", name="Restart Kernel and Run All Cells…", exact=True).click()
    page.get_by_role("button", name="Confirm Kernel Restart").click()
    expect(page.get_by_text("The kernel was restarted: what was set here before that is forgotten.")).to_be_visible()


def test_the_explorer_groups_filters_charts_and_saves_rows_by_the_viewers_own_controls(page: Page, lab: Lab) -> None:
    page.emulate_media(color_scheme="dark")
    lab.open(page, "explore_tenants")
    run_all(page)
    expect(page.get_by_text("5 tenants on")).to_be_visible()
    expect(page.locator(ERROR)).to_have_count(0)
    tenant, table = page.locator(".widget-select select").first, page.locator(".widget-select select").nth(1)
    page.get_by_placeholder("search tenants").fill("blueb")
    expect(tenant.locator("option")).to_have_text(["bluebird – Bluebird"])
    table.select_option("catalog_products")
    expect(page.get_by_text("6 rows of bluebird", exact=True)).to_be_visible()
    page.get_by_placeholder("search tenants").fill("all")
    expect(page.get_by_text("24 rows of 4 tenants")).to_be_visible()
    viewer = page.locator("perspective-viewer")
    expect(viewer.get_by_text("sku", exact=True).first).to_be_visible()
    expect(viewer).to_have_attribute("theme", "Pro Dark")
    for role, column in {"group_by": "tenant", "filter": "category", "sort": "price"}.items():
        entry = viewer.locator(f"#{role} .column-empty-input")
        entry.fill(column)
        expect(page.locator("perspective-dropdown").get_by_text(column, exact=True)).to_be_visible()
        entry.press("Enter")
    viewer.locator("#filter input.string-filter").fill("Fittings")
    viewer.locator("#filter input.string-filter").press("Enter")
    expect(viewer.get_by_role("rowheader", name="bluebird")).to_be_visible()
    viewer.locator(".plugin-select-item").first.click()
    viewer.locator(".plugin-select-item[data-plugin='Y Bar']").click()
    expect(viewer.locator("canvas").first).to_be_visible()
    viewer.locator("#export").click()
    with page.expect_download() as saved:
        page.locator("perspective-export-menu").get_by_text("all tenants, catalog_products.csv").click()
    rows = [line.split(",") for line in saved.value.path().read_text().splitlines()]
    assert rows[0] == ['"tenant"', '"price"']
    assert {row[0] for row in rows[1:]} == {'"acme"', '"bluebird"', '"cobalt"', '"elm_street"'}
    assert [float(row[1]) for row in rows[1:]] == sorted(float(row[1]) for row in rows[1:])
    assert grave(page, ".jp-OutputArea-output, .jp-RenderedMarkdown") == []
    query = page.locator(".erpkit-query").inner_text()
    assert query == "%%tenants --limit 1000\nSELECT * FROM catalog_products"
    page.locator(".jp-Notebook .jp-CodeCell").last.locator(".jp-InputPrompt").click()
    page.keyboard.press("Escape")
    page.keyboard.press("b")
    page.keyboard.press("Enter")
    page.keyboard.insert_text(query)
    page.keyboard.press("Control+Enter")
    expect(outputs(page, -1).get_by_text("1–24 of 24")).to_be_visible()


PLAIN = """
import sys
sys.modules["perspective"] = None
import erpkit
from erpkit import ui
ui.explore(erpkit.open(), "acme", "catalog_products")"""


def test_without_the_extra_the_explorer_has_a_sortable_table_and_refuses_a_query_that_writes(
    page: Page, lab: Lab
) -> None:
    write_cells(lab, "plain", PLAIN)
    lab.open(page, "plain")
    run_all(page)
    lines = page.locator(".dt-container tbody tr")
    expect(lines).to_have_count(6)
    expect(page.get_by_text("Install erpkit[explore] and restart JupyterLab")).to_be_visible()
    for _ in range(2):
        page.get_by_role("button", name="sku: Activate to").click()
    expect(page.locator("th[aria-sort=descending]")).to_have_text("sku")
    page.get_by_role("button", name="a query").click()
    query = page.locator(".widget-textarea textarea")
    alert = page.locator(".widget-html").get_by_role("alert")
    query.fill("DELETE FROM sales_orders")
    page.get_by_role("button", name="Run the query").click()
    expect(alert).to_contain_text("only a query that reads")
    expect(lines).to_have_count(0)
    query.fill("SELECT sku FROM catalog_products UNION ALL SELECT sku FROM catalog_products")
    page.get_by_role("button", name="Run the query").click()
    expect(lines).to_have_count(12)
    expect(alert).to_have_count(0)


MATH = """
import erpkit, pandas
from IPython.display import Markdown, display
from erpkit import Summary, ui
text = "AS $function$ x_1 $function$ and $$y$$"
erp = erpkit.open()
table = ui.Table.of_frame(pandas.DataFrame({"$a$": [text]}))
display(Summary(text, {text: text}, [text]), table, erp.query(f"SELECT '{text}' AS b"), ui.banner(erp, None), erp)
display(pandas.DataFrame({"a": [text]}, index=["$z$"]), Markdown("a formula: $x^2$"))"""


def test_cells_of_sql_show_rows_and_one_that_writes_one_clear_line(page: Page, lab: Lab, planted: Planted) -> None:
    write_cells(
        lab,
        "cells",
        "%load_ext erpkit",
        "%%tenants\nSELECT count(*) AS n FROM sales_orders",
        MATH,
        "%%tenants\nDELETE FROM sales_orders",
    )
    lab.open(page, "cells")
    run_all(page)
    expect(outputs(page, 1).get_by_role("row").filter(has_text="acme")).to_be_visible()
    expect(outputs(page, 1).first).to_contain_text(f"{planted.suspended}: suspended")
    outputs(page, 1).get_by_role("button", name="tenant: Activate to sort").click()
    expect(outputs(page, 1).locator("th[aria-sort=ascending]")).to_have_text("tenant")
    refusal = "UsageError: only a query that reads can be run here: SELECT, WITH, VALUES, TABLE, EXPLAIN or SHOW"
    expect(outputs(page, 3)).to_have_count(1)
    expect(outputs(page, 3)).to_have_text(refusal)
    expect(outputs(page, 2).get_by_text("a formula:").locator("mjx-container")).to_be_visible()
    expect(page.locator("mjx-container")).to_have_count(1)  # what data and SQL hold is none


def test_a_long_cell_is_stopped_by_the_button_and_the_next_one_works(
    page: Page, lab: Lab, shared_database: Database
) -> None:
    write_cells(
        lab,
        "long",
        "%load_ext erpkit",
        "%%tenants\nSELECT count(*) FROM generate_series(1, 100000) a, generate_series(1, 100000) b",
        "%%tenant acme\nSELECT 40 + 2 AS n",
        kernel="erpkit",  # the warm one
    )
    lab.open(page, "long")
    run_all(page)
    expect(page.get_by_text("Python 3 (erpkit, warm) | Busy")).to_be_visible()
    assert sleepers(shared_database, at_least=1) > 0
    page.get_by_title("Interrupt the kernel").first.click()
    expect(outputs(page, 1)).to_have_text("DatabaseError: interrupted: the query was cancelled on the server")
    assert sleepers(shared_database, at_most=0) == 0
    page.locator(".jp-Notebook .jp-CodeCell").nth(2).locator(".cm-content").click()
    page.keyboard.press("Control+Enter")
    expect(outputs(page, 2).get_by_role("cell", name="42")).to_be_visible()


SLEEPING = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND state = 'active' AND query LIKE '%generate_series%'"""


def sleepers(database: Database, at_least: int = 0, at_most: int = 100) -> int:
    """Return how many statements sleep in the server, once there are so many or so few."""
    deadline = time.monotonic() + _PATIENCE / 1000
    with database.connection() as connection:
        while True:
            ((found,),) = connection.execute(SLEEPING).fetchall()
            if at_least <= found <= at_most or time.monotonic() > deadline:
                return int(found)
            time.sleep(0.05)


def test_the_module_explorer_answers_what_depends_on_a_module_and_what_if_an_edge_were_cut(
    page: Page, lab: Lab
) -> None:
    lab.open(page, "check_modules")
    run_all(page)
    expect(page.get_by_text("The module graph is sound")).to_be_visible()
    expect(page.locator(ERROR)).to_have_count(0)
    page.get_by_label("Depends on", exact=True).select_option("inventory")
    expect(page.get_by_text("1 module depends on inventory: billing")).to_be_visible()
    expect(page.locator(".widget-html-content div[role=img]")).to_have_attribute("aria-label", re.compile("load order"))
    page.get_by_label("Without", exact=True).select_option("sales->catalog")
    expect(page.get_by_text("without sales -> catalog: 4 places to change")).to_be_visible()


def test_a_runbook_rehearses_loudly_and_is_applied_in_earnest_by_its_buttons(
    page: Page, lab: Lab, planted: Planted
) -> None:
    lab.open(page, "runbooks/tenant_behind")
    run_all(page)
    expect(page.get_by_text("REHEARSAL on a scratch copy of the sample ERP.")).to_be_visible()
    expect(page.get_by_text("proved: nothing is pending")).to_be_visible()
    page.get_by_label("rehearse", exact=True).uncheck()
    expect(page.get_by_text("is of the former run: rehearse was changed since")).to_be_visible()
    page.get_by_label("tenant", exact=True).select_option(planted.behind)
    expect(page.get_by_text(f"Set here: rehearse = False; tenant = {planted.behind}.")).to_be_visible()
    page.locator(".jupyter-button[title='Run']").click()
    expect(page.get_by_text(re.compile("^IN EARNEST on "))).to_be_visible()
    plan = page.get_by_text(re.compile(r"^migrate-\w+: .* on .*"))
    expect(plan).to_be_visible()
    expect(page.get_by_text(f"{planted.behind}: 1 pending")).to_be_visible()
    page.get_by_label("Plan's id").fill(plan.inner_text().partition(":")[0])
    page.locator("button[title='Apply']").click()
    page.get_by_role("button", name="Verify: run the cells below").click()
    expect(page.get_by_text(f"{planted.behind}: 0 pending, 0 differences from _template")).to_be_visible()
    expect(page.locator(ERROR)).to_have_count(0)
