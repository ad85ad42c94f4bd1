"""The registry of tenants, public.tenants, and tenants of other ERPs that a query lists."""

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
from erpkit.tenants.locks import WAIT, name_holders
from erpkit.tenants.roles import forbid_writing, grant_schema

STATUSES = ("active", "suspended", "archived")

_SLUG = re.compile(r"[a-z][a-z0-9_]{0,47}", re.ASCII)
_COLUMNS = "slug, schema_name, role_name, name, status"


def check_slug(slug: str) -> str:
    """Return `slug` if it may name a tenant; raise UsageError if not."""
    if not _SLUG.fullmatch(slug):
        remedy = "use a-z, 0-9 and _, a letter first, at most 48 characters" if slug else "name a tenant"
        raise UsageError(f"{slug!r} is not a valid tenant name: {remedy}")
    return slug


def ensure_registry(connection: Connection) -> None:
    """Create public.tenants if it is missing; two processes may do so at once."""
    with connection.transaction():
        lock_shared(connection)
        if connection.execute("SELECT to_regclass('public.tenants')").fetchone() != (None,):
            share_table(connection, "tenants")  # IF NOT EXISTS would need the privilege to create it
            return
        connection.execute(
            "CREATE TABLE public.tenants ("
            "slug text PRIMARY KEY, schema_name text NOT NULL UNIQUE, role_name text, name text NOT NULL DEFAULT '', "
            "status text NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'suspended', 'archived')), "
            "created_at timestamptz NOT NULL DEFAULT now())"
        )
        share_table(connection, "tenants")


def list_tenants(connection: Connection, query: str | None = None) -> list[Tenant]:
    """Return all tenants by slug; none where there is no public.tenants.

    `query` (ERPKIT_TENANTS_QUERY) lists the tenants of an ERP that erpkit did not make: columns slug and schema_name, and
    optionally name and status; any status but active and true counts as not active. Such tenants have no role of erpkit's.
    """
    if query is not None:
        return _foreign_tenants(connection, query)
    try:
        rows = connection.execute(f"SELECT {_COLUMNS} FROM public.tenants ORDER BY slug").fetchall()  # noqa: S608
    except psycopg.errors.UndefinedTable:
        return []
    except psycopg.errors.InsufficientPrivilege:
        raise may_not_read(connection, "tenants") from None
    return [Tenant(*row) for row in rows]


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
    try:
        row = connection.execute(f"SELECT {_COLUMNS} FROM public.tenants WHERE slug = %s", [slug]).fetchone()  # noqa: S608
    except psycopg.errors.UndefinedTable:
        return None
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
        connection.execute("UPDATE public.tenants SET status = %s WHERE slug = %s", [status, slug])
        has_role = tenant.role is not None and has_schema(connection, tenant.schema)
        if has_role and tenant.status == "archived" != status:
            grant_schema(connection, tenant)
    if status != "active":
        outcome = f"it is {status}, but what was under way there goes on"
        with name_holders(connection, tenant, outcome), connection.transaction():
            connection.execute(f"SET LOCAL lock_timeout TO '{WAIT}'")
            hold_alone(connection, tenant)
            if has_role and status == "archived":
                forbid_writing(connection, tenant)
    return get_tenant(connection, slug)


def _suggest(slug: str, known: Sequence[str]) -> str:
    import difflib  # noqa: PLC0415 - only on an error

    near = difflib.get_close_matches(slug, known, n=3)
    if near:
        return f"; did you mean {' or '.join(near)}?"
    return f"; there are {', '.join(known[:8])}{', …' if len(known) > 8 else ''}" if known else "; there are none yet"
