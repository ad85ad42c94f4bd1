"""Connections, the pool, and transactions that are scoped to one tenant."""

from erpkit.database.analysts import ANALYSTS, grant_analysts, may_not_read
from erpkit.database.operators import (
    OPERATORS,
    act_as_maker,
    act_as_owner,
    as_admin,
    as_maker,
    as_owner,
    create_schema,
    find_owner,
    give_to_owner,
    share_table,
)
from erpkit.database.pool import TENANTS_A_CONNECTION, Database, PooledConnection
from erpkit.database.schemas import (
    IMPATIENT,
    Errors,
    fetch_union,
    note_errors,
    note_failure,
    read_tenants,
    schemas_with_table,
    tenants_with_table,
)
from erpkit.database.scope import DISCARD, Connection, enter_tenant, no_schema, scope_statements, search_path
from erpkit.database.stream import Stream, can_stream, column_names_and_types, open_stream
from erpkit.database.sweep import Answer, sweep
from erpkit.database.tenant import TEMPLATE, Tenant, check_quotable, check_schema_name

__all__ = [
    "ANALYSTS",
    "DISCARD",
    "IMPATIENT",
    "OPERATORS",
    "TEMPLATE",
    "TENANTS_A_CONNECTION",
    "Answer",
    "Connection",
    "Database",
    "Errors",
    "PooledConnection",
    "Stream",
    "Tenant",
    "act_as_maker",
    "act_as_owner",
    "as_admin",
    "as_maker",
    "as_owner",
    "can_stream",
    "check_quotable",
    "check_schema_name",
    "column_names_and_types",
    "create_schema",
    "enter_tenant",
    "fetch_union",
    "find_owner",
    "give_to_owner",
    "grant_analysts",
    "may_not_read",
    "no_schema",
    "note_errors",
    "note_failure",
    "open_stream",
    "read_tenants",
    "schemas_with_table",
    "scope_statements",
    "search_path",
    "share_table",
    "sweep",
    "tenants_with_table",
]
