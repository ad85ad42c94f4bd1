"""The group of operators, and the role of each database that owns what they make.

`erpkit_operator` is the group of the operators' logins. It is a member of one role for each database, `erpkit_operator.<database>`,
which owns the tenants' schemas and everything in them, so that each operator may change and drop what another one made.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

from psycopg import sql

from erpkit.database.scope import Connection, Tenant

OPERATORS = "erpkit_operator"
OWNER_PREFIX = f"{OPERATORS}."

_NAME_LIMIT = 63 - len(OWNER_PREFIX)

# The objects of schemas with their owners, except sequences of columns and members of extensions, which follow their own.
OBJECTS = """
SELECT n.nspname AS schema, n.nspowner AS wanted, o.owner, d.objid, t.keyword, i.identity
  FROM pg_catalog.pg_namespace n
  JOIN pg_catalog.pg_depend d ON d.refclassid = 'pg_namespace'::regclass AND d.refobjid = n.oid AND d.deptype = 'n'
 CROSS JOIN LATERAL (SELECT CASE d.classid
       WHEN 'pg_class'::regclass THEN (SELECT relowner FROM pg_class WHERE oid = d.objid)
       WHEN 'pg_proc'::regclass THEN (SELECT proowner FROM pg_proc WHERE oid = d.objid)
       WHEN 'pg_type'::regclass THEN (SELECT typowner FROM pg_type WHERE oid = d.objid)
       WHEN 'pg_operator'::regclass THEN (SELECT oprowner FROM pg_operator WHERE oid = d.objid)
       WHEN 'pg_opclass'::regclass THEN (SELECT opcowner FROM pg_opclass WHERE oid = d.objid)
       WHEN 'pg_opfamily'::regclass THEN (SELECT opfowner FROM pg_opfamily WHERE oid = d.objid)
       WHEN 'pg_collation'::regclass THEN (SELECT collowner FROM pg_collation WHERE oid = d.objid)
       WHEN 'pg_conversion'::regclass THEN (SELECT conowner FROM pg_conversion WHERE oid = d.objid)
       WHEN 'pg_statistic_ext'::regclass THEN (SELECT stxowner FROM pg_statistic_ext WHERE oid = d.objid)
       WHEN 'pg_ts_config'::regclass THEN (SELECT cfgowner FROM pg_ts_config WHERE oid = d.objid)
       WHEN 'pg_ts_dict'::regclass THEN (SELECT dictowner FROM pg_ts_dict WHERE oid = d.objid) END) o (owner)
 CROSS JOIN LATERAL pg_identify_object(d.classid, d.objid, 0) i
 CROSS JOIN LATERAL (SELECT CASE i.type WHEN 'composite type' THEN 'TYPE' WHEN 'statistics object' THEN 'STATISTICS'
       ELSE upper(i.type) END) t (keyword)
 WHERE o.owner IS NOT NULL
   AND NOT EXISTS (SELECT FROM pg_depend e WHERE e.classid = d.classid AND e.objid = d.objid AND (e.deptype = 'e'
       OR e.deptype IN ('a', 'i') AND i.type = 'sequence' AND e.refclassid = 'pg_class'::regclass))
"""

_GIVE = """
DO $erpkit$
DECLARE one record; given record;
BEGIN
    FOR one IN
        SELECT o.* FROM ({objects}) o
         WHERE o.schema = {schema} AND o.owner <> o.wanted AND starts_with(pg_get_userbyid(o.wanted), {prefix})
    LOOP
        EXECUTE format('ALTER %s %s OWNER TO %I', one.keyword, one.identity, pg_get_userbyid(one.wanted));
        FOR given IN
            SELECT string_agg(a.privilege_type, ', ') AS privileges, pg_get_userbyid(a.grantee) AS grantee
              FROM pg_default_acl d, aclexplode(d.defaclacl) a
             WHERE d.defaclrole = one.wanted AND d.defaclnamespace = to_regnamespace(quote_ident({schema}))
               AND d.defaclobjtype = CASE one.keyword WHEN 'TABLE' THEN 'r' WHEN 'SEQUENCE' THEN 'S' END AND a.grantee <> 0
             GROUP BY a.grantee
        LOOP
            EXECUTE format('GRANT %s ON %s %s TO %I', given.privileges, one.keyword, one.identity, given.grantee);
        END LOOP;
    END LOOP;
END $erpkit$
"""


def database_name(connection: Connection) -> str:
    """Return the name of the database as the server knows it: behind a pooler, the connection may have an alias."""
    ((name,),) = connection.execute("SELECT current_database()::text").fetchall()
    return str(name)


def lock_shared(connection: Connection) -> None:
    """Keep other processes from creating what all tenants share, such as groups, until the transaction ends."""
    connection.execute("SELECT pg_advisory_xact_lock(hashtextextended('erpkit.tenants', 0))")


def owner_name(database: str) -> str:
    """Return the name of the role that owns what the operators of a database make: roles belong to the whole server."""
    if len(database.encode()) > _NAME_LIMIT:
        digest = hashlib.sha256(database.encode()).hexdigest()[:10]
        database = f"{database.encode()[: _NAME_LIMIT - 11].decode(errors='ignore')}.{digest}"
    return f"{OWNER_PREFIX}{database}"


def shared_group(database: str) -> str:
    """Return the group of a database's tenants that may use the schemas that are declared as shared."""
    return owner_name(database).replace(OPERATORS, "erpkit_shared", 1)


def find_owner(connection: Connection) -> str | None:
    """Return the role that owns what the operators of this database make, if the login may act as it."""
    name = owner_name(database_name(connection))
    right = "SET" if connection.info.server_version >= 160000 else "MEMBER"
    found = connection.execute(
        "SELECT FROM pg_catalog.pg_roles WHERE rolname = %s AND pg_has_role(session_user, oid, %s)", [name, right]
    ).fetchone()
    return name if found is not None else None


def create_schema(connection: Connection, schema: str, like: str | None = None) -> None:
    """Create a schema owned by the operators' role if the login is an operator, or by the owner of the schema `like`."""
    owner = find_owner(connection)
    if owner is not None and like is not None:
        row = connection.execute(
            "SELECT FROM pg_namespace WHERE nspname = %s AND pg_get_userbyid(nspowner) = %s", [like, owner]
        ).fetchone()
        owner = owner if row is not None else None
    statement = sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(schema))
    if owner is not None:  # the login needs the privilege to create it, the owner does not
        statement += sql.SQL(" AUTHORIZATION {}").format(sql.Identifier(owner))
    connection.execute(statement)


def act_as_owner(schema: str) -> str:
    """Return the statement that sets the transaction's role to the owner of a schema, if that is the operators' role.

    What is created then belongs to all operators. For a schema that a login owns, the statement does nothing.
    """
    return (
        f"SELECT pg_catalog.set_config('role', pg_catalog.pg_get_userbyid(nspowner), true) "  # noqa: S608 - quoted
        f"FROM pg_catalog.pg_namespace WHERE nspname = {_literal(schema)} "
        f"AND pg_catalog.starts_with(pg_catalog.pg_get_userbyid(nspowner), {_literal(OWNER_PREFIX)})"
    )


def act_as_maker(tenant: Tenant, *, session: bool = False) -> str:
    """Return the statement that lets the transaction make things in a tenant's schema as whoever should own them.

    In one that erpkit adopted that is the ERP's own login, whose migrations would fail on tables of another one; else it is as
    `act_as_owner` says.
    """
    if tenant.owner is None:
        return act_as_owner(tenant.schema)
    return f"SET {'SESSION' if session else 'LOCAL'} ROLE {sql.Identifier(tenant.owner).as_string()}"


def give_to_owner(schema: str) -> str:
    """Return the statement that makes the owner of an operators' schema own what a login created in it, with the usual privileges."""
    return _GIVE.format(objects=OBJECTS, schema=_literal(schema), prefix=_literal(OWNER_PREFIX))


@contextmanager
def as_owner(connection: Connection, schema: str) -> Iterator[None]:
    """Act as the owner of a schema, if that is the operators' role, within the present transaction."""
    connection.execute(act_as_owner(schema).encode())
    yield
    connection.execute("SET LOCAL role TO DEFAULT")


@contextmanager
def as_maker(connection: Connection, tenant: Tenant) -> Iterator[None]:
    """Act as `act_as_maker` says for a part of the present transaction."""
    connection.execute(act_as_maker(tenant).encode())
    yield
    connection.execute("SET LOCAL role TO DEFAULT")


@contextmanager
def as_admin(connection: Connection, role: str) -> Iterator[None]:
    """Act as the operators' role that created `role`, if one did, within the present transaction.

    Altering and dropping a role takes CREATEROLE, which members do not inherit.
    """
    connection.execute(
        "SELECT set_config('role', admin.rolname, true) FROM pg_auth_members m JOIN pg_roles made ON made.oid = m.roleid "
        "JOIN pg_roles admin ON admin.oid = m.member WHERE made.rolname = %s AND starts_with(admin.rolname, %s) LIMIT 1",
        [role, OWNER_PREFIX],
    )
    yield
    connection.execute("SET LOCAL role TO DEFAULT")


def share_table(connection: Connection, table: str) -> None:
    """Let all operators write a table of erpkit's in `public`, if the login may grant that."""
    owner = find_owner(connection)
    if owner is None:
        return
    rows = connection.execute(
        "SELECT pg_has_role(relowner, 'USAGE'), has_schema_privilege(%s::text, relnamespace, 'CREATE'), "
        "has_table_privilege(%s::text, oid, 'SELECT') AND has_table_privilege(%s::text, oid, 'INSERT') "
        "AND has_table_privilege(%s::text, oid, 'UPDATE') AND has_table_privilege(%s::text, oid, 'DELETE') "
        "FROM pg_catalog.pg_class WHERE oid = to_regclass(%s)",
        [owner, owner, owner, owner, owner, f"public.{table}"],
    ).fetchall()
    for is_ours, may_own, is_shared in rows:
        if is_shared or not is_ours:
            continue
        statement = "ALTER TABLE {} OWNER TO {}" if may_own else "GRANT SELECT, INSERT, UPDATE, DELETE ON {} TO {}"
        connection.execute(sql.SQL(statement).format(sql.Identifier("public", table), sql.Identifier(owner)))


def _literal(text: str) -> str:
    return sql.Literal(text).as_string()
