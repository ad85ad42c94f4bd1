"""The registry of tenants, public.tenants, and tenants of other ERPs that a query lists.

Where an ERP has a table of that name of its own, the registry is public.erpkit_tenants.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import psycopg
from psycopg.rows import dict_row

from erpkit.database import Connection, Tenant, has_schema, may_not_read, share_table
from erpkit.database.in_use import hold_alone
from erpkit.database.operators import lock_shared
from erpkit.errors import UsageError, first_line
from erpkit.near import did_you_mean
from erpkit.tenants.locks import WAIT, name_holders
from erpkit.tenants.roles import forbid_writing, grant_schema

STATUSES = ("active", "suspended", "archived")

_SLUG = re.compile(r"[a-z][a-z0-9_]{0,47}", re.ASCII)
_COLUMNS = "slug, schema_name, role_name, name, status"

_TABLE = """
SELECT c.relname::text, bool_or(a.attname = 'owner_name')
  FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
 WHERE c.oid IN (to_regclass('public.tenants'), to_regclass('public.erpkit_tenants')) AND NOT a.attisdropped
   AND a.attname IN ('slug', 'schema_name', 'role_name', 'name', 'status', 'owner_name')
 GROUP BY 1 HAVING count(*) FILTER (WHERE a.attname <> 'owner_name') = 5 ORDER BY 1 LIMIT 1
"""

_NOT_OURS = (
    "public.tenants is not erpkit's: list the tenants by ERPKIT_TENANTS_QUERY, which erpkit doctor writes; "
    "erpkit tenants adopt then takes them into a registry of another name"
)


def check_slug(slug: str) -> str:
    """Return `slug` if it may name a tenant; raise UsageError if not."""
    if not _SLUG.fullmatch(slug):
        remedy = "use a-z, 0-9 and _, a letter first, at most 48 characters" if slug else "name a tenant"
        raise UsageError(f"{slug!r} is not a valid tenant name: {remedy}")
    return slug


def registry_table(connection: Connection) -> str | None:
    """Return the table of tenants that erpkit keeps; None if there is none yet, whatever tables the ERP has itself."""
    found = _find(connection)
    return f"public.{found[0]}" if found else None


def _find(connection: Connection) -> tuple[str, bool] | None:
    """Return the registry's name in the schema public, and whether it has a column for the owner of adopted tenants."""
    row = connection.execute(_TABLE).fetchone()
    return (row[0], row[1]) if row else None


def _has_table_of_that_name(connection: Connection) -> bool:
    return connection.execute("SELECT to_regclass('public.tenants')").fetchone() != (None,)


def ensure_registry(connection: Connection) -> str:
    """Create the registry if it is missing, and return its table; two processes may do so at once."""
    with connection.transaction():
        lock_shared(connection)
        found = registry_table(connection)
        table = found or ("public.erpkit_tenants" if _has_table_of_that_name(connection) else "public.tenants")
        if found is None:  # IF NOT EXISTS would need the privilege to create it
            connection.execute(
                f"CREATE TABLE {table} ("
                "slug text PRIMARY KEY, schema_name text NOT NULL UNIQUE, role_name text, name text NOT NULL DEFAULT '', "
                "status text NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'suspended', 'archived')), "
                "created_at timestamptz NOT NULL DEFAULT now(), owner_name text)".encode()
            )
        share_table(connection, table.removeprefix("public."))
    return table


def has_event_log(connection: Connection) -> bool:
    """Tell whether tenants here have erpkit's event log: not if all were adopted, and all of them without it."""
    logs = connection.execute("SELECT FROM pg_class WHERE relname = 'goose_db_version_erpkit' LIMIT 1")
    if logs.fetchone() is not None:
        return True
    tenants = list_tenants(connection)
    return not tenants or any(tenant.owner is None for tenant in tenants)


def list_tenants(connection: Connection, query: str | None = None) -> list[Tenant]:
    """Return all tenants by slug; none where there is no registry. Raises UsageError where public.tenants is the ERP's own.

    `query` (ERPKIT_TENANTS_QUERY) lists the tenants of an ERP that erpkit did not make: columns slug and schema_name, and
    optionally name and status; any status but active and true counts as not active. Such tenants have no role of erpkit's.
    """
    if query is not None:
        return _foreign_tenants(connection, query)
    found = _find(connection)
    if found is None:
        if _has_table_of_that_name(connection):
            raise UsageError(_NOT_OURS)
        return []
    try:
        rows = connection.execute(_select(found, "ORDER BY slug")).fetchall()
    except psycopg.errors.InsufficientPrivilege:
        raise may_not_read(connection, found[0]) from None
    return [Tenant(*row) for row in rows]


def _select(registry: tuple[str, bool], rest: str) -> bytes:
    """Return the query that reads tenants; a registry of an earlier erpkit has no column for the owner of an adopted one."""
    table, has_owner = registry
    return f"SELECT {_COLUMNS}, {'owner_name' if has_owner else 'NULL'} FROM public.{table} {rest}".encode()  # noqa: S608 - constants


def _foreign_tenants(connection: Connection, query: str) -> list[Tenant]:
    try:
        with connection.transaction():
            connection.execute("SET TRANSACTION READ ONLY")
            rows = connection.cursor(row_factory=dict_row).execute(query.encode()).fetchall()
        tenants = [_foreign_tenant(row) for row in rows]
    except psycopg.Error as error:
        raise UsageError(f"ERPKIT_TENANTS_QUERY failed: {first_line(error)}") from None
    except KeyError as error:
        raise UsageError(f"ERPKIT_TENANTS_QUERY returns no column {error}: it needs slug and schema_name") from None
    for what, values in (("tenant", [t.slug for t in tenants]), ("schema", [t.schema for t in tenants])):
        if twice := [value for value, count in Counter(values).items() if count > 1]:
            raise UsageError(
                f"ERPKIT_TENANTS_QUERY returns the {what} {twice[0]!r} more than once: each must be one row"
            )
    return sorted(tenants, key=lambda tenant: tenant.slug)


def _foreign_tenant(row: Mapping[str, Any]) -> Tenant:
    """Return the tenant of a row; any name is accepted, as it is quoted wherever it is used."""
    slug, schema = row["slug"], row["schema_name"]
    for column, value, other in (("slug", slug, schema), ("schema_name", schema, slug)):
        if value is None or not str(value).strip():
            raise UsageError(f"ERPKIT_TENANTS_QUERY returns a row without a {column} (beside {other!r}): leave it out")
    status = str(row.get("status", "active"))
    return Tenant(
        slug=str(slug),
        schema=str(schema),
        name=str(row.get("name") or slug),
        status="active" if status.lower() in ("active", "true") else status,
    )


def get_tenant(connection: Connection, slug: str) -> Tenant:
    """Return one tenant; raises UsageError, which suggests similar names, if it does not exist."""
    return find_tenants(connection, [slug])[0]


def find_tenants(connection: Connection, slugs: Sequence[str] = (), query: str | None = None) -> list[Tenant]:
    """Return the tenants named, or all without a name; raises UsageError for a name that no tenant has.

    `query` is as in `list_tenants`.
    """
    for slug in slugs if query is None else ():
        check_slug(slug)
    tenants = {tenant.slug: tenant for tenant in list_tenants(connection, query)}
    for slug in slugs:
        if slug not in tenants:
            raise UsageError(f"there is no tenant {slug!r}{_suggest(slug, list(tenants))}")
    return [tenants[slug] for slug in slugs] if slugs else list(tenants.values())


def look_up(connection: Connection, slug: str, query: str | None = None) -> Tenant | None:
    """Return the tenant of this name, or None; use it for requests, which must not reveal the names of other tenants."""
    if query is not None:
        return next((tenant for tenant in _foreign_tenants(connection, query) if tenant.slug == slug), None)
    if not _SLUG.fullmatch(slug):
        return None
    found = _find(connection)
    row = connection.execute(_select(found, "WHERE slug = %s"), [slug]).fetchone() if found else None
    return None if row is None else Tenant(*row)


def set_status(connection: Connection, slug: str, status: str) -> Tenant:
    """Suspend, activate or archive a tenant; operations on all tenants skip those that are not active.

    An archived tenant can only be read: its role may not write until it is activated or suspended again. One that is not active
    gets no commands any more, and a batch of events in flight ends with the one that is being handled: this waits for that. Raises
    DatabaseError, which names who holds the lock, if it cannot get one within ten seconds.
    """
    if status not in STATUSES:
        raise UsageError(f"{status!r} is not a status: use {', '.join(STATUSES)}")
    tenant = get_tenant(connection, slug)
    with name_holders(connection, tenant, "nothing was changed"), connection.transaction():
        connection.execute(f"SET LOCAL lock_timeout TO '{WAIT}'")
        update = f"UPDATE {registry_table(connection)} SET status = %s WHERE slug = %s"  # noqa: S608
        connection.execute(update.encode(), [status, slug])
        has_role = tenant.role is not None and has_schema(connection, tenant.schema)
        if has_role and tenant.status == "archived" != status:
            grant_schema(connection, tenant)
    if status != "active":
        outcome = f"it is {status}, but work in progress there goes on"
        with name_holders(connection, tenant, outcome), connection.transaction():
            connection.execute(f"SET LOCAL lock_timeout TO '{WAIT}'")
            hold_alone(connection, tenant)
            if has_role and status == "archived":
                forbid_writing(connection, tenant)
    return get_tenant(connection, slug)


def unregister(connection: Connection, tenant: Tenant) -> None:
    """Take a tenant out of the registry."""
    delete = f"DELETE FROM {registry_table(connection)} WHERE slug = %s"  # noqa: S608 - one of two names
    connection.execute(delete.encode(), [tenant.slug])


def _suggest(slug: str, known: Sequence[str]) -> str:
    return f"; {did_you_mean(slug, known, none='there are none yet', listed=8)}"
