"""The embedded server: one's own, kept running, and it leaves other folders alone."""

import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

import erpkit.embedded
from erpkit.config import Settings
from erpkit.database import Database
from erpkit.embedded import EmbeddedServer
from erpkit.errors import DatabaseError


@pytest.fixture
def home() -> Iterator[Path]:
    """A home for a server, in a folder that only its owner may enter."""
    private = Path(tempfile.mkdtemp(prefix="erpkit-private-"))
    server = EmbeddedServer(private / "home")
    yield private / "home"
    server.stop()
    if not server.data.is_relative_to(private):
        shutil.rmtree(server.data.parent, ignore_errors=True)
    shutil.rmtree(private)


def _modes(*paths: Path) -> dict[Path, int]:
    return {
        folder: stat.S_IMODE(folder.stat().st_mode)
        for path in paths
        for folder in [path, *path.parents]
        if folder.exists()
    }


def test_starting_leaves_the_permissions_of_all_folders_above_as_they_were(home: Path) -> None:
    installed = Path(str(erpkit.embedded.find_binaries()))
    package = Path(sys.prefix)
    before = _modes(home, installed, package)
    assert before[home.parent] == 0o700
    assert EmbeddedServer(home).start()
    after = _modes(home, installed, package)
    assert {path: after[path] for path in before} == before


def test_the_data_are_closed_to_others(home: Path) -> None:
    server = EmbeddedServer(home)
    server.start()
    assert stat.S_IMODE(server.data.stat().st_mode) == 0o700
    assert stat.S_IMODE(server.socket_folder.stat().st_mode) == 0o700


def test_starting_twice_is_starting_once(home: Path) -> None:
    server = EmbeddedServer(home)
    assert server.start()
    assert not server.start()
    assert server.is_running()


def test_it_stops_and_keeps_its_data(home: Path) -> None:
    server = EmbeddedServer(home)
    server.start()
    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute("CREATE TABLE kept (id int)")
    assert server.stop()
    assert not server.stop()
    assert not server.is_running()
    server.start()
    with psycopg.connect(server.url()) as connection:
        assert connection.execute("SELECT count(*) FROM kept").fetchone() == (0,)


def test_it_starts_again_after_it_was_killed(home: Path) -> None:
    server = EmbeddedServer(home)
    server.start()
    pid = int((server.data / "postmaster.pid").read_text().split()[0])
    os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while not erpkit.embedded._is_dead(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    with Database.open(Settings(home=home)) as database, database.connection() as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_processes_that_start_it_at_once_share_one_server(home: Path) -> None:
    code = (
        "from pathlib import Path; from erpkit.embedded import EmbeddedServer; import psycopg;"
        f"s = EmbeddedServer(Path({str(home)!r})); s.start(); psycopg.connect(s.url()).close()"
    )
    processes = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(4)]
    assert [process.wait(60) for process in processes] == [0, 0, 0, 0]


def test_a_long_path_gets_its_socket_elsewhere(home: Path) -> None:
    home.parent.chmod(0o755)
    server = EmbeddedServer(home / ("long" * 30))
    try:
        server.start()
        assert not server.socket_folder.is_relative_to(home)
        with psycopg.connect(server.url()) as connection:
            assert connection.info.dbname == "erpkit"
    finally:
        server.stop()


def test_a_server_that_cannot_start_says_why_in_one_line(home: Path) -> None:
    server = EmbeddedServer(home)
    server.start()
    server.stop()
    with (server.data / "postgresql.conf").open("a") as config:
        config.write("no_such_setting = 1\n")
    with pytest.raises(DatabaseError, match="the embedded server did not start: .*server.log") as caught:
        server.start()
    assert len(str(caught.value).splitlines()) == 1


def test_a_home_that_cannot_be_made_is_named() -> None:
    with pytest.raises(DatabaseError, match="cannot use /dev/null/home: .*; set ERPKIT_HOME"):
        EmbeddedServer(Path("/dev/null/home")).start()
