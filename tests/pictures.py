"""Makes the README's pictures anew: `python -m tests.pictures [NAME…]`, with Debian's Chromium, on the demo's sample ERP.

`python -m tests.pictures --reports FOLDER [NOTEBOOK…]` makes pictures of the reports and their index to look at: at three widths, light
and dark, of a few, some and many tenants. Without names it makes those of every other notebook and runbook, too, of a fleet, of runs
that fail, and of databases in which there is little to see; the names of `_OTHERS` make them alone. They are no part of the repository.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import nbformat
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from erpkit.config import Settings
from erpkit.database import Database
from erpkit.embedded import EmbeddedServer
from erpkit.runs import list_notebooks
from erpkit.tenants import get_tenant
from tests.browser.conftest import _SETTINGS, Lab, start_lab
from tests.situations import analyst_login, empty_database, foreign_database

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


def picture_reports(folder: Path, names: Sequence[str]) -> None:
    """Write a picture of each notebook's report, and of the index, at each width, light and dark, for each number of tenants."""
    notebooks = [name for name in names if name not in _OTHERS] or (() if names else _REPORTS)
    for tenants in _FLEETS if notebooks else ():
        with _demo(tenants) as home:
            for notebook in notebooks:
                _run_headless(notebook, home / "dry")
            _picture(home / "dry", folder / str(tenants), _WIDTHS)
    others = [name for name in names if name in _OTHERS] or (() if names else _OTHERS)
    with _demo() as home:
        for name in others:
            _OTHERS[name](home / name)
            _picture(home / name, folder / name, _WIDTHS[:2])


def _run_headless(notebook: str, output: Path, *options: str, **environ: str) -> None:
    command = [*_ERPKIT, "run", notebook, *options, "--output", str(output)]
    subprocess.run(command, stdout=subprocess.DEVNULL, env=os.environ | environ)


def _run_runbooks(output: Path) -> None:
    for name in list_notebooks():
        if name.startswith("runbooks/"):
            _run_headless(name, output)


def _run_the_rest(output: Path) -> None:
    """Run the notebooks of which most people see less."""
    _run_headless("welcome", output)
    _run_headless("explore_tenants", output)
    _run_headless("provision_tenant", output, "-p", "slug", "newcomer")
    _run_headless("offboard_tenant", output, "-p", "tenant", "kestrel")
    _run_headless("rebuild_projection", output, "-p", "tenant", "acme", "-p", "handler", "billing.on_invoice_created")
    _run_headless(
        "check_modules",
        output,
        "-p",
        "cut",
        "sales->catalog",
        "-p",
        "impact",
        "catalog",
        "-p",
        "layers",
        "catalog > sales",
    )


def _run_failing(output: Path) -> None:
    """Run what a cell refuses, what fails in the middle after it found something, and what no server answers."""
    _run_headless("offboard_tenant", output, "-p", "tenant", "acme")
    _run_headless(
        "replay_events", output, "-p", "topic", "billing.*", "-p", "dry_run", "false", "-p", "confirm", "replay-0"
    )
    _run_headless(_nightly(output.parent), output, "-p", "tenants", "cobalt")
    _run_headless("inspect_tenants", output, ERPKIT_DATABASE="postgresql://127.0.0.1:1/nowhere")


def _run_fleet(output: Path) -> None:
    """Run a fleet whose runs find something, and one of which one fails."""
    _run_headless("inspect_tenants", output, "--each-tenant")
    _run_headless(_nightly(output.parent), output, "--each-tenant")


def _nightly(folder: Path) -> str:
    """Write a notebook that inspects a tenant, and cannot close the month of one."""
    cells = [
        nbformat.v4.new_markdown_cell("# Close the month\n\nEach night."),
        nbformat.v4.new_code_cell("tenants: list[str] = []  # whose month", metadata={"tags": ["parameters"]}),
        nbformat.v4.new_markdown_cell("## Tenants"),
        nbformat.v4.new_code_cell("import erpkit\nerp = erpkit.open()\nfound = erp.tenants.inspect(tenants)\nfound"),
        nbformat.v4.new_markdown_cell("## Books"),
        nbformat.v4.new_code_cell("assert tenants != ['cobalt'], 'cobalt has no exchange rate for CHF, in which it was paid'"),
    ]  # fmt: skip
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    path = folder / "close_the_month_of_each_tenant_and_tell_the_bookkeepers.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), path)
    return str(path)


def _run_empty(output: Path) -> None:
    with empty_database(EmbeddedServer(Settings.from_env().home), "nothing_is_here") as environ:
        _run_everywhere(output, environ)


def _run_foreign(output: Path) -> None:
    with foreign_database(EmbeddedServer(Settings.from_env().home), "another_erp") as environ:
        _run_everywhere(output, {"ERPKIT_MODULES": "", **environ})


def _run_unread(output: Path) -> None:
    """Run as a login that may not read one of the tenants."""
    with Database.open(Settings.from_env()) as database:
        with database.connection() as connection:
            tenant = get_tenant(connection, "acme")
        with analyst_login(database, "reads_all_but_one", tenant) as environ:
            _run_everywhere(output, environ)


def _run_everywhere(output: Path, environ: Mapping[str, str]) -> None:
    for notebook in (
        "inspect_tenants",
        "event_health",
        "run_migrations",
        "replay_events",
        "explore_tenants",
        "check_modules",
    ):
        _run_headless(notebook, output, **environ)


def _run_many(output: Path) -> None:
    """Run so often that the index is long, and shows a trend."""
    for number in range(8):
        options = ("-p", "tenants", ["cobalt", "acme"][number % 2]) if number % 3 else ()
        _run_headless("inspect_tenants", output, *options)
        _run_headless("run_migrations", output, *options)
    _run_failing(output)


_OTHERS: dict[str, Callable[[Path], None]] = {
    "runbooks": _run_runbooks, "rest": _run_the_rest, "failing": _run_failing, "fleet": _run_fleet, "empty": _run_empty,
    "foreign": _run_foreign, "unread": _run_unread, "many": _run_many,
}  # fmt: skip


def _picture(reports: Path, folder: Path, widths: Sequence[int]) -> None:
    """Write pictures of all pages of a folder; of many reports of a notebook those of the first one."""
    pages = {_name(page): page for page in sorted(reports.glob("*.html"), reverse=True)}
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for page in pages.values():
            for width in widths:
                _by_day_and_night(browser, page, folder, width)
        browser.close()


def _name(page: Path) -> str:
    """Return the notebook whose report a page is, without tenant and time; a fleet's page is told from it."""
    return re.sub(r"^((?:fleet-)?[^-]+)-.*", r"\1", page.stem)


def _by_day_and_night(browser: Browser, report: Path, folder: Path, width: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    schemes: tuple[Literal["light", "dark"], ...] = ("light", "dark")
    for scheme in schemes:
        page = browser.new_page(viewport={"width": width, "height": 1000}, color_scheme=scheme)
        page.goto(report.as_uri())
        wide, high = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.scrollHeight]")
        clip = {"x": 0, "y": 0, "width": width, "height": min(high, _HIGHEST)}
        path = folder / f"{_name(report)}-{width}-{scheme}.png"
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
        for _ in range(3):  # many tenants are written for longer than it waits
            if subprocess.run([*_ERPKIT, "db", "stop"], stdout=subprocess.DEVNULL).returncode == 0:
                break
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
