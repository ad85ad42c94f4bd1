"""A scratch copy of the sample ERP, with troubles in it, on which runbooks are tried out."""

from __future__ import annotations

import atexit
from typing import Any
from uuid import uuid4

import psycopg
from psycopg import sql

from erpkit.config import Settings
from erpkit.database import Connection, Database
from erpkit.errors import DatabaseError
from erpkit.modules import Registry, load_modules
from erpkit.modules.registry import SAMPLE_GROUP
from erpkit.runs.sample import plant_sample

__all__ = ["Rehearsal", "drop_database"]


class Rehearsal:
    """A database of its own, beside the configured one, that lives until `close`; it holds four tenants of sample data.

    `planted` tells which tenant is in which trouble. Raises DatabaseError where the login may not create databases.
    """

    def __init__(self, settings: Settings) -> None:
        self._name = f"erpkit_rehearsal_{uuid4().hex[:8]}"
        self._closed = False
        self._parent = Database.open(settings)
        self._create()
        self.database = Database(
            psycopg.conninfo.make_conninfo(self._parent.conninfo, dbname=self._name), self._target()
        )
        self.registry: Registry = load_modules(Settings(modules=SAMPLE_GROUP))
        atexit.register(self.close)  # also where a notebook stops half way
        self.planted: Any = plant_sample(self.database, self.registry, tenants=4)

    def close(self) -> None:
        """Drop the scratch database and its tenants' roles; calling it again does nothing."""
        atexit.unregister(self.close)
        if self._closed:
            return
        self._closed = True
        self.database.close()
        with self._parent.connection() as connection:
            drop_database(connection, self._name)
        self._parent.close()

    def _create(self) -> None:
        try:
            with self._parent.connection() as connection:
                connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(self._name)))
        except psycopg.errors.InsufficientPrivilege:
            raise DatabaseError(f"{self._parent.target}: a rehearsal needs a login that may create databases") from None

    def _target(self) -> str:
        return f"rehearsal on {self._parent.target}"


def drop_database(connection: Connection, name: str) -> None:
    """Drop a database of erpkit's, cutting its connections, and the roles of its tenants."""
    connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))
    roles = connection.execute("SELECT rolname FROM pg_roles WHERE starts_with(rolname, %s)", [f"{name}.tenant_"])
    for (role,) in roles.fetchall():
        connection.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))
