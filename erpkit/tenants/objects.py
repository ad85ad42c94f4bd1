"""What a schema consists of, read from the catalogs for many schemas at once, in a form that can be compared."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg

from erpkit.database import Connection
from erpkit.errors import DatabaseError
from erpkit.tenants.definitions import COMMON, FUNCTION, OBJECTS, PARTS, RELATION, no_member
from erpkit.tenants.locks import read_locks

SCHEMA = "\x01"  # stands in definitions for the name of the schema itself, so that equal things compare equal

_ATTEMPTS = 4  # somebody may lock a table in between


@dataclass(frozen=True)
class Fingerprint:
    """The number and a hash of a schema's objects: if equal, the schemas are. `lock` says why it could not be read."""

    count: int
    digest: str
    lock: str | None = None


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
    """Read with an empty search_path, so that definitions name the schema of everything that is not PostgreSQL's own.

    Some definitions wait for whoever has locked their table exclusively: one second at most, then LockNotAvailable is raised.
    """
    with connection.transaction():
        connection.execute(
            "SET LOCAL search_path TO pg_catalog; SET LOCAL jit TO off; SET LOCAL work_mem TO '64MB'; SET LOCAL lock_timeout TO '1s'"
        )
        yield


def read_objects(
    connection: Connection, schemas: Sequence[str]
) -> tuple[dict[str, list[SchemaObject]], dict[str, str]]:
    """Return all that each of `schemas` consists of, in one query, and which could not be read because of whose lock."""
    rows, locks = _read(connection, f"WITH {OBJECTS} SELECT * FROM objects", schemas)
    found: dict[str, list[SchemaObject]] = {schema: [] for schema in schemas if schema not in locks}
    for schema, *parts in rows:
        found[schema].append(SchemaObject(*parts))
    return found, locks


def read_fingerprints(connection: Connection, schemas: Sequence[str]) -> dict[str, Fingerprint]:
    """Return a fingerprint of each of `schemas` that has objects: far quicker to read than the objects themselves.

    Equal fingerprints mean equal schemas; different ones only that the objects must be looked at.
    """
    rows, locks = _read(connection, fingerprint_query(connection.info.server_version), schemas)
    return {schema: Fingerprint(int(count), digest) for schema, count, digest in rows} | {
        schema: Fingerprint(0, "", lock) for schema, lock in locks.items()
    }


def _read(connection: Connection, query: str, schemas: Sequence[str]) -> tuple[list[tuple[Any, ...]], dict[str, str]]:
    """Run a query over `schemas`, without those that somebody has locked; raises DatabaseError when it cannot go round a lock."""
    locks: dict[str, str] = {}
    for _ in range(_ATTEMPTS):
        left = [schema for schema in schemas if schema not in locks]
        try:
            with deparsing(connection):
                return connection.execute(query.encode(), [left]).fetchall(), locks
        except psycopg.errors.LockNotAvailable:
            locks |= read_locks(connection, left)
    raise DatabaseError(
        "schemas cannot be compared: something that they refer to is locked by another transaction; try again when it has ended"
    )


# The query that hashes schemas from the catalogs' own columns, without putting each object into words.
#
# It only has to be different wherever the definitions are: two schemas with the same hash are equal, two with different
# ones may yet be (where a column was dropped, say, the others keep their numbers). What it leaves to PostgreSQL's own
# words is what holds the number of an object of one schema: that differs from tenant to tenant, and may be another tenant's.

# ruff: noqa: S608 - the parts are constants of this package


RAW_SINCE = 170000  # before, a stored expression holds its place in the statement that made it

_ENFORCED_SINCE = 180000
_OURS = 16384  # the first number that an object gets which is not PostgreSQL's own

# A stored expression is compared as it is, unless it names something by a number of five digits, may name it by a constant of a
# type such as regclass (24, 2202 …), or has the schema's name in a text, letter by letter.
_NUMBERED = "[0-9]{5}|:consttype (24|220[2-9]|221[0-1]|3734|3735|3769|3770|4089|4090|4096|4097|4191|4192) "


def _expression(tree: str, words: str) -> str:
    return (
        f"CASE WHEN e.is_numbered OR position(n.letters IN {tree}::text) > 0 "
        f"THEN replace({words}, n.prefix, chr(1) || '.') ELSE {tree}::text END"
    )


# Most expressions are those of many tables, and are looked at once. `object` is that of the only constant in one such as
# nextval('…'), which every serial column has: its number is given in bytes from the lowest (on a machine with another order
# no object is found by it, and PostgreSQL's words are taken); `rest` is all but that constant.
_OWN = f"""
raw AS MATERIALIZED (
    SELECT own.*, (SELECT string_agg((CASE WHEN b < 128 THEN b ELSE b - 256 END)::text, ' ' ORDER BY i)
                     FROM generate_series(0, octet_length(prefix) - 1) i
                    CROSS JOIN LATERAL get_byte(convert_to(prefix, getdatabaseencoding()), i) b) AS letters
      FROM own
), trees AS MATERIALIZED (
    SELECT tree, CASE WHEN tree LIKE '%%:consttype 2205 %%' AND tree NOT LIKE '%%:constvalue%%:constvalue%%'
                      THEN nullif(split_part(split_part(tree, ':constvalue 4 [ ', 2), ' ]', 1), '') END AS bytes
      FROM (SELECT DISTINCT adbin::text AS tree FROM pg_attrdef
             UNION SELECT conbin::text FROM pg_constraint WHERE contype = 'c'
             UNION SELECT concat(indexprs, indpred) FROM pg_index WHERE indexprs IS NOT NULL OR indpred IS NOT NULL) one
), expressions AS MATERIALIZED (
    SELECT tree, true AS is_numbered, rest, CASE WHEN NOT rest ~ '{_NUMBERED}' THEN
           (b[1] & 255) + ((b[2] & 255) << 8) + ((b[3] & 255) << 16) + ((b[4] & 255)::bigint << 24) END AS object
      FROM trees
     CROSS JOIN LATERAL (SELECT string_to_array(bytes, ' ')::int[] AS b,
                                replace(replace(tree, '[ ' || bytes || ' ]', ''), ':consttype 2205 ', ':regclass ') AS rest) cut
     WHERE bytes IS NOT NULL
    UNION ALL
    SELECT tree, tree ~ '{_NUMBERED}', NULL, NULL FROM trees WHERE bytes IS NULL
)
"""

_RELATIONS = f"""
    SELECT c.relnamespace, ROW('relation'::text, c.relname, c.relkind, c.relpersistence, c.relrowsecurity, c.relforcerowsecurity,
           CASE WHEN c.relowner <> c.nspowner THEN c.relowner END,
           CASE WHEN c.relkind IN ('v', 'm', 'p', 'f') THEN {RELATION} END)
      FROM own_class c WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')"""

_COLUMNS = f"""
    SELECT n.oid, ROW('column'::text, c.relname, a.attname, a.attnum, a.atttypmod, a.attnotnull, a.attidentity, a.attgenerated,
           a.attoptions, CASE WHEN a.atttypid < {_OURS} THEN a.atttypid END, CASE WHEN a.attcollation < {_OURS} THEN a.attcollation END,
           CASE WHEN a.atttypid >= {_OURS} THEN replace(format_type(a.atttypid, a.atttypmod), n.prefix, chr(1) || '.') END,
           CASE WHEN a.attcollation >= {_OURS} THEN replace(a.attcollation::regcollation::text, n.prefix, chr(1) || '.') END)
      FROM own_class c JOIN pg_attribute a ON a.attrelid = c.oid JOIN raw n ON n.oid = c.relnamespace
     WHERE a.attnum > 0 AND NOT a.attisdropped AND (c.relkind IN ('r', 'p', 'f') OR a.attoptions IS NOT NULL)"""

_DEFAULTS = f"""
    SELECT n.oid, ROW('default'::text, c.relname, d.adnum, CASE WHEN s.relnamespace = n.oid THEN concat(e.rest, s.relname)
           ELSE {_expression("d.adbin", "pg_get_expr(d.adbin, d.adrelid)")} END)
      FROM pg_attrdef d JOIN own_class c ON c.oid = d.adrelid JOIN raw n ON n.oid = c.relnamespace
      JOIN expressions e ON e.tree = d.adbin::text LEFT JOIN own_class s ON s.oid = e.object"""

# A unique key's columns and storage are those of its index, which is hashed among the indexes.
_CONSTRAINTS = f"""
    SELECT n.oid, ROW('constraint'::text, c.relname, k.conname, k.contype, k.condeferrable, k.condeferred, k.convalidated,
           k.connoinherit, k.conkey, k.confkey, k.confupdtype, k.confdeltype, k.confmatchtype, k.confdelsetcols,
           f.relname, CASE WHEN f.relnamespace <> c.relnamespace THEN f.relnamespace::regnamespace::text END,
           CASE k.contype WHEN 'c' THEN {_expression("k.conbin", "pg_get_constraintdef(k.oid)")}
           WHEN 'x' THEN replace(pg_get_constraintdef(k.oid), n.prefix, chr(1) || '.') END{{of_newer}})
      FROM pg_constraint k JOIN own_class c ON c.oid = k.conrelid JOIN raw n ON n.oid = c.relnamespace
      LEFT JOIN expressions e ON e.tree = k.conbin::text LEFT JOIN pg_class f ON f.oid = k.confrelid
     WHERE k.contype NOT IN ('n', 't')"""

_INDEXES = f"""
    SELECT n.oid, ROW('index'::text, t.relname, i.relname, i.relkind, i.relam, i.reloptions, i.reltablespace, x.indisunique,
           x.indnullsnotdistinct, x.indisvalid, x.indnkeyatts, x.indkey::int2[], x.indoption::int2[],
           CASE WHEN x.indexprs IS NOT NULL OR x.indpred IS NOT NULL THEN
                {_expression("concat(x.indexprs, x.indpred)", "pg_get_indexdef(i.oid)")} END,
           CASE WHEN {_OURS} <= ANY(x.indclass::oid[] || x.indcollation::oid[])
                THEN replace(pg_get_indexdef(i.oid), n.prefix, chr(1) || '.')
                ELSE concat(x.indclass, '/', x.indcollation) END)
      FROM pg_index x JOIN own_class i ON i.oid = x.indexrelid JOIN raw n ON n.oid = i.relnamespace
      JOIN own_class t ON t.oid = x.indrelid LEFT JOIN expressions e
        ON (x.indexprs IS NOT NULL OR x.indpred IS NOT NULL) AND e.tree = concat(x.indexprs, x.indpred)"""

_FUNCTIONS = f"""
    SELECT n.oid, ROW('function'::text, p.proname, p.prokind, p.prolang, p.procost, p.prorows, p.provariadic,
           p.prosecdef, p.proleakproof,
           CASE WHEN p.proowner <> n.nspowner THEN p.proowner END, p.proisstrict,
           p.proretset, p.provolatile, p.proparallel, p.proargmodes, p.proargnames, p.prosrc, p.probin,
           CASE WHEN p.proargdefaults IS NULL AND p.prosqlbody IS NULL AND p.proconfig IS NULL AND p.prosupport = 0
                     AND NOT {_OURS} <= ANY(p.prorettype || p.proargtypes::oid[] || p.proallargtypes || p.protrftypes)
                THEN concat(p.prorettype, '/', p.proargtypes, '/', p.proallargtypes, '/', p.protrftypes)
                WHEN p.prokind <> 'a' THEN {FUNCTION}
                ELSE replace(pg_get_function_identity_arguments(p.oid), n.prefix, chr(1) || '.') END)
      FROM pg_proc p JOIN raw n ON n.oid = p.pronamespace WHERE {no_member("pg_proc", "p.oid")}"""

_TRIGGERS = """
    SELECT n.oid, ROW('trigger'::text, c.relname, t.tgname, t.tgtype, t.tgenabled, t.tgdeferrable, t.tginitdeferred, t.tgattr::int2[],
           t.tgoldtable, t.tgnewtable, p.proname, CASE WHEN p.pronamespace <> n.oid THEN p.pronamespace::regnamespace::text END,
           CASE WHEN t.tgqual IS NOT NULL OR t.tgnargs > 0 OR t.tgconstraint <> 0
                THEN replace(pg_get_triggerdef(t.oid), n.prefix, chr(1) || '.') END)
      FROM pg_trigger t JOIN own_class c ON c.oid = t.tgrelid JOIN raw n ON n.oid = c.relnamespace JOIN pg_proc p ON p.oid = t.tgfoid
     WHERE NOT t.tgisinternal"""

_SEQUENCES = """
    SELECT c.relnamespace, ROW('sequence'::text, c.relname, s.seqtypid, s.seqstart, s.seqincrement, s.seqmax, s.seqmin,
           s.seqcache, s.seqcycle,
           t.relname, d.refobjsubid)
      FROM pg_sequence s JOIN own_class c ON c.oid = s.seqrelid
      LEFT JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.refclassid = 'pg_class'::regclass
                           AND d.deptype IN ('a', 'i')
      LEFT JOIN pg_class t ON t.oid = d.refobjid WHERE d.deptype IS DISTINCT FROM 'i'"""

_RAW = (_RELATIONS, _COLUMNS, _DEFAULTS, _CONSTRAINTS, _INDEXES, _FUNCTIONS, _TRIGGERS, _SEQUENCES)
_IN_WORDS = [PARTS[name] for name in ("row security", "policies", "parents", "rules", "types", "statistics")]


def fingerprint_query(server_version: int) -> str:
    """Return the query for schema, number of objects, hash; its parameter is an array of schema names."""
    words = "hashtextextended(concat_ws('/', kind, tab, name, definition), 0)"
    if server_version < RAW_SINCE:
        return f"WITH {OBJECTS} SELECT nspname, count(*), sum({words})::text FROM objects GROUP BY 1"
    newer = ", k.conenforced, k.conperiod" if server_version >= _ENFORCED_SINCE else ""
    sums = [
        f"SELECT oid, count(*), sum(hash_record_extended(thing, 0)) FROM ({part}) one (oid, thing) GROUP BY 1"
        for part in _RAW
    ]
    sums += [
        f"SELECT own.oid, count(*), sum({words}) FROM ({part}) one (nspname, kind, tab, name, definition) "
        "JOIN own USING (nspname) GROUP BY 1"
        for part in _IN_WORDS
    ]
    return (
        f"WITH {COMMON}, {_OWN}, sums (oid, things, digest) AS ({' UNION ALL '.join(sums)}) "
        "SELECT nspname, sum(things), sum(digest)::text FROM sums JOIN own USING (oid) GROUP BY 1"
    ).replace("{of_newer}", newer)
