"""Connections, the pool, and transactions that are scoped to one tenant."""

from erpkit.database.pool import TENANTS_A_CONNECTION, Database, PooledConnection
from erpkit.database.schemas import fetch_union, schemas_with_table
from erpkit.database.scope import DISCARD, Connection, enter_tenant, no_schema, scope_statements, search_path
from erpkit.database.stream import Stream, can_stream, column_names_and_types, open_stream
from erpkit.database.sweep import Answer, sweep
from erpkit.database.tenant import TEMPLATE, Tenant, check_schema_name

__all__ = [
    "DISCARD",
    "TEMPLATE",
    "TENANTS_A_CONNECTION",
    "Answer",
    "Connection",
    "Database",
    "PooledConnection",
    "Stream",
    "Tenant",
    "can_stream",
    "check_schema_name",
    "column_names_and_types",
    "enter_tenant",
    "fetch_union",
    "no_schema",
    "open_stream",
    "schemas_with_table",
    "scope_statements",
    "search_path",
    "sweep",
]
