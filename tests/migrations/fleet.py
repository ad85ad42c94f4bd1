"""A fleet of bare schemas to be migrated, migrations that show when one was left half done or done twice, and runners."""

from __future__ import annotations

import multiprocessing
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection as Pipe
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import psycopg
import psycopg_pool  # noqa: F401 - loaded before a runner is forked

from erpkit.database import Connection, Database, Tenant
from erpkit.embedded import EmbeddedServer
from erpkit.migrations import (
    Limits,
    Migration,
    MigrationPlan,
    MigrationRun,
    describe_status,
    parse_migration,
    plan_up,
    read_applied,
    run_plan,
)  # fmt: skip
from tests.conftest import SCRATCH

MODULE = "stock"
TABLE = "goose_db_version_stock"
CONCURRENTLY = "-- +goose NO TRANSACTION"
SLEEPS = "wait_event = 'PgSleep'"
WAITS = "wait_event_type = 'Lock'"


def migration(version: int, up: str, down: str = "SELECT 1;", head: str = "", table: str = "") -> Migration:
    text = f"{head}\n-- +goose Up\n{up}\n-- +goose Down\n{down}"
    path = Path(f"{MODULE}/migrations/{version:05}_step.sql")
    return Migration(MODULE, version, path, parse_migration(text), text, table)


def step(version: int, pause: float | str = 0) -> Migration:
    """Three objects, a row and a count, with `pause` seconds in their midst: what is half done shows, and what is done twice.

    `pause` may be an expression.
    """
    first = "CREATE TABLE count (steps int);\nINSERT INTO count VALUES (0);\n" if version == 1 else ""
    up = (
        f"{first}CREATE TABLE a{version} (id int PRIMARY KEY);\nUPDATE count SET steps = steps + 1;\n"
        f"SELECT pg_sleep({pause});\nCREATE TABLE b{version} (id int REFERENCES a{version});\nINSERT INTO a{version} VALUES (1);"
    )
    last = "\nDROP TABLE count;" if version == 1 else "\nUPDATE count SET steps = steps - 1;"
    return migration(version, up, f"DROP TABLE b{version};\nDROP TABLE a{version};{last}")


def steps(count: int, pause: float | str = 0) -> tuple[Migration, ...]:
    return tuple(step(version, pause) for version in range(1, count + 1))


def make_fleet(connection: Connection, count: int) -> list[Tenant]:
    """Make empty schemas; those of an earlier round are dropped, and the history is emptied."""
    fleet = [Tenant(f"t{number:02}", f"tenant_t{number:02}") for number in range(1, count + 1)]
    for tenant in fleet:
        connection.execute(
            f"SET client_min_messages TO warning; DROP SCHEMA IF EXISTS {tenant.schema} CASCADE; "
            f"CREATE SCHEMA {tenant.schema}".encode()
        )
    if connection.execute("SELECT to_regclass('public.erpkit_migrations')").fetchone() != (None,):
        connection.execute("TRUNCATE public.erpkit_migrations")
    return fleet


def write_module(root: Path, migrations: Sequence[Migration]) -> tuple[Path, dict[str, str]]:
    """Write an ERP of one module; return the folder of its migrations, and the environment that finds it."""
    folder = root / "migrations"
    folder.mkdir()
    for step in migrations:
        (folder / step.path.name).write_text(step.text)
    code = f"from pathlib import Path\nfrom erpkit import Module\nmodule = Module({MODULE!r}, migrations=Path({str(folder)!r}))\n"
    (root / "lone.py").write_text(code)
    (root / "lone-1.dist-info").mkdir()
    (root / "lone-1.dist-info" / "METADATA").write_text("Name: lone\nVersion: 1\n")
    (root / "lone-1.dist-info" / "entry_points.txt").write_text(f"[lone.modules]\n{MODULE} = lone:module\n")
    return folder, {"PYTHONPATH": str(root), "ERPKIT_MODULES": "lone.modules"}


def plan_for(
    database: Database, fleet: Sequence[Tenant], migrations: Sequence[Migration], **choice: Any
) -> MigrationPlan:
    with database.connection() as connection:
        return plan_up(fleet, migrations, read_applied(connection, fleet, migrations), **choice)


def migrate(
    database: Database,
    fleet: Sequence[Tenant],
    migrations: Sequence[Migration],
    *,
    canaries: Sequence[str] = (),
    retry_dirty: bool = False,
    out_of_order: bool = False,
    **how: Any,
) -> MigrationRun:
    choice = {"canaries": canaries, "retry_dirty": retry_dirty, "out_of_order": out_of_order}
    plan = plan_for(database, fleet, migrations, **choice)
    return run_plan(database, plan, plan.id, **how)


def versions(database: Database, fleet: Sequence[Tenant]) -> dict[str, tuple[int, ...]]:
    with database.connection() as connection:
        applied = read_applied(connection, fleet)
    return {tenant.slug: applied.of(tenant.schema, TABLE) for tenant in fleet}


def find_halves(database: Database, fleet: Sequence[Tenant]) -> list[str]:
    """Name the tenants whose tables, counts or history are not exactly those of the versions that goose's table records."""
    done = versions(database, fleet)
    with database.connection() as connection:
        return [tenant.slug for tenant in fleet if not _is_whole(connection, tenant, done[tenant.slug])]


def _is_whole(connection: Connection, tenant: Tenant, done: tuple[int, ...]) -> bool:
    tables = {
        name
        for (name,) in connection.execute(
            "SELECT tablename FROM pg_tables WHERE schemaname = %s AND tablename !~ '^(goose_db_version|erpkit)_'",
            [tenant.schema],
        )
    }
    expected = {f"{letter}{version}" for version in done for letter in "ab"} | ({"count"} if done else set())
    counted = connection.execute(f"SELECT steps FROM {tenant.schema}.count".encode()).fetchall() if done else [(0,)]
    history = connection.execute(
        "SELECT version FROM public.erpkit_migrations WHERE schema_name = %s AND version_table = %s AND state = 'done' ORDER BY id",
        [tenant.schema, TABLE],
    ).fetchall()
    return tables == expected and counted == [(len(done),)] and history == [(version,) for version in done]


def states(database: Database, fleet: list[Tenant], migrations: Sequence[Migration]) -> dict[str, str]:
    """Read the state of each tenant, as `erpkit migrate status` tells it."""
    with database.connection() as connection:
        applied = read_applied(connection, fleet, migrations)
    return {status.tenant: status.state for status in describe_status(fleet, migrations, applied)}


def errors(run: MigrationRun) -> dict[str, str]:
    """Map the tenants that failed to the reasons."""
    return {result.tenant: result.error for result in run.failed if result.error}


@contextmanager
def session(database: Database) -> Iterator[Connection]:
    """Connect as somebody else."""
    with psycopg.connect(database.conninfo, autocommit=True, application_name="report") as connection:
        yield connection


@contextmanager
def own_server() -> Iterator[EmbeddedServer]:
    """Start a server that may be killed."""
    home = Path(tempfile.mkdtemp(prefix="erpkit-faults-", dir=SCRATCH))
    home.chmod(0o755)
    server = EmbeddedServer(home)
    server.start()
    yield server
    server.stop()
    shutil.rmtree(home)


@contextmanager
def in_background(target: Callable[..., MigrationRun], *args: object, **kwargs: object) -> Iterator[list[MigrationRun]]:
    """Run in a thread of its own while the block lasts; the list has its result afterwards."""
    runs: list[MigrationRun] = []
    thread = threading.Thread(target=lambda: runs.append(target(*args, **kwargs)))
    thread.start()
    try:
        yield runs
    finally:
        thread.join()


def wait_until(condition: Callable[[], object], seconds: float = 30) -> None:
    """Wait for something that is bound to happen; the deadline only ends a test that has failed already."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "what the test waits for did not happen"
        time.sleep(0.005)


def activity(connection: Connection, where: str) -> int:
    """Count the other sessions of this database that fulfil a condition on pg_stat_activity."""
    row = connection.execute(
        f"SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() AND ({where})".encode()
    ).fetchone()
    return int(row[0]) if row else 0


def start_runner(
    conninfo: str, fleet: Sequence[Tenant], migrations: Sequence[Migration], limits: Limits | None = None, **how: Any
) -> tuple[BaseProcess, Pipe]:
    """Plan and run in a process of its own, which sends its MigrationRun when it ends; `how` is as run_plan takes it."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])  # a fork has all imported already
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(theirs, conninfo, fleet, migrations, limits, how), daemon=True)
    process.start()
    theirs.close()
    return process, ours


def receive(pipe: Pipe) -> Any:
    """Return what a runner sends; a runner that hangs fails the test."""
    assert pipe.poll(60), "the runner sends nothing"
    return pipe.recv()


def _run(
    pipe: Pipe,
    conninfo: str,
    fleet: Sequence[Tenant],
    migrations: Sequence[Migration],
    limits: Limits | None,
    how: dict[str, Any],
) -> None:
    with Database(conninfo, "runner") as database:
        plan = plan_for(database, fleet, migrations)
        pipe.send("planned")
        pipe.send(run_plan(database, plan, plan.id, limits=limits, **how))
