"""Files that are being written: they are removed at the end, and by the next process if theirs was killed."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

__all__ = ["partial_file", "sweep_partial_files"]

_PREFIX, _SUFFIX = ".erpkit-", ".partial"


@contextmanager
def partial_file(folder: Path) -> Iterator[tuple[IO[bytes], Path]]:
    """Make a file in `folder` for its owner alone, and remove that name at the end: link it to another one to keep it.

    It is locked while its process lives, which the operating system sees to: so nobody has to guess from a process id, which
    may be another process's by now, or one of another container that shares the folder.
    """
    file, path = _make(folder)
    with file:
        try:
            yield file, path
        finally:
            path.unlink(missing_ok=True)


def sweep_partial_files(folder: Path) -> None:
    """Remove what processes that were killed left in `folder`; what cannot be removed is left alone."""
    with suppress(OSError):
        for path in folder.glob(f"{_PREFIX}*{_SUFFIX}"):
            with suppress(OSError):
                _remove_if_left(path)


def _make(folder: Path) -> tuple[IO[bytes], Path]:
    """Make a locked file; another process may have removed it before it was locked, and then make another one."""
    while True:
        descriptor, name = tempfile.mkstemp(_SUFFIX, _PREFIX, folder)
        file = os.fdopen(descriptor, "w+b")
        with suppress(OSError):  # a file system without locks: then no sweep removes it either
            fcntl.flock(file, fcntl.LOCK_EX)  # waits for a sweep that is just looking at it
        if os.fstat(descriptor).st_nlink:
            return file, Path(name)
        file.close()


def _remove_if_left(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if os.fstat(descriptor).st_uid == os.geteuid():
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
    finally:
        os.close(descriptor)
