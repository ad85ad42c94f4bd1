"""Makes the README's pictures anew: `python -m tests.pictures [NAME…]`, with Debian's Chromium, on the demo's sample ERP.

`python -m tests.pictures --reports FOLDER [NOTEBOOK…]` makes pictures of the reports and their index to look at: at three widths, light
and dark, of a few, some and many tenants. They are no part of the repository.
"""

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
from typing import Literal

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from tests.browser.conftest import _SETTINGS, Lab, start_lab

FOLDER = Path(__file__).parent.parent / ".github"
_ERPKIT = [sys.executable, "-c", "from erpkit.cli import main; main()"]
_WIDTH, _MOST = 1200, 200_000  # pixels, bytes
_WIDTHS, _FLEETS = (390, 1280, 1920), (4, 40, 400)  # pixels, tenants
_HIGHEST = 6000  # pixels of a report's picture
_REPORTS = (
    "inspect_tenants", "run_migrations", "replay_events", "check_modules", "event_health", "run_history",
)  # fmt: skip


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


def picture_reports(folder: Path, notebooks: list[str]) -> None:
    """Write a picture of each notebook's report, and of the index, at each width, light and dark, for each number of tenants."""
    for tenants in _FLEETS:
        with _demo(tenants) as home, sync_playwright() as driver:
            for notebook in notebooks or _REPORTS:
                subprocess.run([*_ERPKIT, "run", notebook, "--output", str(home / "dry")], stdout=subprocess.DEVNULL)
            browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
            for report in sorted((home / "dry").glob("*.html")):
                for width in _WIDTHS:
                    _by_day_and_night(browser, report, folder / str(tenants), width)
            browser.close()


def _by_day_and_night(browser: Browser, report: Path, folder: Path, width: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    schemes: tuple[Literal["light", "dark"], ...] = ("light", "dark")
    for scheme in schemes:
        page = browser.new_page(viewport={"width": width, "height": 1000}, color_scheme=scheme)
        page.goto(report.as_uri())
        wide, high = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.scrollHeight]")
        clip = {"x": 0, "y": 0, "width": width, "height": min(high, _HIGHEST)}
        path = folder / f"{report.stem.partition('-')[0]}-{width}-{scheme}.png"
        page.screenshot(path=path, full_page=True, clip=clip)  # type: ignore[arg-type]
        page.close()
        print(f"{path}: {high:,} high{' – SCROLLS SIDEWAYS' if wide > width else ''}")


@contextmanager
def _demo(tenants: int = 12) -> Iterator[Path]:
    """Run `erpkit demo` in a home of its own."""
    home = Path(tempfile.mkdtemp(prefix="erpkit-pictures-", dir="/tmp"))
    home.chmod(0o755)
    for name in [name for name in os.environ if name.startswith(("PG", "ERPKIT_"))]:
        del os.environ[name]
    os.environ["ERPKIT_HOME"] = str(home)
    os.environ["ERPKIT_MODULES"] = "erpkit.sample"
    demo = [*_ERPKIT, "demo", "--tenants", str(tenants), "--output", str(home / "runs")]
    try:
        subprocess.run(demo, check=True, stdout=subprocess.DEVNULL)
        yield home
    finally:
        subprocess.run([*_ERPKIT, "db", "stop"], check=True, stdout=subprocess.DEVNULL)
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
    page.get_by_text("Applied: plan replay-").first.wait_for()  # in the summary, too
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
    if sys.argv[1:2] == ["--reports"]:
        picture_reports(Path(sys.argv[2]), sys.argv[3:])
    else:
        main(sys.argv[1:])
