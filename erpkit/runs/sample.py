"""Sample data, for the demo and for rehearsals.

On the embedded server a rehearsal copies a database that was planted once: planting takes seconds, a copy a fraction of one.
Elsewhere it leaves nothing behind, and so plants anew.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from erpkit.database import TEMPLATE, Connection, Database, Tenant
from erpkit.database.operators import OWNER_PREFIX, owner_name, shared_group
from erpkit.embedded import DATABASE, EmbeddedServer
from erpkit.errors import UsageError
from erpkit.events import Selection, plan_replay
from erpkit.migrations import plan_up, read_applied, read_migrations
from erpkit.modules import Registry
from erpkit.runs.job import Job
from erpkit.runs.notebook import open_notebook
from erpkit.runs.run import Retry
from erpkit.runs.stopper import TimeLimits
from erpkit.tenants import list_tenants
from erpkit.tenants.roles import create_roles, grant_schema, role_name


def plant_sample(
    database: Database, registry: Registry, tenants: int, progress: Callable[[str], object] = str, **options: Any
) -> Any:
    """Make the sample ERP's tenants, with troubles among them; return which tenant is in which trouble.

    The sample ERP offers this under the entry-point group `erpkit.demo`: erpkit itself does not know it.
    """
    return sample_kit().plant(database, registry, tenants=tenants, progress=progress, **options)


def sample_kit() -> Any:
    """Return the module that the entry point names; beside `plant` it offers what rehearsals make their troubles with."""
    (entry,) = entry_points(group="erpkit.demo")
    return import_module(entry.module)


_PREFIX = "erpkit_sample_"
_READY = "sample data of erpkit, whole: rehearsals copy it"


def copy_planted(parent: Database, name: str, plant: Callable[[str], object]) -> None:
    """Make the database `name` as a copy of the planted one; `plant` fills an empty database, where that is not there yet.

    Two rehearsals may begin at once. What was planted by another version of erpkit is dropped.
    """
    source = f"{_PREFIX}{_version()}"
    with parent.connection() as connection:
        connection.execute("SELECT pg_advisory_lock(hashtextextended('erpkit.sample', 0))")
        if not _is_ready(connection, source):
            _drop_old(connection)
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(source)))
            plant(source)
            comment = sql.SQL("COMMENT ON DATABASE {} IS {}").format(sql.Identifier(source), sql.Literal(_READY))
            connection.execute(comment)
        copy = sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(source))
        connection.execute(copy)


def adopt_tenants(connection: Connection, database: str) -> None:
    """Give the tenants of a copied database roles of their own: those that it came with are the original's."""
    for tenant in list_tenants(connection):
        with connection.transaction():
            adopted = Tenant(tenant.slug, tenant.schema, role_name(database, tenant.slug), tenant.name, tenant.status)
            create_roles(connection, adopted)
            grant_schema(connection, adopted)
            for role in (tenant.role, tenant.reader):  # takes their privileges in this database alone
                connection.execute(sql.SQL("DROP OWNED BY {}").format(sql.Identifier(role or "")))
            connection.execute("UPDATE public.tenants SET role_name = %s WHERE slug = %s", [adopted.role, adopted.slug])


def drop_database(connection: Connection, name: str) -> None:
    """Drop a database of erpkit's, cutting its connections, and the roles of its tenants."""
    connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))
    roles = connection.execute(  # the operators' one granted the others
        "SELECT rolname FROM pg_roles WHERE starts_with(rolname, %s) OR rolname IN (%s, %s) ORDER BY starts_with(rolname, %s)",
        [f"{name}.tenant_", owner_name(name), shared_group(name), OWNER_PREFIX],
    )
    for (role,) in roles.fetchall():
        connection.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))


def _version() -> str:
    """Return a hash of erpkit's own files: other code may plant other data."""
    package = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for path in sorted(path for path in package.rglob("*") if path.suffix in (".py", ".sql")):
        digest.update(f"{path.relative_to(package)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:10]


def _is_ready(connection: Connection, name: str) -> bool:
    row = connection.execute(
        "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = %s", [name]
    ).fetchone()
    return row == (_READY,)


def _drop_old(connection: Connection) -> None:
    rows = connection.execute("SELECT datname FROM pg_database WHERE datname ~ %s", [f"^{_PREFIX}[0-9a-f]{{10}}$"])
    for (name,) in rows.fetchall():
        drop_database(connection, name)


NOTEBOOKS = ("inspect_tenants", "check_modules", "run_migrations", "replay_events")

_MARK = "sample data of erpkit demo: the next demo replaces it"
_TOPIC = "billing.*"


def renew_database(server: EmbeddedServer) -> None:
    """Empty the embedded database if what is in it came from a demo; raises UsageError if it holds other data."""
    with Database(server.url(), "embedded") as database, database.connection() as connection:
        row = connection.execute(
            "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = current_database()"
        ).fetchone()
        slugs = [tenant.slug for tenant in list_tenants(connection)]
    if slugs and row != (_MARK,):
        raise UsageError(
            f"the embedded database holds tenants of yours ({', '.join(slugs[:5])}): run the demo with another ERPKIT_HOME"
        )
    with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
        drop_database(connection, DATABASE)
        name = sql.Identifier(DATABASE)
        connection.execute(sql.SQL("CREATE DATABASE {}").format(name))
        connection.execute(sql.SQL("COMMENT ON DATABASE {} IS {}").format(name, sql.Literal(_MARK)))


@contextmanager
def unhurried_disk(server: EmbeddedServer) -> Iterator[None]:
    """Let commits of sessions that begin in the block wait for no disk: what a power failure loses of a demo is made anew."""
    with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
        name = sql.Identifier(DATABASE)
        connection.execute(sql.SQL("ALTER DATABASE {} SET synchronous_commit = off").format(name))
        try:
            yield
        finally:
            connection.execute(sql.SQL("ALTER DATABASE {} RESET synchronous_commit").format(name))


def demo_job(database: Database, registry: Registry, name: str, output: Path) -> Job:
    """Return the run of one of the four notebooks; those that write get the id of their plan, as from an operator after the dry run."""
    parameters = _parameters(database, registry, name)
    return Job(str(open_notebook(name).path), parameters, str(output.absolute()), TimeLimits(), Retry(), stem=name)


def _parameters(database: Database, registry: Registry, name: str) -> dict[str, Any]:
    with database.connection() as connection:
        tenants = list_tenants(connection)
        if name == "run_migrations":
            schemas = [TEMPLATE, *tenants]
            plan = plan_up(schemas, read_migrations(registry.modules), read_applied(connection, schemas))
            return {"dry_run": False, "confirm": plan.id}
        if name == "replay_events":
            active = [tenant for tenant in tenants if tenant.is_active]
            replay = plan_replay(connection, active, registry, Selection(topic=_TOPIC))
            return {"topic": _TOPIC, "dry_run": False, "confirm": replay.id}
    return {}
