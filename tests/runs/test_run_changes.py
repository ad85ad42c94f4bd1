"""What changed since the last run of the same notebook and parameters: in the report, in the record and in the message."""

import json
from pathlib import Path

import psycopg
import pytest

from erpkit.database import Database
from erpkit.runs import Recorder, RunResult, open_notebook, run_notebook
from erpkit.sample.demo import Planted
from tests.command import erpkit, refused
from tests.runs.test_run_receivers import receiver as receiver
from tests.tiny import write_notebook

pytestmark = pytest.mark.usefixtures("warm_runs")

_CELL = """
from pathlib import Path
from erpkit.result import Summary
rows, *found = Path({place!r}).read_text().split("|")
Summary("probed", {{"rows": int(rows)}}, [one for one in found if one])
"""


class Probe:
    """A notebook that finds what a file says: figures, and findings behind bars."""

    def __init__(self, folder: Path, database: Database, home: Path | None = None) -> None:
        self.folder, self._says = folder, folder / "says"
        self._database, self._home = database, home
        self.path = write_notebook(
            folder / "probe.ipynb", _CELL.format(place=str(self._says)), parameters="n: int = 1  # a number"
        )

    def run(self, says: str, n: int = 1) -> RunResult:
        self._says.write_text(says)
        recorder = Recorder(self._database, home=self._home)
        return run_notebook(open_notebook(str(self.path)), {"n": n}, self.folder / "runs", recorder=recorder)


@pytest.fixture
def probe(tmp_path: Path, database: Database, monkeypatch: pytest.MonkeyPatch) -> Probe:
    monkeypatch.setenv("ERPKIT_DATABASE", database.conninfo)
    return Probe(tmp_path, database)


def test_the_report_the_record_and_the_message_tell_what_changed(
    probe: Probe, receiver: tuple[int, list[dict[str, str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    port, messages = receiver
    monkeypatch.setenv("ERPKIT_NOTIFY", f"json://127.0.0.1:{port}/hook")
    first = probe.run("100|acme is behind|cobalt is slow")
    probe.run("100|acme is behind|cobalt is slow", n=2)  # with other parameters it is other work
    probe.run("100|acme is behind|cobalt is slow")
    last = probe.run("130|acme is behind|fjord drifts")
    assert first.changes
    assert first.changes.since is None
    assert last.changes
    assert last.changes.news[1:] == [
        "new: fjord drifts",
        f"gone: cobalt is slow (since {first.started_at:%Y-%m-%d %H:%M})",
        "facts: rows 130 (+30)",
    ]
    assert last.changes.known[0].since == first.started_at
    report = last.report.read_text()
    assert "1 new, 1 known, 1 gone" in report
    assert report.index("1 new, 1 known, 1 gone") < report.index("probed")
    assert "new since" in report
    assert "<dd>130</dd><dt>rows <b>+30</b></dt>" in report
    assert "First run: there is nothing to compare with" in first.report.read_text()
    assert [message["title"] for message in messages] == ["probe: findings"] * 2 + ["probe: findings, was findings"]
    assert "new: fjord drifts" in messages[2]["message"]
    shown = json.loads(erpkit("runs", "show", last.id, "--json").stdout)
    assert [one["text"] for one in shown["changes"]["new"]] == ["fjord drifts"]
    assert shown["changes"]["facts"] == [{"name": "rows", "before": 100, "now": 130, "difference": 30}]
    done = erpkit("runs", "show", last.id[:8])
    told = done.stdout + done.stderr
    assert "new: fjord drifts" in told
    assert "! acme is behind [for " in told


def test_a_run_that_stopped_has_looked_at_nothing_and_is_not_compared_with(probe: Probe) -> None:
    probe.run("1|acme is behind")
    assert probe.run("no number").changes is None
    again = probe.run("1|acme is behind")
    assert again.changes
    assert (len(again.changes.known), again.changes.new) == (1, ())


def test_the_record_of_an_earlier_erpkit_is_compared_with_by_its_texts(probe: Probe, database: Database) -> None:
    probe.run("1|acme is behind|cobalt is slow")
    with database.connection() as connection:
        connection.execute("ALTER TABLE public.erpkit_runs DROP COLUMN changes")
    second = probe.run("1|acme is behind")
    assert second.changes
    assert [len(some) for some in (second.changes.new, second.changes.known, second.changes.gone)] == [0, 1, 1]
    with database.connection() as connection:
        kept = connection.execute("SELECT changes->>'since' FROM public.erpkit_runs ORDER BY started_at").fetchall()
    assert [since is not None for (since,) in kept] == [False, True]


def test_a_threshold_makes_a_finding_of_a_fact(probe: Probe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ERPKIT_THRESHOLDS", "rows <= 200, probe: rows <= +20%")
    assert probe.run("100").outcome == "ok"
    grown = probe.run("130")
    assert (grown.outcome, grown.exit_code) == ("findings", 3)
    assert grown.findings == ("rows: went from 100 to 130, and the threshold of the change is <= +20 %",)
    assert grown.findings[0].partition(":")[2].replace("<=", "&lt;=") in grown.report.read_text()
    monkeypatch.setenv("ERPKIT_THRESHOLDS", "rows is small")
    refused(erpkit("run", str(probe.path)), 2, "cannot be understood")


def test_the_runs_of_an_erp_that_cannot_be_written_are_recorded_under_home(
    tmp_path: Path, database: Database, erp: Planted, monkeypatch: pytest.MonkeyPatch
) -> None:
    query = "SELECT 'acme' AS slug, 'tenant_acme' AS schema_name"
    for name, value in {
        "ERPKIT_DATABASE": database.conninfo, "ERPKIT_TENANTS_QUERY": query, "ERPKIT_HOME": str(tmp_path / "home"),
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    with Database(database.conninfo, "foreign", writable=False) as foreign:
        probe = Probe(tmp_path, foreign, tmp_path / "home")
        results = [probe.run("1|acme is behind"), probe.run("2|acme is behind")]
    assert [result.problems for result in results] == [(), ()]
    assert results[1].changes
    assert results[1].changes.lines[-1] == "facts: rows 2 (+1)"
    listed = json.loads(erpkit("runs", "--json").stdout)
    assert [run["id"] for run in listed] == [result.id for result in reversed(results)]
    assert [run["outcome"] for run in listed] == ["findings"] * 2
    with database.connection() as connection:
        assert connection.execute("SELECT to_regclass('public.erpkit_runs')").fetchone() == (None,)
    planned = erpkit("runs", "prune", "--days", "0").stderr
    done = erpkit("runs", "prune", "--days", "0", "--confirm", planned.split("--confirm ")[1].strip()).stderr
    assert "deleted 1 run and 2 files" in done
    assert [run["id"] for run in json.loads(erpkit("runs", "--json").stdout)] == [results[1].id]


def test_a_login_that_may_not_write_records_its_runs_under_home_and_is_told_so(
    tmp_path: Path, database: Database
) -> None:
    with database.connection() as connection:
        connection.execute("CREATE ROLE only_reads LOGIN")
    reading = psycopg.conninfo.make_conninfo(database.conninfo, user="only_reads")
    try:
        with Database(reading, "reader") as reader:
            probe = Probe(tmp_path, reader, tmp_path / "home")
            results = [probe.run("1|acme is behind"), probe.run("1|acme is behind")]
    finally:
        with database.connection() as connection:
            connection.execute("DROP ROLE only_reads")
    (file,) = (tmp_path / "home" / "history").iterdir()
    assert results[0].problems == (f"the run is recorded in {file}: permission denied for schema public",)
    assert results[1].changes
    assert len(results[1].changes.known) == 1


def test_a_record_that_cannot_be_read_is_no_first_run(probe: Probe, database: Database) -> None:
    probe.run("1|acme is behind")
    there, database.conninfo = database.conninfo, "host=127.0.0.1 port=1 dbname=erp"
    try:
        blind = probe.run("1|acme is behind")
    finally:
        database.conninfo = there
    assert (blind.outcome, blind.changes) == ("findings", None)
    assert "nothing to compare with" not in blind.report.read_text()
    assert run_notebook(open_notebook(str(probe.path)), {}, probe.folder / "runs").changes is None
