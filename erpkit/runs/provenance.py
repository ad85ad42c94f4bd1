"""Where a run comes from: who started it, on which machine, from which revision of the notebook, with which versions."""

from __future__ import annotations

import hashlib
import os
import platform
import socket
import subprocess
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from erpkit.config import acting_user

__all__ = ["Provenance", "read_provenance"]


@dataclass(frozen=True)
class Provenance:
    """`revision` is the git commit that holds the notebook, with `+changed` where the file differs; "" outside git."""

    who: str
    host: str
    pid: int
    checksum: str
    revision: str
    versions: dict[str, str]


def read_provenance(notebook: Path) -> Provenance:
    """Read who runs `notebook` and in what surroundings."""
    return Provenance(
        who=acting_user(),
        host=socket.gethostname(),
        pid=os.getpid(),
        checksum=hashlib.sha256(notebook.read_bytes()).hexdigest(),
        revision=_revision(notebook),
        versions={
            "python": platform.python_version(),
            **{n: _version(n) for n in ("erpkit", "papermill", "ipykernel")},
        },
    )


def _revision(notebook: Path) -> str:
    commit = _git(notebook, "rev-parse", "HEAD")
    if not commit or not _git(notebook, "ls-files", "--", notebook.name):
        return ""
    return commit + ("+changed" if _git(notebook, "status", "--porcelain", "--", notebook.name) else "")


def _git(notebook: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=notebook.parent, capture_output=True, text=True, timeout=5, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
