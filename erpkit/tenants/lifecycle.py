"""Create and rename tenants: schema, roles, grants and migrations, all or nothing."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import astuple, dataclass, field

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
    has_schema,
    search_path,
    shared_schemas,
)
from erpkit.database.in_use import hold_alone
from erpkit.database.operators import database_name, lock_shared
from erpkit.errors import DatabaseError, ErpkitError, MigrationError, PlanChangedError, UsageError, first_line
from erpkit.finding import Finding
from erpkit.migrations import Migration, apply_migration, plan_up, read_applied, run_plan
from erpkit.migrations.apply import check_own_sessions, send_body, wait_for_lock
from erpkit.migrations.failures import message_of
from erpkit.migrations.history import Run, ensure_history
from erpkit.migrations.script import check_statements
from erpkit.plan import plan_id
from erpkit.plural import count_of
from erpkit.result import Result
from erpkit.table import Column, Table
from erpkit.tenants.fleet import FleetInspection
from erpkit.tenants.inspection import TenantInspection
from erpkit.tenants.locks import name_holders
from erpkit.tenants.registry import check_slug, ensure_registry, get_tenant, list_tenants, registry_table
from erpkit.tenants.roles import (
    create_roles,
    drop_roles,
    ensure_analysts,
    ensure_operators,
    ensure_shared,
    grant_schema,
    role_name,
)

_NEEDS = "the login needs CREATEROLE and CREATE here"


def create_tenant(database: Database, migrations: Sequence[Migration], slug: str, name: str = "") -> Tenant:
    """Create a tenant with its schema, its roles and all `migrations`, and register it in public.tenants: all or nothing.

    Raises UsageError for a bad or taken name, MigrationError for a migration that fails.
    """
    database.check_writable()
    check_slug(slug)
    for migration in migrations:
        check_statements(migration)
    with database.connection() as connection:
        check_own_sessions(connection, migrations)
        prepare_database(connection)
        tenant = new_tenant(connection, slug, name)
        if all(migration.content.use_transaction for migration in migrations):
            _create(connection, tenant, migrations)
        else:
            _create_in_stages(connection, tenant, migrations)
        made = get_tenant(connection, slug)
        ensure_shared(connection, database.writable_schemas, [made])
        return made


def rename_tenant(database: Database, slug: str, new_slug: str, name: str | None = None) -> MovedTenant:
    """Give a tenant another slug, and with it another schema and role, in one transaction; `name` None keeps its display name.

    Waits up to three seconds for a migration of the tenant, a command or the event that is being handled to end. Like
    PostgreSQL's ALTER SCHEMA, it does not rewrite function bodies that name the old schema: the result lists them as `mentions`.
    Raises UsageError for a taken name.
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
            raise DatabaseError(f"tenant {slug} cannot be renamed to {new_slug}: {first_line(error)}") from error
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
    """Keep migrations, commands and dispatchers out of the tenant's schema until the transaction ends.

    It waits up to three seconds for those that are at work.
    """
    connection.execute("SET LOCAL lock_timeout TO '3s'")
    hold_alone(connection, tenant)
    wait_for_lock(connection, tenant, 3)


def new_tenant(connection: Connection, slug: str, name: str = "") -> Tenant:
    """Return the record of a tenant that is still to be created, with its future schema and role."""
    role = role_name(database_name(connection), check_slug(slug))
    return Tenant(slug, check_schema_name(f"tenant_{slug}"), role, name or slug.replace("_", " ").title())


def prepare_database(connection: Connection) -> None:
    """Create what tenants need: public.tenants, the history of migrations, and the groups of operators and analysts."""
    try:
        ensure_operators(connection)
        ensure_registry(connection)
        ensure_analysts(connection)
        ensure_history(connection)
    except psycopg.errors.InsufficientPrivilege as error:
        raise DatabaseError(f"tenants cannot be created: {first_line(error)}; {_NEEDS}") from error


def ensure_template(connection: Connection) -> Tenant:
    """Create the schema `_template`, empty, if it is missing: migrations are applied there first, and it is no tenant."""
    if has_schema(connection, TEMPLATE.schema):
        grant_analysts(connection)
        return TEMPLATE
    with suppress(psycopg.errors.InsufficientPrivilege, DatabaseError):  # then the login owns it
        ensure_operators(connection)
    with connection.transaction():  # if two processes come at once, the second one finds it
        lock_shared(connection)
        if not has_schema(connection, TEMPLATE.schema):
            create_schema(connection, TEMPLATE.schema)
    grant_analysts(connection)
    return TEMPLATE


def _create(connection: Connection, tenant: Tenant, migrations: Sequence[Migration], *, as_login: bool = False) -> None:
    """Create a tenant in one transaction, which rolls back CREATE SCHEMA and CREATE ROLE as well.

    The migrations run as the schema's owner. If that lacks a privilege, everything is done again `as_login`.
    """
    current: Migration | None = None
    try:
        with connection.transaction():
            _setup(connection, tenant)
            if not as_login:
                connection.execute(act_as_owner(tenant.schema).encode())
            path = search_path(tenant.schema, shared_schemas(connection))
            connection.execute(f"SET LOCAL search_path TO {path}".encode())
            run = Run("create")
            for current in migrations:
                send_body(connection, tenant, (current, "up"), run)
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
    """Create a tenant with NO TRANSACTION migrations, which cannot be rolled back: on an error, drop what was created."""
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
    """Rename the schema and the roles of a tenant, and its entry in public.tenants; call it in a transaction."""
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
    """Raise UsageError if the name of a tenant that is to be created is taken."""
    if tenant.slug in {known.slug for known in list_tenants(connection)} or has_schema(connection, tenant.schema):
        raise UsageError(f"tenant {tenant.slug} or schema {tenant.schema} already exists: choose another name")


def _setup(connection: Connection, tenant: Tenant) -> None:
    connection.execute("SET LOCAL client_min_messages TO warning")
    create_roles(connection, tenant)
    create_schema(connection, tenant.schema)
    grant_schema(connection, tenant)


def register(connection: Connection, tenant: Tenant) -> None:
    """Register a tenant: enter it in public.tenants, or the table in its place."""
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
    reason = first_line(error)
    if migration is not None:
        reason = message_of(error, migration)
        return MigrationError(
            f"tenant {tenant.slug}: {migration.path} failed: {reason.rstrip(';')}; the tenant was not created"
        )
    if isinstance(error, psycopg.errors.UniqueViolation):
        return UsageError(f"tenant {tenant.slug} cannot be created: another process has just created it")
    if isinstance(error, psycopg.errors.DuplicateObject | psycopg.errors.DuplicateSchema):
        return UsageError(f"tenant {tenant.slug} cannot be created: {reason}")
    if isinstance(error, psycopg.errors.InsufficientPrivilege):
        return DatabaseError(f"tenant {tenant.slug} cannot be created: {reason}; {_NEEDS}")
    return DatabaseError(f"tenant {tenant.slug} cannot be created: {reason}")


# The texts after the rename: references that PostgreSQL keeps by object id show the new name already.
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
    """An object whose text still names the old schema; `line` is the first line that does."""

    object: str
    line: str

    def __str__(self) -> str:
        return f"{self.object}: {self.line}"


@dataclass(frozen=True)
class MovedTenant:
    """A tenant under its new name, and the texts that an operator has to rewrite by hand."""

    tenant: Tenant
    mentions: tuple[Mention, ...] = ()


def find_mentions(connection: Connection, old: str, new: str, *, everywhere: bool = False) -> tuple[Mention, ...]:
    """Return the objects of the schema `new` whose text names the schema `old`; with `everywhere`, functions of all schemas.

    It searches the bodies, settings and defaults of functions, views, indexes, column defaults, checks, policies, triggers and
    rules, but not data and comments. PostgreSQL keeps most references by object id, and these follow a rename; function bodies
    and constants are text, and stay (manual, ALTER SCHEMA).
    """
    if old == new:
        return ()
    pattern = rf"\m{re.escape(old)}\M"
    rows = connection.execute(_TEXTS, {"schema": new, "everywhere": everywhere, "pattern": pattern}).fetchall()
    return tuple(Mention(described, _first_line(text, old)) for described, text in rows)


def _first_line(text: str, word: str) -> str:
    named = re.compile(rf"\b{re.escape(word)}\b", re.ASCII)
    return next((line.strip() for line in text.splitlines() if named.search(line)), "")


@dataclass(frozen=True)
class ProvisionPlan:
    """The tenant that would be created, and the migrations that it would get, in order."""

    tenant: Tenant
    migrations: tuple[Migration, ...] = field(repr=False)

    @property
    def id(self) -> str:
        """`provision-` and ten hexadecimal digits that stand for exactly this tenant and these migrations."""
        facts = [astuple(self.tenant), [(m.name, m.content.up) for m in self.migrations]]
        return plan_id("provision", facts)

    @property
    def size(self) -> int:
        """How many tenants it creates."""
        return 1

    @property
    def facts(self) -> dict[str, object]:
        """Its figures, with those of the result at zero."""
        return {
            "tenant": self.tenant.slug,
            "migrations": len(self.migrations),
            "created": 0,
            "pending": 0,
            "drift": 0,
        }

    @property
    def findings(self) -> tuple[Finding, ...]:
        """None: planning refuses a bad name."""
        return ()

    @property
    def tables(self) -> tuple[Table[Migration], ...]:
        """One line a migration that the new tenant would get, in order."""
        return (Table(_MIGRATIONS, self.migrations, "There are no migrations."),)

    def __str__(self) -> str:
        tenant = self.tenant
        return (
            f"tenant {tenant.slug} ({tenant.name}) with schema {tenant.schema}, role {tenant.role} and "
            f"{count_of(len(self.migrations), 'migration')}"
        )


_MIGRATIONS = (
    Column[Migration]("migration", lambda m: m.name),
    Column[Migration]("statements", lambda m: len(m.content.up)),
)


@dataclass(frozen=True)
class Provisioned(Result):
    """A new tenant and its inspection."""

    fleet: FleetInspection

    @property
    def tenant(self) -> Tenant:
        """The new tenant."""
        return self.fleet.inspections[0].tenant

    @property
    def facts(self) -> dict[str, object]:
        """Its pending migrations and its differences from `_template`."""
        (made,) = self.fleet.inspections
        return {
            "created": 1,
            "migrations pending": made.figure("versions", made.pending),
            "drift": made.figure("drift", len(made.drift)),
        }

    @property
    def findings(self) -> list[Finding]:
        """The findings of its inspection."""
        return self.fleet.findings

    @property
    def tables(self) -> tuple[Table[TenantInspection], ...]:
        """One line with its state."""
        return (self.fleet.table,)

    def __str__(self) -> str:
        return f"{self.tenant.slug} was created: schema {self.tenant.schema}, role {self.tenant.role}"


def plan_provision(connection: Connection, migrations: Sequence[Migration], slug: str, name: str = "") -> ProvisionPlan:
    """Plan a new tenant; raises UsageError for a bad or taken name."""
    tenant = new_tenant(connection, slug, name)
    refuse_taken(connection, tenant)
    return ProvisionPlan(tenant, tuple(migrations))


def provision_tenant(database: Database, plan: ProvisionPlan, confirm: str) -> Tenant:
    """Bring `_template` to the newest version, then create the tenant as planned, if `confirm` is the plan's id.

    Raises MigrationError, with no tenant created, if a migration fails on `_template`, as it would fail on the tenant.
    """
    database.check_writable()
    PlanChangedError.check(confirm, plan.id)
    with database.connection() as connection:
        template = ensure_template(connection)
        migrations = plan_up([template], plan.migrations, read_applied(connection, [template], plan.migrations))
    for slug, reason in migrations.refused.items():
        raise MigrationError(f"tenant {slug}: {reason}; {plan.tenant.slug} was not created")
    if failed := run_plan(database, migrations, migrations.id).failed:
        raise MigrationError(str(failed[0].error))
    return create_tenant(database, plan.migrations, plan.tenant.slug, plan.tenant.name)
