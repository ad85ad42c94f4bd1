"""Who may do what in a tenant's schema, against what creating a tenant gives."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from psycopg import sql

from erpkit.database import ANALYSTS, Connection, Tenant

# (kind, object) -> {(grantee, privilege)}; an empty grantee is PUBLIC, the owner's own privileges are left out. Defaults are those
# of all roles that have any here, and under `some …` those of any of them.
Grants = Mapping[tuple[str, str], frozenset[tuple[str, str]]]

_OF_READER = {  # what create_tenant gives the role that reads
    "schema": frozenset({"USAGE"}),
    "table": frozenset({"SELECT"}),
    "sequence": frozenset({"SELECT"}),
    "default tables": frozenset({"SELECT"}),
    "default sequences": frozenset({"SELECT"}),
}
_OF_ROLE = {  # and the one that handlers run under, until the tenant is archived
    "schema": frozenset({"USAGE"}),
    "table": frozenset({"SELECT", "INSERT", "UPDATE", "DELETE"}),
    "sequence": frozenset({"SELECT", "USAGE"}),
    "default tables": frozenset({"SELECT", "INSERT", "UPDATE", "DELETE"}),
    "default sequences": frozenset({"SELECT", "USAGE"}),
}

# Objects with equal privileges are one row, so that a thousand schemas are a few thousand rows.
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
            if (kind, name) in found[schema]:  # the defaults of another role that makes tables here
                found[schema][f"some {kind}", name] = pairs | found[schema][kind, name]
                pairs &= found[schema][kind, name]
            found[schema][kind, name] = pairs
    return dict(found)


def compare_grants(tenant: Tenant, canonical: Grants, actual: Grants) -> Iterator[GrantChange]:
    """Compare a tenant's privileges with the template's and those that its own role is given. Pure.

    An object that is itself missing or extra is not also reported for what its role may do. That analysts read the template
    themselves is no model for tenants.
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
    """Return what is granted on each object in most of the schemas that have it. Pure."""
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
    """Return the grants without what is given to these roles: a tenant's own are no model for another's. Pure."""
    return {key: frozenset(pair for pair in pairs if pair[0] not in roles) for key, pairs in grants.items()}


def _own_grants(tenant: Tenant) -> dict[str, frozenset[tuple[str, str]]]:
    of_role = _OF_READER if tenant.status == "archived" else _OF_ROLE
    return {
        kind: frozenset(
            (grantee, privilege)
            for grantee, privileges in ((tenant.role, of_role[kind]), (tenant.reader, _OF_READER[kind]))
            if grantee is not None
            for privilege in privileges
        )
        for kind in _OF_ROLE
    }


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
    quoted = sql.Identifier(schema).as_string()
    who = sql.Identifier(grantee).as_string() if grantee else "PUBLIC"
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
