"""The roles of a tenant, and the groups of analysts and of operators.

Each tenant has two roles that cannot log in: one that its handlers run under, and `<role>.read` for analysts. The second one
is needed because READ ONLY is no wall: whoever may take a role may begin a READ WRITE transaction under it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from psycopg import sql

from erpkit.database import ANALYSTS, OPERATORS, Connection, Tenant, as_admin, as_owner, find_owner, grant_analysts
from erpkit.database.operators import owner_name
from erpkit.errors import DatabaseError

__all__ = [
    "ANALYSTS",
    "OPERATORS",
    "create_roles",
    "default_statements",
    "drop_roles",
    "ensure_analysts",
    "ensure_operators",
    "forbid_writing",
    "grant_schema",
    "operator_statements",
    "revoke_schema",
    "role_name",
]

_NAME_LIMIT = 63 - len(".read")  # PostgreSQL cuts longer names off, and then two of them may be one
_DEFAULTS = (
    "IN SCHEMA {schema} GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO {role}",
    "IN SCHEMA {schema} GRANT USAGE, SELECT ON SEQUENCES TO {role}",
    "IN SCHEMA {schema} GRANT SELECT ON TABLES TO {reader}",
    "IN SCHEMA {schema} GRANT SELECT ON SEQUENCES TO {reader}",
)
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
    if connection.execute("SELECT to_regrole(%s)", [ANALYSTS]).fetchone() == (None,):
        connection.execute(
            f"DO $$ BEGIN CREATE ROLE {ANALYSTS} NOLOGIN NOINHERIT; "
            "EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$"
        )
    grant_analysts(connection)


def ensure_operators(connection: Connection) -> None:
    """Make the group `erpkit_operator`, and the role that owns what its members make here, if one of them is missing.

    The login becomes a member of both. Another one needs nothing but `GRANT erpkit_operator TO bob`: the role may create roles,
    and gets the right to create schemas here if the login may grant it. What a superuser makes is its own until operators work
    here: it makes the group alone. Raises DatabaseError where others operate this database, and the login is not one of them.
    """
    if not operator_statements(connection):
        return
    with connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(hashtextextended('erpkit.tenants', 0))")
        for statement in operator_statements(connection):
            connection.execute(statement.encode())


def operator_statements(connection: Connection, *, by_superuser: bool = False) -> list[str]:
    """Return what is still to be done for `ensure_operators`; `by_superuser` for a superuser who makes the role as well."""
    ((database, login, is_superuser, has_group),) = connection.execute(
        "SELECT current_database()::text, rolname::text, rolsuper, to_regrole(%s) IS NOT NULL "
        "FROM pg_roles WHERE rolname = current_user",
        [OPERATORS],
    ).fetchall()
    owner, join = owner_name(database), [] if is_superuser else ["CURRENT_USER"]
    role = sql.Identifier(owner).as_string()
    statements = []
    if not has_group:
        statements.append(
            f"DO $$ BEGIN CREATE ROLE {OPERATORS} NOLOGIN; "
            "EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$"
        )
        statements += [f"GRANT {OPERATORS} TO {who}" for who in join]
    if find_owner(connection) is not None:
        return statements + _grants_to_create(connection, database, owner)
    if connection.execute("SELECT FROM pg_roles WHERE rolname = %s", [owner]).fetchone() is not None:
        name = sql.Identifier(login).as_string()
        raise DatabaseError(f"the login {login} does not operate {database}: GRANT {OPERATORS} TO {name}")
    if is_superuser and not by_superuser:
        return statements
    statements.append(f"CREATE ROLE {role} NOLOGIN NOINHERIT CREATEROLE")
    statements += [f"GRANT {role} TO {who}" for who in [OPERATORS, *join]]
    return statements + _grants_to_create(connection, database, owner)


def _grants_to_create(connection: Connection, database: str, owner: str) -> list[str]:
    """Return the grants of CREATE that the owner lacks, and that the login may make; without them each operator needs them."""
    name, role = (sql.Identifier(one).as_string() for one in (database, owner))
    ((on_database, on_public),) = connection.execute(
        "SELECT has_database_privilege(current_database(), 'CREATE WITH GRANT OPTION') "
        "AND NOT coalesce(has_database_privilege(to_regrole(quote_ident(%(owner)s)), current_database(), 'CREATE'), false), "
        "coalesce(has_schema_privilege(to_regnamespace('public'), 'CREATE WITH GRANT OPTION') "
        "AND NOT coalesce(has_schema_privilege(to_regrole(quote_ident(%(owner)s)), 'public', 'CREATE'), false), false)",
        {"owner": owner},
    ).fetchall()
    return [
        *([f"GRANT CREATE ON DATABASE {name} TO {role}"] if on_database else []),
        *([f"GRANT USAGE, CREATE ON SCHEMA public TO {role}"] if on_public else []),
    ]


def create_roles(connection: Connection, tenant: Tenant) -> None:
    """Make both roles of a tenant whose schema need not exist yet, in a transaction; the operators may take and drop them."""
    only_by_set_role = " WITH INHERIT FALSE, SET TRUE" if connection.info.server_version >= _INHERIT_OPTION else ""
    owner = find_owner(connection)
    with _as(connection, owner):
        _execute(
            connection,
            tenant,
            [
                "CREATE ROLE {role} NOLOGIN",
                "CREATE ROLE {reader} NOLOGIN",
                f"GRANT {{role}}, {{reader}} TO CURRENT_USER{only_by_set_role if owner else ''}",
                f"GRANT {{reader}} TO {ANALYSTS}{only_by_set_role}",
            ],
        )


def grant_schema(connection: Connection, tenant: Tenant) -> None:
    """Let the roles of a tenant use its schema, with all tables that it has and will get, and no other."""
    granted = [
        "GRANT USAGE ON SCHEMA {schema} TO {role}, {reader}",
        "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO {role}",
        "GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA {schema} TO {role}",
        "GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO {reader}",
        "GRANT SELECT ON ALL SEQUENCES IN SCHEMA {schema} TO {reader}",
    ]
    _execute_as_both(connection, tenant, granted, [f"ALTER DEFAULT PRIVILEGES {one}" for one in _DEFAULTS])


def forbid_writing(connection: Connection, tenant: Tenant) -> None:
    """Take from the role of a tenant what `grant_schema` gave it, except reading."""
    granted = [
        "REVOKE INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} FROM {role}",
        "REVOKE USAGE ON ALL SEQUENCES IN SCHEMA {schema} FROM {role}",
    ]
    defaults = [
        "ALTER DEFAULT PRIVILEGES IN SCHEMA {schema} REVOKE INSERT, UPDATE, DELETE ON TABLES FROM {role}",
        "ALTER DEFAULT PRIVILEGES IN SCHEMA {schema} REVOKE USAGE ON SEQUENCES FROM {role}",
    ]
    _execute_as_both(connection, tenant, granted, defaults)


def revoke_schema(connection: Connection, tenant: Tenant) -> None:
    """Take from the roles of a tenant all that they may do in its schema, as if `grant_schema` had never been called."""
    granted = [
        "REVOKE ALL ON ALL TABLES IN SCHEMA {schema} FROM {role}, {reader}",
        "REVOKE ALL ON ALL SEQUENCES IN SCHEMA {schema} FROM {role}, {reader}",
        "REVOKE ALL ON ALL ROUTINES IN SCHEMA {schema} FROM {role}, {reader}",
        "REVOKE ALL ON SCHEMA {schema} FROM {role}, {reader}",
    ]
    defaults = [
        f"ALTER DEFAULT PRIVILEGES IN SCHEMA {{schema}} REVOKE ALL ON {kind} FROM {{role}}, {{reader}}"
        for kind in ("TABLES", "SEQUENCES")
    ]
    _execute_as_both(connection, tenant, granted, defaults)


def drop_roles(connection: Connection, tenant: Tenant) -> None:
    """Drop both roles of a tenant, if they are there; call it in a transaction."""
    with as_admin(connection, tenant.role or ""):
        _execute(connection, tenant, ["DROP ROLE IF EXISTS {reader}", "DROP ROLE IF EXISTS {role}"])


def default_statements(tenant: Tenant, owner: str) -> list[str]:
    """Return what `grant_schema` says of the tables that `owner` will make; an archived tenant's role may only read them."""
    wanted = [one.replace(", INSERT, UPDATE, DELETE", "").replace("USAGE, ", "") for one in _DEFAULTS]
    return [
        _fill(f"ALTER DEFAULT PRIVILEGES FOR ROLE {{owner}} {one}", tenant, owner).as_string()
        for one in (wanted if tenant.status == "archived" else _DEFAULTS)
    ]


@contextmanager
def _as(connection: Connection, role: str | None) -> Iterator[None]:
    if role is not None:
        connection.execute(sql.SQL("SET LOCAL ROLE {}").format(sql.Identifier(role)))
    yield
    if role is not None:
        connection.execute("SET LOCAL role TO DEFAULT")


def _execute_as_both(
    connection: Connection, tenant: Tenant, statements: Sequence[str], defaults: Sequence[str]
) -> None:
    """Run them as the schema's owner, and the defaults as the login, too: each role has its own for what it makes.

    In an adopted schema the ERP's own login makes the tables, and the login here may grant what belongs to any role there.
    """
    if tenant.owner is not None:
        theirs = [one.replace("PRIVILEGES", "PRIVILEGES FOR ROLE {owner}", 1) for one in defaults]
        _execute(connection, tenant, [*statements, *theirs])
        return
    with connection.transaction():
        with as_owner(connection, tenant.schema):
            _execute(connection, tenant, [*statements, *defaults])
        _execute(connection, tenant, defaults)


def _execute(connection: Connection, tenant: Tenant, statements: Sequence[str]) -> None:
    connection.execute(sql.SQL("; ").join(_fill(statement, tenant, tenant.owner or "") for statement in statements))


def _fill(statement: str, tenant: Tenant, owner: str = "") -> sql.Composed:
    return sql.SQL(statement).format(
        schema=sql.Identifier(tenant.schema),
        role=sql.Identifier(tenant.role or ""),
        reader=sql.Identifier(tenant.reader or ""),
        owner=sql.Identifier(owner),
    )
