"""The server's disk is full, for real: a small file system that is filled up, and emptied again for the next run."""

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from erpkit.database import Database
from erpkit.embedded import EmbeddedServer
from erpkit.migrations import Limits
from tests.conftest import SCRATCH
from tests.migrations.fleet import errors, find_halves, make_fleet, migrate, migration, session, step, steps, versions

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small file system to be filled")

SIZE = 256 * 2**20


@dataclass(frozen=True)
class Disk:
    """A file system of its own under a server's data."""

    server: EmbeddedServer

    @contextmanager
    def with_only(self, free: int) -> Iterator[None]:
        """Leave `free` bytes of room while the block lasts."""
        ballast = self.server.home / "ballast"
        left = shutil.disk_usage(self.server.home).free - free
        with ballast.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, left)
        try:
            yield
        finally:
            ballast.unlink()


@pytest.fixture(scope="module")
def disk() -> Iterator[Disk]:
    home = Path(tempfile.mkdtemp(prefix="erpkit-disk-", dir=SCRATCH))
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE},mode=755", "tmpfs", home], check=True)
    try:
        server = EmbeddedServer(home)
        server.start()
        yield Disk(server)
        server.stop()
    finally:
        subprocess.run(["umount", home], check=True)
        home.rmdir()


def test_a_tenant_that_needs_more_room_than_there_is_fails_and_rolls_back(disk: Disk) -> None:
    """UNLOGGED, in a fresh segment of PostgreSQL's log: it is the table that there is no room for, and not the log.

    One worker: a second one may meet the full disk in the same moment, and then fails as truly as the culprit.
    """
    fill = migration(
        2,
        "CREATE UNLOGGED TABLE full_rows (text text);\n"
        "INSERT INTO full_rows SELECT repeat('x', 1900) FROM a1, generate_series(1, 10000) WHERE a1.id = 2;",
    )
    with Database(disk.server.url(), "small") as database:
        with session(database) as other:
            fleet = make_fleet(other, 14)
            migrate(database, fleet, steps(1))
            other.execute("INSERT INTO tenant_t05.a1 VALUES (2)")
            other.execute("SELECT pg_switch_wal()")
            other.execute("CHECKPOINT")
        with disk.with_only(free=8 * 2**20):
            run = migrate(database, fleet, [step(1), fill], workers=1)
        assert find_halves(database, fleet[4:5]) == []
        assert list(errors(run)) == ["t05"]
        assert re.search(r"00002_step.sql failed: could not extend file .*No space left on device", errors(run)["t05"])
        assert run.done_count == len(fleet) - 1
        assert migrate(database, fleet, [step(1), fill]).done_count == 1


def test_a_disk_too_full_for_the_servers_own_log_leaves_whole_versions_and_the_next_run_completes(disk: Disk) -> None:
    """Not even a commit has room then, and PostgreSQL may crash: the tenants after the culprit fail, or are not begun."""
    fill = migration(
        2,
        "CREATE TABLE a2 ();\nCREATE TABLE b2 ();\nUPDATE count SET steps = steps + 1;\n"
        "SELECT pg_logical_emit_message(true, 'fill', repeat('x', 40000000)) FROM a1 WHERE id = 2;",
    )
    with Database(disk.server.url(), "small") as database:
        database._wait = 1  # not half a minute: the test would only wait longer
        with session(database) as other:
            fleet = make_fleet(other, 14)
            migrate(database, fleet, steps(1))
            other.execute("INSERT INTO tenant_t05.a1 VALUES (2)")
        with disk.with_only(free=8 * 2**20):
            run = migrate(database, fleet, [step(1), fill], limits=Limits(reconnect=1, attempts=2))
    disk.server.start()
    assert "No space left on device" in disk.server.log.read_text()
    with Database(disk.server.url(), "small") as database:
        done = {result.tenant for result in run.results if result.error is None}
        assert done | set(errors(run)) | set(run.not_started) == {tenant.slug for tenant in fleet}
        assert "t05" in errors(run)
        assert versions(database, fleet[4:5]) == {"t05": (1,)}
        assert find_halves(database, fleet) == []
        assert migrate(database, fleet, [step(1), fill]).is_complete
        assert set(versions(database, fleet).values()) == {(1, 2)}
        assert find_halves(database, fleet) == []
