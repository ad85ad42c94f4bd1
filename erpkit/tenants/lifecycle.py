"""Making a tenant: schema, role, grants and migrations, all or nothing."""

from __future__ import annotations

from collections.abc import Sequence

import psycopg
from psycopg import sql

from erpkit.database import TEMPLATE, Connection, Database, Tenant, check_schema_name
from erpkit.errors import DatabaseError, ErpkitError, MigrationError, UsageError
from erpkit.migrations import Migration, apply_migration
from erpkit.migrations.provider import create_version_table, migration_script
from erpkit.tenants.registry import check_slug, ensure_registry, get_tenant

__all__ = ["create_tenant", "ensure_template"]


def create_tenant(database: Database, migrations: Sequence[Migration], slug: str, name: str = "") -> Tenant:
    """Create a tenant with its schema, its role and all `migrations`, and enter it in public.tenants.

    Either all of it is there afterwards or nothing is. Raises UsageError for a bad or taken name, MigrationError for a
    migration that fails.
    """
    check_slug(slug)
    with database.connection() as connection:
        ensure_registry(connection)
        row = connection.execute("SELECT current_database()").fetchone()
        # Roles belong to the whole server: with the database's name in it, two databases may have a tenant of one name.
        role = f"{row[0] if row else ''}.tenant_{slug}"
        tenant = Tenant(slug, check_schema_name(f"tenant_{slug}"), role, name or slug.replace("_", " ").title())
        if all(migration.content.use_transaction for migration in migrations):
            _create(connection, tenant, migrations)
        else:
            _create_in_stages(connection, tenant, migrations)
        return get_tenant(connection, slug)


def ensure_template(connection: Connection) -> Tenant:
    """Make the schema `_template`, empty, if it is missing: migrations go there first, and no tenant lives in it."""
    connection.execute(
        "SET client_min_messages TO warning; CREATE SCHEMA IF NOT EXISTS _template; RESET client_min_messages"
    )
    return TEMPLATE


def _create(connection: Connection, tenant: Tenant, migrations: Sequence[Migration]) -> None:
    """Everything is one transaction: CREATE SCHEMA and CREATE ROLE roll back as well."""
    current: Migration | None = None
    try:
        with connection.transaction():
            connection.execute(_setup(tenant))
            for current in migrations:
                connection.execute(sql.SQL(";\n").join([create_version_table(current), migration_script(current)]))
            current = None
            connection.execute(_register(tenant))
    except psycopg.Error as error:
        raise _creation_error(tenant, error, current) from error


def _create_in_stages(connection: Connection, tenant: Tenant, migrations: Sequence[Migration]) -> None:
    """A NO TRANSACTION migration cannot be rolled back: take down what stands when something fails."""
    try:
        with connection.transaction():
            connection.execute(_setup(tenant, keep_search_path=False))
    except psycopg.Error as error:
        raise _creation_error(tenant, error) from error
    try:
        for migration in migrations:
            apply_migration(connection, tenant, migration)
        connection.execute(_register(tenant))
    except (psycopg.Error, ErpkitError) as error:
        connection.execute(_teardown(tenant))
        raise error if isinstance(error, ErpkitError) else _creation_error(tenant, error) from error


def _setup(tenant: Tenant, *, keep_search_path: bool = True) -> sql.Composed:
    schema, role = sql.Identifier(tenant.schema), sql.Identifier(tenant.role or "")
    statements = [
        "SET LOCAL client_min_messages TO warning",
        "CREATE ROLE {role} NOLOGIN",
        "GRANT {role} TO CURRENT_USER",
        "CREATE SCHEMA {schema}",
        "GRANT USAGE ON SCHEMA {schema} TO {role}",
        "ALTER DEFAULT PRIVILEGES IN SCHEMA {schema} GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO {role}",
        "ALTER DEFAULT PRIVILEGES IN SCHEMA {schema} GRANT USAGE, SELECT ON SEQUENCES TO {role}",
        "SET LOCAL search_path TO {schema}, pg_temp" if keep_search_path else "SELECT 1",
    ]
    return sql.SQL("; ").join(sql.SQL(statement).format(schema=schema, role=role) for statement in statements)


def _register(tenant: Tenant) -> sql.Composed:
    return sql.SQL("INSERT INTO public.tenants (slug, schema_name, role_name, name) VALUES ({}, {}, {}, {})").format(
        *(sql.Literal(value) for value in (tenant.slug, tenant.schema, tenant.role, tenant.name))
    )


def _teardown(tenant: Tenant) -> sql.Composed:
    return sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE; DROP ROLE IF EXISTS {}").format(
        sql.Identifier(tenant.schema), sql.Identifier(tenant.role or "")
    )


def _creation_error(tenant: Tenant, error: psycopg.Error, migration: Migration | None = None) -> ErpkitError:
    reason = error.diag.message_primary or str(error).strip()
    if migration is not None:
        return MigrationError(f"tenant {tenant.slug}: {migration.path} failed: {reason}; the tenant was not created")
    taken = (psycopg.errors.DuplicateObject, psycopg.errors.DuplicateSchema, psycopg.errors.UniqueViolation)
    if isinstance(error, taken):
        return UsageError(f"tenant {tenant.slug} cannot be created: {reason}")
    if isinstance(error, psycopg.errors.InsufficientPrivilege):
        return DatabaseError(
            f"tenant {tenant.slug} cannot be created: {reason}; the login needs CREATEROLE and CREATE here"
        )
    return DatabaseError(f"tenant {tenant.slug} cannot be created: {reason}")
