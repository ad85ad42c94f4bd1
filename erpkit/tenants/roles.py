"""The roles of a tenant and their privileges, and the groups of analysts and of operators.

Each tenant has two roles that cannot log in: one that its handlers run under, and `<role>.read` for analysts. Analysts need one of
their own because READ ONLY is not a barrier: whoever may take a role may begin a READ WRITE transaction under it.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import psycopg
from psycopg import sql

from erpkit.database import (
    ANALYSTS,
    OPERATORS,
    TEMPLATE,
    Connection,
    Tenant,
    as_admin,
    as_owner,
    find_owner,
    grant_analysts,
    quote_name,
    shared_schemas,
)
from erpkit.database.operators import lock_shared, owner_name, shared_group
from erpkit.errors import DatabaseError

_NAME_LIMIT = 63 - len(".read")  # PostgreSQL truncates longer names, which may make two of them equal
# What a tenant's roles get on all tables and sequences of its schema, present and future; both roles may use the schema.
_READ = (("SELECT", "TABLES", "{role}, {reader}"), ("SELECT", "SEQUENCES", "{role}, {reader}"))
_WRITE = (("INSERT, UPDATE, DELETE", "TABLES", "{role}"), ("USAGE", "SEQUENCES", "{role}"))  # until it is archived
# What the group of those who use the shared schemas lacks: one statement a schema and kind.
_SHARED = """
WITH wanted AS (
    SELECT n.oid, n.nspname, p.privilege FROM pg_namespace n
     CROSS JOIN unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) p (privilege)
     WHERE n.nspname = ANY(%(shared)s) AND (p.privilege = 'SELECT' OR n.nspname = ANY(%(writable)s))
)
SELECT format('GRANT USAGE ON SCHEMA %%I TO %%I', nspname, %(group)s::text) FROM pg_namespace
 WHERE nspname = ANY(%(shared)s) AND NOT has_schema_privilege(quote_ident(%(group)s)::regrole, oid, 'USAGE')
UNION ALL
SELECT format('GRANT %%s ON ALL TABLES IN SCHEMA %%I TO %%I', string_agg(DISTINCT w.privilege, ', '), w.nspname, %(group)s::text)
  FROM wanted w JOIN pg_class c ON c.relnamespace = w.oid AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
 WHERE NOT has_table_privilege(quote_ident(%(group)s)::regrole, c.oid, w.privilege) GROUP BY w.nspname
UNION ALL
SELECT DISTINCT format('GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA %%I TO %%I', n.nspname, %(group)s::text)
  FROM pg_namespace n JOIN pg_class c ON c.relnamespace = n.oid AND c.relkind = 'S'
 WHERE n.nspname = ANY(%(writable)s) AND NOT has_sequence_privilege(quote_ident(%(group)s)::regrole, c.oid, 'USAGE')
"""
_NO_MEMBERS = """
SELECT r.rolname::text FROM pg_roles r WHERE r.rolname = ANY(%s)
   AND NOT EXISTS (SELECT FROM pg_auth_members m WHERE m.member = r.oid AND m.roleid = quote_ident(%s)::regrole)
"""
_INHERIT_OPTION = 160000  # the first version with GRANT … WITH INHERIT


def role_name(database: str, slug: str) -> str:
    """Return the name of a tenant's role, which has the database's name in it, as roles belong to the whole server."""
    name = f"{database}.tenant_{slug}"
    if len(name.encode()) <= _NAME_LIMIT:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:10]
    return f"{name.encode()[: _NAME_LIMIT - 11].decode(errors='ignore')}.{digest}"


def ensure_analysts(connection: Connection) -> None:
    """Create the group `erpkit_analyst` if it is missing, and let it read the registry, the records and `_template`.

    Several processes may do so at once. A login becomes an analyst by `GRANT erpkit_analyst TO ann`: it may then take the
    reading role of any tenant, and reads nothing without that.
    """
    if connection.execute("SELECT to_regrole(%s)", [ANALYSTS]).fetchone() == (None,):
        connection.execute(
            f"DO $$ BEGIN CREATE ROLE {ANALYSTS} NOLOGIN NOINHERIT; "
            "EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$"
        )
    grant_analysts(connection)


def ensure_operators(connection: Connection) -> None:
    """Create the group `erpkit_operator`, and the role that owns what its members create here, if one of them is missing.

    The login becomes a member of both. Another login needs `GRANT erpkit_operator TO bob` and nothing else: the role may create
    roles, and gets the privilege to create schemas here if the login may grant it. For a superuser only the group is created,
    as long as no operator works here. Raises DatabaseError if the database has operators and the login is not one of them.
    """
    if not operator_statements(connection):
        return
    with connection.transaction():
        lock_shared(connection)
        for statement in operator_statements(connection):
            connection.execute(statement.encode())


def operator_statements(connection: Connection, *, by_superuser: bool = False) -> list[str]:
    """Return the statements that `ensure_operators` has still to run; `by_superuser` lets a superuser create the role, too."""
    ((database, login, is_superuser, has_group),) = connection.execute(
        "SELECT current_database()::text, rolname::text, rolsuper, to_regrole(%s) IS NOT NULL "
        "FROM pg_roles WHERE rolname = current_user",
        [OPERATORS],
    ).fetchall()
    owner, join = owner_name(database), [] if is_superuser else ["CURRENT_USER"]
    role = quote_name(owner)
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
        raise DatabaseError(f"the login {login} does not operate {database}: GRANT {OPERATORS} TO {quote_name(login)}")
    if is_superuser and not by_superuser:
        return statements
    statements.append(f"CREATE ROLE {role} NOLOGIN NOINHERIT CREATEROLE")
    statements += [f"GRANT {role} TO {who}" for who in [OPERATORS, *join]]
    return statements + _grants_to_create(connection, database, owner)


def _grants_to_create(connection: Connection, database: str, owner: str) -> list[str]:
    """Return the grants of CREATE that the owner lacks and the login may give; otherwise each operator needs them."""
    name, role = quote_name(database), quote_name(owner)
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
    """Create both roles of a tenant, whose schema need not exist yet; call it in a transaction."""
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


def check_shared(connection: Connection, tenants: Sequence[Tenant]) -> None:
    """Raise DatabaseError where a schema that the settings declare as shared is not there, or is one of `tenants`' own."""
    shared = shared_schemas(connection)
    for tenant in (TEMPLATE, *tenants):
        if tenant.schema in shared:
            raise DatabaseError(
                f"the schema {tenant.schema} belongs to {tenant.slug}, and ERPKIT_SHARED_SCHEMAS would let all tenants read it: "
                "take it out"
            )
    missing = "SELECT unnest(%s::text[]) EXCEPT SELECT nspname FROM pg_namespace ORDER BY 1"
    if shared and (names := [name for (name,) in connection.execute(missing, [list(shared)])]):
        raise DatabaseError(f"there is no schema {', '.join(names)}, which ERPKIT_SHARED_SCHEMAS names: make it first")


def ensure_shared(connection: Connection, writable: Sequence[str] = (), tenants: Sequence[Tenant] = ()) -> None:
    """Let the roles of `tenants` read the schemas that the settings declare as shared, and write to the `writable` ones.

    They get it from one group for each database: a grant to each of thousands would be looked through at every access. Call it
    again for tables and tenants that came later. Raises DatabaseError, with what to grant, where the login may not.
    """
    shared = shared_schemas(connection)
    if not shared:
        return
    database = connection.execute("SELECT current_database()::text").fetchone() or ("",)
    group = shared_group(database[0])
    check_shared(connection, tenants)
    if connection.execute("SELECT to_regrole(quote_ident(%s))", [group]).fetchone() == (None,):
        with connection.transaction(), _as(connection, find_owner(connection)):
            connection.execute(sql.SQL("CREATE ROLE {} NOLOGIN").format(sql.Identifier(group)))
    try:
        for (statement,) in connection.execute(
            _SHARED, {"group": group, "shared": list(shared), "writable": list(writable)}
        ).fetchall():
            connection.execute(statement.encode())
    except psycopg.errors.InsufficientPrivilege as error:
        raise DatabaseError(
            f"the tenants may not read the shared schemas: {error.diag.message_primary}; as their owner: {statement}"
        ) from None
    roles = [role for tenant in tenants if tenant.role for role in (tenant.role, tenant.reader)]
    with connection.transaction(), as_admin(connection, group):
        for (role,) in connection.execute(_NO_MEMBERS, [roles, group]).fetchall():
            connection.execute(sql.SQL("GRANT {} TO {}").format(sql.Identifier(group), sql.Identifier(role)))


def grant_schema(connection: Connection, tenant: Tenant) -> None:
    """Let the roles of a tenant use its schema, and its present and future tables."""
    granted = [f"GRANT {what} ON ALL {kind} IN SCHEMA {{schema}} TO {who}" for what, kind, who in (*_READ, *_WRITE)]
    _execute_as_both(
        connection,
        tenant,
        ["GRANT USAGE ON SCHEMA {schema} TO {role}, {reader}", *granted],
        _defaults((*_READ, *_WRITE)),
    )


def forbid_writing(connection: Connection, tenant: Tenant) -> None:
    """Revoke from the role of a tenant all that `grant_schema` granted, except reading."""
    granted = [f"REVOKE {what} ON ALL {kind} IN SCHEMA {{schema}} FROM {who}" for what, kind, who in _WRITE]
    defaults = [
        f"ALTER DEFAULT PRIVILEGES IN SCHEMA {{schema}} REVOKE {what} ON {kind} FROM {who}"
        for what, kind, who in _WRITE
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
    """Drop both roles of a tenant, if they exist; call it in a transaction."""
    with as_admin(connection, tenant.role or ""):
        _execute(connection, tenant, ["DROP ROLE IF EXISTS {reader}", "DROP ROLE IF EXISTS {role}"])


def default_statements(tenant: Tenant, owner: str) -> list[str]:
    """Return the default privileges of `grant_schema` for tables that `owner` will create; read-only for an archived tenant."""
    statements = _defaults(_READ if tenant.status == "archived" else (*_READ, *_WRITE), "FOR ROLE {owner} ")
    return [_fill(statement, tenant, owner).as_string() for statement in statements]


def _defaults(given: Sequence[tuple[str, str, str]], of: str = "") -> list[str]:
    return [
        f"ALTER DEFAULT PRIVILEGES {of}IN SCHEMA {{schema}} GRANT {what} ON {kind} TO {who}"
        for what, kind, who in given
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
    """Run them as the schema's owner, and the defaults as the login, too, as default privileges belong to the creating role.

    In an adopted schema the ERP's own login creates the tables, and the login here may grant what belongs to any role there.
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


# (kind, object) -> {(grantee, privilege)}; an empty grantee is PUBLIC, the owner's own privileges are left out. A default privilege
# is listed if all roles that have defaults here give it, and under `some …` if any of them does.
Grants = Mapping[tuple[str, str], frozenset[tuple[str, str]]]

# One row for all objects with equal privileges, so that a thousand schemas give a few thousand rows.
_ACLS = """
WITH own AS MATERIALIZED (SELECT oid, nspname, nspowner, nspacl FROM pg_namespace WHERE nspname = ANY(%s)),
acls (nspname, kind, names, acl, owner) AS (
    SELECT nspname, 'schema', ARRAY[''], coalesce(nspacl, acldefault('n', nspowner)), nspowner FROM own
    UNION ALL
    SELECT n.nspname, CASE c.relkind WHEN 'S' THEN 'sequence' ELSE 'table' END, array_agg(quote_ident(c.relname)),
           coalesce(c.relacl, acldefault(CASE c.relkind WHEN 'S' THEN 's' ELSE 'r' END::"char", c.relowner)), c.relowner
      FROM pg_class c JOIN own n ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S') GROUP BY 1, 2, 4, 5
    UNION ALL
    SELECT n.nspname, 'column', ARRAY[quote_ident(c.relname) || '.' || quote_ident(a.attname)], a.attacl, c.relowner
      FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN own n ON n.oid = c.relnamespace WHERE a.attacl IS NOT NULL
    UNION ALL
    SELECT n.nspname, CASE p.prokind WHEN 'p' THEN 'procedure' ELSE 'function' END,
           array_agg(quote_ident(p.proname) || '(' || pg_get_function_identity_arguments(p.oid) || ')'),
           coalesce(p.proacl, acldefault('f', p.proowner)), p.proowner
      FROM pg_proc p JOIN own n ON n.oid = p.pronamespace GROUP BY 1, 2, 4, 5
    UNION ALL
    SELECT n.nspname, CASE d.defaclobjtype WHEN 'r' THEN 'default tables' ELSE 'default sequences' END, ARRAY[''],
           d.defaclacl, d.defaclrole
      FROM pg_default_acl d JOIN own n ON n.oid = d.defaclnamespace WHERE d.defaclobjtype IN ('r', 'S')
)
SELECT a.nspname, a.kind, a.names,
       array_agg(coalesce(r.rolname, '') || chr(1) || e.privilege_type) FILTER (WHERE e.grantee IS NOT NULL)
  FROM acls a LEFT JOIN LATERAL aclexplode(a.acl) e ON e.grantee <> a.owner LEFT JOIN pg_roles r ON r.oid = e.grantee
 GROUP BY 1, 2, 3, a.acl, a.owner
"""


@dataclass(frozen=True)
class GrantChange:
    """Privileges that are missing or extra; `on` names the object, such as `table sales_orders`."""

    kind: Literal["grant", "default privilege"]
    on: str
    privileges: tuple[str, ...]
    grantee: str
    change: Literal["missing", "extra"]
    ddl: str


def read_grants(connection: Connection, schemas: Sequence[str]) -> dict[str, Grants]:
    """Return the privileges in each of `schemas`, in one query."""
    found: dict[str, dict[tuple[str, str], frozenset[tuple[str, str]]]] = {schema: {} for schema in schemas}
    for schema, kind, names, grants in connection.execute(_ACLS, [list(schemas)]):
        pairs = frozenset(
            (grantee, privilege) for grantee, privilege in (grant.split("\x01") for grant in grants or ())
        )
        for name in names:
            if (kind, name) in found[schema]:  # the default privileges of another role that creates tables here
                found[schema][f"some {kind}", name] = pairs | found[schema][kind, name]
                pairs &= found[schema][kind, name]
            found[schema][kind, name] = pairs
    return dict(found)


def compare_grants(tenant: Tenant, canonical: Grants, actual: Grants) -> Iterator[GrantChange]:
    """Compare a tenant's privileges with the template's and those of its own roles. Pure.

    An object that is itself missing or extra is not reported again for its privileges. Analysts' own privileges on the template
    do not apply to tenants.
    """
    if not actual or actual is canonical:
        return
    own = _own_grants(tenant)
    defaults = [("default tables", ""), ("default sequences", "")] if tenant.role else []
    for key in dict.fromkeys([*defaults, *actual]):
        if key[0].startswith("some "):
            continue
        model = frozenset(pair for pair in canonical.get(key, frozenset()) if pair[0] != ANALYSTS)
        expected = model | own.get(key[0], frozenset())
        found = actual.get(key, frozenset())
        widest = actual.get((f"some {key[0]}", key[1]), found)
        if key in canonical or key in defaults:
            yield from _changes(tenant, key, expected - found, "missing")
        yield from _changes(tenant, key, widest - expected, "extra")


def most_granted(schemas: Sequence[Grants]) -> Grants:
    """Return the privileges that most of the schemas that have an object grant on it. Pure."""
    owners = Counter(key for grants in schemas for key in grants)
    pairs = {key: Counter[tuple[str, str]]() for key in owners}
    for grants in schemas:
        for key, some in grants.items():
            pairs[key].update(some)
    return {
        key: frozenset(pair for pair, count in counts.items() if 2 * count > owners[key])
        for key, counts in pairs.items()
    }


def without_roles(grants: Grants, roles: Collection[str | None]) -> Grants:
    """Return the grants without those to these roles, such as the roles of the tenant that others are compared with. Pure."""
    return {key: frozenset(pair for pair in pairs if pair[0] not in roles) for key, pairs in grants.items()}


def _own_grants(tenant: Tenant) -> dict[str, frozenset[tuple[str, str]]]:
    roles = {"{role}": tenant.role, "{reader}": tenant.reader}
    granted = [("USAGE", "SCHEMAS", "{role}, {reader}"), *_READ, *(() if tenant.status == "archived" else _WRITE)]
    own: dict[str, set[tuple[str, str]]] = {}
    for privileges, kind, grantees in granted:
        names = [name for one in grantees.split(", ") if (name := roles[one]) is not None]
        pairs = {(name, privilege) for name in names for privilege in privileges.split(", ")}
        for key in (kind.removesuffix("S").lower(), f"default {kind.lower()}"):
            own.setdefault(key, set()).update(pairs)
    return {kind: frozenset(pairs) for kind, pairs in own.items()}


def _changes(
    tenant: Tenant, key: tuple[str, str], pairs: frozenset[tuple[str, str]], change: Literal["missing", "extra"]
) -> Iterator[GrantChange]:
    for grantee in sorted({grantee for grantee, _ in pairs}):
        privileges = tuple(sorted(privilege for who, privilege in pairs if who == grantee))
        yield GrantChange(
            kind="default privilege" if key[0].startswith("default ") else "grant",
            on=f"{key[0].removeprefix('default ')} {key[1]}".strip(),
            privileges=privileges,
            grantee=grantee or "PUBLIC",
            change=change,
            ddl=_statement(tenant.schema, key, privileges, grantee, change),
        )


def _statement(schema: str, key: tuple[str, str], privileges: Sequence[str], grantee: str, change: str) -> str:
    kind, name = key
    quoted, who = quote_name(schema), quote_name(grantee) if grantee else "PUBLIC"
    verb, to = ("GRANT", "TO") if change == "missing" else ("REVOKE", "FROM")
    what = ", ".join(privileges)
    if kind.startswith("default "):
        return f"ALTER DEFAULT PRIVILEGES IN SCHEMA {quoted} {verb} {what} ON {kind[8:].upper()} {to} {who};"
    if kind == "schema":
        return f"{verb} {what} ON SCHEMA {quoted} {to} {who};"
    if kind == "column":
        table, column = _split(name)
        return f"{verb} {', '.join(f'{one} ({column})' for one in privileges)} ON TABLE {quoted}.{table} {to} {who};"
    return f"{verb} {what} ON {kind.upper()} {quoted}.{name} {to} {who};"


def _split(name: str) -> tuple[str, str]:
    """Split `table.column`, either of which may be quoted and hold a dot."""
    end = name.index('".', 1) + 1 if name.startswith('"') else name.index(".")
    return name[:end], name[end + 1 :]
