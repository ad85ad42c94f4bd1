"""The notebooks as pages without code, served by Voilà: form, results and buttons in a real browser."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlencode, urlsplit

import psutil
import pytest

import erpkit
from erpkit.database import Database
from erpkit.sample.demo import Planted
from erpkit.tenants import list_tenants
from tests.browser.conftest import _PATIENCE, grave

pytest.importorskip("playwright.sync_api", reason="there is no playwright: pip install playwright")
pytest.importorskip("voila", reason="there is no voila: pip install 'erpkit[voila]'")


from playwright.sync_api import expect

if TYPE_CHECKING:
    from playwright.sync_api import Page

START = 60.0  # seconds for Voilà to come up
TOKEN = "only-for-tests"


@pytest.fixture(autouse=True, scope="module")
def _patience() -> None:
    expect.set_options(timeout=_PATIENCE)


@dataclass(frozen=True)
class Pages:
    """A running Voilà: where it is, its process and the folder of its notebooks."""

    url: str
    process: subprocess.Popen[bytes]
    folder: Path

    def open(self, page: Page, notebook: str, **values: str) -> None:
        """Open the page of a notebook with values in its address."""
        page.goto(f"{self.url}voila/render/{notebook}.ipynb?{urlencode({'token': TOKEN} | values)}")

    def kernels(self) -> list[psutil.Process]:
        """Return the processes of its kernels."""
        found = []
        for one in psutil.Process(self.process.pid).children():
            with suppress(psutil.NoSuchProcess):  # it has just ended
                found += [one] if "ipykernel" in " ".join(one.cmdline()) else []
        return found


@pytest.fixture(scope="module")
def pages(planted: Planted, shared_database: Database, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pages]:
    """What `erpkit lab --pages` serves; when it is ended, its kernels end with it."""
    home = tmp_path_factory.mktemp("voila")
    names = ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")
    environ = os.environ | {name: str(home / name) for name in names}
    environ |= {"ERPKIT_DATABASE": shared_database.conninfo, "ERPKIT_MODULES": "erpkit.sample"}
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-c", "from erpkit.cli import main; main()", "lab", "--pages", "--folder", str(home)]
    options = ["--no-browser", f"--port={port}", f"--Voila.token={TOKEN}"]
    with (home / "log").open("w") as log:
        process = subprocess.Popen([*command, *options], env=environ, stdout=log, stderr=log, start_new_session=True)
    try:
        _wait(process, f"http://127.0.0.1:{port}/", home / "log")
        pages = Pages(f"http://127.0.0.1:{port}/", process, home)
        yield pages
        kernels = pages.kernels()
        process.send_signal(signal.SIGTERM)
        process.wait(START)
        assert [one for one in kernels if one.is_running() and one.status() != psutil.STATUS_ZOMBIE] == []
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _wait(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + START
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{url}voila/tree/?token={TOKEN}") as answer:
                answer.read()
        except OSError:
            time.sleep(0.1)
            continue
        return
    raise AssertionError(f"Voilà did not start: {log.read_text()[-2000:]}")


def _run(page: Page) -> None:
    """Follow the Run link, which loads the page anew with what is set."""
    page.get_by_role("button", name="Run", exact=True).click()


def test_a_page_has_the_form_and_the_results_and_no_code_and_follows_what_is_set(page: Page, pages: Pages) -> None:
    pages.open(page, "inspect_tenants")
    expect(page.get_by_text("5 tenants inspected on")).to_be_visible()
    expect(page.get_by_text("All values are the notebook's own.")).to_be_visible()
    assert "ui.form" not in page.locator("body").inner_text()
    expect(page.locator(".jp-InputArea-editor, .jp-CodeMirrorEditor")).to_have_count(0)
    tenants = page.get_by_label("tenants", exact=True)
    for name in ("bluebird", "acne"):
        tenants.fill(name)
        tenants.press("Enter")
        expect(tenants).to_have_value("")
    expect(page.get_by_role("alert")).to_have_text("there is no tenant 'acne': did you mean acme?")
    expect(page.get_by_role("button", name="Run", exact=True)).to_have_count(0)
    page.locator(".jupyter-widget-tag", has_text="acne").locator("i").click()
    expect(page.get_by_role("button", name="Run", exact=True)).to_be_visible()
    (left,) = pages.kernels()
    _run(page)
    expect(page.get_by_text("1 tenant inspected on")).to_be_visible()
    expect(page.get_by_text("Set here: tenants = bluebird.")).to_be_visible()
    expect(page.locator(".jupyter-widget-tag", has_text="bluebird")).to_be_visible()
    left.wait(START)  # a page that is left ends its kernel
    assert grave(page) == []
    page.emulate_media(color_scheme="dark")
    expect(page.locator("body")).to_have_attribute("data-jp-theme-light", "false")
    page.set_viewport_size({"width": 390, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") == 390


def test_migrations_are_confirmed_stopped_and_resumed_on_a_page(
    page: Page, pages: Pages, planted: Planted, shared_database: Database
) -> None:
    """A lock on the canary's table holds the run where Stop is pressed."""
    with erpkit.open(shared_database.conninfo, modules="erpkit.sample") as erp:
        down = erp.migrations.down(module="billing", to=3)
        down.apply(down.id)
        pages.open(page, "run_migrations", canaries='["acme"]', workers="1", lock_timeout="60")
        plan, alert = page.get_by_text(re.compile(r"^migrate-\w+: .* on .*")), page.get_by_role("alert")
        confirm, apply = page.get_by_label("Plan's id"), page.locator("button[title='Apply']")
        expect(page.get_by_text("Set here: canaries = acme; workers = 1; lock_timeout = 60.0.")).to_be_visible()
        confirm.fill("migrate-0000000000")
        expect(alert).to_contain_text("is not the id of the present plan, migrate-")
        expect(apply).to_be_disabled()
        first = plan.inner_text().partition(":")[0]
        confirm.fill(first)
        with erp.database.connection() as connection, connection.transaction():
            connection.execute("LOCK TABLE tenant_acme.billing_invoices IN ACCESS EXCLUSIVE MODE")
            apply.click()
            expect(page.get_by_text("1 of 5 tenants – keep this page open")).to_be_visible()
            page.locator("button[title='Stop']").click()
            expect(page.get_by_text("stopping after the work in progress …")).to_be_visible()
        expect(page.get_by_text(re.compile("^2 migrations applied .* 3 tenants not started: stopped"))).to_be_visible()
        page.locator("button[title='Resume']").click()
        expect(page.get_by_text("3 migrations on 3 schemas").first).to_be_visible()
        expect(plan).not_to_contain_text(first)
        confirm.fill(plan.inner_text().partition(":")[0])
        apply.click()
        expect(page.get_by_text(re.compile("^3 migrations applied"))).to_be_visible()
        page.get_by_role("button", name="Verify: load this page anew").click()
        expect(page.get_by_text("There is nothing to do.").first).to_be_visible()
        expect(page.get_by_text("Set here: canaries = acme; workers = 1; lock_timeout = 60.0.")).to_be_visible()
        assert not erp.migrations.plan().record.size


def test_an_address_alone_applies_nothing_and_the_id_on_the_page_does(
    page: Page, pages: Pages, shared_database: Database
) -> None:
    pages.open(page, "provision_tenant", slug="acme_two", dry_run="False", confirm="provision-0000000000")
    plan = page.get_by_text(re.compile(r"^[a-z]+-[0-9a-f]{10}: .*acme_two"))
    expect(plan).to_be_visible()
    assert "acme_two" not in _slugs(shared_database)
    page.get_by_label("Plan's id").fill(plan.inner_text().partition(":")[0])
    page.locator("button[title='Apply']").click()
    expect(page.get_by_text(re.compile("acme_two was created")).first).to_be_visible()
    assert "acme_two" in _slugs(shared_database)


def test_a_runbook_rehearses_on_a_page_and_says_what_is_not_set_there(page: Page, pages: Pages) -> None:
    pages.open(page, "runbooks/drifted_tenant")
    expect(page.get_by_text("REHEARSAL on a scratch copy of the sample ERP.")).to_be_visible()
    expect(page.get_by_text("proved: only what would lose values is left")).to_be_visible()
    expect(page.get_by_text("Set in JupyterLab or by erpkit run, not on this page: accept.")).to_be_visible()
    expect(page.get_by_text("$function$").first).to_be_visible()  # SQL is no formula
    assert grave(page) == []


def test_the_explorer_works_on_a_page(page: Page, pages: Pages) -> None:
    pages.open(page, "explore_tenants")
    viewer = page.locator("perspective-viewer")
    expect(viewer.get_by_text("currency", exact=True).first).to_be_visible()
    page.get_by_placeholder("search tables").fill("catalog_products")
    expect(page.get_by_text("6 rows of acme", exact=True)).to_be_visible()
    group = viewer.locator("#group_by input").last
    group.fill("category")
    expect(page.locator("perspective-dropdown").get_by_text("category")).to_be_visible()
    group.press("Enter")
    expect(viewer.get_by_role("rowheader", name="TOTAL")).to_be_visible()
    page.get_by_role("button", name="a query").click()
    page.locator(".widget-textarea textarea").fill("DELETE FROM sales_orders")
    page.get_by_role("button", name="Run the query").click()
    expect(page.get_by_role("alert")).to_contain_text("only a query that reads")


def test_the_first_page_is_welcome_whose_links_lead_to_the_pages(page: Page, pages: Pages) -> None:
    page.goto(f"{pages.url}?token={TOKEN}")
    expect(page.get_by_role("heading", name="Welcome to erpkit")).to_be_visible()
    expect(page.get_by_role("cell", name="active, 1 suspended")).to_be_visible()
    links = [link.get_attribute("href") or "" for link in page.locator("#rendered_cells a").all()]
    names = {unquote(urlsplit(link).path).removeprefix("/voila/render/") for link in links if "ipynb" in link}
    assert len(names) > 15
    assert [name for name in names if not (pages.folder / name).is_file()] == []
    page.get_by_role("link", name="run_history").click()
    expect(page.get_by_role("heading", name="Run history")).to_be_visible()
    page.get_by_role("link", name="All pages").click()
    expect(page.get_by_role("link", name="welcome.ipynb")).to_be_visible()


def test_a_page_wants_the_token(page: Page, pages: Pages) -> None:
    page.goto(f"{pages.url}voila/render/inspect_tenants.ipynb")
    expect(page.get_by_text("Inspect tenants")).to_have_count(0)
    assert "/login" in page.url


def _slugs(database: Database) -> set[str]:
    with database.connection() as connection:
        return {tenant.slug for tenant in list_tenants(connection)}
