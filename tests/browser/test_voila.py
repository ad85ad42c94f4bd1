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
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from erpkit.database import Database
from erpkit.sample.demo import Planted
from erpkit.tenants import list_tenants
from tests.browser.conftest import _PATIENCE

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


@pytest.fixture(scope="module")
def pages(planted: Planted, shared_database: Database, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where `erpkit lab --pages` serves the notebooks."""
    home = tmp_path_factory.mktemp("voila")
    names = ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")
    environ = os.environ | {name: str(home / name) for name in names}
    environ |= {"ERPKIT_DATABASE": shared_database.conninfo, "ERPKIT_MODULES": "erpkit.sample"}
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-c",
        "from erpkit.cli import main; main()",
        "lab",
        "--pages",
        "--folder",
        str(home / "nb"),
    ]
    options = ["--no-browser", f"--port={port}", f"--Voila.token={TOKEN}"]
    with (home / "log").open("w") as log:
        process = subprocess.Popen([*command, *options], env=environ, stdout=log, stderr=log, start_new_session=True)
    try:
        _wait(process, f"http://127.0.0.1:{port}/", home / "log")
        yield f"http://127.0.0.1:{port}/voila/render/"
        process.send_signal(signal.SIGTERM)
        process.wait(START)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _wait(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + START
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{url}?token={TOKEN}") as answer:
                answer.read()
        except OSError:
            time.sleep(0.1)
            continue
        return
    raise AssertionError(f"Voilà did not start: {log.read_text()[-2000:]}")


def _run(page: Page) -> None:
    """Follow the Run link, which loads the page anew with what is set."""
    page.get_by_role("button", name="Run", exact=True).click()


def test_a_page_has_the_form_and_the_results_and_no_code_and_follows_what_is_set(page: Page, pages: str) -> None:
    page.goto(f"{pages}inspect_tenants.ipynb?token={TOKEN}")
    expect(page.get_by_text("5 tenants inspected on")).to_be_visible()
    expect(page.get_by_text("All as the notebook has it.")).to_be_visible()
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
    _run(page)
    expect(page.get_by_text("1 tenant inspected on")).to_be_visible()
    expect(page.get_by_text("Set here: tenants = bluebird.")).to_be_visible()
    expect(page.locator(".jupyter-widget-tag", has_text="bluebird")).to_be_visible()


def test_a_plan_is_applied_by_its_buttons_and_not_by_an_address(
    page: Page, pages: str, shared_database: Database
) -> None:
    page.goto(f"{pages}provision_tenant.ipynb?token={TOKEN}&slug=acme_two&dry_run=False&confirm=provision-0000000000")
    plan = page.get_by_text(re.compile(r"^[a-z]+-[0-9a-f]{10}: .*acme_two"))
    expect(plan).to_be_visible()
    assert "acme_two" not in _slugs(shared_database)
    page.get_by_label("Plan's id").fill(plan.inner_text().partition(":")[0])
    page.locator("button[title='Apply']").click()
    expect(page.get_by_text(re.compile("acme_two was created")).first).to_be_visible()
    assert "acme_two" in _slugs(shared_database)


def test_the_first_page_lists_the_notebooks_and_leads_to_them(page: Page, pages: str) -> None:
    page.goto(f"{pages.removesuffix('voila/render/')}?token={TOKEN}")
    with page.expect_popup() as opened:
        page.get_by_role("link", name="welcome.ipynb").click()
    welcome = opened.value
    expect(welcome.get_by_role("heading", name="Welcome to erpkit")).to_be_visible()
    welcome.get_by_role("link", name="run_history").click()
    expect(welcome.get_by_role("heading", name="Run history")).to_be_visible()


def test_a_page_wants_the_token(page: Page, pages: str) -> None:
    page.goto(f"{pages}inspect_tenants.ipynb")
    expect(page.get_by_text("Inspect tenants")).to_have_count(0)
    assert "/login" in page.url


def _slugs(database: Database) -> set[str]:
    with database.connection() as connection:
        return {tenant.slug for tenant in list_tenants(connection)}
