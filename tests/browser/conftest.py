"""A JupyterLab server on the sample ERP, and a page of Debian's Chromium that looks at it."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from erpkit.database import Database
from erpkit.modules import Registry
from erpkit.sample.demo import Planted
from tests.conftest import plant_copy
from tests.kernels.conftest import stop_all

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

_CHROMIUM = shutil.which("chromium")
_START = 60.0  # seconds for JupyterLab to come up
_PATIENCE = 40_000  # milliseconds for a cell's output to appear on a busy machine
_LOCAL = ("http://127.0.0.1", "data:", "blob:", "file:")
_SETTINGS = {
    "notebook-extension/tracker": {"windowingMode": "none"},  # cells that are out of sight stay in the page
    "apputils-extension/themes": {"adaptive-theme": True},  # dark where the browser asks for it
    "docmanager-extension/plugin": {"autosave": False},
}


@dataclass(frozen=True)
class Lab:
    """A running JupyterLab: its address, its token and the folder of its notebooks."""

    url: str
    token: str
    folder: Path
    process: subprocess.Popen[bytes]

    def open(self, page: Page, notebook: str) -> None:
        """Open a notebook in a fresh workspace and wait until its cells are there."""
        page.goto(f"{self.url}lab/tree/{notebook}.ipynb?token={self.token}&reset")
        page.locator(".jp-Notebook .jp-Cell").first.wait_for()

    def connection_files(self) -> list[Path]:
        """Return the connection files of its kernels."""
        return list((self.folder.parent / "JUPYTER_RUNTIME_DIR").glob("kernel-*.json"))

    def stop(self) -> None:
        """Ask the server to end its kernels and itself."""
        headers = {"Authorization": f"token {self.token}"}
        with urllib.request.urlopen(
            urllib.request.Request(f"{self.url}api/shutdown", method="POST", headers=headers)
        ) as answer:
            answer.read()


@pytest.fixture(scope="module")
def planted(shared_database: Database, registry: Registry) -> Planted:
    return plant_copy(shared_database, registry, 5)


@pytest.fixture(scope="module")
def lab(planted: Planted, shared_database: Database, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """JupyterLab as `erpkit lab` starts it, with settings and state of its own."""
    yield from start_lab(shared_database.conninfo, tmp_path_factory.mktemp("lab"), _SETTINGS)


def start_lab(conninfo: str, home: Path, settings: dict[str, Any]) -> Iterator[Lab]:
    """Start JupyterLab on a database, with warm processes of its own for the kernel `erpkit`; end them afterwards."""
    runtime = tempfile.mkdtemp(prefix="ek-", dir="/tmp")  # a socket's path must be short
    environ = {name: value for name, value in os.environ.items() if name != "ERPKIT_WARM"} | {
        "XDG_RUNTIME_DIR": runtime,
        "ERPKIT_DATABASE": conninfo,
        "ERPKIT_MODULES": "erpkit.sample",
        "JUPYTER_TOKEN": "only-for-tests",
        **{name: str(home / name) for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR")},
        **{name: str(home / name) for name in ("JUPYTERLAB_SETTINGS_DIR", "JUPYTERLAB_WORKSPACES_DIR", "IPYTHONDIR")},
    }
    for plugin, values in settings.items():
        path = home / "JUPYTERLAB_SETTINGS_DIR" / "@jupyterlab" / f"{plugin}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-c", "from erpkit.cli import main; main()", "lab", "--folder", str(home / "notebooks")]
    options = ["--no-browser", f"--port={port}", "--ip=127.0.0.1"]
    with (home / "log").open("w") as log:
        process = subprocess.Popen(
            [*command, *options], env=environ, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        lab = Lab(_url(process, home), environ["JUPYTER_TOKEN"], home / "notebooks", process)
        yield lab
        if process.poll() is None:
            lab.stop()
        process.wait(60)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, 9)
            process.wait()
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("XDG_RUNTIME_DIR", runtime)
            patch.delenv("ERPKIT_WARM", raising=False)
            stop_all()
        shutil.rmtree(runtime, ignore_errors=True)


def grave(page: Page, within: str = "body") -> list[tuple[str, list[str]]]:
    """Return the serious faults that axe-core finds on a page, but for those in Perspective."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="pip install axe-playwright-python").Axe()
    found = axe.run(page, context={"include": [[within]], "exclude": [["perspective-viewer"]]}).response
    assert "color-contrast" in {rule["id"] for rule in found["passes"] + found["violations"]}  # it did look
    wrong = [rule for rule in found["violations"] if rule["impact"] in ("serious", "critical")]
    return [(rule["id"], [node["html"][:200] for node in rule["nodes"]]) for rule in wrong]


def _url(process: subprocess.Popen[bytes], home: Path) -> str:
    """Wait until the server answers; it writes down where it listens."""
    deadline = time.monotonic() + _START
    while time.monotonic() < deadline and process.poll() is None:
        for path in (home / "JUPYTER_RUNTIME_DIR").glob("jpserver-*.json"):
            try:
                url = str(json.loads(path.read_text())["url"])
                with urllib.request.urlopen(f"{url}api") as answer:
                    answer.read()
            except (OSError, ValueError):
                continue
            return url
        time.sleep(0.1)
    raise AssertionError(f"JupyterLab did not start: {(home / 'log').read_text()[-2000:]}")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's Chromium; the tests are skipped where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="there is no playwright: pip install playwright")
    if _CHROMIUM is None:
        pytest.skip("there is no chromium: apt-get install chromium")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=_CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A window of its own, with nothing remembered; it asks nothing of any other machine."""
    context = browser.new_context(viewport={"width": 1400, "height": 1000})
    context.set_default_timeout(_PATIENCE)
    asked: list[str] = []
    context.on("request", lambda request: asked.append(request.url))
    context.on("requestfailed", lambda request: asked.remove(request.url) if request.failure == "csp" else None)
    yield context.new_page()
    context.close()
    assert [url for url in asked if not url.startswith(_LOCAL)] == []
