"""A fleet whose database restarts or whose disk fills: what it tells is true, and resuming it does the rest."""

import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import nbformat
import psycopg
import pytest

from erpkit.database import Database
from erpkit.embedded import EmbeddedServer
from erpkit.runs.entries import read_entries
from erpkit.runs.fleet_file import FleetFile
from tests.command import erpkit, rows_of
from tests.kernels.conftest import PATIENCE, wait_until
from tests.migrations.fleet import own_server
from tests.tiny import write_notebook

_ROOM = 3_000_000  # bytes


@pytest.fixture
def mortal_server() -> Iterator[EmbeddedServer]:
    with own_server() as server:
        yield server


def _start(*words: str, **environ: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", "from erpkit.cli import main; main()", *words]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | environ
    )


def _fleet(folder: Path, cell: str, count: int, output: Path) -> Sequence[str]:
    path = write_notebook(folder / "rows.ipynb", cell, parameters="n: int = 0")
    (folder / "rows.csv").write_text("n\n" + "".join(f"{n}\n" for n in range(1, count + 1)))
    return ["run", str(path), "--each", str(folder / "rows.csv"), "--output", str(output), "--jobs", "1", "--json"]


def test_a_fleet_outlives_a_restart_of_its_database(mortal_server: EmbeddedServer, tmp_path: Path) -> None:
    """The second run loses its connection in the middle, the third begins while there is no server, and the fourth finds it again."""
    cell = f"""
import time, erpkit
from pathlib import Path
folder = Path({str(tmp_path)!r})
if n == 3:
    (folder / "third").touch()
    while not (folder / "up").exists():
        time.sleep(0.05)
with erpkit.open() as erp, erp.database.connection() as connection:
    if n == 2 and not (folder / "second").exists():
        (folder / "second").touch()
        while not (folder / "down").exists():
            time.sleep(0.05)
    connection.execute("SELECT 1")
"""
    with psycopg.connect(mortal_server.url(), autocommit=True) as connection:
        connection.execute("SELECT 1")
    environ = {"ERPKIT_DATABASE": mortal_server.url(), "ERPKIT_MODULES": "erpkit.sample"}
    run = _fleet(tmp_path, cell, 4, tmp_path / "runs")
    process = _start(*run, **environ)
    wait_until((tmp_path / "second").exists)
    mortal_server.stop()
    (tmp_path / "down").touch()
    wait_until((tmp_path / "third").exists)
    mortal_server.start()
    (tmp_path / "up").touch()
    out, err = process.communicate(timeout=PATIENCE)
    first = json.loads(out)
    assert [row["outcome"] for row in first] == ["ok", "failed", "ok", "ok"], err
    assert "left: n=2; the same command with --resume runs these alone" in err
    assert _recorded(mortal_server) == {row["id"]: row["outcome"] for row in first}
    done = erpkit(*run, "--resume", **environ)
    second = json.loads(done.stdout)
    assert [row["outcome"] for row in second] == ["ok"] * 4, done.stderr
    assert [a["id"] == b["id"] for a, b in zip(first, second, strict=True)] == [True, False, True, True]


def _recorded(server: EmbeddedServer) -> dict[str, str]:
    with psycopg.connect(server.url()) as connection:
        return dict(connection.execute("SELECT id::text, outcome FROM public.erpkit_runs").fetchall())


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk that three outputs of a megabyte do not fit on."""
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={_ROOM},mode=755", "tmpfs", folder], check=True)
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small file system to be filled")
def test_a_fleet_on_a_disk_that_fills_tells_which_runs_are_missing_and_leaves_nothing_half_written(
    database: Database, tmp_path: Path, small_disk: Path
) -> None:
    environ = {"ERPKIT_DATABASE": database.conninfo, "ERPKIT_MODULES": "erpkit.sample"}
    runs = small_disk / "runs"
    run = _fleet(tmp_path, "print('x' * 600_000)", 6, runs)
    done = erpkit(*run, **environ)
    rows = json.loads(done.stdout)
    outcomes = [row["outcome"] for row in rows]
    assert (done.returncode, set(outcomes), outcomes[0]) == (1, {"ok", "failed"}, "ok"), done.stderr
    assert {row["error"].rpartition(": ")[2] for row in rows if row["outcome"] == "failed"} <= {
        "[Errno 28] No space left on device",
        "No space left on device",
    }
    assert "Traceback" not in done.stderr
    _check_whole(runs, [row["report"] for row in rows if row["outcome"] == "ok"])
    subprocess.run(["mount", "-o", "remount,size=100m", small_disk], check=True)
    (runs / ".erpkit-index.jsonl").unlink()  # the index of a single run finds no room for itself
    (runs / "index.html").unlink()
    (runs / "index.html").mkdir()
    alone = erpkit("run", run[1], "--output", str(runs), **environ)
    assert "Traceback" not in alone.stderr
    assert (alone.returncode, "note: the index of" in alone.stderr, [row[2] for row in rows_of(alone)]) == (
        0,
        True,
        ["ok"],
    )
    (runs / "index.html").rmdir()
    again = erpkit(*run, "--resume", **environ)
    assert [row["outcome"] for row in json.loads(again.stdout)] == ["ok"] * 6, again.stderr
    _check_whole(runs, [row["report"] for row in json.loads(again.stdout)])


def _check_whole(folder: Path, reports: Sequence[str]) -> None:
    """Every notebook can be read, every run that is told to be well has its report, and no draft is left."""
    for path in folder.glob("*.ipynb"):
        nbformat.read(path, as_version=4)
    assert {Path(report).name for report in reports} <= {entry.name for entry in read_entries(folder)}
    assert not [path.name for path in folder.rglob("*") if path.name.endswith(".part")]


def test_a_line_of_a_fleets_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    code = (
        "import sys, resource; from pathlib import Path; from erpkit.errors import RunError\n"
        "from erpkit.runs.fleet_file import FleetFile\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100)); file = FleetFile(Path(sys.argv[1]))\n"
        "file.add('a', RunError('first'))\n"
        "try: file.add('b', RunError('second' * 20))\n"
        "except OSError: sys.exit(7)"
    )
    path = tmp_path / "fleet.jsonl"
    assert subprocess.run([sys.executable, "-c", code, str(path)], check=False).returncode == 7
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 100
    assert [json.loads(line)["run"] for line in path.read_text().splitlines()] == ["a"]
    assert FleetFile(path).read() == {}
