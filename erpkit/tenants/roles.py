"""The roles of a tenant, and the group of analysts.

Each tenant has two roles that cannot log in: one that its handlers run under, and `<role>.read` for analysts. The second one
is needed because READ ONLY is no wall: whoever may take a role may begin a READ WRITE transaction under it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from psycopg import sql

from erpkit.database import ANALYSTS, Connection, Tenant, grant_analysts

__all__ = ["ANALYSTS", "create_roles", "drop_roles", "ensure_analysts", "forbid_writing", "grant_schema", "role_name"]

_NAME_LIMIT = 63 - len(".read")  # PostgreSQL cuts longer names off, and then two of them may be one
_INHERIT_OPTION = 160000  # the first version that decides inheritance at each GRANT


def role_name(database: str, slug: str) -> str:
    """Return the role of a tenant. Roles belong to the whole server: with the database's name in it, each has its own."""
    name = f"{database}.tenant_{slug}"
    if len(name.encode()) <= _NAME_LIMIT:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:10]
    return f"{name.encode()[: _NAME_LIMIT - 11].decode(errors='ignore')}.{digest}"


def ensure_analysts(connection: Connection) -> None:
    """Make the group `erpkit_analyst` if it is missing, and let it read what is no tenant's; many processes may do so at once.

    A login that is a member reads nothing by itself, but may take the reading role of any tenant:
    `GRANT erpkit_analyst TO ann`.
    """
    with connection.transaction():
        connection.execute(
            f"DO $$ BEGIN CREATE ROLE {ANALYSTS} NOLOGIN NOINHERIT; "
            "EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$"
        )
    grant_analysts(connection)


def create_roles(connection: Connection, tenant: Tenant) -> None:
    """Make both roles of a tenant; its schema need not exist yet."""
    only_by_set_role = connection.info.server_version >= _INHERIT_OPTION
    _execute(
        connection,
        tenant,
        [
            "CREATE ROLE {role} NOLOGIN",
            "CREATE ROLE {reader} NOLOGIN",
            "GRANT {role}, {reader} TO CURRENT_USER",
            f"GRANT {{reader}} TO {ANALYSTS}{' WITH INHERIT FALSE, SET TRUE' if only_by_set_role else ''}",
        ],
    )


def grant_schema(connection: Connection, tenant: Tenant) -> None:
    """Let the roles of a tenant use its schema, with all tables that it has and will get, and no other."""
    _execute(
        connection,
        tenant,
        [
            "GRANT USAGE ON SCHEMA {schema} TO {role}, {reader}",
            "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO {role}",
            "GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA {schema} TO {role}",
            "GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO {reader}",
            "GRANT SELECT ON ALL SEQUENCES IN SCHEMA {schema} TO {reader}",
            "ALTER DEFAULT PRIVILEGES IN SCHEMA {schema} GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO {role}",
            "ALTER DEFAULT PRIVILEGES IN SCHEMA {schema} GRANT USAGE, SELECT ON SEQUENCES TO {role}",
            "ALTER DEFAULT PRIVILEGES IN SCHEMA {schema} GRANT SELECT ON TABLES TO {reader}",
            "ALTER DEFAULT PRIVILEGES IN SCHEMA {schema} GRANT SELECT ON SEQUENCES TO {reader}",
        ],
    )


def forbid_writing(connection: Connection, tenant: Tenant) -> None:
    """Take from the role of a tenant what `grant_schema` gave it, except reading."""
    _execute(
        connection,
        tenant,
        [
            "REVOKE INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} FROM {role}",
            "REVOKE USAGE ON ALL SEQUENCES IN SCHEMA {schema} FROM {role}",
            "ALTER DEFAULT PRIVILEGES IN SCHEMA {schema} REVOKE INSERT, UPDATE, DELETE ON TABLES FROM {role}",
            "ALTER DEFAULT PRIVILEGES IN SCHEMA {schema} REVOKE USAGE ON SEQUENCES FROM {role}",
        ],
    )


def drop_roles(connection: Connection, tenant: Tenant) -> None:
    """Drop both roles of a tenant, if they are there."""
    _execute(connection, tenant, ["DROP ROLE IF EXISTS {reader}", "DROP ROLE IF EXISTS {role}"])


def _execute(connection: Connection, tenant: Tenant, statements: Sequence[str]) -> None:
    names = {
        "schema": sql.Identifier(tenant.schema),
        "role": sql.Identifier(tenant.role or ""),
        "reader": sql.Identifier(tenant.reader or ""),
    }
    connection.execute(sql.SQL("; ").join(sql.SQL(statement).format(**names) for statement in statements))
