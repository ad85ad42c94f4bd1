"""`erpkit run` as a fork of the warm process: the same outputs, exit codes and signals, and nothing is left of one that is killed."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest

from erpkit.kernels import link
from erpkit.kernels.place import NoWarmKernelError
from tests.command import rows_of
from tests.kernels.conftest import PATIENCE, children_of, is_alive, wait_until
from tests.tiny import write_notebook

COMMAND = [sys.executable, "-c", "from erpkit.cli import main; main()"]


@pytest.fixture(autouse=True)
def _no_database(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ERPKIT_DATABASE", "host=127.0.0.1 port=1 connect_timeout=1")
    monkeypatch.setenv("ERPKIT_MODULES", "erpkit.sample")


def _run(*arguments: str, cwd: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    command = [*COMMAND, "run", *arguments]
    return subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, check=False, env=os.environ | environ, timeout=PATIENCE
    )


def _waiting(folder: Path) -> tuple[subprocess.Popen[str], int]:
    """Start `erpkit run` on a notebook that waits; return its client, and its kernel."""
    mark = folder / "mark"
    cell = f"from pathlib import Path\nimport os, time\nPath({str(mark)!r}).write_text(f'{{os.getpid()}} ')\ntime.sleep(600)"
    path = write_notebook(folder / "waits.ipynb", cell, "print('after')")
    command = [*COMMAND, "run", str(path), "--json"]
    client = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_until(lambda: mark.exists() and mark.read_text().endswith(" "))
    return client, int(mark.read_text())


def _kernel_of(folder: Path) -> str:
    (output,) = folder.glob("runs/*.ipynb")
    return str(nbformat.read(output, as_version=4).metadata.erpkit.kernel)


def test_a_run_is_forked_with_its_kernel_and_tells_what_a_cold_one_tells(warm: Path, tmp_path: Path) -> None:
    for name, environ, kernel in (
        ("warm", {}, "warm"),
        ("cold", {"ERPKIT_WARM": "0"}, "cold (ERPKIT_WARM switches it off)"),
    ):
        folder = tmp_path / name
        folder.mkdir()
        path = write_notebook(
            folder / "one.ipynb", "import os, sys; print(os.getcwd())", "1 / 0", parameters="n: int = 1"
        )
        served = link.ask("status", warm)["served"]
        done = _run(str(path), "-p", "n", "2", cwd=folder, **environ)
        assert done.returncode == 1, done.stderr
        assert [row[1:3] for row in rows_of(done)] == [["one", "failed: ZeroDivisionError: division by zero"]]
        assert done.stderr.startswith(("note: the run is not recorded", "target: not reached"))
        assert link.ask("status", warm)["served"] == served + (2 if name == "warm" else 0)  # the driver and its kernel
        assert _kernel_of(folder) == kernel
        assert _run(str(path), "-p", "n", "two", cwd=folder, **environ).returncode == 2


def test_ctrl_c_reaches_the_forked_run_and_its_kernel(warm: Path, tmp_path: Path) -> None:
    client, kernel = _waiting(tmp_path)
    client.send_signal(signal.SIGINT)
    out, _ = client.communicate(timeout=PATIENCE)
    assert client.returncode == 130
    assert json.loads(out)["error"] == "by SIGINT"
    wait_until(lambda: not is_alive(kernel))


@pytest.mark.parametrize("victim", ["client", "driver"])
def test_nothing_is_left_of_a_run_that_is_killed(victim: str, warm: Path, warm_pid: int, tmp_path: Path) -> None:
    client, kernel = _waiting(tmp_path)
    (driver,) = children_of(warm_pid) - {kernel}
    (folder,) = {
        file.parent for link in Path(f"/proc/{driver}/fd").iterdir() if "erpkit-run-" in str(file := link.readlink())
    }
    assert folder.is_dir()
    if victim == "client":
        client.kill()
    else:
        os.kill(driver, signal.SIGKILL)
    client.communicate(timeout=PATIENCE)
    assert client.returncode == (-9 if victim == "client" else 137)
    wait_until(lambda: not is_alive(driver) and not is_alive(kernel))
    wait_until(lambda: not folder.exists())
    wait_until(lambda: not children_of(warm_pid))


def test_a_run_ends_with_the_warm_process_that_is_killed_and_the_next_one_is_a_cold_one(
    alone: Path, tmp_path: Path
) -> None:
    pid = link.ask("status", link.start())["pid"]
    client, kernel = _waiting(tmp_path)
    os.kill(pid, signal.SIGKILL)
    _, errors = client.communicate(timeout=PATIENCE)
    assert client.returncode == 137
    assert "erpkit: killed: the warm process that it was forked from ended" in errors
    wait_until(lambda: not is_alive(kernel))
    (tmp_path / "next").mkdir()
    path = write_notebook(tmp_path / "next" / "one.ipynb", "1")
    assert _run(str(path), cwd=path.parent).returncode == 0
    assert _kernel_of(path.parent) == "cold (no warm process runs)"


def test_why_a_run_is_a_cold_one_is_said_where_it_is_not_expected(warm: Path, tmp_path: Path) -> None:
    (tmp_path / "networkx.py").write_text("")
    path = write_notebook(tmp_path / "one.ipynb", "1")
    done = _run(str(path), cwd=tmp_path)
    assert done.returncode == 0
    assert f"note: a cold start: {tmp_path} has a module networkx of its own" in done.stderr
    assert "note: a cold kernel: " in done.stderr


def _fleet(folder: Path, cell: str, count: int, *options: str) -> subprocess.Popen[str]:
    path = write_notebook(folder / "rows.ipynb", cell, parameters="n: int = 0")
    (folder / "rows.csv").write_text("n\n" + "".join(f"{n}\n" for n in range(count)))
    command = [*COMMAND, "run", str(path), "--each", "rows.csv", "--json", *options]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture
def _with_database(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ERPKIT_DATABASE", request.getfixturevalue("database").conninfo)


@pytest.mark.usefixtures("_with_database")
def test_a_fleet_starts_a_warm_process_and_uses_its_processes_again(alone: Path, tmp_path: Path) -> None:
    fleet = _fleet(tmp_path, "import os; print(os.getppid())", 6)
    out, err = fleet.communicate(timeout=PATIENCE)
    assert fleet.returncode == 0, err
    rows = json.loads(out)
    nodes = [nbformat.read(row["output"], as_version=4) for row in rows]
    assert {node.metadata.erpkit.kernel for node in nodes} == {"warm"}
    (path,) = (alone / "erpkit-warm").glob("*.sock")
    state = link.ask("status", path)
    assert {int(node.cells[-1].outputs[0].text) for node in nodes} == {state["pid"]}
    assert state["served"] <= 6 + 2
    wait_until(lambda: not children_of(state["pid"]))


@pytest.mark.usefixtures("_with_database")
def test_a_fleet_goes_on_when_the_warm_process_is_killed(alone: Path, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    waits = f"if n == 1 and not Path({str(mark)!r}).exists():\n    Path({str(mark)!r}).touch(); time.sleep(600)"
    cell = f"import time\nfrom pathlib import Path\n{waits}"
    fleet = _fleet(tmp_path, cell, 5, "--jobs", "1")
    wait_until(mark.exists)
    (path,) = (alone / "erpkit-warm").glob("*.sock")
    os.kill(link.ask("status", path)["pid"], signal.SIGKILL)
    out, err = fleet.communicate(timeout=PATIENCE)
    rows = {row["run"]: row for row in json.loads(out)}
    assert {name: row["outcome"] for name, row in rows.items()} == {
        "n=0": "ok", "n=1": "killed", "n=2": "ok", "n=3": "ok", "n=4": "ok",
    }, err  # fmt: skip
    assert rows["n=1"]["error"] == "the process of the run was killed by SIGKILL"
    assert fleet.returncode == 137
    resumed = _fleet(tmp_path, cell, 5, "--resume")
    out, err = resumed.communicate(timeout=PATIENCE)
    assert resumed.returncode == 0, err
    assert [row["id"] for row in json.loads(out)][2:] == [rows[f"n={n}"]["id"] for n in range(2, 5)]


@pytest.mark.usefixtures("_with_database")
def test_a_fleet_whose_code_is_upgraded_goes_on_with_the_new_one(
    alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, upgradable: Callable[[], None]
) -> None:
    mark, go = tmp_path / "mark", tmp_path / "go"
    cell = (
        "import tenacity, time\nfrom pathlib import Path\n"
        f"if n == 1:\n    Path({str(mark)!r}).touch()\n    while not Path({str(go)!r}).exists(): time.sleep(0.05)\n"
        "print(getattr(tenacity, 'NEW', 0))"
    )
    fleet = _fleet(tmp_path, cell, 5, "--jobs", "1")
    wait_until(mark.exists)
    upgradable()
    go.touch()
    out, err = fleet.communicate(timeout=PATIENCE)
    assert fleet.returncode == 0, err
    nodes: list[Any] = [nbformat.read(row["output"], as_version=4) for row in json.loads(out)]
    assert [node.cells[-1].outputs[0].text.strip() for node in nodes] == ["0", "0", "1", "1", "1"]
    kernels = [node.metadata.erpkit.kernel for node in nodes]
    assert kernels[:2] + kernels[3:] == ["warm"] * 4
    assert "its code has changed on the disk" in kernels[2]


def test_kernels_are_listed_and_stopped_by_the_command_line(alone: Path, tmp_path: Path) -> None:
    def kernels(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*COMMAND, "kernels", *words], capture_output=True, text=True, check=False)

    assert kernels("list").returncode == 3
    assert [row[4] for row in rows_of(kernels("start"))] == ["serves"]
    (state,) = json.loads(kernels("list", "--json").stdout)
    null = os.open(os.devnull, os.O_RDWR)
    process = link.Link(Path(state["socket"]), "call", ["time:tzset"], streams=(null, null, null))
    process.wait(PATIENCE)
    waits = link.Link(Path(state["socket"]), "call", ["signal:pause"], streams=(null, null, null))
    os.close(null)
    stopped = kernels("stop")
    assert stopped.stderr == "1 warm process stopped, 1 process forked from there runs on\n"
    (row,) = rows_of(stopped)
    assert (row[:2], row[3]) == ([str(waits.pid), "command"], str(state["pid"]))
    listed = kernels("list")  # what runs on still is, by a process that takes no more work
    assert (listed.returncode, [[row[0], *row[3:]] for row in rows_of(listed)]) == (
        3, [[str(state["pid"]), "1", "stopped"]],
    )  # fmt: skip
    assert is_alive(waits.pid)
    with pytest.raises(NoWarmKernelError):
        link.ask("ping", Path(state["socket"]))
    waits.kill()
    assert waits.wait(PATIENCE) == -9
    wait_until(lambda: not is_alive(state["pid"]))
    assert list((alone / "erpkit-warm").glob("*.sock")) == []
    started = link.start()
    waits = link.Link(started, "call", ["signal:pause"], streams=(0, 1, 2))
    kernels("stop")
    assert "0 warm processes stopped, 1 process forked from there ended" in kernels("stop", "--now").stderr
    assert waits.wait(PATIENCE) == -9
