"""The record of runs in the database: written, read, and never in a run's way."""

import json
import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest

from erpkit.config import Settings
from erpkit.database import Database
from erpkit.runs import Recorder, RunResult, Summary, find_flaky, find_last, list_runs, open_notebook, run_notebook
from erpkit.runs.history import RunFilter, RunHistory
from erpkit.runs.job import open_recorder
from erpkit.runs.record import RunStart, read_provenance
from erpkit.runs.result import Outcome
from erpkit.runs.store import HistoryFile
from tests.command import erpkit
from tests.tiny import write_notebook

pytestmark = pytest.mark.usefixtures("warm_runs")

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.fixture(autouse=True)
def environment(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ERPKIT_DATABASE", database.conninfo)


@pytest.fixture
def notebook(tmp_path: Path) -> Path:
    return write_notebook(tmp_path / "probe.ipynb", "1", parameters="n: int = 1  # a number")


def _start(notebook: Path, minutes: int = 0, **parameters: object) -> RunStart:
    at = NOON + timedelta(minutes=minutes)
    return RunStart(str(uuid4()), notebook.stem, "Probe", ("acme",), parameters, 1, at, read_provenance(notebook))


def _result(outcome: Outcome, error: str | None = None, findings: tuple[str, ...] = ()) -> RunResult:
    summary = Summary("probed", {"rows": 3, "since": "2026-01-01"}, findings)
    return RunResult(
        "probe", outcome, 1.5, Path("o.ipynb"), Path("o.html"), error, summary, places=("o.ipynb", "o.html")
    )


def _record(database: Database, start: RunStart, outcome: Outcome, error: str | None = None) -> None:
    recorder = Recorder(database)
    recorder.start(start)
    recorder.finish(start, _result(outcome, error))
    assert recorder.problem is None


def test_a_run_is_written_down_when_it_begins_and_when_it_ends(database: Database, notebook: Path) -> None:
    recorder, start = Recorder(database), _start(notebook, database="env:ERP_DSN", confirm="migrate-0123456789")
    with database.connection() as connection:
        assert list_runs(connection) == []
        recorder.start(start)
        (running,) = list_runs(connection)
        assert (running.outcome, running.ended_at, running.is_good, running.pid) == ("running", None, None, os.getpid())
        recorder.finish(start, _result("findings", findings=("acme is behind",)))
        (done,) = list_runs(connection)
    assert (done.verdict, done.exit_code, done.seconds, done.findings) == ("1 finding", 3, 1.5, ["acme is behind"])
    assert (done.notebook, done.tenants, done.parameters["database"]) == ("probe", ["acme"], "env:ERP_DSN")
    assert (done.facts, done.output, done.report) == ({"rows": 3, "since": "2026-01-01"}, "o.ipynb", "o.html")
    assert {"python", "erpkit", "papermill"} <= set(done.versions)
    assert (len(done.checksum), done.revision, bool(done.who and done.host)) == (64, "", True)
    assert done.ended_at is not None


def test_a_run_whose_process_gives_no_sign_of_life_is_lost(database: Database, notebook: Path) -> None:
    Recorder(database).start(_start(notebook))
    with database.connection() as connection:
        connection.execute("UPDATE public.erpkit_runs SET seen_at = now() - interval '61 seconds'")
        (run,) = list_runs(connection)
    assert (run.outcome, run.is_good) == ("lost", False)
    assert "no end recorded, last seen" in run.verdict
    assert "lost: no end recorded" in erpkit("runs").stdout


def test_a_run_gives_signs_of_life_until_it_ends(
    database: Database, notebook: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("erpkit.runs.record.BEAT", 0.02)
    recorder, start = Recorder(database), _start(notebook)
    recorder.start(start)
    deadline = time.monotonic() + 30
    with database.connection() as connection:
        (first,) = list_runs(connection)
        while list_runs(connection)[0].seen_at == first.seen_at:
            assert time.monotonic() < deadline, "no sign of life"
            time.sleep(0.02)
        recorder.finish(start, _result("ok"))
        assert list_runs(connection)[0].outcome == "ok"


def test_a_run_that_began_while_the_database_was_away_is_written_down_at_its_end(
    database: Database, notebook: Path
) -> None:
    recorder, start = Recorder(database), _start(notebook)
    there, database.conninfo = database.conninfo, "host=127.0.0.1 port=1 dbname=erp"
    recorder.start(start)
    assert "the run is not recorded: connection" in str(recorder.problem)
    database.conninfo = there
    recorder.finish(start, _result("ok"))
    assert recorder.problem is None
    with database.connection() as connection:
        assert [run.outcome for run in list_runs(connection)] == ["ok"]


def test_the_end_of_a_run_whose_database_is_away_just_then_is_kept_and_told_until_the_database_has_it(
    database: Database, notebook: Path, tmp_path: Path
) -> None:
    recorder, start = Recorder(database, home=tmp_path), _start(notebook)
    recorder.start(start)
    there, database.conninfo = database.conninfo, "host=127.0.0.1 port=1 dbname=erp"
    recorder.finish(start, _result("findings", findings=("acme is behind",)))
    assert f"the end of the run is recorded in {tmp_path}" in str(recorder.problem)
    database.conninfo = there
    with database.connection() as connection:
        file = HistoryFile.beside(connection, tmp_path)
        (run,) = list_runs(connection, file=file)
        assert (run.id, run.outcome, bool(run.ended_at), run.place) == (start.id, "findings", True, str(file.path))
        assert [one.outcome for one in list_runs(connection)] == ["running"]  # the database itself does not know
        recorder.settle()
        assert recorder.problem is None
        assert [(one.outcome, one.place) for one in list_runs(connection, file=file)] == [("findings", "")]


@pytest.fixture
def reader(database: Database) -> Iterator[str]:
    """A login that may read, and make no table."""
    name = f"reader_{uuid4().hex[:8]}"
    with database.connection() as connection:
        connection.execute(f"CREATE ROLE {name} LOGIN")
        yield psycopg.conninfo.make_conninfo(database.conninfo, user=name)
        connection.execute(f"DROP ROLE {name}")


def test_what_cannot_be_written_fails_no_run_and_is_said_in_one_line(
    reader: str, notebook: Path, tmp_path: Path, database: Database
) -> None:
    with Database(reader, "reader") as read_only:
        result = run_notebook(open_notebook(str(notebook)), {"n": 2}, tmp_path / "runs", recorder=Recorder(read_only))
    assert (result.outcome, len(result.problems)) == ("ok", 1)
    assert result.problems[0] == "the run is not recorded: permission denied for schema public"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ERPKIT_DATABASE", "host=127.0.0.1 port=1 dbname=erp user=me")
        with open_recorder(Settings.from_env()) as recorder:
            recorder.finish(_start(notebook), _result("ok"))
            assert "cannot connect to 127.0.0.1:1/erp/me" in str(recorder.problem)
    with database.connection() as connection:
        assert list_runs(connection) == []


def test_the_previous_outcome_is_that_of_the_same_work_whatever_plan_it_confirmed(
    database: Database, notebook: Path
) -> None:
    recorder = Recorder(database)
    assert recorder.previous_outcome(_start(notebook, 9)) is None
    _record(database, _start(notebook, 1, topic="billing.*", confirm="replay-1"), "failed")
    _record(database, _start(notebook, 2, topic="sales.*"), "timed out")
    recorder.start(_start(notebook, 3, topic="billing.*"))  # has not ended
    _record(database, _start(notebook, 9, topic="billing.*"), "ok")
    assert recorder.previous_outcome(_start(notebook, 5, topic="billing.*", confirm="replay-2")) == "failed"


def test_the_command_lists_runs_of_one_notebook_as_a_table_and_as_json(database: Database, notebook: Path) -> None:
    outcomes: tuple[Outcome, ...] = ("ok", "failed")
    for minute, outcome in enumerate(outcomes):
        _record(database, _start(notebook, minute), outcome, "ValueError: no" if outcome == "failed" else None)
    shown = erpkit("runs", "-o", "table")
    assert shown.returncode == 0
    assert shown.stdout.index("failed: ValueError: no") < shown.stdout.index(" ok ")
    (newest,) = json.loads(erpkit("runs", "--notebook", "probe", "--limit", "1", "--json").stdout)
    assert (newest["outcome"], newest["parameters"], newest["tenants"]) == ("failed", {}, ["acme"])
    assert "No run matches; for others see erpkit runs" in erpkit("runs", "--notebook", "other").stderr


def test_flaky_is_what_turns_more_than_once_and_the_last_run_of_each_work_counts(
    database: Database, notebook: Path
) -> None:
    histories: dict[str, list[Outcome]] = {
        "flaky": ["ok", "failed", "findings", "timed out"], "broke": ["ok", "ok", "failed"], "mended": ["killed", "ok"],
    }  # fmt: skip
    for name, outcomes in histories.items():
        for minute, outcome in enumerate(outcomes):
            _record(database, _start(notebook, minute, name=name, confirm=f"replay-{minute}"), outcome)
    with database.connection() as connection:
        runs = list_runs(connection)
        since = list_runs(connection, only=RunFilter(since=NOON + timedelta(minutes=3)))
    assert find_flaky(runs) == {'probe {"name": "flaky"}': 3}
    failures = RunHistory("here", tuple(runs)).failures
    columns = {column.name: column for column in failures.columns}
    then, tone = columns["last run since"].value, columns["outcome"].tone
    assert [(run.parameters["name"], then(run), tone(run)) for run in failures.rows] == [
        ("flaky", "not run again", "error"), ("broke", "not run again", "error"),
        ("flaky", "timed out, 2026-01-01 12:03", "error"), ("mended", "ok, 2026-01-01 12:01", "muted"),
    ]  # fmt: skip
    last = {run.parameters["name"]: run.outcome for run in find_last(runs)}
    assert last == {"flaky": "timed out", "broke": "failed", "mended": "ok"}
    assert len(since) == 1


def test_the_notebook_of_their_history_names_what_is_bad_and_flaky(
    database: Database, notebook: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.runs.test_run_records.NOON", datetime.now(UTC) - timedelta(hours=1))
    outcomes: tuple[Outcome, ...] = ("ok", "failed", "ok", "failed")
    for minute, outcome in enumerate(outcomes):
        _record(database, _start(notebook, minute), outcome)
    monkeypatch.setenv("HISTORY", database.conninfo)
    monkeypatch.setenv("ERPKIT_DATABASE", "host=127.0.0.1 port=1")
    result = run_notebook(open_notebook("run_history"), {"database": "env:HISTORY", "days": "1"}, tmp_path / "runs")
    assert (result.outcome, result.error) == ("findings", None)
    assert result.summary is not None
    assert dict(result.summary.facts) == {"runs": 4, "notebooks": 1, "bad": 2, "flaky": 1}
    first, second = result.findings
    assert first.startswith("probe: the last run failed")
    assert second == "probe: flaky, went from good to bad or back 3 times"
    page = result.report.read_text()
    assert "<svg" in page
    assert "env:HISTORY" in page
    assert database.conninfo not in page
