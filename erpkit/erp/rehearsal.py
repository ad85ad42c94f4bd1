"""A scratch copy of the sample ERP, with troubles in it, on which runbooks are tried out."""

from __future__ import annotations

import atexit
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
from psycopg import sql

from erpkit.config import Settings
from erpkit.database import Database, Tenant
from erpkit.erp.door import Erp
from erpkit.errors import DatabaseError, ErpkitError, RunError, UsageError
from erpkit.events import consumer_groups, read_lag
from erpkit.events.dispatchers import read_health
from erpkit.modules import Registry, load_modules
from erpkit.modules.registry import SAMPLE_GROUP
from erpkit.plural import count_of
from erpkit.runs.sample import adopt_tenants, copy_planted, drop_database, plant_sample, sample_kit
from erpkit.tenants import get_tenant, list_tenants

_PATIENCE = 30.0  # seconds
_COMMAND = "from erpkit.cli import main; main()"
_STARTED_WITHIN = 60.0  # seconds for a dispatcher


class Rehearsal:
    """A database of its own, beside the configured one, that lives until `close`; it holds four tenants of sample data.

    `erp` is open over it and over the sample modules. `planted` tells which tenant is in which trouble, and `folder` is for
    files that go with it. Without `settings` those of the environment hold. `modules` names the entry-point group of an ERP of
    your own: the database is empty then. Raises UsageError where the login may not create databases.
    """

    def __init__(self, settings: Settings | None = None, *, modules: str = SAMPLE_GROUP) -> None:
        settings = settings or Settings.from_env()
        self._modules, self._is_sample = modules, modules == SAMPLE_GROUP
        self._name = f"erpkit_rehearsal_{uuid4().hex[:8]}"
        self._closed = False
        self._parent = Database.open(settings)
        self.registry: Registry = load_modules(Settings(modules=modules))
        try:
            self._create(keep=self._is_sample and settings.is_embedded)
        except psycopg.errors.InsufficientPrivilege:
            raise UsageError(f"{self._parent.target}: a rehearsal needs a login that may create databases") from None
        self.database = self._open(self._name)
        self._folder = tempfile.TemporaryDirectory(prefix="erpkit-rehearsal-")
        self.folder = Path(self._folder.name)
        self.worker = WorkerProcess(self.database.conninfo, modules, self.folder / "health.json")
        atexit.register(self.close)  # also where a notebook stops half way
        self.erp = self._open_erp(settings)
        self.planted: Any = self._fill() if self._is_sample else None

    @property
    def environ(self) -> dict[str, str]:
        """The variables with which commands and SQL cells work on the scratch database, whatever ERP is operated."""
        return _environ(self.database.conninfo, self._modules)

    def close(self) -> None:
        """Drop the scratch database and its tenants' roles, with all that belongs to it; calling it again does nothing."""
        atexit.unregister(self.close)
        if self._closed:
            return
        self._closed = True
        self.worker.kill()
        self.database.close()
        with self._parent.connection() as connection:
            drop_database(connection, self._name)
        self._parent.close()
        self._folder.cleanup()

    def place_orders(self, slug: str, orders: int, seed: int = 1) -> None:
        """Let a tenant's customers order; what follows from it is left to a dispatcher."""
        sample_kit().place_orders(self.database, self.registry, self._tenant(slug), orders, seed)

    def drift_by_hand(self, slug: str) -> None:
        """Change a function of the tenant by hand, and fill a column that was added by hand."""
        sample_kit().drift_by_hand(self.database, self._tenant(slug))

    def damage(self, slug: str) -> Path:
        """Export a tenant, let it go on working, and damage it; it is suspended then. Return the file of the export."""
        path = self.folder / f"{slug}.erpkit"
        sample_kit().damage(self.database, self.registry, self._tenant(slug), path)
        return path

    def count_handled(self, slug: str) -> Any:
        """Let a tenant's handlers do what waits, and count its orders and what became of them."""
        return sample_kit().count_handled(self.database, self.registry, self._tenant(slug))

    def count_francs(self, slug: str) -> Any:
        """Let a tenant's handlers do what waits, and count its orders in francs and what became of them."""
        return sample_kit().count_francs(self.database, self.registry, self._tenant(slug))

    def count_outcomes(self, slug: str) -> Any:
        """Count a tenant's orders, and what became of them so far."""
        return sample_kit().count_outcomes(self.database, self._tenant(slug))

    def stop_dispatcher(self) -> str:
        """Start a dispatcher on forty orders, kill it in the middle, and place ten more; return its health file."""
        path = self.worker.health_file
        self.worker.start()
        self.place_orders("bluebird", 40)
        self.worker.wait(lambda: (health := read_health(path)) is not None and health.handled > 0)
        self.kill_worker()
        self.place_orders("bluebird", 10, seed=2)
        return str(path)

    def start_dispatcher(self) -> None:
        """Start a dispatcher again, and wait until it has done what five more orders set off."""
        self.worker.start()
        self.place_orders("bluebird", 5, seed=3)
        self.worker.wait(lambda: self.count_waiting() == 0)

    def _tenant(self, slug: str) -> Tenant:
        with self.database.connection() as connection:
            return get_tenant(connection, slug)

    def fail_migration(self) -> None:
        """Make a release fail on the first two active tenants: add its new column there by hand."""
        active = [tenant for tenant in self.erp.find() if tenant.is_active]
        back = self.erp.migrations.down([tenant.slug for tenant in active], module="billing", to=3)
        back.apply(back.id)
        with self.database.connection() as connection:
            for tenant in active[:2]:
                table = sql.Identifier(tenant.schema, "billing_invoices")
                connection.execute(sql.SQL("ALTER TABLE {} ADD COLUMN due_on date").format(table))
        release = self.erp.migrations.plan()
        release.apply(release.id)

    def kill_worker(self) -> None:
        """Kill the dispatcher, and wait until the server has noticed and rolled back what it was at."""
        self.worker.kill()
        deadline = time.monotonic() + _PATIENCE
        while self._is_busy():
            if time.monotonic() > deadline:
                raise DatabaseError(f"{self.database.target}: the killed dispatcher's connections are still there")
            time.sleep(0.02)

    def _is_busy(self) -> bool:
        with self.database.connection() as connection:
            row = connection.execute(
                "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() "
                "AND backend_type = 'client backend' AND (state <> 'idle' OR application_name = 'erpkit dispatch'))"
            ).fetchone()
            return row == (True,)

    def count_waiting(self) -> int:
        """Return how many events wait for a handler, over all active tenants."""
        with self.database.connection() as connection:
            active = [tenant for tenant in list_tenants(connection) if tenant.is_active]
            return sum(one.waiting for one in read_lag(connection, active, consumer_groups(self.registry)))

    def with_modules(self, modules: Sequence[Any] = ()) -> Erp:
        """Open the door with other modules: by default the sample's and one more, which uses another without declaring it."""
        candidates = tuple(modules) or (*self.registry.modules, sample_kit().careless_module())
        erp = self._open_erp(self.erp.settings)
        erp.__dict__ |= {"registry": Registry.of(candidates), "candidates": candidates}
        return erp

    def release_carelessly(self, erp: Erp) -> Iterator[str]:
        """Release the module `bonus` to the tenants that are there, and try to make another one; say what became of it."""
        release = erp.migrations.plan(module="bonus")
        yield f"released to {count_of(release.apply(release.id).done_count, 'schema')}"
        try:
            newcomer = erp.tenants.create("newcomer")
            newcomer.apply(newcomer.id)
        except ErpkitError as error:
            yield f"newcomer cannot be made: {str(error).split('failed: ')[-1]}"

    def referenced(self, slug: str, table: str) -> Any:
        """Return the tables that a table of a tenant refers to, as a DataFrame."""
        query = "SELECT confrelid::regclass::text AS refers_to FROM pg_constraint WHERE conrelid = to_regclass(%s) AND contype = 'f'"
        return self.erp.query(query, [table], tenants=[slug]).frame

    def _open_erp(self, settings: Settings) -> Erp:
        """Open the door over the scratch database: its connections are this object's, and its settings say nothing else."""
        erp = Erp(Settings(database=self.database.conninfo, home=settings.home, modules=self._modules))
        erp.__dict__ |= {"database": self.database, "registry": self.registry}
        return erp

    def _create(self, *, keep: bool) -> None:
        if keep:
            copy_planted(self._parent, self._name, self._plant)
            return
        with self._parent.connection() as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(self._name)))

    def _fill(self) -> Any:
        with self.database.connection() as connection:
            tenants = list_tenants(connection)
            adopt_tenants(connection, self._name)
        if tenants:
            return sample_kit().choose_troubles([tenant.slug for tenant in tenants])
        return plant_sample(self.database, self.registry, tenants=4)

    def _plant(self, name: str) -> None:
        with self._open(name) as database:
            plant_sample(database, self.registry, tenants=4)

    def _open(self, name: str) -> Database:
        conninfo = psycopg.conninfo.make_conninfo(self._parent.conninfo, dbname=name)
        return Database(conninfo, f"rehearsal on {self._parent.target}")


class WorkerProcess:
    """One dispatcher of a database; it is started by `start` and keeps a health file."""

    def __init__(self, conninfo: str, modules: str, health_file: Path) -> None:
        self._environment = os.environ | _environ(conninfo, modules)
        self._process: subprocess.Popen[bytes] | None = None
        self.health_file = health_file

    def start(self) -> None:
        """Start it, and wait for its first report."""
        options = ["--poll", "0.2", "--every", "0.2", "--health-file", str(self.health_file)]
        self._process = subprocess.Popen(
            [sys.executable, "-c", _COMMAND, "events", "dispatch", *options],
            env=self._environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        self.wait(self.health_file.exists)

    def wait(self, condition: Callable[[], object]) -> None:
        """Wait until `condition` holds; raises RunError when the dispatcher ends before, or a minute is over."""
        deadline = time.monotonic() + _STARTED_WITHIN
        while not condition():
            if self._process is None or self._process.poll() is not None:
                raise RunError("the rehearsal's dispatcher has ended")
            if time.monotonic() > deadline:
                raise RunError(f"the rehearsal's dispatcher was not ready within {_STARTED_WITHIN:.0f} s")
            time.sleep(0.02)

    def kill(self) -> None:
        """Kill it, as the system does when memory is short: nothing is finished, and nothing tidied up."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def _environ(conninfo: str, modules: str) -> dict[str, str]:
    """Return the variables that name this database and these modules, and no tenants of another ERP."""
    return {"ERPKIT_DATABASE": conninfo, "ERPKIT_MODULES": modules, "ERPKIT_TENANTS_QUERY": ""}
