"""A database with the sample data in it, planted once and copied for each rehearsal on the embedded server.

Planting takes seconds, a copy a fraction of one. Elsewhere a rehearsal leaves nothing behind, and so plants anew.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from psycopg import sql

from erpkit.database import Connection, Database, Tenant
from erpkit.database.operators import OWNER_PREFIX, owner_name
from erpkit.tenants.registry import list_tenants
from erpkit.tenants.roles import create_roles, grant_schema, role_name

__all__ = ["adopt_tenants", "copy_planted", "drop_database"]

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
        "SELECT rolname FROM pg_roles WHERE starts_with(rolname, %s) OR rolname = %s ORDER BY starts_with(rolname, %s)",
        [f"{name}.tenant_", owner_name(name), OWNER_PREFIX],
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
