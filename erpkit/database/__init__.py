"""Connections, the pool, and transactions that are scoped to one tenant."""

from erpkit.database.operators import (
    OPERATORS,
    act_as_owner,
    as_admin,
    as_owner,
    create_schema,
    find_owner,
    give_to_owner,
    share_table,
)
from erpkit.database.pool import TENANTS_A_CONNECTION, Database, PooledConnection
from erpkit.database.schemas import fetch_union, schemas_with_table
from erpkit.database.scope import DISCARD, Connection, enter_tenant, no_schema, scope_statements, search_path
from erpkit.database.sweep import Answer, sweep
from erpkit.database.tenant import TEMPLATE, Tenant, check_schema_name

__all__ = [
    "DISCARD",
    "OPERATORS",
    "TEMPLATE",
    "TENANTS_A_CONNECTION",
    "Answer",
    "Connection",
    "Database",
    "PooledConnection",
    "Tenant",
    "act_as_owner",
    "as_admin",
    "as_owner",
    "check_schema_name",
    "create_schema",
    "enter_tenant",
    "fetch_union",
    "find_owner",
    "give_to_owner",
    "no_schema",
    "schemas_with_table",
    "scope_statements",
    "search_path",
    "share_table",
    "sweep",
]
