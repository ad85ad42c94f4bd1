"""Fleets: many runs of one notebook, by tenant or by set of parameters, resumed, stopped, and shown."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import erpkit as package
from erpkit.database import Database
from erpkit.runs.entries import STORE, read_entries
from erpkit.runs.index import write_index
from erpkit.tenants import create_tenant
from tests.command import erpkit, refused
from tests.kernels.conftest import wait_until
from tests.tiny import write_notebook

pytestmark = pytest.mark.usefixtures("warm_runs")


@pytest.fixture(autouse=True)
def environment(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ERPKIT_DATABASE", database.conninfo)
    monkeypatch.setenv("ERPKIT_MODULES", "erpkit.sample")


PARAMETERS = 'n: int = 0  # a number\nword: str = "x"  # a word'


def test_each_row_of_a_file_is_a_run_and_what_they_found_is_told_by_its_cause(tmp_path: Path) -> None:
    cell = (
        "from erpkit import Finding, Summary\nassert n != 2, 'two is too many'\n"
        "note = Finding('note', '', 'rows may be odd', 'info')\n"
        "Summary(f'{n}', {'square': n * n}, [Finding('odd', f'row {n}', 'is odd', of='row'), note] if n % 2 else [])"
    )
    path = write_notebook(tmp_path / "rows.ipynb", cell, parameters=PARAMETERS)
    (tmp_path / "rows.csv").write_text("n,word\n1,one\n2,two\n3,\n")
    done = erpkit("run", str(path), "--each", str(tmp_path / "rows.csv"), "--output", str(tmp_path / "runs"))
    assert done.returncode == 1, done.stderr
    table = [line.split("\t") for line in done.stdout.splitlines()]  # rows with tabs, and nothing else
    assert [len(row) for row in table] == [4] * 3, done.stdout
    assert table[0][:2] == ["n=2 word=two", "failed: AssertionError: two is too many"]  # the worst first
    assert {row[1] for row in table[1:]} == {"1 warning"}  # a note is no finding to count
    lines = done.stderr.splitlines()
    assert "n=2 word=two: failed: AssertionError: two is too many" in lines
    assert "! 2 rows: is odd (row 1, row 3)" in lines
    assert any(line.startswith("3 runs: 2 with findings, 1 failed; ") for line in lines), lines
    assert "left: n=2 word=two; the same command with --resume runs these alone" in done.stderr
    (page,) = (tmp_path / "runs").glob("fleet-rows-*.html")
    assert "2 rows: is odd (row 1, row 3)" in page.read_text()
    assert "1 run of 3 did not end well; 2 runs found something" in page.read_text()
    assert f'href="{page.name}"' in (tmp_path / "runs" / "index.html").read_text()
    links = {entry.name for entry in read_entries(tmp_path / "runs")}
    assert len(links) == 3
    assert all(f'href="{name}"' in page.read_text() for name in links)
    with package.open() as erp:
        frame = erp.runs.summaries("rows").sort_values("n")
        assert sorted(run.verdict for run in erp.runs.history("rows").runs)[:2] == ["1 warning", "1 warning"]
    assert "1 warning" in (tmp_path / "runs" / "index.html").read_text()
    assert frame["outcome"].tolist() == ["findings", "failed", "findings"]
    assert frame["word"].tolist()[:2] == ["one", "two"]
    assert frame["square"].dropna().tolist() == [1, 9]


def test_a_grid_is_all_combinations_and_resuming_runs_only_what_failed_or_is_missing(tmp_path: Path) -> None:
    mark = tmp_path / "mended"
    cell = f"from pathlib import Path\nassert n == 1 or Path({str(mark)!r}).exists()\nprint(n, word)"
    path = write_notebook(tmp_path / "grid.ipynb", cell, parameters=PARAMETERS)
    (tmp_path / "grid.yaml").write_text("n: [1, 2]\nword: [a, b]\n")
    run = ("run", str(path), "--each", str(tmp_path / "grid.yaml"), "--output", str(tmp_path / "runs"), "--json")
    none = erpkit(*run, "--resume")
    assert (none.returncode, "there is no fleet of grid in" in none.stderr) == (2, True)
    first = json.loads(erpkit(*run).stdout)
    assert [(row["run"], row["outcome"]) for row in first] == [
        ("n=1 word=a", "ok"), ("n=1 word=b", "ok"), ("n=2 word=a", "failed"), ("n=2 word=b", "failed"),
    ]  # fmt: skip
    mark.touch()
    done = erpkit(*run, "--resume")
    second = json.loads(done.stdout)
    assert done.returncode == 0, done.stderr
    assert [row["outcome"] for row in second] == ["ok"] * 4
    assert [row["id"] for row in second][:2] == [row["id"] for row in first][:2]
    assert {row["id"] for row in second[2:]}.isdisjoint(row["id"] for row in first)
    assert len(list((tmp_path / "runs").glob("fleet-*.jsonl"))) == 1
    third = erpkit(*run, "--resume")  # nothing is left
    assert [row["id"] for row in json.loads(third.stdout)] == [row["id"] for row in second]


def test_sets_and_tenants_multiply(database: Database, tmp_path: Path) -> None:
    for slug in ("acme", "bluebird"):
        create_tenant(database, (), slug)
    path = write_notebook(tmp_path / "both.ipynb", "1", parameters='tenant: str = ""  # one\nn: int = 0')
    (tmp_path / "n.yaml").write_text("- {n: 1}\n- {n: 2}\n")
    run = ("run", str(path), "--each-tenant", "--each", str(tmp_path / "n.yaml"), "--output", str(tmp_path / "runs"))
    done = erpkit(*run, "--json")
    assert [row["run"] for row in json.loads(done.stdout)] == ["acme n=1", "acme n=2", "bluebird n=1", "bluebird n=2"]


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.csv", "m\n1\n", "there is no parameter 'm'"),
        ("a.csv", "n,wrod\n1\n", "a.csv: there is no parameter 'wrod'; did you mean word?"),  # which the row would hide
        ("a.yaml", "- {n: 1}\n- {m: 1}\n", "set 2: there is no parameter 'm'"),
        ("a.yaml", "- n: 1\n- n: 1\n  n: 2\n", "the mapping that begins on line 2 names 'n' twice"),
        ("a.yaml", "n: [1]\nword: [one]\nn: [2]\n", "the mapping that begins on line 1 names 'n' twice"),
        ("a.csv", "n\n1\ntwo\n", "set 2: parameter n = 'two' is not of type int"),
        ("a.csv", "n\n1\n1\n", "the sets 1 and 2 are the same"),
        ("a.csv", "n\n1,2\n", "set 1 has more values than the first line has names"),
        ("a.csv", "n,word,n\n1,one,2\n", "the first line names 'n' twice"),
        ("a.csv", 'n\n"1\n', "unexpected end of data"),
        ("a.csv", "n\n", "holds no set of parameters"),
        ("a.csv", "word\npassword=hunter22\n", "set 1: parameter word holds a password"),
        ("a.yaml", "n: [1", "is not YAML"),
        ("a.yaml", "5", "is neither a list of mappings nor a mapping from names to lists"),
        ("a.txt", "", "is neither a .csv nor a .yaml file"),
    ],
)
def test_what_is_wrong_with_a_set_is_named_before_anything_starts(
    name: str, text: str, words: str, tmp_path: Path
) -> None:
    path = write_notebook(tmp_path / "rows.ipynb", "1", parameters=PARAMETERS)
    (tmp_path / name).write_text(text)
    done = erpkit("run", str(path), "--each", str(tmp_path / name), "--output", str(tmp_path / "runs"))
    refused(done, 2, words)
    assert not (tmp_path / "runs").exists()


def test_options_of_a_fleet_need_one(tmp_path: Path) -> None:
    path = write_notebook(tmp_path / "rows.ipynb", "1", parameters=PARAMETERS)
    refused(erpkit("run", str(path), "--resume"), 2, "--resume goes with --each-tenant or --each")
    (tmp_path / "a.csv").write_text("n\n1\n")
    refused(
        erpkit("run", str(path), "--each", str(tmp_path / "a.csv"), "-p", "n", "1"),
        2,
        "is given on the command line, too",
    )


def test_ctrl_c_names_what_is_left_and_the_fleet_goes_on_later(tmp_path: Path) -> None:
    mark, go = tmp_path / "mark", tmp_path / "go"
    cell = (
        "import os, time\nfrom pathlib import Path\n"
        f"if n == 2 and not Path({str(go)!r}).exists():\n    Path({str(mark)!r}).touch(); time.sleep(600)"
    )
    path = write_notebook(tmp_path / "rows.ipynb", cell, parameters=PARAMETERS)
    (tmp_path / "rows.csv").write_text("n\n1\n2\n3\n")
    run = ("run", str(path), "--each", str(tmp_path / "rows.csv"), "--output", str(tmp_path / "runs"), "--jobs", "1")
    command = [sys.executable, "-c", "from erpkit.cli import main; main()", *run]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_until(mark.exists)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "left: n=2, n=3; the same command with --resume runs these alone" in err
    go.touch()
    done = erpkit(*run, "--resume")
    assert done.returncode == 0, done.stderr
    assert "1 run of 3 done before" in done.stderr
    assert "3 runs: 3 ok" in done.stderr


def test_the_index_reads_a_report_once_and_sees_what_was_changed_or_removed(tmp_path: Path) -> None:
    path = write_notebook(tmp_path / "rows.ipynb", "1", parameters=PARAMETERS)
    (tmp_path / "rows.csv").write_text("n\n1\n2\n")
    folder = tmp_path / "runs"
    erpkit("run", str(path), "--each", str(tmp_path / "rows.csv"), "--output", str(folder))
    first, second = (folder / entry.name for entry in read_entries(folder))
    assert len((folder / STORE).read_text().splitlines()) == 3  # the fleet's page is none of theirs
    status = first.stat()
    first.write_text("x" * status.st_size)  # not read again: its time and size are as they were
    os.utime(first, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert first.name in write_index(folder).read_text()
    first.write_text("no longer a report")
    second.rename(folder / "moved.html")
    page = write_index(folder).read_text()
    links = [
        f'href="{name}"' in page for name in (first.name, second.name, "moved.html")
    ]  # the fleet's page ends in a run's name
    assert links == [False, False, True]
    (folder / STORE).write_text('["half')  # a line that was cut
    assert "moved.html" in write_index(folder).read_text()


def test_a_fleet_takes_no_more_connections_than_the_server_has(database: Database, tmp_path: Path) -> None:
    with database.connection() as connection:
        name = connection.info.dbname
        connection.execute(f"ALTER DATABASE {name} CONNECTION LIMIT 6")
    path = write_notebook(tmp_path / "rows.ipynb", "1", parameters=PARAMETERS)
    (tmp_path / "rows.csv").write_text("n\n1\n2\n3\n")
    done = erpkit(
        "run", str(path), "--each", str(tmp_path / "rows.csv"), "--output", str(tmp_path / "runs"), "--jobs", "3"
    )
    assert done.returncode == 0, done.stderr
    assert "note: 2 at a time instead of 3: the server has 6 connections left" in done.stderr


def test_outputs_go_to_any_place_that_fsspec_writes_to_and_the_fleet_is_resumed_from_home(tmp_path: Path) -> None:
    mark = tmp_path / "mended"
    path = write_notebook(
        tmp_path / "rows.ipynb",
        f"from pathlib import Path\nassert n == 1 or Path({str(mark)!r}).exists()",
        parameters=PARAMETERS,
    )
    (tmp_path / "rows.csv").write_text("n\n1\n2\n")
    run = ("run", str(path), "--each", str(tmp_path / "rows.csv"), "--output", f"file://{tmp_path}/far/runs")
    assert erpkit(*run).returncode == 1
    mark.touch()
    done = erpkit(*run, "--resume")
    assert (done.returncode, "1 run of 2 done before" in done.stderr) == (0, True), done.stderr
    kinds = [path.suffix for path in (tmp_path / "far" / "runs").iterdir()]
    assert sorted(kinds) == [".html"] * 4 + [".ipynb"] * 3  # three runs and the fleet's page
