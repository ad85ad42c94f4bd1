"""A warm process of the tests' own, in a folder of their own."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from erpkit.kernels import link
from erpkit.kernels.place import NoWarmKernelError, find_folder

PATIENCE = 300.0  # seconds


def wait_until(condition: Callable[[], object]) -> None:
    """Wait for what happens in other processes."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and was not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False


def stop_all() -> None:
    """Stop the warm processes of the folder, and wait for their end."""
    for path in find_folder().glob("*.sock"):
        try:
            pid = link.ask("stop", path)["pid"]
        except NoWarmKernelError:
            continue
        wait_until(lambda pid=pid: not is_alive(pid))  # type: ignore[misc]


@pytest.fixture(scope="package")
def runtime() -> Iterator[Path]:
    """The folder that stands for the user's runtime folder; a socket's path must be short."""
    folder = Path(tempfile.mkdtemp(prefix="ek-", dir="/tmp"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", str(folder))
        patch.delenv("ERPKIT_WARM")
        yield folder
        stop_all()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def warm(runtime: Path) -> Path:
    """The socket of a warm process that serves; where a test has ended it, another one."""
    return link.start()


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A runtime folder for a test that ends its warm processes."""
    folder = Path(tempfile.mkdtemp(prefix="ek-", dir="/tmp"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    monkeypatch.delenv("ERPKIT_WARM", raising=False)
    yield folder
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    stop_all()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def light(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """What a warm process preloads in a test that is not about what it has loaded: one library."""
    folder = tmp_path / "light"
    folder.mkdir()
    (folder / "light.py").write_text("import tenacity\n\n\ndef rehearse():\n    pass\n")
    monkeypatch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)
    return "light"


@pytest.fixture
def upgradable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Put a copy of a library that the warm process loads before all others; return what upgrades it."""
    import tenacity

    copy = tmp_path / "library" / "tenacity"
    shutil.copytree(Path(str(tenacity.__file__)).parent, copy)
    monkeypatch.setenv("PYTHONPATH", str(copy.parent), prepend=os.pathsep)

    def upgrade() -> None:
        with (copy / "__init__.py").open("a") as init:
            init.write("\nNEW = 1\n")

    return upgrade


@pytest.fixture
def warm_pid(warm: Path) -> int:
    """The id of the warm process."""
    return int(link.ask("status", warm)["pid"])


def children_of(pid: int) -> set[int]:
    """Return the processes that were forked from one and run."""
    tasks = Path(f"/proc/{pid}/task/{pid}/children")
    return {int(child) for child in tasks.read_text().split() if is_alive(int(child))} if tasks.exists() else set()
