"""Runs that die in the middle: what is left is whole, says what became of them, and outlives nothing."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat
import pytest

from erpkit.database import Database
from erpkit.errors import RunError
from erpkit.runs import TimeLimits, list_runs, open_notebook, run_notebook
from erpkit.runs.alive import LOCK, PREFIX, claimed, is_abandoned, sweep
from erpkit.runs.entries import read_entries
from erpkit.runs.fleet_file import FleetFile
from erpkit.runs.history import RunFilter
from erpkit.runs.killed import mark_killed, under_way
from tests.command import erpkit, on_a_terminal
from tests.tiny import write_notebook


@pytest.fixture
def environment(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ERPKIT_DATABASE", database.conninfo)
    monkeypatch.setenv("ERPKIT_MODULES", "erpkit.sample")


def _wait(condition: Callable[[], object], seconds: float = 180) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.05)


def _is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@contextlib.contextmanager
def _driver(*arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-c", "from erpkit.cli import main; main()", "run", *arguments]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as driver:
        try:
            yield driver
        finally:
            driver.kill()


def _killed(folder: Path) -> None:
    """Run a notebook whose driver is killed while its second cell waits; return when its kernel has noticed."""
    mark = folder / "kernel"
    cell = (
        f"import os, time\nfrom pathlib import Path\nPath({str(mark)!r}).write_text(str(os.getpid()))\ntime.sleep(600)"
    )
    path = write_notebook(folder / "waits.ipynb", "print('begun')", cell, "print('after')", parameters="n: int = 1")
    with _driver(str(path), "-p", "n", "2", "--output", str(folder / "runs")) as driver:
        _wait(lambda: mark.exists() and mark.read_text())
        driver.send_signal(signal.SIGKILL)
        driver.wait(180)
    with contextlib.suppress(ProcessLookupError):  # it notices by itself as well, a little later
        os.kill(int(mark.read_text()), signal.SIGKILL)


def test_after_its_driver_was_killed_a_notebook_says_so_at_the_next_look(
    environment: None, database: Database, tmp_path: Path
) -> None:
    _killed(tmp_path)
    (output,) = (tmp_path / "runs").glob("*.ipynb")
    assert nbformat.read(output, as_version=4).metadata.erpkit.outcome == "running"
    with database.connection() as connection:
        connection.execute("UPDATE public.erpkit_runs SET seen_at = seen_at - interval '1 hour'")
    listed = erpkit("runs", "--json")
    assert [run["outcome"] for run in json.loads(listed.stdout)] == ["lost"]
    node = nbformat.read(output, as_version=4)
    assert (node.metadata.erpkit.outcome, "begun" in str(node.cells)) == ("killed", True)
    notes = [cell.source for cell in node.cells if "erpkit-note" in cell.metadata.get("tags", [])]
    assert "Killed: its driver ended before the run did" in notes[0]
    assert "1 cell was not run" in notes[0]
    states = [cell.metadata.papermill.status for cell in node.cells if cell.cell_type == "code"]
    assert states == ["completed", "completed", "completed", "killed", "pending"]
    (entry,) = read_entries(tmp_path / "runs")
    assert (entry.outcome, entry.notebook) == ("killed", "waits")
    assert not (tmp_path / "runs" / ".running").exists()


def test_the_next_run_into_a_folder_marks_what_was_killed_there_and_leaves_what_runs(
    environment: None, tmp_path: Path
) -> None:
    _killed(tmp_path)
    running = tmp_path / "runs" / ".running"
    with claimed(running / "other.ipynb"):
        run_notebook(open_notebook(str(write_notebook(tmp_path / "next.ipynb", "1"))), {}, tmp_path / "runs")
        assert sorted(path.name for path in running.iterdir()) == ["other.ipynb"]
    assert {entry.notebook: entry.outcome for entry in read_entries(tmp_path / "runs")} == {
        "waits": "killed",
        "next": "ok",
    }


def test_runs_that_begin_and_end_at_once_in_a_folder_do_not_get_into_each_others_way(tmp_path: Path) -> None:
    def run(n: int) -> None:
        for turn in range(400):
            with under_way(tmp_path / f"{n}.ipynb"):
                assert turn % 10 or not mark_killed(tmp_path)

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(run, range(8))) == [None] * 8
    assert not list(tmp_path.iterdir())


def test_a_file_is_abandoned_when_the_process_that_claimed_it_has_ended(tmp_path: Path) -> None:
    place = str(tmp_path / "one")
    code = f"from pathlib import Path\nfrom erpkit.runs.alive import claimed\nwith claimed(Path({place!r})): input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE) as other:
        _wait((tmp_path / "one").exists)
        assert not is_abandoned(tmp_path / "one")
        other.kill()
    assert is_abandoned(tmp_path / "one")
    assert not is_abandoned(tmp_path / "none")


def test_temporary_folders_of_dead_drivers_are_swept_and_no_others(tmp_path: Path) -> None:
    made = [Path("/tmp", f"{PREFIX}{os.getpid()}-test{n}") for n in range(3)]
    dead, alive, kept = made
    for folder in made:
        folder.mkdir()
    (dead / LOCK).touch()
    (dead / "kernel-1").touch()
    try:
        with claimed(alive / LOCK):
            sweep()  # the run of another test may have done it already
            assert [folder.exists() for folder in made] == [False, True, True]
    finally:
        for folder in (alive, kept):
            for file in folder.iterdir():
                file.unlink()
            folder.rmdir()


@pytest.mark.parametrize("start", ["start_new_session=True", "start_new_session=False"])
def test_a_child_that_a_notebook_left_running_does_not_outlive_a_timeout(start: str, tmp_path: Path) -> None:
    mark = tmp_path / "child"
    cell = (
        "import subprocess, sys, time\nfrom pathlib import Path\n"
        f"child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], {start})\n"
        f"Path({str(mark)!r}).write_text(str(child.pid))\ntime.sleep(600)"
    )
    path = write_notebook(tmp_path / "leaves.ipynb", cell)
    for seconds in (2, 10, 50):  # a machine that is busy may not have come to the child before the first limit
        result = run_notebook(open_notebook(str(path)), {}, tmp_path / "runs", limits=TimeLimits(cell=seconds))
        if mark.exists() and mark.read_text():
            break
    assert result.outcome == "timed out"
    _wait(lambda: not _is_running(int(mark.read_text())))


def test_a_full_disk_leaves_no_half_of_a_notebook(environment: None, database: Database, tmp_path: Path) -> None:
    """A limit on the size of files is a disk that is full for these: the system refuses in the middle of writing."""
    path = write_notebook(tmp_path / "big.ipynb", "print('small')", "print('x' * 3_000_000)", "print('after')")
    code = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, 2_000_000)); from erpkit.cli import main; main()"
    command = [sys.executable, "-c", code, "run", str(path), "--output", str(tmp_path / "runs")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert (done.returncode, "File too large" in done.stderr, "Traceback" in done.stderr) == (1, True, False)
    (output,) = (tmp_path / "runs").glob("*.ipynb")
    assert "small" in str(nbformat.read(output, as_version=4).cells)
    assert not list((tmp_path / "runs").glob(".*.part"))
    with database.connection() as connection:
        (run,) = list_runs(connection, only=RunFilter("big"))
    assert run.outcome == "failed"


def test_a_disk_that_was_full_before_leaves_no_empty_notebook(environment: None, tmp_path: Path) -> None:
    path = write_notebook(tmp_path / "one.ipynb", "1")
    code = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0)); from erpkit.cli import main; main()"
    command = [sys.executable, "-c", code, "run", str(path), "--output", "runs"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 2
    assert "cannot be written" in done.stderr
    assert not list((tmp_path / "runs").glob("*.ipynb"))


def test_a_full_disk_is_said_of_the_files_of_a_fleet() -> None:
    with pytest.raises(OSError, match="No space left on device"):
        FleetFile(Path("/dev/full")).add("one", RunError("its process died"))


def test_json_stays_json_whatever_a_child_of_the_notebook_prints(environment: None, tmp_path: Path) -> None:
    cell = "import os, subprocess\nsubprocess.run(['echo', 'hello'])\nos.write(1, b'raw')\nos.system('echo shell >&2')"
    path = write_notebook(tmp_path / "child.ipynb", cell)
    done = erpkit("run", str(path), "--json", "--output", str(tmp_path / "runs"))
    assert json.loads(done.stdout)["outcome"] == "ok"


def test_a_single_run_shows_on_a_terminal_which_cell_it_is_in(environment: None, tmp_path: Path) -> None:
    path = write_notebook(tmp_path / "shown.ipynb", "\nfirst = 1", "second = 2")
    said = on_a_terminal("run", str(path), "--output", str(tmp_path / "runs"))
    assert re.search(r"shown: cell 2 of 3, \d+ s: first = 1", said)
    assert re.search(r"shown: cell 3 of 3, \d+ s: second = 2", said)
    piped = erpkit("run", str(path), "--output", str(tmp_path / "runs"))
    assert "cell 2 of 3" not in piped.stdout + piped.stderr
