"""The tests run against an embedded PostgreSQL of their own, in a folder that is removed afterwards."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self
from uuid import uuid4

import psycopg
import pytest

from erpkit.config import Settings
from erpkit.database import Connection, Database
from erpkit.embedded import EmbeddedServer
from erpkit.kernels import link
from erpkit.migrations import Migration, read_migrations
from erpkit.modules import Registry, load_modules
from erpkit.runs.sample import adopt_tenants, drop_database
from erpkit.sample.data import Size
from erpkit.sample.demo import Planted, plant
from tests.situations import empty_database, foreign_database

SMALL = Size(products=6, customers=3, orders=10)

# In memory where there is room: to make and remove thousands of small files on a disk takes half of the time of many tests.
_MEMORY = Path("/dev/shm")
SCRATCH = _MEMORY if os.access(_MEMORY, os.W_OK) and shutil.disk_usage(_MEMORY).free > 4 * 2**30 else Path("/tmp")

_LONG = (
    "test_warm_runs", "test_warm_kernels", "test_dask_fleets", "test_fleets", "test_jupyterlab", "test_notebooks", "test_queries",
    "test_cli", "test_lifecycle", "test_migration_kills", "test_brokers", "test_scheduling", "test_values", "test_embedded",
    "test_odd_tenants", "test_worker", "test_migrate_cli", "test_nameless_user", "test_runbooks_in_earnest",
    "test_lifecycle_notebooks", "test_replay_notebooks", "test_reports", "test_runs", "test_run_cli", "test_exports",
    "test_forwarding", "test_analyst_login", "test_nothing_is_green", "test_dead_connections", "test_inspection",
    "test_existing_erp", "test_masked_runs", "test_run_receivers", "test_typed_registration", "test_brokers_cli", "test_guide",
)  # fmt: skip

_home = Path(tempfile.mkdtemp(prefix="erpkit-tests-", dir=SCRATCH))


def pytest_configure() -> None:
    """Point this process, and the kernels of notebooks, at a home of the tests' own."""
    for name in [name for name in os.environ if name.startswith(("PG", "ERPKIT_"))]:
        del os.environ[name]
    os.environ["ERPKIT_HOME"] = str(_home)
    os.environ["ERPKIT_WARM"] = (
        "0"  # but for the files that use `warm_runs`, and tests/kernels with warm processes of its own
    )
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # or each kernel and each command compiles erpkit anew
    sys.dont_write_bytecode = False
    _home.chmod(0o755)  # as root, the server's user must be able to walk to its data


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest, so that no worker has one left when the others are done."""
    order = {name: number for number, name in enumerate(_LONG)}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))


def pytest_unconfigure() -> None:
    """Stop the server and remove its data."""
    EmbeddedServer(_home).stop()
    shutil.rmtree(_home, ignore_errors=True)


@pytest.fixture(scope="session")
def server() -> EmbeddedServer:
    """The running embedded server of the tests, which need not outlive a power failure: a commit waits for no disk.

    What the operating system was given outlives the server's processes all the same, however they end.
    """
    embedded = EmbeddedServer(_home)
    embedded.start()
    with psycopg.connect(embedded.url("postgres"), autocommit=True) as connection:
        connection.execute("ALTER SYSTEM SET fsync = off")
        connection.execute("SELECT pg_reload_conf()")
    return embedded


@pytest.fixture(scope="session")
def registry() -> Registry:
    """The sample ERP's modules."""
    return load_modules(Settings(modules="erpkit.sample"))


@pytest.fixture(scope="session")
def migrations(registry: Registry) -> tuple[Migration, ...]:
    """The sample ERP's migrations."""
    return read_migrations(registry.modules)


@pytest.fixture
def database(server: EmbeddedServer) -> Iterator[Database]:
    """An empty database."""
    yield from _new_database(server)


@pytest.fixture(scope="module")
def shared_database(server: EmbeddedServer) -> Iterator[Database]:
    """An empty database for all the tests of a file."""
    yield from _new_database(server)


@pytest.fixture
def erp(database: Database, registry: Registry) -> Planted:
    """Four tenants of sample data in `database`, one in each trouble."""
    return plant_copy(database, registry)


@pytest.fixture(scope="module")
def nothing(server: EmbeddedServer) -> Iterator[dict[str, str]]:
    """A database with nothing in it."""
    with empty_database(server, "nothing_is_here") as environ:
        yield environ


@pytest.fixture(scope="module")
def foreign(server: EmbeddedServer) -> Iterator[dict[str, str]]:
    """A database of another ERP."""
    with foreign_database(server, "another_erp") as environ:
        yield environ


def plant_copy(database: Database, registry: Registry, tenants: int = 4) -> Planted:
    """Plant sample data in an empty database of the tests' server, as a copy of what was planted once: a tenth of the time.

    The copy's tenants get roles of their own, as those of a rehearsal do.
    """
    template, planted = _plant_template(database.conninfo, registry, tenants)
    with database.connection() as connection:
        name = connection.info.dbname
    database.close()
    with _beside(database.conninfo) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")
    with database.connection() as connection:
        adopt_tenants(connection, name)
    return planted


_templates: dict[int, tuple[str, Planted]] = {}


def _plant_template(conninfo: str, registry: Registry, tenants: int) -> tuple[str, Planted]:
    if tenants not in _templates:
        name = f"template_of_{tenants}"
        with _beside(conninfo) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        with Database(psycopg.conninfo.make_conninfo(conninfo, dbname=name), name) as database:
            _templates[tenants] = (name, plant(database, registry, tenants=tenants, size=SMALL))
    return _templates[tenants]


def _beside(conninfo: str) -> psycopg.Connection[tuple[Any, ...]]:
    return psycopg.connect(psycopg.conninfo.make_conninfo(conninfo, dbname="postgres"), autocommit=True)


@pytest.fixture(scope="session")
def _warm_folder() -> Iterator[Path]:
    """The folder of a warm process that serves; a socket's path must be short."""
    from tests.kernels.conftest import stop_all

    folder = Path(tempfile.mkdtemp(prefix="ek-", dir="/tmp"))
    with _warm_in(folder):
        link.start()
    yield folder
    with _warm_in(folder):
        stop_all()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def warm_runs(_warm_folder: Path) -> Iterator[None]:
    """Fork the runs of a file's notebooks, for files that are about what a run does and not about how it is started."""
    with _warm_in(_warm_folder):
        yield


@contextmanager
def _warm_in(folder: Path) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", str(folder))
        patch.delenv("ERPKIT_WARM", raising=False)
        yield


class CountingCursor(psycopg.Cursor[tuple[Any, ...]]):
    """A cursor that counts what it and its like sent."""

    sent = 0

    def execute(self, *args: Any, **kwargs: Any) -> Self:
        CountingCursor.sent += 1
        return super().execute(*args, **kwargs)


def count_queries(connection: Connection, work: Callable[[], object]) -> int:
    """Return how many queries `work` sends over `connection`."""
    usual, connection.cursor_factory = connection.cursor_factory, CountingCursor
    before = CountingCursor.sent
    try:
        work()
    finally:
        connection.cursor_factory = usual
    return CountingCursor.sent - before


def _new_database(server: EmbeddedServer) -> Iterator[Database]:
    name = f"test_{uuid4().hex[:10]}"
    with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
        database = Database(server.url(name), f"embedded/{name}")
        yield database
        database.close()
        drop_database(connection, name)
