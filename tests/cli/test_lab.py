"""`erpkit lab`: the user's own copies of the notebooks, and how JupyterLab ends."""

from __future__ import annotations

import json
import os
import signal
import time
import urllib.request
from pathlib import Path

import pytest

from erpkit.cli import lab
from erpkit.database import Database
from erpkit.runs import notebooks_folder
from tests.browser.conftest import start_lab

WAIT = 60.0  # seconds, on a busy machine


def test_each_notebook_is_copied_and_one_whose_cells_the_user_changed_is_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kit, own = tmp_path / "kit", tmp_path / "own"
    (kit / "runbooks").mkdir(parents=True)
    names = ("welcome.ipynb", "run.ipynb", "changed.ipynb", "runbooks/one.ipynb")
    for name in names:
        _write(kit / name, "old")
    own.mkdir()
    lab._working_copy(own, kit)
    _write(own / "run.ipynb", "old", was_run=True)
    _write(own / "changed.ipynb", "mine", was_run=True)
    _write(own / "my_own.ipynb", "mine, too")
    lab._working_copy(own, kit)
    assert "was_run" in (own / "run.ipynb").read_text(), "outputs stay as long as the kit is the same"
    for name in names:
        _write(kit / name, "new")
    capsys.readouterr()
    assert lab._working_copy(own, kit) == own
    sources = [json.loads((own / name).read_text())["cells"][0]["source"] for name in (*names, "my_own.ipynb")]
    assert sources == ["new", "new", "mine", "new", "mine, too"]
    assert "newer version of what you changed; to get it, move yours away: changed.ipynb" in capsys.readouterr().err


def _write(path: Path, source: str, was_run: bool = False) -> None:
    """Write a notebook; one that was run has what JupyterLab saves then."""
    cell: dict[str, object] = {"cell_type": "code", "source": source, "outputs": [], "execution_count": None}
    saved = {"id": "a1", "outputs": ["was_run"], "execution_count": 3, "metadata": {"trusted": True}}
    notebook = {"cells": [cell | saved if was_run else cell], "metadata": {"widgets": {}} if was_run else {}}
    path.write_text(json.dumps(notebook, indent=2 if was_run else 1))


def test_the_notebooks_of_the_kit_hold_a_welcome_that_names_each_of_them() -> None:
    folder = notebooks_folder()
    text = (folder / lab._WELCOME).read_text()
    for path in [*folder.glob("*.ipynb"), *folder.glob("runbooks/*.ipynb"), *folder.glob("guide/*.ipynb")]:
        if path.name != lab._WELCOME:
            assert f"({path.relative_to(folder).as_posix()})" in text, path


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_jupyterlab_and_its_kernels_end_when_the_command_is_ended(
    shared_database: Database, tmp_path: Path, number: signal.Signals
) -> None:
    for server in start_lab(shared_database.conninfo, tmp_path, {}):
        headers = {"Authorization": f"token {server.token}", "Content-Type": "application/json"}
        asked = urllib.request.Request(f"{server.url}api/kernels", b"{}", headers, method="POST")
        with urllib.request.urlopen(asked) as answer:
            assert json.loads(answer.read())["id"]
        assert _children(server.process.pid)
        server.process.send_signal(number)
        server.process.wait(WAIT)
        deadline = time.monotonic() + WAIT
        while _is_used(server.process.pid) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not _is_used(server.process.pid)
        with pytest.raises(OSError, match=r"refused"):
            urllib.request.urlopen(f"{server.url}api")


def _children(pid: int) -> str:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text()


def _is_used(group: int) -> bool:
    """Tell whether a process of this session is left."""
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if os.getsid(int(path.name)) == group:
                return True
        except OSError:
            continue
    return False
