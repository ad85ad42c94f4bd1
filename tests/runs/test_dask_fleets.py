"""A fleet on a real Dask cluster: a scheduler and workers, one of which is lost in the middle."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from erpkit.database import Database
from tests.command import erpkit, refused
from tests.kernels.conftest import PATIENCE, is_alive, wait_until
from tests.tiny import write_notebook

pytest.importorskip("distributed", reason="there is no Dask: pip install 'erpkit[dask]'")


@pytest.fixture(scope="module", autouse=True)
def environment(shared_database: Database) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ERPKIT_DATABASE", shared_database.conninfo)
        patch.setenv("ERPKIT_MODULES", "erpkit.sample")
        yield


@contextmanager
def started(folder: Path, *arguments: str) -> Iterator[None]:
    """A process of Dask's command line for the time of the block."""
    with (folder / f"{arguments[-1].strip('-')}.log").open("w") as log:
        command = [sys.executable, "-m", "dask", *arguments]
        process = subprocess.Popen(
            command, cwd=folder, stdout=log, stderr=log, env=os.environ | {"PYTHONWARNINGS": "ignore"}
        )
    try:
        yield
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def cluster(environment: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a scheduler with three workers that have a process and a thread each; a test may kill one."""
    folder = tmp_path_factory.mktemp("cluster")
    file = folder / "scheduler.json"
    of = ("--scheduler-file", str(file))
    worker = ("worker", *of, "--nthreads", "1", "--no-nanny", "--no-dashboard", "--host", "127.0.0.1", "--name")
    scheduler = (
        "scheduler",
        *of,
        "--host",
        "127.0.0.1",
        "--port",
        "0",
        "--dashboard-address",
        "127.0.0.1:0",
        "--no-dashboard",
    )
    with started(folder, *scheduler):
        wait_until(lambda: file.exists() and file.read_text().strip().endswith("}"))
        address = json.loads(file.read_text())["address"]
        with started(folder, *worker, "one"), started(folder, *worker, "two"), started(folder, *worker, "three"):
            from distributed import Client

            with Client(address, timeout=PATIENCE, set_as_default=False) as client:
                client.wait_for_workers(3, timeout=PATIENCE)
            yield str(address)


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


WAITS = """
import os, time
from pathlib import Path
if n == 2 and not Path(go).exists():
    Path(mark).write_text(str(os.getppid()))
    time.sleep(600)
print(n)
"""


@pytest.mark.parametrize("writes", [False, True])
def test_a_run_whose_worker_is_lost_is_done_again_unless_it_may_write(
    writes: bool, cluster: str, tmp_path: Path
) -> None:
    go, mark = tmp_path / "go", tmp_path / "mark"
    parameters = f"n: int = 0\ndry_run: bool = True\ngo: str = {str(go)!r}\nmark: str = {str(mark)!r}"
    path = write_notebook(tmp_path / "rows.ipynb", WAITS, parameters=parameters)
    (tmp_path / "rows.csv").write_text("n\n1\n2\n3\n")
    run = [
        "run",
        str(path),
        "--each",
        str(tmp_path / "rows.csv"),
        "--output",
        str(tmp_path / "runs"),
        "--dask",
        cluster,
    ]
    run += ["-p", "dry_run", str(not writes), "--json"]
    command = [sys.executable, "-c", "from erpkit.cli import main; main()", *run]
    fleet = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_until(lambda: mark.exists() and mark.read_text())
    process = int(mark.read_text())
    worker = _parent(process)
    go.touch()
    os.kill(worker, 9)
    out, err = fleet.communicate(timeout=300)
    assert out, err
    rows = {row["run"]: row for row in json.loads(out)}
    assert {name: row["outcome"] for name, row in rows.items()} == {
        "n=1": "ok", "n=2": "killed" if writes else "ok", "n=3": "ok",
    }, err  # fmt: skip
    assert fleet.returncode == (137 if writes else 0)
    if writes:
        assert rows["n=2"]["error"] == "its worker was lost; it was not started again, because it may write"
        assert "left: n=2; the same command with --resume runs these alone" in err
    os.kill(process, 9)  # it would run on to its end
    wait_until(lambda: not is_alive(process))


def test_a_scheduler_that_does_not_answer_within_dasks_own_bound_is_one_line(tmp_path: Path) -> None:
    path = write_notebook(tmp_path / "rows.ipynb", "1", parameters="n: int = 0")
    (tmp_path / "rows.csv").write_text("n\n1\n")
    done = erpkit(
        "run",
        str(path),
        "--each",
        str(tmp_path / "rows.csv"),
        "--output",
        str(tmp_path / "r"),
        "--dask",
        "tcp://127.0.0.1:1",
        DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT="0.5s",
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("erpkit: the Dask scheduler at tcp://127.0.0.1:1 does not answer")
    refused(erpkit("run", str(path), "--dask", "tcp://127.0.0.1:1"), 2, "--dask goes with --each-tenant or --each")
