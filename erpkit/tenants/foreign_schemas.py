"""What is known of the schemas of an ERP that are to be adopted: whose they are, and what migration tools recorded in them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from psycopg import sql

from erpkit.database import Connection, Tenant, read_tenants
from erpkit.migrations import read_applied
from erpkit.tenants.registry import list_tenants, registry_table

EVENT_TABLE = "goose_db_version_erpkit"

# The maker is the login whose migrations made the tables: the owner of the table that records them, or of most tables.
_FACTS = f"""
WITH named AS MATERIALIZED (SELECT oid, nspname::text AS schema, nspowner FROM pg_namespace WHERE nspname = ANY(%(schemas)s)),
owned AS MATERIALIZED (
    SELECT c.relnamespace, c.relowner, array_agg(c.relname::text ORDER BY c.relname) FILTER (WHERE is_table AND is_ours) AS ours,
           count(*) FILTER (WHERE is_table AND NOT is_ours) AS tables,
           count(*) FILTER (WHERE NOT is_ours AND c.relname ~ '^(goose_db_version.*|schema_migrations)$') AS records
      FROM pg_class c JOIN named n ON n.oid = c.relnamespace CROSS JOIN LATERAL (SELECT c.relkind IN ('r', 'p'),
           c.relname = '{EVENT_TABLE}' OR starts_with(c.relname, 'erpkit_')) k (is_table, is_ours)
     WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S') GROUP BY 1, 2),
makers AS (
    SELECT DISTINCT ON (relnamespace) relnamespace, relowner FROM owned WHERE tables > 0
     ORDER BY relnamespace, records DESC, tables DESC, relowner),
owners AS (SELECT relnamespace, relowner FROM owned UNION SELECT oid, nspowner FROM named),
strangers AS (
    SELECT relnamespace, array_agg(pg_get_userbyid(relowner)::text ORDER BY 1) AS names FROM owners
     WHERE NOT pg_has_role(relowner, 'USAGE') GROUP BY 1),
logs AS (SELECT relnamespace, array_agg(name ORDER BY name) AS names FROM owned, unnest(ours) name GROUP BY 1)
SELECT n.schema, pg_get_userbyid(m.maker)::text, pg_has_role(m.maker, %(right)s), has_schema_privilege(m.maker, n.oid, 'CREATE'),
       has_schema_privilege(m.maker, 'public', 'USAGE'), coalesce(s.names, '{{}}'), coalesce(l.names, '{{}}')
  FROM named n LEFT JOIN makers k ON k.relnamespace = n.oid CROSS JOIN LATERAL (SELECT coalesce(k.relowner, n.nspowner)) m (maker)
  LEFT JOIN strangers s ON s.relnamespace = n.oid LEFT JOIN logs l ON l.relnamespace = n.oid
"""  # noqa: S608 - a constant

# golang-migrate's table has any name, and these two columns.
_GOLANG = """
SELECT n.nspname::text, c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = ANY(%s) AND c.relkind = 'r' AND c.relnatts = 2 AND 2 =
       (SELECT count(*) FROM pg_attribute a WHERE a.attrelid = c.oid AND NOT a.attisdropped
           AND (a.attname, a.atttypid) IN (('version', 'bigint'::regtype), ('dirty', 'boolean'::regtype)))
 ORDER BY 1, 2
"""


@dataclass(frozen=True)
class Schema:
    """What the catalog says of a schema that is to be adopted.

    `owner` is the login whose migrations made its tables, `others` the roles that own something there and as which the login
    here may not act, `ours` the tables of an event log that are there already.
    """

    owner: str
    may_act: bool
    owner_creates: bool
    owner_sees_public: bool
    others: tuple[str, ...]
    ours: tuple[str, ...]


@dataclass(frozen=True)
class Facts:
    """What a plan to adopt is made of: the database, the login, the tenants that there are, and what is in the schemas.

    By schema: what the catalog says, the `versions` that tools recorded last, those of the event log in force, and why they
    could not be read. `roles` are those of the server whose names tenants would have.
    """

    database: str
    login: str
    present: Sequence[Tenant] = ()
    schemas: Mapping[str, Schema] = field(default_factory=dict)
    versions: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    events: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    unread: Mapping[str, str] = field(default_factory=dict)
    roles: Collection[str] = ()


def read_facts(connection: Connection, listed: Sequence[Tenant]) -> Facts:
    """Read what a plan to adopt the tenants that a query lists is made of, in a handful of queries for all of them."""
    ((database, login),) = connection.execute("SELECT current_database()::text, current_user::text").fetchall()
    # A role's name begins with the database's, of which a long one is cut.
    roles = connection.execute("SELECT rolname::text FROM pg_roles WHERE starts_with(rolname, left(%s, 8))", [database])
    schemas = _read_schemas(connection, [tenant.schema for tenant in listed])
    present = list_tenants(connection) if registry_table(connection) else []  # a table of the ERP's own is none
    found = Facts(database, login, present, schemas, roles={role for (role,) in roles})
    return _with_versions(connection, found, [tenant for tenant in listed if tenant.schema in schemas])


def _with_versions(connection: Connection, facts: Facts, tenants: Sequence[Tenant]) -> Facts:
    """Read what the migration tools recorded; it is shown, and not taken as more than a text."""
    applied = read_applied(connection, tenants)
    found: dict[str, list[str]] = {}
    for (schema, table), several in sorted(applied.versions.items()):
        if table != EVENT_TABLE:
            found.setdefault(schema, []).append(f"{table} {max(several, default=0)}")
    unread, by_schema = dict(applied.unread), {tenant.schema: tenant for tenant in tenants}
    queries = [
        (by_schema[schema], _golang_query(schema, table))
        for schema, table in connection.execute(_GOLANG, [list(by_schema)]).fetchall()
    ]
    for schema, table, version, is_dirty in read_tenants(connection, queries, unread):
        found.setdefault(schema, []).append(f"{table} {version}{' (dirty)' if is_dirty else ''}")
    return replace(
        facts,
        versions={schema: tuple(several) for schema, several in found.items()},
        events={schema: several for (schema, table), several in applied.versions.items() if table == EVENT_TABLE},
        unread={tenant.schema: unread[tenant.slug] for tenant in tenants if tenant.slug in unread},
    )


def _golang_query(schema: str, table: str) -> sql.Composed:
    return sql.SQL("SELECT {}, {}, version, dirty FROM {}").format(
        sql.Literal(schema), sql.Literal(table), sql.Identifier(schema, table)
    )


def _read_schemas(connection: Connection, names: Sequence[str]) -> dict[str, Schema]:
    right = "SET" if connection.info.server_version >= 160000 else "MEMBER"
    rows = connection.execute(_FACTS, {"schemas": list(names), "right": right}).fetchall()
    return {
        name: Schema(owner, may_act, creates, sees, tuple(others), tuple(ours))
        for name, owner, may_act, creates, sees, others, ours in rows
    }
