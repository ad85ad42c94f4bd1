"""The demo: an ERP of sample data on the embedded server, and the four notebooks run on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from erpkit.database import TEMPLATE, Database
from erpkit.embedded import DATABASE, EmbeddedServer
from erpkit.errors import UsageError
from erpkit.events import Selection, plan_replay
from erpkit.migrations import plan_up, read_applied, read_migrations
from erpkit.modules import Registry
from erpkit.runs.notebook import open_notebook
from erpkit.runs.planted import drop_database
from erpkit.runs.record import Recorder
from erpkit.runs.result import RunResult
from erpkit.runs.run import run_notebook
from erpkit.tenants import list_tenants

__all__ = ["NOTEBOOKS", "renew_database", "run_demo_notebook"]

NOTEBOOKS = ("inspect_tenants", "check_modules", "run_migrations", "replay_events")

_MARK = "sample data of erpkit demo: the next demo replaces it"
_TOPIC = "billing.*"


def renew_database(server: EmbeddedServer) -> None:
    """Empty the embedded database if what is in it came from a demo; raises UsageError if it is somebody's own."""
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


def run_demo_notebook(database: Database, registry: Registry, name: str, output: Path) -> RunResult:
    """Run one of the four notebooks; those that write get the id of their plan, as from an operator after the dry run."""
    parameters = _parameters(database, registry, name)
    return run_notebook(open_notebook(name), parameters, output, stem=name, recorder=Recorder(database))


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
