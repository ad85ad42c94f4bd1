"""The notebooks, run for real: what they record, and that they refuse what they should."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest

from erpkit.config import Settings
from erpkit.database import TEMPLATE, Database
from erpkit.errors import UsageError
from erpkit.events import Selection, plan_replay
from erpkit.migrations import Migration, plan_up, read_applied
from erpkit.modules import Registry
from erpkit.runs import RunResult, list_notebooks, open_notebook, read_summary, run_notebook
from erpkit.runs.alive import PREFIX
from erpkit.sample.demo import Planted
from erpkit.tenants import list_tenants
from tests.conftest import plant_copy


@pytest.fixture(scope="module")
def planted(shared_database: Database, registry: Registry) -> Planted:
    return plant_copy(shared_database, registry, 5)


@pytest.fixture(scope="module")
def inspected(
    planted: Planted, shared_database: Database, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunResult]:
    """A run over all tenants, to be looked at."""
    with pytest.MonkeyPatch.context() as patch:
        _point_kernels(shared_database, patch)
        yield _run("inspect_tenants", tmp_path_factory.mktemp("inspected"))


@pytest.fixture(autouse=True)
def environment(shared_database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernels find their database as a user's would."""
    _point_kernels(shared_database, monkeypatch)


def _point_kernels(database: Database, patch: pytest.MonkeyPatch) -> None:
    patch.setenv("ERPKIT_DATABASE", database.conninfo)
    patch.setenv("ERPKIT_MODULES", "erpkit.sample")


def _run(name: str, folder: Path, **parameters: Any) -> RunResult:
    return run_notebook(open_notebook(name), parameters, folder)


def _facts(result: RunResult) -> dict[str, Any]:
    assert result.summary is not None
    return dict(result.summary.facts)


def _errors(output: Path) -> list[Any]:
    node = nbformat.read(output, as_version=4)
    return [
        o
        for cell in node.cells
        for o in cell.get("outputs", [])
        if o.output_type == "error" or o.get("name") == "stderr"
    ]


def test_the_kit_has_its_four_notebooks() -> None:
    assert {"inspect_tenants", "check_modules", "run_migrations", "replay_events"} <= set(list_notebooks())


def test_inspect_tenants_finds_every_planted_trouble(planted: Planted, inspected: RunResult) -> None:
    result = inspected
    assert (result.outcome, result.exit_code) == ("findings", 3)
    assert _facts(result)["tenants"] == 5
    assert result.summary is not None
    assert {finding.split(":")[0] for finding in result.findings} == {
        planted.behind, planted.drifted, planted.suspended, planted.dead_letters,
    }  # fmt: skip
    assert _errors(result.output) == []


def test_inspect_tenants_takes_names(planted: Planted, tmp_path: Path) -> None:
    assert _facts(_run("inspect_tenants", tmp_path, tenants=[planted.drifted]))["tenants"] == 1


def test_a_report_is_one_file_without_code_that_needs_no_network(planted: Planted, inspected: RunResult) -> None:
    page = inspected.report.read_text()
    assert "read_migrations" not in page
    assert "height:.22em" in page  # a bar
    assert planted.drifted in page
    for outside in ("<script", "<link", ' src="http', "url(http", "vnd.jupyter.widget"):
        assert outside not in page


def test_explore_tenants_asks_all_of_them_and_shows_the_table_that_was_chosen(planted: Planted, tmp_path: Path) -> None:
    result = _run("explore_tenants", tmp_path, tenant="bluebird", table="catalog_products")
    assert (result.outcome, _errors(result.output)) == ("ok", [])
    assert _facts(result) == {"tenants": 5, "asked": 4, "rows": 4, "failed": 0}
    page = result.report.read_text()
    for text in (
        "largest_table",
        "bluebird, catalog_products",
        "Fittings",
        f"{planted.suspended}: suspended",
    ):
        assert text in page
    for debris in ("VBox(", "vnd.jupyter.widget", "<script"):
        assert debris not in page
    assert "vnd.jupyter.widget" not in result.output.read_text()


def test_explore_tenants_takes_names_and_refuses_a_table_that_is_not_there(planted: Planted, tmp_path: Path) -> None:
    assert _facts(_run("explore_tenants", tmp_path, tenants=["acme", "bluebird"]))["rows"] == 2
    wrong = _run("explore_tenants", tmp_path, table="orders", tenant="acme")
    assert (wrong.outcome, "acme has no table orders" in str(wrong.error)) == ("failed", True)


def test_check_modules_records_the_graph_and_what_was_found_in_fact(planted: Planted, tmp_path: Path) -> None:
    result = _run("check_modules", tmp_path)
    assert (result.outcome, _facts(result)) == (
        "ok",
        {"modules": 4, "dependencies": 4, "couplings": 11, "cycles": 0, "events": 9, "not read": 0, "findings": 0},
    )


def test_check_modules_takes_a_folder_of_odoos_addons_and_answers_questions(tmp_path: Path) -> None:
    for name, needs in (("base", ""), ("sale", "crm"), ("crm", "sale"), ("shop", "sale")):
        (tmp_path / "addons" / name).mkdir(parents=True)
        (tmp_path / "addons" / name / "__manifest__.py").write_text(
            repr({"name": name, "depends": [needs] if needs else []})
        )
    result = _run("check_modules", tmp_path, modules=str(tmp_path / "addons"), impact="sale", cut=["crm->sale"])
    assert (result.outcome, _facts(result)["cycles"], _errors(result.output)) == ("findings", 1, [])
    page = result.report.read_text()
    for text in (
        "cycle: crm -&gt; sale -&gt; crm",
        "2 modules depend on sale: crm, shop",
        "without crm -&gt; sale: 1 place to change; no cycle would be left",
        "load order then: base, crm, sale, shop",
    ):
        assert text in page


def test_replay_events_is_a_dry_run_first_and_then_does_what_was_confirmed(
    planted: Planted, shared_database: Database, registry: Registry, tmp_path: Path
) -> None:
    dry = _facts(_run("replay_events", tmp_path, topic="billing.*"))
    assert (dry["handled"], dry["dead letters"], dry["skipped"]) == (0, 3, planted.suspended)
    with shared_database.connection() as connection:
        active = [tenant for tenant in list_tenants(connection) if tenant.is_active]
        plan = plan_replay(connection, active, registry, Selection("billing.*"))
    assert (dry["plan"], dry["planned"]) == (plan.id, plan.event_count)
    done = _facts(_run("replay_events", tmp_path, topic="billing.*", dry_run=False, confirm=plan.id))
    assert (done["handled"], done["failed"]) == (plan.event_count, 0)


def test_replay_events_takes_a_window_of_time(planted: Planted, tmp_path: Path) -> None:
    facts = _facts(_run("replay_events", tmp_path, since="2100-01-01T00:00:00+00:00"))
    assert facts["planned"] == 0


def test_a_stale_plan_id_fails_the_run_and_changes_nothing(
    planted: Planted, shared_database: Database, migrations: tuple[Migration, ...], tmp_path: Path
) -> None:
    result = _run("run_migrations", tmp_path, dry_run=False, confirm="migrate-0000000000")
    assert (result.outcome, result.exit_code) == ("failed", 2)
    assert "is not the id of the present plan" in str(result.error)
    assert "Traceback" not in result.report.read_text()
    with shared_database.connection() as connection:
        fleet = [TEMPLATE, *list_tenants(connection)]
        assert plan_up(fleet, migrations, read_applied(connection, fleet)).step_count == 1


def test_run_migrations_is_a_dry_run_first_and_then_does_what_was_confirmed(planted: Planted, tmp_path: Path) -> None:
    dry = _run("run_migrations", tmp_path)
    assert "vnd.jupyter.widget" not in dry.output.read_text()  # the form and the buttons are for a person
    assert (_facts(dry)["planned"], _facts(dry)["applied"], dry.outcome) == (1, 0, "findings")
    done = _run("run_migrations", tmp_path, dry_run="false", confirm=_facts(dry)["plan"])
    assert (_facts(done)["applied"], _facts(done)["failed"], done.outcome) == (1, 0, "ok")
    again = _run("run_migrations", tmp_path)
    assert (_facts(again)["found behind"], again.outcome) == (0, "ok")


def _papermill(notebook: str, output: Path, *options: str) -> subprocess.CompletedProcess[str]:
    path = open_notebook(notebook).path
    command = [sys.executable, "-m", "papermill", str(path), str(output), *options]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_papermills_own_command_line_runs_a_notebook(planted: Planted, tmp_path: Path) -> None:
    done = _papermill("inspect_tenants", tmp_path / "out.ipynb", "-p", "tenants", planted.drifted)
    assert done.returncode == 0, done.stderr
    summary = read_summary(nbformat.read(tmp_path / "out.ipynb", as_version=4))
    assert summary is not None
    assert summary.facts["tenants"] == 1


def test_a_mistyped_parameter_from_papermill_is_refused_inside_the_notebook(planted: Planted, tmp_path: Path) -> None:
    done = _papermill("run_migrations", tmp_path / "out.ipynb", "-p", "dry_run", "flase")
    assert done.returncode == 1
    assert "parameter dry_run = 'flase' is not of type bool" in done.stderr


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("not json", "is not JSON"),
        ("[]", "is not a notebook"),
        ('{"cells": 3}', "is not a notebook"),
        ("{}", "is not a notebook"),
        ("", "is not"),
    ],
)
def test_what_is_no_notebook_is_refused_by_name(content: str, problem: str, tmp_path: Path) -> None:
    (tmp_path / "odd.ipynb").write_text(content)
    with pytest.raises(UsageError, match=f"odd.ipynb .*{problem}|odd.ipynb {problem}"):
        open_notebook(str(tmp_path / "odd.ipynb"))


def test_a_folder_that_cannot_be_written_is_refused_before_a_kernel_starts(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="the output folder .*file/runs cannot be written"):
        _run("check_modules", tmp_path / "file" / "runs")


def test_the_settings_of_a_run_are_the_environments(shared_database: Database) -> None:
    assert Settings.from_env().database == shared_database.conninfo


@pytest.fixture(autouse=True)
def no_private_sockets_left() -> Iterator[None]:
    """Each run removes the folder of its kernel's sockets."""
    before = set(Path("/tmp").glob(f"{PREFIX}{os.getpid()}-*"))
    yield
    assert {path for path in Path("/tmp").glob(f"{PREFIX}{os.getpid()}-*") if path not in before} == set()
