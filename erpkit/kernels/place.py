"""Where the warm process of a user listens, and which one fits a client: one for each Python, its packages and its environment."""

from __future__ import annotations

import hashlib
import os
import stat
import sys
from collections.abc import Mapping
from pathlib import Path

_LONGEST = 80  # bytes of a folder's path, as a socket's path has 108 with its name
_FREE = ("PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED")  # a fork follows them
_FIXED = ("PYTHON", "LD_", "LC_", "LANG", "MPL", "HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME")


class NoWarmKernelError(Exception):
    """No warm process serves this request; the message says why. A client starts its kernel or command the usual way."""

    is_expected = False


class NotRunningError(NoWarmKernelError):
    """There is no warm process, or it is switched off: nothing is wrong."""

    is_expected = True


def check_wanted(environ: Mapping[str, str]) -> None:
    """Raise NoWarmKernelError where the system can have no warm process, or `ERPKIT_WARM=0` forbids it."""
    if environ.get("ERPKIT_WARM", "") in ("0", "no", "off", "false"):
        raise NotRunningError("ERPKIT_WARM switches it off")
    if sys.platform != "linux":
        raise NotRunningError(f"{sys.platform} has no warm kernels: they need Linux")


def fixed(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that a process reads once, at its start or when it imports a library."""
    return {name: value for name, value in sorted(environ.items()) if name.startswith(_FIXED) and name not in _FREE}


def find_folder() -> Path:
    """Return the folder of this user's warm processes, which only the user may enter; make it where there is none.

    Raises NoWarmKernelError for one that belongs to another user or that others may enter.
    """
    user = os.getuid()
    path = Path(_runtime_folder(user) or "/tmp", "erpkit-warm" if _runtime_folder(user) else f"erpkit-warm-{user}")
    try:
        path.mkdir(mode=0o700, exist_ok=True)
        found = path.lstat()
    except OSError as error:
        raise NoWarmKernelError(f"{path} cannot be used: {error.strerror}") from None
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != user or found.st_mode & 0o077:
        raise NoWarmKernelError(f"{path} is not a folder that only this user may enter: remove it")
    return path


def find_socket(environ: Mapping[str, str]) -> Path:
    """Return the path of the socket of the warm process that fits this Python and environment; raises NoWarmKernelError."""
    check_wanted(environ)
    return find_folder() / f"{_key(environ)}.sock"


def _runtime_folder(user: int) -> str | None:
    """Return the folder that the system removes at the user's last logout; a cron job of the user finds the same one."""
    for path in (os.environ.get("XDG_RUNTIME_DIR"), f"/run/user/{user}"):
        if path and len(path) < _LONGEST and os.path.isdir(path) and os.stat(path).st_uid == user:  # noqa: PTH112, PTH116
            return path
    return None


def _key(environ: Mapping[str, str]) -> str:
    """Return what differs for another interpreter, other packages, another environment, and another service of the system."""
    folders = sorted({path for path in sys.path if path.endswith("-packages")})  # pip changes their times
    packages = [(path, os.stat(path).st_mtime_ns) for path in folders if os.path.isdir(path)]  # noqa: PTH112, PTH116
    python = os.path.realpath(sys.executable)  # the same one has several names in a venv
    flags = [getattr(sys.flags, name) for name in ("optimize", "dev_mode", "utf8_mode", "no_user_site", "isolated")]
    # A fork is in the control group of the warm process: it must be that of the client, whose service ends with all its group.
    group = Path("/proc/self/cgroup").read_text()
    facts = (python, sys.prefix, sys.version, flags, sys._xoptions, sys.warnoptions, packages, group)
    return hashlib.sha256(repr((facts, fixed(environ))).encode()).hexdigest()[:16]
