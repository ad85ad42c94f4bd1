"""What a notebook shows counts for the outcome of its run: every result with findings, whether as a summary or as itself."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from erpkit.database import Database
from erpkit.modules import Registry
from erpkit.runs import RunResult, open_notebook, run_notebook
from erpkit.sample.demo import Planted
from tests.conftest import plant_copy
from tests.tiny import write_notebook

pytestmark = pytest.mark.usefixtures("warm_runs")

OPEN = "import erpkit\nerp = erpkit.open()"


@pytest.fixture(scope="module")
def planted(shared_database: Database, registry: Registry) -> Iterator[Planted]:
    planted = plant_copy(shared_database, registry, 4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ERPKIT_DATABASE", shared_database.conninfo)
        patch.setenv("ERPKIT_MODULES", "erpkit.sample")
        yield planted


def _run(folder: Path, *cells: str) -> RunResult:
    return run_notebook(open_notebook(str(write_notebook(folder / "own.ipynb", OPEN, *cells))), {}, folder / "runs")


@pytest.mark.parametrize(
    ("last_line", "words"),
    [
        ("erp.query('SELECT * FROM nosuch')", "nosuch"),
        ("erp.tenants.drift()", "extra"),
        ("erp.events.dead_letters()", "dead letters"),
        ("erp.migrations", "lacks"),
        ("display(erp.tenants.inspect())", "behind on migrations"),
    ],
)
def test_a_result_with_findings_makes_the_run_end_with_3(
    last_line: str, words: str, planted: Planted, tmp_path: Path
) -> None:
    result = _run(tmp_path, last_line)
    assert (result.outcome, result.exit_code) == ("findings", 3), result.error
    assert any(words in finding for finding in result.findings)
    assert words in result.report.read_text()


def test_a_result_without_a_warning_ends_with_0(planted: Planted, tmp_path: Path) -> None:
    result = _run(tmp_path, "erp.query('SELECT 1 AS one')")  # that a tenant is suspended is no warning
    assert (result.outcome, result.exit_code) == ("ok", 0)
    assert result.summary is not None


def test_a_green_summary_hides_nothing_that_was_shown_before_or_after_it(planted: Planted, tmp_path: Path) -> None:
    green, red = (
        "erp.query('SELECT 1 AS one', tenants=['acme']).summary",
        "erp.query('SELECT * FROM nosuch', tenants=['acme'])",
    )
    for cells in ((green, red), (red, green)):
        result = _run(tmp_path, *cells)
        assert (result.outcome, result.exit_code) == ("findings", 3)
        assert result.summary is not None
        assert result.summary.facts["rows"] == 1  # it is still the summary of the run


def test_what_became_of_a_plan_replaces_what_the_plan_found(planted: Planted, tmp_path: Path) -> None:
    plan = f"plan = erp.tenants.repair({planted.drifted!r}, ['fails', 'loses'])\nplan"
    assert _run(tmp_path, plan).exit_code == 3
    assert _run(tmp_path, plan, "plan.apply(plan.id)").exit_code == 0


def test_a_report_tells_each_finding_once(planted: Planted, tmp_path: Path) -> None:
    result = _run(tmp_path, "erp.tenants.inspect().summary", "erp.tenants.inspect()")
    page = result.report.read_text()
    (suspended,) = (finding for finding in result.findings if finding.startswith(planted.suspended))
    assert page.count(suspended) == 1
    assert page.count("tenants inspected on") == 1
    assert "last event" in page  # the table of the second cell is still there
