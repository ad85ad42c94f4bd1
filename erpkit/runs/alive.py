"""Telling what a dead process left behind: the system gives a lock on a file back when the process that holds it ends."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ModuleNotFoundError:  # not everywhere
    fcntl = None  # type: ignore[assignment]

TEMP = Path("/tmp")  # a socket's path must be short
PREFIX = "erpkit-run-"
LOCK = "lock"


@contextmanager
def claimed(path: Path) -> Iterator[None]:
    """Make a file and hold its lock for the time of the block; the file stays. It is locked before it has its name."""
    draft = path.with_name(f".{path.name[:200]}.{os.getpid()}")
    handle = os.open(draft, os.O_CREAT | os.O_RDWR, 0o600)
    try:
        with suppress(OSError):  # a network file system may have no locks
            if fcntl is not None:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        draft.replace(path)
        yield
    finally:
        os.close(handle)


def is_abandoned(path: Path) -> bool:
    """Tell whether the process that claimed a file has ended; False where that cannot be told."""
    if fcntl is None:
        return False
    try:
        handle = os.open(path, os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    else:
        return True
    finally:
        os.close(handle)


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """Lend a folder of this process alone, and remove those of processes that were killed."""
    sweep()
    with (
        tempfile.TemporaryDirectory(prefix=f"{PREFIX}{os.getpid()}-", dir=TEMP, ignore_cleanup_errors=True) as name,
        claimed(Path(name, LOCK)),
    ):
        yield Path(name)


def sweep() -> None:
    """Remove the temporary folders of this user whose processes have ended."""
    for folder in TEMP.glob(f"{PREFIX}*"):
        with suppress(OSError):
            if folder.stat().st_uid == os.getuid() and is_abandoned(folder / LOCK):
                shutil.rmtree(folder, ignore_errors=True)
