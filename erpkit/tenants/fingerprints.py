"""A hash of each schema's objects, made by PostgreSQL: much faster to read than the objects themselves."""

# ruff: noqa: S608 - the parts are constants of this package

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from erpkit.database import Connection
from erpkit.tenants.objects import COMMON, OBJECTS, PARTS, read_unlocked


@dataclass(frozen=True)
class Fingerprint:
    """The number and a hash of a schema's objects: if equal, the schemas are. `lock` says why it could not be read."""

    count: int
    digest: str
    lock: str | None = None


def read_fingerprints(connection: Connection, schemas: Sequence[str]) -> dict[str, Fingerprint]:
    """Return a fingerprint of each of `schemas` that has objects.

    Equal fingerprints mean equal schemas; if they differ, the objects must be compared.
    """
    rows, locks = read_unlocked(connection, fingerprint_query(connection.info.server_version), schemas)
    return {schema: Fingerprint(int(count), digest) for schema, count, digest in rows} | {
        schema: Fingerprint(0, "", lock) for schema, lock in locks.items()
    }


# Columns, defaults, constraints and indexes, of which a schema has the most, are hashed from the columns of the catalogs, which is
# faster than PostgreSQL's definitions; all other objects are hashed by their definitions. Schemas with equal hashes are equal;
# schemas with different hashes may be equal, too: if a column was dropped, for example, the others keep their numbers. Where a
# catalog's column holds the oid of an object of the schema, which differs between tenants, the definition is hashed.


RAW_SINCE = 170000  # older versions keep in a stored expression its position in the statement that made it

_ENFORCED_SINCE = 180000
_OURS = 16384  # the first oid of an object that is not built in

# A stored expression is hashed as it is stored, unless it contains an oid of five digits or more, a constant of a type such as
# regclass (24, 2202 …), which is an oid, or the bytes of the schema's name in a text constant.
_NUMBERED = "[0-9]{5}|:consttype (24|220[2-9]|221[0-1]|3734|3735|3769|3770|4089|4090|4096|4097|4191|4192) "


def _expression(tree: str, words: str) -> str:
    return (
        f"CASE WHEN e.is_numbered OR position(n.letters IN {tree}::text) > 0 "
        f"THEN replace({words}, n.prefix, chr(1) || '.') ELSE {tree}::text END"
    )


# Many tables have the same expressions, so that each distinct one is examined once. `object` is the oid of the only constant in an
# expression such as nextval('…'), which every serial column has; its bytes are stored lowest first (on a big-endian machine no object
# has the resulting oid, and the definition is hashed). `rest` is the expression without that constant.
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

# The columns and the storage of a unique key are hashed with its index.
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

_RAW = (_COLUMNS, _DEFAULTS, _CONSTRAINTS, _INDEXES)  # a schema has the most of these
_IN_WORDS = [part for name, part in PARTS.items() if name not in ("columns", "constraints", "indexes")]


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
