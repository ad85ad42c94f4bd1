"""A real PgBouncer between a test and the server."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import psycopg
import pytest

import erpkit.embedded
from erpkit.database import Database
from erpkit.embedded import EmbeddedServer


@contextmanager
def pgbouncer(
    server: EmbeddedServer, database: Database, mode: Literal["session", "transaction"], connections: int = 20
) -> Iterator[Database]:
    """Start it over a database, in one of its modes, with so many connections to the server."""
    program = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        pytest.skip("PgBouncer is not installed (Debian: apt-get install pgbouncer)")
    folder = Path(tempfile.mkdtemp(prefix="erpkit-bouncer-", dir="/tmp"))
    folder.chmod(0o777)
    name = psycopg.conninfo.conninfo_to_dict(database.conninfo)["dbname"]
    (folder / "bouncer.ini").write_text(
        f"[databases]\nerp = host={server.socket_folder} dbname={name} user=postgres\n"
        f"[pgbouncer]\nlisten_addr =\nlisten_port = 6432\nauth_type = any\npool_mode = {mode}\n"
        f"default_pool_size = {connections}\nserver_reset_query = DISCARD ALL\n"
        f"unix_socket_dir = {folder}\nlogfile = {folder}/log\npidfile = {folder}/pid\n"
    )
    user = erpkit.embedded._server_user() if os.geteuid() == 0 else None
    process = subprocess.Popen([program, "-q", str(folder / "bouncer.ini")], user=user, stdin=subprocess.DEVNULL)
    deadline = time.monotonic() + 10
    while not (folder / ".s.PGSQL.6432").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    with Database(f"host={folder} port=6432 dbname=erp user=postgres", "behind PgBouncer") as behind:
        yield behind
    process.terminate()
    process.wait(60)
    shutil.rmtree(folder)
