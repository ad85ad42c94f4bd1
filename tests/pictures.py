"""Makes the README's pictures anew: `python -m tests.pictures [NAME…]`, with Debian's Chromium, on the demo's sample ERP."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from tests.browser.conftest import _SETTINGS, Lab, start_lab

FOLDER = Path(__file__).parent.parent / ".github"
_WIDTH, _MOST = 1200, 200_000  # pixels, bytes


def main(names: list[str]) -> None:
    """Make the pictures of these names, or all of them."""
    with _demo() as home, sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for name in ("inspect_tenants", "run_migrations", "check_modules"):
            if not names or name in names:
                _report(browser, home / "runs" / f"{name}.html", FOLDER / f"{name}.png")
        (home / "lab").mkdir()
        for lab in start_lab("", home / "lab", _SETTINGS):
            for name, draw in {"form": _form, "replay_events": _replay}.items():
                if not names or name in names:
                    _in_lab(browser, lab, draw, FOLDER / f"{name}.png")
        browser.close()


@contextmanager
def _demo() -> Iterator[Path]:
    """Run `erpkit demo` in a home of its own."""
    home = Path(tempfile.mkdtemp(prefix="erpkit-pictures-", dir="/tmp"))
    home.chmod(0o755)
    for name in [name for name in os.environ if name.startswith(("PG", "ERPKIT_"))]:
        del os.environ[name]
    os.environ["ERPKIT_HOME"] = str(home)
    erpkit = [sys.executable, "-c", "from erpkit.cli import main; main()"]
    try:
        subprocess.run([*erpkit, "demo", "--output", str(home / "runs")], check=True, stdout=subprocess.DEVNULL)
        yield home
    finally:
        subprocess.run([*erpkit, "db", "stop"], check=True, stdout=subprocess.DEVNULL)
        shutil.rmtree(home)


def _report(browser: Browser, report: Path, path: Path, height: int = 1000) -> None:
    page = browser.new_page(viewport={"width": _WIDTH, "height": height})
    page.goto(report.as_uri())
    _save(page, path)


def _in_lab(browser: Browser, lab: Lab, draw: Callable[[Page, Lab], None], path: Path) -> None:
    page = browser.new_page(viewport={"width": _WIDTH, "height": 860})
    draw(page, lab)
    _save(page, path)


def _form(page: Page, lab: Lab) -> None:
    """Show the form of run_migrations, with a tenant picked."""
    _run(page, lab, "run_migrations", "Dry run: plan migrate-")
    for name in ("tenants", "canaries"):
        page.get_by_label(name, exact=True).fill({"tenants": "harbour", "canaries": "acme"}[name])
        page.get_by_label(name, exact=True).press("Enter")
    page.locator(".jupyter-widget-tag", has_text="acme").wait_for()
    _scroll(page, page.locator(".jp-CodeCell").first.evaluate("cell => cell.offsetTop"))


def _replay(page: Page, lab: Lab) -> None:
    """Show the buttons of replay_events after the plan's id was typed."""
    _run(page, lab, "replay_events", "Dry run: plan replay-")
    plan = page.get_by_text(re.compile(r"^replay-\w+: .* on .*")).inner_text().partition(":")[0]
    page.get_by_label("Plan's id").fill(plan)
    page.locator("button[title='Apply']:enabled").click()
    page.get_by_text(re.compile(r"^replay \S+ done")).wait_for()
    page.get_by_role("button", name="Verify: run the cells below").click()
    page.get_by_text("Applied: plan replay-").wait_for()
    cell = page.locator(".jp-CodeCell", has=page.get_by_label("Plan's id"))
    _scroll(page, cell.evaluate("cell => cell.offsetTop"))


def _run(page: Page, lab: Lab, notebook: str, end: str) -> None:
    lab.open(page, notebook)
    page.get_by_text("Python 3 (ipykernel) | Idle").wait_for()
    page.keyboard.press("Control+b")  # hide the list of files
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    page.get_by_text(end).first.wait_for(timeout=120_000)


def _scroll(page: Page, top: int) -> None:
    page.locator(".jp-WindowedPanel-outer").evaluate("(panel, top) => panel.scrollTo(0, top - 10)", top)
    page.wait_for_timeout(500)  # tables and pictures settle


def _save(page: Page, path: Path) -> None:
    """Write a small file: few colours are enough for text and bars."""
    page.screenshot(path=path)
    page.close()
    Image.open(path).convert("RGB").quantize(200).save(path, optimize=True)
    size = path.stat().st_size
    print(f"{path}: {size:,} bytes{' – TOO LARGE' if size > _MOST else ''}")


if __name__ == "__main__":
    main(sys.argv[1:])
