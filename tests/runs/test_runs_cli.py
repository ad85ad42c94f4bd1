"""`erpkit runs`: filters, one run in full, running it again, and pruning by age and count."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest

import erpkit as package
from erpkit.database import Database
from erpkit.errors import PlanChangedError, UsageError
from erpkit.runs import Recorder, RunResult, open_notebook, run_notebook
from erpkit.runs.history import RunRecord, list_runs
from erpkit.runs.prune import describe_old, find_old, plan_prune
from erpkit.runs.record import RunStart, read_provenance
from erpkit.runs.result import Outcome
from tests.command import erpkit, on_a_terminal, refused, rows_of
from tests.tiny import write_notebook

pytestmark = pytest.mark.usefixtures("warm_runs")

NOW = datetime.now(UTC)


@pytest.fixture(autouse=True)
def environment(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ERPKIT_DATABASE", database.conninfo)


@pytest.fixture
def notebook(tmp_path: Path) -> Path:
    return write_notebook(tmp_path / "probe.ipynb", "n", parameters="n: int = 1  # a number")


def _record(
    database: Database, notebook: Path, *, days: float = 0, outcome: Outcome = "ok", tenant: str = "", n: int = 1
) -> str:
    start = RunStart(
        str(uuid4()), notebook.stem, "Probe", (tenant,) if tenant else (), {"n": n}, 1, NOW - timedelta(days=days),
        read_provenance(notebook),
    )  # fmt: skip
    recorder = Recorder(database)
    recorder.start(start)
    recorder.finish(start, RunResult(notebook.stem, outcome, 1.5, Path("o.ipynb"), Path("o.html")))
    assert recorder.problem is None
    return start.id


def _listed(*options: str) -> list[str]:
    return [run["id"] for run in json.loads(erpkit("runs", *options, "--json").stdout)]


def test_runs_are_chosen_by_notebook_tenant_outcome_and_time(
    database: Database, notebook: Path, tmp_path: Path
) -> None:
    other = write_notebook(tmp_path / "other.ipynb", "1")
    old = _record(database, notebook, days=5, outcome="failed", tenant="acme")
    new = _record(database, notebook, days=0.5, tenant="acme")
    last = _record(database, other, tenant="cobalt")
    assert _listed() == [last, new, old]
    assert _listed("--notebook", "probe") == [new, old]
    assert _listed("--tenant", "acme", "--outcome", "failed") == [old]
    assert _listed("--since", "1d") == _listed("--since", "20h") == [last, new]
    assert _listed("--since", f"{NOW - timedelta(days=6):%Y-%m-%dT%H:%M}") == [last, new, old]
    assert _listed("--tenant", "nobody") == []
    assert "No run matches; for others see erpkit runs" in erpkit("runs", "--tenant", "nobody").stderr
    assert "No run matches: did you mean acme?" in erpkit("runs", "--tenant", "acmme").stderr
    assert "No run matches: did you mean probe?" in erpkit("runs", "--notebook", "prob").stderr
    refused(erpkit("runs", "--since", "yesterday"), 2, "--since 'yesterday' is not a time")
    with package.open() as erp:
        assert [run.id for run in erp.runs.history(tenant="acme", outcome="ok").runs] == [new]


def test_a_run_is_shown_by_the_beginning_of_its_id(database: Database, notebook: Path) -> None:
    id_ = _record(database, notebook, outcome="failed", tenant="acme")
    assert erpkit("runs").stdout.count(id_[:8]) == 1
    facts = dict(rows_of(erpkit("runs", "show", id_[:8])))
    assert facts["outcome"].startswith("failed")
    shown = "\n".join([*facts, *facts.values()])
    for text in (id_, "probe", "failed", "parameter n", "the database"):
        assert text in shown
    assert f"\n    erpkit runs show {id_[:8]}\n" in on_a_terminal("runs", columns=80)
    assert json.loads(erpkit("runs", "show", id_, "--json").stdout)["parameters"] == {"n": 1}
    refused(erpkit("runs", "show", "00000000"), 2, "there is no run '00000000': see erpkit runs")
    refused(erpkit("runs", "show", id_[:2]), 2, "too short")
    with package.open() as erp:
        assert erp.runs[id_].run.id == id_


def test_a_run_is_run_again_with_its_notebook_and_parameters(
    database: Database, notebook: Path, tmp_path: Path
) -> None:
    first = run_notebook(open_notebook(str(notebook)), {"n": 7}, tmp_path / "runs", recorder=Recorder(database))
    again = erpkit("runs", "rerun", first.id[:8], "--output", str(tmp_path / "again"), "--json")
    assert (again.returncode, again.stderr.count("note:")) == (0, 0)
    second = json.loads(again.stdout)
    assert (second["outcome"], Path(second["output"]).parent) == ("ok", tmp_path / "again")
    write_notebook(notebook, "n + 1", parameters="n: int = 1  # a number")
    third = erpkit("runs", "rerun", first.id, "--output", str(tmp_path / "again"))
    assert "is not the same as in that run" in third.stderr
    (row,) = rows_of(third)
    assert (row[1:3], Path(row[5]).suffix) == (["probe", "ok"], ".html")
    with database.connection() as connection:
        assert [run.parameters for run in list_runs(connection)] == [{"n": 7}] * 3
    notebook.unlink()
    refused(
        erpkit("runs", "rerun", first.id), 2, f"the notebook probe of run {first.id[:8]} is not found at {notebook}"
    )


def test_pruning_shows_a_plan_and_deletes_rows_and_files_once_it_is_confirmed(
    database: Database, notebook: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "runs"
    results = [
        run_notebook(open_notebook(str(notebook)), {"n": 7}, folder, recorder=Recorder(database)) for _ in range(3)
    ]
    kept = run_notebook(open_notebook(str(notebook)), {"n": 8}, folder, recorder=Recorder(database))
    planned = erpkit("runs", "prune", "--days", "0", "--keep", "2")
    assert planned.returncode == 0
    assert ": delete 1 run and 2 files" in planned.stderr
    assert len(list(folder.glob("probe*"))) == 8
    command = planned.stderr.split("to apply it:")[1].split()
    assert command[:7] == ["erpkit", "runs", "prune", "--days", "0", "--keep", "2"]
    refused(erpkit("runs", "prune", "--days", "0", "--keep", "1", *command[7:]), 2, "plan")
    assert "deleted 1 run and 2 files" in erpkit(*command[1:]).stderr
    assert _listed() == [kept.id, results[2].id, results[1].id]
    assert {path.stem for path in folder.glob("probe*")} == {one.output.stem for one in (*results[1:], kept)}
    assert results[0].output.stem + ".html" not in (folder / "index.html").read_text()
    with package.open() as erp:
        plan = erp.runs.prune(days=0, keep=1)
        run_notebook(open_notebook(str(notebook)), {"n": 7}, folder, recorder=Recorder(database))
        with pytest.raises(PlanChangedError):
            plan.apply(plan.id)
    assert len(_listed()) == 4


def test_a_file_that_a_later_run_has_written_stays(database: Database, notebook: Path, tmp_path: Path) -> None:
    for _ in range(2):
        last = run_notebook(open_notebook(str(notebook)), {}, tmp_path, "fixed", recorder=Recorder(database))
    with package.open() as erp:
        plan = erp.runs.prune(days=0, keep=1)
        done = plan.apply(plan.id)
    assert (done.runs, done.files, last.output.exists(), last.report.exists()) == (1, 0, True, True)


def test_files_of_another_machine_or_an_object_store_stay_and_are_named(database: Database, notebook: Path) -> None:
    _record(database, notebook)
    with database.connection() as connection:
        (run,) = list_runs(connection)
    away = describe_old(replace(run, output="/runs/o.ipynb", host="elsewhere"))
    stored = describe_old(replace(run, output="s3://runs/nightly/o.ipynb"))
    assert (away.left, away.files) == ("its files stay on elsewhere", ())
    assert (stored.left, stored.files) == ("its files stay in s3://runs/nightly", ())


def test_runs_go_by_age_and_count_and_one_that_is_under_way_stays(database: Database, notebook: Path) -> None:
    for days, n in ((100, 1), (95, 1), (1, 1), (200, 2), (100, 3)):
        _record(database, notebook, days=days, n=n)
    with database.connection() as connection:
        runs = list_runs(connection)
    limit = NOW - timedelta(days=90)

    def left(keep: int, runs: list[RunRecord]) -> list[tuple[object, int]]:
        return sorted((run.parameters["n"], (NOW - run.started_at).days) for run in find_old(runs, limit, keep))

    assert left(0, runs) == [(1, 95), (1, 100), (2, 200), (3, 100)]
    assert left(1, runs) == [(1, 95), (1, 100)]
    assert left(2, runs) == [(1, 100)]
    under_way = [replace(run, outcome="running") if run.parameters["n"] == 3 else run for run in runs]
    assert left(0, under_way) == [(1, 95), (1, 100), (2, 200)]
    assert plan_prune(runs, 90, 1, NOW).id == plan_prune(runs, 90, 1, NOW).id != plan_prune(runs, 90, 2, NOW).id
    with pytest.raises(UsageError, match="numbers from 0"):
        plan_prune(runs, -1, 1)
