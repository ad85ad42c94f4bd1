"""Making and renaming a tenant: schema, roles, grants and migrations, all or nothing."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import psycopg
from psycopg import sql

from erpkit.database import (
    TEMPLATE,
    Connection,
    Database,
    Tenant,
    act_as_owner,
    as_admin,
    check_schema_name,
    create_schema,
    give_to_owner,
    grant_analysts,
)
from erpkit.errors import DatabaseError, ErpkitError, MigrationError, UsageError
from erpkit.migrations import Migration, apply_migration
from erpkit.migrations.history import Run, ensure_history
from erpkit.migrations.script import check_statements, migration_body
from erpkit.tenants.locks import name_holders
from erpkit.tenants.registry import (
    check_slug,
    ensure_registry,
    get_tenant,
    has_schema,
    list_tenants,
    registry_table,
)
from erpkit.tenants.roles import (
    create_roles,
    drop_roles,
    ensure_analysts,
    ensure_operators,
    grant_schema,
    role_name,
)

_NEEDS = "the login needs CREATEROLE and CREATE here"


def create_tenant(database: Database, migrations: Sequence[Migration], slug: str, name: str = "") -> Tenant:
    """Create a tenant with its schema, its role and all `migrations`, and enter it in public.tenants.

    Either all of it is there afterwards or nothing is. Raises UsageError for a bad or taken name, MigrationError for a
    migration that fails.
    """
    database.check_writable()
    check_slug(slug)
    for migration in migrations:
        check_statements(migration)
    with database.connection() as connection:
        prepare_database(connection)
        tenant = new_tenant(connection, slug, name)
        if all(migration.content.use_transaction for migration in migrations):
            _create(connection, tenant, migrations)
        else:
            _create_in_stages(connection, tenant, migrations)
        return get_tenant(connection, slug)


def rename_tenant(database: Database, slug: str, new_slug: str, name: str | None = None) -> MovedTenant:
    """Give a tenant another slug, and with it another schema and role; `name` None keeps its name for people.

    All of it is one transaction. Waits up to three seconds for a migration of the tenant to end. Function bodies that name
    the old schema are not rewritten, as PostgreSQL's own ALTER SCHEMA does not: the result's `mentions` are these. Raises
    UsageError for a taken name.
    """
    database.check_writable()
    check_slug(new_slug)
    with database.connection() as connection:
        old = get_tenant(connection, slug)
        refuse_adopted(old, "renamed")
        new = new_tenant(connection, new_slug, old.name if name is None else name)
        if new_slug != slug:
            refuse_taken(connection, new)
        try:
            with name_holders(connection, old, "it was not renamed"), connection.transaction():
                lock_migrations(connection, old)
                move_tenant(connection, old, new)
        except psycopg.Error as error:
            raise DatabaseError(f"tenant {slug} cannot be renamed to {new_slug}: {_reason(error)}") from error
        mentions = find_mentions(connection, old.schema, new.schema, everywhere=True)
        return MovedTenant(get_tenant(connection, new_slug), mentions)


def refuse_adopted(tenant: Tenant, done: str) -> None:
    """Raise UsageError for an adopted tenant where its schema would get another name, by which the ERP would not find it."""
    if tenant.owner is not None:
        raise UsageError(
            f"tenant {tenant.slug} was adopted and cannot be {done}: the ERP knows its schema {tenant.schema} by this name; "
            f"erpkit tenants release {tenant.slug} gives it back"
        )


def lock_migrations(connection: Connection, tenant: Tenant) -> None:
    """Keep migrations from the tenant's schema until the transaction ends; wait up to three seconds for one that runs."""
    connection.execute("SET LOCAL lock_timeout TO '3s'")
    connection.execute("SELECT pg_advisory_xact_lock(hashtextextended('erpkit.migrate.' || %s, 0))", [tenant.schema])


def new_tenant(connection: Connection, slug: str, name: str = "") -> Tenant:
    """Return the record of a tenant that is still to be made: what its schema, its role and its name will be."""
    row = connection.execute("SELECT current_database()").fetchone()
    role = role_name(row[0] if row else "", check_slug(slug))
    return Tenant(slug, check_schema_name(f"tenant_{slug}"), role, name or slug.replace("_", " ").title())


def prepare_database(connection: Connection) -> None:
    """Make what tenants need before the first of them: public.tenants, and the groups of operators and of analysts."""
    try:
        ensure_operators(connection)
        ensure_registry(connection)
        ensure_analysts(connection)
        ensure_history(connection)
    except psycopg.errors.InsufficientPrivilege as error:
        raise DatabaseError(f"tenants cannot be created: {_reason(error)}; {_NEEDS}") from error


def ensure_template(connection: Connection) -> Tenant:
    """Make the schema `_template`, empty, if it is missing: migrations go there first, and no tenant lives in it."""
    if has_schema(connection, TEMPLATE.schema):
        grant_analysts(connection)
        return TEMPLATE
    with suppress(psycopg.errors.InsufficientPrivilege, DatabaseError):  # then it is the login's own
        ensure_operators(connection)
    with connection.transaction():  # of two processes that come at once, the second one finds it
        connection.execute("SELECT pg_advisory_xact_lock(hashtextextended('erpkit.tenants', 0))")
        if not has_schema(connection, TEMPLATE.schema):
            create_schema(connection, TEMPLATE.schema)
    grant_analysts(connection)
    return TEMPLATE


def _create(connection: Connection, tenant: Tenant, migrations: Sequence[Migration], *, as_login: bool = False) -> None:
    """Everything is one transaction: CREATE SCHEMA and CREATE ROLE roll back as well.

    The migrations run as the schema's owner. What it may not do the login may, perhaps: then all is done again `as_login`.
    """
    current: Migration | None = None
    try:
        with connection.transaction():
            _setup(connection, tenant)
            if not as_login:
                connection.execute(act_as_owner(tenant.schema).encode())
            connection.execute(sql.SQL("SET LOCAL search_path TO {}, pg_temp").format(sql.Identifier(tenant.schema)))
            run = Run("create")
            for current in migrations:
                connection.execute("\n;\n".join(migration_body(tenant, current, "up", run)).encode())
            current = None
            connection.execute("SET LOCAL role TO DEFAULT")
            if as_login:
                connection.execute(give_to_owner(tenant.schema).encode())
            register(connection, tenant)
    except psycopg.Error as error:
        if isinstance(error, psycopg.errors.InsufficientPrivilege) and current is not None and not as_login:
            return _create(connection, tenant, migrations, as_login=True)
        raise _creation_error(tenant, error, current) from error


def _create_in_stages(connection: Connection, tenant: Tenant, migrations: Sequence[Migration]) -> None:
    """A NO TRANSACTION migration cannot be rolled back: take down what stands when something fails."""
    try:
        with connection.transaction():
            _setup(connection, tenant)
    except psycopg.Error as error:
        raise _creation_error(tenant, error) from error
    try:
        for migration in migrations:
            apply_migration(connection, tenant, migration)
        register(connection, tenant)
    except (psycopg.Error, ErpkitError) as error:
        _teardown(connection, tenant)
        raise error if isinstance(error, ErpkitError) else _creation_error(tenant, error) from error


def move_tenant(connection: Connection, old: Tenant, new: Tenant) -> None:
    """Rename the schema and the roles of a tenant, and its entry; call it in a transaction."""
    _rename(connection, "SCHEMA", old.schema, new.schema)
    with as_admin(connection, old.role or ""):
        _rename(connection, "ROLE", old.role, new.role)
        _rename(connection, "ROLE", old.reader, new.reader)
    update = f"UPDATE {registry_table(connection)} SET slug = %s, schema_name = %s, role_name = %s, name = %s WHERE slug = %s"  # noqa: S608
    connection.execute(
        update.encode(),
        [new.slug, new.schema, new.role if old.role is not None else None, new.name, old.slug],
    )
    ensure_history(connection)
    connection.execute(
        "UPDATE public.erpkit_migrations SET tenant = %s, schema_name = %s WHERE schema_name = %s",
        [new.slug, new.schema, old.schema],
    )


def _rename(connection: Connection, kind: str, old: str | None, new: str | None) -> None:
    if old and new and old != new:
        statement = sql.SQL(f"ALTER {kind} {{}} RENAME TO {{}}")
        connection.execute(statement.format(sql.Identifier(old), sql.Identifier(new)))


def refuse_taken(connection: Connection, tenant: Tenant) -> None:
    """Raise UsageError when the name of a tenant that is still to be made is taken."""
    if tenant.slug in {known.slug for known in list_tenants(connection)} or has_schema(connection, tenant.schema):
        raise UsageError(f"there is a tenant {tenant.slug} or a schema {tenant.schema} already: choose another name")


def _setup(connection: Connection, tenant: Tenant) -> None:
    connection.execute("SET LOCAL client_min_messages TO warning")
    create_roles(connection, tenant)
    create_schema(connection, tenant.schema)
    grant_schema(connection, tenant)


def register(connection: Connection, tenant: Tenant) -> None:
    """Enter a tenant in the registry."""
    row = {
        "slug": tenant.slug, "schema_name": tenant.schema, "role_name": tenant.role, "name": tenant.name,
        "status": tenant.status, **({"owner_name": tenant.owner} if tenant.owner is not None else {}),
    }  # fmt: skip
    insert = sql.SQL(f"INSERT INTO {registry_table(connection)} ({{}}) VALUES ({{}})")  # noqa: S608 - one of two names
    columns, values = sql.SQL(", ").join(map(sql.Identifier, row)), sql.SQL(", ").join(map(sql.Literal, row.values()))
    connection.execute(insert.format(columns, values))


def _teardown(connection: Connection, tenant: Tenant) -> None:
    with connection.transaction():
        connection.execute(sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(sql.Identifier(tenant.schema)))
        drop_roles(connection, tenant)


def _creation_error(tenant: Tenant, error: psycopg.Error, migration: Migration | None = None) -> ErpkitError:
    reason = _reason(error)
    if migration is not None:
        return MigrationError(f"tenant {tenant.slug}: {migration.path} failed: {reason}; the tenant was not created")
    if isinstance(error, psycopg.errors.UniqueViolation):
        return UsageError(f"tenant {tenant.slug} cannot be created: somebody else has just created it")
    if isinstance(error, psycopg.errors.DuplicateObject | psycopg.errors.DuplicateSchema):
        return UsageError(f"tenant {tenant.slug} cannot be created: {reason}")
    if isinstance(error, psycopg.errors.InsufficientPrivilege):
        return DatabaseError(f"tenant {tenant.slug} cannot be created: {reason}; {_NEEDS}")
    return DatabaseError(f"tenant {tenant.slug} cannot be created: {reason}")


def _reason(error: psycopg.Error) -> str:
    return error.diag.message_primary or str(error).strip()


# Each text as it is after the move: what PostgreSQL keeps by object id shows the new name there.
_TEXTS = """
WITH home AS (SELECT oid FROM pg_namespace WHERE nspname = %(schema)s),
texts (class, object, part, text) AS (
  SELECT 'pg_proc'::regclass, p.oid, 0,
      concat_ws(E'\\n', p.prosrc, array_to_string(p.proconfig, E'\\n'), pg_get_function_arguments(p.oid))
  FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
  WHERE (n.oid IN (SELECT oid FROM home) OR %(everywhere)s) AND n.nspname NOT IN ('pg_catalog', 'information_schema')
UNION ALL
  SELECT 'pg_class'::regclass, c.oid, 0, pg_get_viewdef(c.oid)
  FROM pg_class c JOIN home ON home.oid = c.relnamespace WHERE c.relkind IN ('v', 'm')
UNION ALL
  SELECT 'pg_class'::regclass, c.oid, 0, pg_get_indexdef(c.oid)
  FROM pg_class c JOIN home ON home.oid = c.relnamespace WHERE c.relkind IN ('i', 'I')
UNION ALL
  SELECT 'pg_attrdef'::regclass, d.oid, 0, pg_get_expr(d.adbin, d.adrelid)
  FROM pg_attrdef d JOIN pg_class c ON c.oid = d.adrelid JOIN home ON home.oid = c.relnamespace
UNION ALL
  SELECT 'pg_constraint'::regclass, o.oid, 0, pg_get_constraintdef(o.oid)
  FROM pg_constraint o JOIN home ON home.oid = o.connamespace WHERE o.contype = 'c'
UNION ALL
  SELECT 'pg_policy'::regclass, y.oid, 0,
      concat_ws(E'\\n', pg_get_expr(y.polqual, y.polrelid), pg_get_expr(y.polwithcheck, y.polrelid))
  FROM pg_policy y JOIN pg_class c ON c.oid = y.polrelid JOIN home ON home.oid = c.relnamespace
UNION ALL
  SELECT 'pg_trigger'::regclass, g.oid, 0, pg_get_triggerdef(g.oid)
  FROM pg_trigger g JOIN pg_class c ON c.oid = g.tgrelid JOIN home ON home.oid = c.relnamespace WHERE NOT g.tgisinternal
UNION ALL
  SELECT 'pg_rewrite'::regclass, w.oid, 0, pg_get_ruledef(w.oid)
  FROM pg_rewrite w JOIN pg_class c ON c.oid = w.ev_class JOIN home ON home.oid = c.relnamespace WHERE w.rulename <> '_RETURN'
)
SELECT pg_describe_object(class, object, part), text FROM texts WHERE text ~ %(pattern)s ORDER BY 1
"""


@dataclass(frozen=True)
class Mention:
    """An object whose text names a schema that is gone, or another tenant's by now: `line` is the first that does."""

    object: str
    line: str

    def __str__(self) -> str:
        return f"{self.object}: {self.line}"


@dataclass(frozen=True)
class MovedTenant:
    """A tenant under its new name, and what an operator has to rewrite by hand before it works there."""

    tenant: Tenant
    mentions: tuple[Mention, ...] = ()


def find_mentions(connection: Connection, old: str, new: str, *, everywhere: bool = False) -> tuple[Mention, ...]:
    """Return what names the schema `old` in the schema `new`, and with `everywhere` the functions of all other schemas.

    Looked through are the bodies, settings and defaults of functions, views, indexes, column defaults, checks, policies,
    triggers and rules. PostgreSQL keeps most references by object id, and these follow a move; function bodies and
    constants are text, and stay as they are (manual, ALTER SCHEMA). Not looked through are data and comments.
    """
    if old == new:
        return ()
    pattern = rf"\m{re.escape(old)}\M"
    rows = connection.execute(_TEXTS, {"schema": new, "everywhere": everywhere, "pattern": pattern}).fetchall()
    return tuple(Mention(described, _first_line(text, old)) for described, text in rows)


def _first_line(text: str, word: str) -> str:
    named = re.compile(rf"\b{re.escape(word)}\b", re.ASCII)
    return next((line.strip() for line in text.splitlines() if named.search(line)), "")
