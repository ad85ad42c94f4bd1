"""How a tenant's schema differs from `_template`, the canonical one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from erpkit.database import TEMPLATE, Connection, Tenant

__all__ = ["compare_schemas", "find_drift"]

Objects = Mapping[str, str]  # "column sales_orders.note" -> "text not null"

# Names of the schema itself are taken out of definitions, so that equal things compare equal.
_OBJECTS = """
SELECT n.nspname, o.object, replace(o.definition, n.nspname || '.', '')
FROM pg_namespace n CROSS JOIN LATERAL (
    SELECT 'table ' || c.relname AS object, c.relkind::text AS definition
      FROM pg_class c WHERE c.relnamespace = n.oid AND c.relkind IN ('r', 'p', 'v', 'm')
    UNION ALL
    SELECT 'column ' || c.relname || '.' || a.attname,
           format_type(a.atttypid, a.atttypmod) || CASE WHEN a.attnotnull THEN ' not null' ELSE '' END
           || coalesce(' default ' || pg_get_expr(d.adbin, d.adrelid), '')
      FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
      LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
     WHERE c.relnamespace = n.oid AND c.relkind IN ('r', 'p')
    UNION ALL
    SELECT 'constraint ' || c.relname || '.' || k.conname, pg_get_constraintdef(k.oid)
      FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid WHERE c.relnamespace = n.oid AND k.contype <> 'n'
    UNION ALL
    SELECT 'index ' || i.relname, pg_get_indexdef(i.oid)
      FROM pg_class i WHERE i.relnamespace = n.oid AND i.relkind = 'i'
    UNION ALL
    SELECT 'function ' || p.proname || '(' || pg_get_function_identity_arguments(p.oid) || ')', md5(p.prosrc)
      FROM pg_proc p WHERE p.pronamespace = n.oid
    UNION ALL
    SELECT 'trigger ' || c.relname || '.' || t.tgname, pg_get_triggerdef(t.oid)
      FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid WHERE c.relnamespace = n.oid AND NOT t.tgisinternal
) o
WHERE n.nspname = ANY(%s)
"""


def find_drift(connection: Connection, tenants: Sequence[Tenant]) -> dict[str, list[str]]:
    """Return what is different in each tenant's schema, in words, by slug; read in one query for all.

    A tenant that lacks migrations differs for that reason: migrate first, then look for drift.
    """
    schemas = [TEMPLATE.schema, *(tenant.schema for tenant in tenants)]
    objects: dict[str, dict[str, str]] = {schema: {} for schema in schemas}
    for schema, name, definition in connection.execute(_OBJECTS, [schemas]):
        objects[schema][name] = definition
    return {tenant.slug: compare_schemas(objects[TEMPLATE.schema], objects[tenant.schema]) for tenant in tenants}


def compare_schemas(canonical: Objects, actual: Objects) -> list[str]:
    """Put the difference of two schemas in words: what is missing, what is extra, what is another. Pure."""
    missing = [f"{name} is missing" for name in canonical if name not in actual]
    extra = [f"{name} is extra" for name in actual if name not in canonical]
    other = [
        f"{name} is {actual[name]!r}, not {canonical[name]!r}"
        for name in canonical
        if actual.get(name, canonical[name]) != canonical[name]
    ]
    return sorted([*missing, *extra, *other])
