"""The objects of a schema, read from the catalogs of many schemas at once, in a form that can be compared.

PostgreSQL writes the definitions itself, with an empty search_path, so that each object of the schema has the schema's name in front.
SCHEMA, chr(1), replaces that name: equal objects of two schemas have equal definitions. A function's body stays as it was written.
"""

# ruff: noqa: S608 - the parts are constants of this file

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg

from erpkit.database import Connection
from erpkit.errors import DatabaseError
from erpkit.tenants.locks import read_locks

SCHEMA = "\x01"  # stands in definitions for the name of the schema itself, so that equal things compare equal

_ATTEMPTS = 4  # another session may lock a table in between


@dataclass(frozen=True)
class SchemaObject:
    """A table, column, index, …; `table` is what it belongs to, `definition` is PostgreSQL's own, with SCHEMA in it.

    A column's definition has three lines: type, `not null` or nothing, default or nothing. All names are as SQL writes them:
    quoted where they must be.
    """

    kind: str
    table: str
    name: str
    definition: str


@contextmanager
def deparsing(connection: Connection) -> Iterator[None]:
    """Read with an empty search_path, so that definitions name the schema of every object that is not built in.

    Some definitions wait for an exclusive lock on their table, at most one second; then LockNotAvailable is raised.
    """
    with connection.transaction():
        connection.execute(
            "SET LOCAL search_path TO pg_catalog; SET LOCAL jit TO off; SET LOCAL work_mem TO '64MB'; SET LOCAL lock_timeout TO '1s'"
        )
        yield


def read_objects(
    connection: Connection, schemas: Sequence[str]
) -> tuple[dict[str, list[SchemaObject]], dict[str, str]]:
    """Return the objects of each of `schemas`, in one query, and the schemas that a lock kept from being read, with a clause."""
    rows, locks = read_unlocked(connection, f"WITH {OBJECTS} SELECT * FROM objects", schemas)
    found: dict[str, list[SchemaObject]] = {schema: [] for schema in schemas if schema not in locks}
    for schema, *parts in rows:
        found[schema].append(SchemaObject(*parts))
    return found, locks


def read_unlocked(
    connection: Connection, query: str, schemas: Sequence[str]
) -> tuple[list[tuple[Any, ...]], dict[str, str]]:
    """Run a query over `schemas` except locked ones, which are returned, too; raises DatabaseError if a lock cannot be avoided."""
    locks: dict[str, str] = {}
    for _ in range(_ATTEMPTS):
        left = [schema for schema in schemas if schema not in locks]
        try:
            with deparsing(connection):
                return connection.execute(query.encode(), [left]).fetchall(), locks
        except psycopg.errors.LockNotAvailable:
            locks |= read_locks(connection, left)
    raise DatabaseError(
        "schemas cannot be compared: an object that they refer to is locked by another transaction; try again when it has ended"
    )


# Each part of the query gives schema, kind, table, name and definition.
# The parameter is an array of schema names.
def no_member(catalog: str, oid: str) -> str:
    """Return the condition that an object belongs to no extension: those come and go with it, and are no tenant's."""
    return f"NOT EXISTS (SELECT FROM members m WHERE m.classid = '{catalog}'::regclass AND m.objid = {oid})"


COMMON = f"""
own AS MATERIALIZED (
    SELECT oid, nspname, nspowner, quote_ident(nspname) || '.' AS prefix FROM pg_namespace WHERE nspname = ANY(%s)
), members AS MATERIALIZED (
    SELECT classid, objid FROM pg_depend WHERE refclassid = 'pg_extension'::regclass AND deptype = 'e'
), own_class AS MATERIALIZED (
    SELECT c.oid, c.relname, c.relkind, c.relpersistence, c.relrowsecurity, c.relforcerowsecurity, c.relispartition, c.relpartbound,
           c.relowner, c.relnamespace, c.relam, c.reloptions, c.reltablespace, n.nspname, n.nspowner, n.prefix,
           quote_ident(c.relname) AS name,
           CASE c.relkind WHEN 'v' THEN 'view' WHEN 'm' THEN 'materialized view' WHEN 'S' THEN 'sequence' WHEN 'f' THEN 'foreign table'
           ELSE 'table' END AS kind
      FROM pg_class c JOIN own n ON n.oid = c.relnamespace
     WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S', 'i', 'I', 'c') AND {no_member("pg_class", "c.oid")}
)
"""

# A function's header without the schema's name, and its unchanged body; p is an alias of pg_proc and n of `own`.
_FUNCTION = """(
    SELECT replace(replace(left(d.text, d.body), n.prefix, chr(1) || '.'), quote_literal(n.nspname), '''' || chr(1) || '''')
           || substr(d.text, d.body + 1)
      FROM (SELECT f.text, CASE WHEN p.prosqlbody IS NULL THEN position('AS $' IN f.text) ELSE length(f.text) END AS body
              FROM (SELECT pg_get_functiondef(p.oid) AS text) f) d)"""

_RELATION = """(
    CASE WHEN c.relkind IN ('v', 'm') THEN coalesce('WITH (' || array_to_string(c.reloptions, ', ') || E')\\n', '')
              || replace(pg_get_viewdef(c.oid), c.prefix, chr(1) || '.')
         WHEN c.relkind = 'p' THEN 'partition by ' || replace(pg_get_partkeydef(c.oid), c.prefix, chr(1) || '.')
         WHEN c.relkind = 'f' THEN (
              SELECT 'SERVER ' || quote_ident(s.srvname) || coalesce(' OPTIONS (' || array_to_string(f.ftoptions, ', ') || ')', '')
                FROM pg_foreign_table f JOIN pg_foreign_server s ON s.oid = f.ftserver WHERE f.ftrelid = c.oid)
         WHEN c.relpersistence = 'u' THEN 'unlogged' ELSE '' END)"""

_RELATIONS = f"""
    SELECT nspname, kind, '', name,
           {_RELATION}
      FROM own_class c WHERE relkind IN ('r', 'p', 'v', 'm', 'f')"""

_ROW_SECURITY = """
    SELECT nspname, 'row level security', name, name,
           CASE WHEN relrowsecurity THEN 'enabled' ELSE 'disabled' END || CASE WHEN relforcerowsecurity THEN ', forced' ELSE '' END
      FROM own_class WHERE relrowsecurity OR relforcerowsecurity"""

_POLICIES = """
    SELECT c.nspname, 'policy', c.name, quote_ident(p.polname),
           'AS ' || CASE WHEN p.polpermissive THEN 'PERMISSIVE' ELSE 'RESTRICTIVE' END || ' FOR '
           || CASE p.polcmd WHEN 'r' THEN 'SELECT' WHEN 'a' THEN 'INSERT' WHEN 'w' THEN 'UPDATE' WHEN 'd' THEN 'DELETE' ELSE 'ALL' END
           || ' TO ' || (SELECT string_agg(CASE role WHEN 0 THEN 'PUBLIC' ELSE role::regrole::text END, ', '
                                      ORDER BY role::regrole::text)
                           FROM unnest(p.polroles) role)
           || coalesce(' USING (' || replace(pg_get_expr(p.polqual, c.oid), c.prefix, chr(1) || '.') || ')', '')
           || coalesce(' WITH CHECK (' || replace(pg_get_expr(p.polwithcheck, c.oid), c.prefix, chr(1) || '.') || ')', '')
      FROM pg_policy p JOIN own_class c ON c.oid = p.polrelid"""

# Objects usually belong to the schema's owner, who may differ from tenant to tenant.
_OWNERS = f"""
    SELECT nspname, 'owner of ' || kind, name, name,
           CASE relowner WHEN nspowner THEN 'the owner of the schema' ELSE relowner::regrole::text END
      FROM own_class WHERE relkind IN ('r', 'p', 'v', 'm', 'f')
    UNION ALL
    SELECT n.nspname, CASE p.prokind WHEN 'p' THEN 'owner of procedure' ELSE 'owner of function' END, o.name, o.name,
           CASE p.proowner WHEN n.nspowner THEN 'the owner of the schema' ELSE p.proowner::regrole::text END
      FROM pg_proc p JOIN own n ON n.oid = p.pronamespace CROSS JOIN LATERAL (
           SELECT quote_ident(p.proname) || '('
                  || replace(pg_get_function_identity_arguments(p.oid), n.prefix, chr(1) || '.') || ')' AS name) o
     WHERE p.prokind <> 'a' AND {no_member("pg_proc", "p.oid")}"""

_PARENTS = """
    SELECT c.nspname, CASE WHEN c.relispartition THEN 'partition' ELSE 'inheritance' END, c.name, c.name,
           replace(i.inhparent::regclass::text, c.prefix, chr(1) || '.')
           || coalesce(' ' || replace(pg_get_expr(c.relpartbound, c.oid), c.prefix, chr(1) || '.'), '')
      FROM own_class c JOIN pg_inherits i ON i.inhrelid = c.oid WHERE c.relkind IN ('r', 'p', 'f')"""

_COLUMNS = """
    SELECT c.nspname, 'column', c.name, quote_ident(a.attname),
           CASE WHEN a.atttypid < 16384 THEN format_type(a.atttypid, a.atttypmod)
                ELSE replace(format_type(a.atttypid, a.atttypmod), c.prefix, chr(1) || '.') END
           || CASE WHEN a.attcollation IN (0, 100) THEN '' ELSE coalesce((
                SELECT ' COLLATE ' || replace(a.attcollation::regcollation::text, c.prefix, chr(1) || '.')
                  FROM pg_type t WHERE t.oid = a.atttypid AND t.typcollation <> a.attcollation), '') END
           || CASE WHEN a.attnotnull THEN E'\\nnot null\\n' ELSE E'\\n\\n' END
           || CASE a.attidentity WHEN 'a' THEN 'generated always as identity' WHEN 'd' THEN 'generated by default as identity'
              ELSE '' END
           || CASE WHEN a.atthasdef THEN (
                SELECT CASE a.attgenerated WHEN 's' THEN 'generated always as (' || e.expression || ') stored'
                       WHEN 'v' THEN 'generated always as (' || e.expression || ') virtual'
                       ELSE 'default ' || e.expression END
                  FROM pg_attrdef d
                 CROSS JOIN LATERAL (SELECT replace(pg_get_expr(d.adbin, d.adrelid), c.prefix, chr(1) || '.') AS expression) e
                 WHERE d.adrelid = c.oid AND d.adnum = a.attnum) ELSE '' END
      FROM own_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
     WHERE c.relkind IN ('r', 'p', 'f')"""

_CONSTRAINTS = """
    SELECT c.nspname, 'constraint', c.name, quote_ident(k.conname), replace(pg_get_constraintdef(k.oid), c.prefix, chr(1) || '.')
      FROM pg_constraint k JOIN own_class c ON c.oid = k.conrelid WHERE k.contype NOT IN ('n', 't')"""

_INDEXES = """
    SELECT i.nspname, 'index', quote_ident(t.relname), i.name,
           replace(pg_get_indexdef(i.oid), i.prefix, chr(1) || '.') || CASE WHEN x.indisvalid THEN '' ELSE E'\\ninvalid' END
      FROM own_class i JOIN pg_index x ON x.indexrelid = i.oid JOIN own_class t ON t.oid = x.indrelid
      LEFT JOIN pg_constraint k ON k.conindid = i.oid AND k.contype IN ('p', 'u', 'x')
     WHERE i.relkind IN ('i', 'I') AND k.oid IS NULL"""

_FUNCTIONS = f"""
    SELECT n.nspname, CASE p.prokind WHEN 'p' THEN 'procedure' WHEN 'a' THEN 'aggregate' ELSE 'function' END, '',
           quote_ident(p.proname) || '(' || replace(pg_get_function_identity_arguments(p.oid), n.prefix, chr(1) || '.') || ')',
           CASE WHEN p.prokind = 'a' THEN '' ELSE {_FUNCTION} END
      FROM pg_proc p JOIN own n ON n.oid = p.pronamespace WHERE {no_member("pg_proc", "p.oid")}"""

_TRIGGERS = """
    SELECT c.nspname, 'trigger', c.name, quote_ident(t.tgname),
           replace(pg_get_triggerdef(t.oid), c.prefix, chr(1) || '.')
           || CASE t.tgenabled WHEN 'O' THEN ''
              WHEN 'D' THEN E'\\nDISABLE' WHEN 'A' THEN E'\\nENABLE ALWAYS' ELSE E'\\nENABLE REPLICA' END
      FROM pg_trigger t JOIN own_class c ON c.oid = t.tgrelid WHERE NOT t.tgisinternal"""

_RULES = """
    SELECT c.nspname, 'rule', c.name, quote_ident(r.rulename), replace(pg_get_ruledef(r.oid), c.prefix, chr(1) || '.')
           || CASE r.ev_enabled WHEN 'O' THEN ''
              WHEN 'D' THEN E'\\nDISABLE' WHEN 'A' THEN E'\\nENABLE ALWAYS' ELSE E'\\nENABLE REPLICA' END
      FROM pg_rewrite r JOIN own_class c ON c.oid = r.ev_class WHERE r.rulename <> '_RETURN'"""

_SEQUENCES = """
    SELECT c.nspname, 'sequence', '', c.name,
           'as ' || format_type(s.seqtypid, NULL) || ' increment by ' || s.seqincrement || ' minvalue ' || s.seqmin
           || ' maxvalue ' || s.seqmax || ' start with ' || s.seqstart || ' cache ' || s.seqcache
           || CASE WHEN s.seqcycle THEN ' cycle' ELSE ' no cycle' END
      FROM pg_sequence s JOIN own_class c ON c.oid = s.seqrelid
      LEFT JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'i' WHERE d.objid IS NULL
    UNION ALL
    SELECT c.nspname, 'sequence owner', c.name, c.name, t.name || '.' || quote_ident(a.attname)
      FROM own_class c JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'a'
      JOIN own_class t ON t.oid = d.refobjid
      JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
     WHERE c.relkind = 'S' AND d.refclassid = 'pg_class'::regclass"""

_TYPES = f"""
    SELECT n.nspname, CASE t.typtype WHEN 'e' THEN 'enum' WHEN 'd' THEN 'domain' ELSE 'range' END, '',
           quote_ident(t.typname), coalesce(replace(CASE t.typtype
           WHEN 'e' THEN (SELECT string_agg(quote_literal(e.enumlabel), ', ' ORDER BY e.enumsortorder)
                           FROM pg_enum e WHERE e.enumtypid = t.oid)
           WHEN 'r' THEN (SELECT 'subtype = ' || format_type(r.rngsubtype, NULL) FROM pg_range r WHERE r.rngtypid = t.oid)
           WHEN 'd' THEN format_type(t.typbasetype, t.typtypmod)
                || coalesce((SELECT ' COLLATE ' || t.typcollation::regcollation::text FROM pg_type b
                              WHERE b.oid = t.typbasetype AND b.typcollation <> t.typcollation), '')
                || coalesce(' DEFAULT ' || pg_get_expr(t.typdefaultbin, 0), '') || CASE WHEN t.typnotnull THEN ' NOT NULL' ELSE '' END
                || coalesce((SELECT string_agg(' CONSTRAINT ' || quote_ident(k.conname) || ' ' || pg_get_constraintdef(k.oid), ''
                                              ORDER BY k.conname)
                               FROM pg_constraint k WHERE k.contypid = t.oid AND k.contype = 'c'), '')
           END, n.prefix, chr(1) || '.'), '')
      FROM pg_type t JOIN own n ON n.oid = t.typnamespace WHERE t.typtype IN ('e', 'd', 'r') AND {no_member("pg_type", "t.oid")}
    UNION ALL
    SELECT c.nspname, 'type', '', c.name, coalesce((
           SELECT string_agg(quote_ident(a.attname) || ' ' || replace(format_type(a.atttypid, a.atttypmod), c.prefix, chr(1) || '.'),
                             ', ' ORDER BY a.attnum)
             FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped), '')
      FROM own_class c WHERE c.relkind = 'c'"""

_STATISTICS = """
    SELECT n.nspname, 'statistics', '', quote_ident(s.stxname), replace(pg_get_statisticsobjdef(s.oid), n.prefix, chr(1) || '.')
      FROM pg_statistic_ext s JOIN own n ON n.oid = s.stxnamespace"""

PARTS = {
    "relations": _RELATIONS, "row security": _ROW_SECURITY, "policies": _POLICIES, "owners": _OWNERS, "parents": _PARENTS,
    "columns": _COLUMNS, "constraints": _CONSTRAINTS, "indexes": _INDEXES, "functions": _FUNCTIONS, "triggers": _TRIGGERS,
    "rules": _RULES, "sequences": _SEQUENCES, "types": _TYPES, "statistics": _STATISTICS,
}  # fmt: skip

OBJECTS = f"{COMMON}, objects (nspname, kind, tab, name, definition) AS ({' UNION ALL '.join(PARTS.values())})"
