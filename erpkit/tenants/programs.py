"""PostgreSQL's own pg_dump and pg_restore: the installed ones, or those of the embedded server's wheel."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from psycopg.conninfo import make_conninfo

from erpkit.database import Connection
from erpkit.embedded import find_binaries
from erpkit.errors import DatabaseError

__all__ = ["find_program", "open_program", "without_password"]

_SECRETS = frozenset({"password", "sslpassword", "oauth_client_secret"})


def find_program(name: str, server_version: int) -> Path:
    """Return a program that is at least as new as the server; raises DatabaseError, naming what there is, without one."""
    found = {path: _major(path) for path in _candidates(name)}
    major = server_version // 10_000
    fit = [path for path, version in found.items() if version >= major]
    if not fit:
        versions = ", ".join(f"{path} ({version})" for path, version in found.items()) or "none"
        raise DatabaseError(
            f"{name} must be at least as new as the server, {major}; found {versions}: install a newer one"
        )
    return fit[0]


@contextmanager
def open_program(
    command: Sequence[str | Path], connection: Connection | None = None, file: int | None = None
) -> Iterator[IO[bytes]]:
    """Run a program beside us and lend its output; raises DatabaseError with its reason when it fails.

    It connects as `connection` does, if one is given, and inherits the open `file`. When we are killed, it ends with its next
    output.
    """
    with (
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(
            list(command), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors,
            env=_environment(connection), pass_fds=() if file is None else (file,),
        ) as process,
    ):  # fmt: skip
        assert process.stdout is not None
        try:
            yield process.stdout
        except BaseException:
            process.kill()
            raise
        code = process.wait()
        errors.seek(0)
        _check(command, code, errors.read().decode(errors="replace"))


def without_password(connection: Connection) -> str:
    """Return the connection string of `connection`, without secrets, and with the one host that it reached.

    A command line can be read by everybody on the machine; and a snapshot is known to the server that exported it alone.
    """
    known = {key: value for key, value in connection.info.get_parameters().items() if key not in _SECRETS}
    if "," in known.get("host", ""):
        known |= {"host": connection.info.host, "port": str(connection.info.port)}
        known.pop("hostaddr", None)
    return make_conninfo(**known)


def _candidates(name: str) -> list[Path]:
    installed = shutil.which(name)
    paths = [Path(installed)] if installed else []
    with suppress(DatabaseError):  # the wheel may be missing where the database is one's own
        paths.append(find_binaries() / name)
    return paths


def _major(program: Path) -> int:
    shown = subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout
    match = re.search(r"\) (\d+)", shown)
    return int(match[1]) if match else 0


def _environment(connection: Connection | None) -> dict[str, str]:
    password = connection.info.password if connection is not None else ""
    return os.environ | {"LC_ALL": "C"} | ({"PGPASSWORD": password} if password else {})


def _check(command: Sequence[str | Path], code: int, errors: str) -> None:
    if code:
        lines = (
            [line for line in errors.splitlines() if "error:" in line] or errors.splitlines() or [f"exit code {code}"]
        )
        raise DatabaseError(f"{Path(command[0]).name} failed: {lines[0].split('error: ', 1)[-1]}")
