"""What PostgreSQL knows of schemas: sizes, rows, dead rows, indexes, locks and long transactions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from psycopg import sql

from erpkit.database import Connection

_T = TypeVar("_T")

LONG = 60.0  # seconds after which an open transaction is worth a look
_TABLES_A_QUERY = 50  # whose rows are counted
_SCANNED = 10_000  # from so many rows on, a table that is scanned as a whole is worth a look

# A table that was never analysed has no estimates; it is measured if the activity statistics say that it is not small.
_TABLES = """
SELECT n.nspname, c.relname,
       CASE WHEN pg_stat_get_tuples_inserted(c.oid) + pg_stat_get_tuples_deleted(c.oid) > 0
            THEN pg_stat_get_live_tuples(c.oid) ELSE greatest(c.reltuples, 0)::bigint END,
       CASE WHEN c.oid <> ALL(%(locked)s::oid[]) AND (%(exact)s OR c.reltuples < 0 AND pg_stat_get_live_tuples(c.oid) > 50)
            THEN coalesce(pg_total_relation_size(c.oid), 0)
            ELSE (c.relpages + coalesce(t.relpages, 0)
                 + coalesce((SELECT sum(i.relpages) FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid
                              WHERE x.indrelid = c.oid), 0)
                 ) * current_setting('block_size')::bigint END,
       pg_stat_get_dead_tuples(c.oid)
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace LEFT JOIN pg_class t ON t.oid = c.reltoastrelid
 WHERE n.nspname = ANY(%(schemas)s) AND c.relkind IN ('r', 'm')
"""

_INDEXES = """
SELECT n.nspname, t.relname, i.relname, i.relpages * current_setting('block_size')::bigint
  FROM pg_namespace n JOIN pg_class i ON i.relnamespace = n.oid AND i.relkind = 'i'
  JOIN pg_index x ON x.indexrelid = i.oid JOIN pg_class t ON t.oid = x.indrelid
 WHERE n.nspname = ANY(%s) AND NOT x.indisunique AND NOT x.indisexclusion AND pg_stat_get_numscans(i.oid) = 0
 ORDER BY 1, 2, 3
"""

# An index serves a foreign key if the key's columns are its first columns, in any order.
_MISSING = """
WITH own AS MATERIALIZED (
    SELECT c.oid, c.relname, n.nspname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE n.nspname = ANY(%(schemas)s) AND c.relkind IN ('r', 'p', 'm')
), lead AS MATERIALIZED (
    SELECT x.indrelid, x.indkey::int2[] AS keys FROM pg_index x JOIN own ON own.oid = x.indrelid
     WHERE x.indisvalid AND x.indpred IS NULL
)
SELECT own.nspname, own.relname,
       (SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY u.place) FROM unnest(k.conkey) WITH ORDINALITY u (attnum, place)
          JOIN pg_attribute a ON a.attrelid = own.oid AND a.attnum = u.attnum), 'foreign key without an index'
  FROM own JOIN pg_constraint k ON k.conrelid = own.oid AND k.contype = 'f'
 WHERE NOT EXISTS (SELECT FROM lead WHERE lead.indrelid = own.oid AND lead.keys[0:cardinality(k.conkey) - 1] @> k.conkey)
UNION ALL
SELECT own.nspname, own.relname, '', format('%%s rows read from end to end %%s times, by an index %%s times',
       pg_stat_get_live_tuples(own.oid), pg_stat_get_numscans(own.oid), s.by_index)
  FROM own CROSS JOIN LATERAL (SELECT coalesce(sum(pg_stat_get_numscans(x.indexrelid)), 0) AS by_index
                                 FROM pg_index x WHERE x.indrelid = own.oid) s
 WHERE pg_stat_get_live_tuples(own.oid) >= %(scanned)s AND pg_stat_get_numscans(own.oid) > greatest(100, s.by_index)
 ORDER BY 1, 2, 3
"""

# Only locks on the schemas' own tables count: a transaction without such a lock uses no tenant.
_BLOCKERS = """
SELECT n.nspname, l.pid, coalesce(a.usename, ''), coalesce(a.application_name, ''), coalesce(a.state, ''),
       coalesce(extract(epoch FROM clock_timestamp() - a.xact_start), 0)::float, bool_or(NOT l.granted),
       pg_blocking_pids(l.pid), array_agg(DISTINCT c.relname::text), left(coalesce(a.query, ''), 200)
  FROM pg_locks l JOIN pg_class c ON c.oid = l.relation JOIN pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_stat_activity a ON a.pid = l.pid
 WHERE l.database = (SELECT oid FROM pg_database WHERE datname = current_database()) AND l.pid <> pg_backend_pid()
   AND n.nspname = ANY(%s) AND c.relkind IN ('r', 'p', 'm')
 GROUP BY n.nspname, l.pid, a.usename, a.application_name, a.state, a.xact_start, a.query
HAVING bool_or(NOT l.granted) OR clock_timestamp() - a.xact_start > make_interval(secs => %s)
 ORDER BY 1, 6 DESC
"""


@dataclass(frozen=True)
class TableFacts:
    """One table: its estimated rows, its bytes with indexes, and the dead rows that a vacuum would remove."""

    name: str
    rows: int
    size: int
    dead_rows: int


@dataclass(frozen=True)
class IndexFacts:
    """An index without a constraint that was not used since the statistics began; `size` as of the last vacuum."""

    table: str
    name: str
    size: int


@dataclass(frozen=True)
class MissingIndex:
    """A place where an index seems to be missing: the columns of a foreign key, or a large table that is scanned as a whole."""

    table: str
    columns: str
    reason: str

    def __str__(self) -> str:
        return f"{self.table} ({self.columns}): {self.reason}" if self.columns else f"{self.table}: {self.reason}"


@dataclass(frozen=True)
class Blocker:
    """A transaction on a tenant's tables that has been open for long or waits for a lock; `blocked_by` are process ids."""

    pid: int
    user: str
    application: str
    state: str
    seconds: float
    is_waiting: bool
    blocked_by: tuple[int, ...]
    tables: tuple[str, ...]
    query: str

    def __str__(self) -> str:
        where = ", ".join(self.tables)
        if self.is_waiting:
            by = ", ".join(map(str, self.blocked_by)) or "another"
            return f"process {self.pid} ({self.user}) waits for a lock on {where}, held by {by}"
        return f"process {self.pid} ({self.user}) has a transaction open on {where} for {self.seconds:,.0f} s, {self.state}"


def read_tables(
    connection: Connection, schemas: Sequence[str], *, exact: bool, locked: Sequence[int] = ()
) -> dict[str, list[TableFacts]]:
    """Return the tables of each schema that exists; sizes are measured if `exact`, else as of the last vacuum or analyze.

    Measuring waits for an exclusive lock on the table, so the tables with the oids `locked` are estimated instead.
    """
    rows = connection.execute("SELECT nspname FROM pg_namespace WHERE nspname = ANY(%s)", [list(schemas)])
    found: dict[str, list[TableFacts]] = {schema: [] for (schema,) in rows}
    for schema, *facts in connection.execute(
        _TABLES, {"schemas": list(schemas), "exact": exact, "locked": list(locked)}
    ):
        found[schema].append(TableFacts(*facts))
    return found


def read_indexes(connection: Connection, schemas: Sequence[str]) -> Mapping[str, list[IndexFacts]]:
    """Return the unused indexes of each schema."""
    return _by_schema(connection.execute(_INDEXES, [list(schemas)]), IndexFacts)


def read_missing(connection: Connection, schemas: Sequence[str]) -> Mapping[str, list[MissingIndex]]:
    """Return the places in each schema where an index seems to be missing."""
    rows = connection.execute(_MISSING, {"schemas": list(schemas), "scanned": _SCANNED})
    return _by_schema(rows, MissingIndex)


def read_blockers(connection: Connection, schemas: Sequence[str], long: float = LONG) -> Mapping[str, list[Blocker]]:
    """Return, by schema, the transactions that wait for a lock on its tables or were open for more than `long` seconds."""

    def make(*facts: Any) -> Blocker:
        values: list[Any] = [tuple(fact) if isinstance(fact, list) else fact for fact in facts]
        return Blocker(*values)

    return _by_schema(connection.execute(_BLOCKERS, [list(schemas), long]), make)


def _by_schema(rows: Iterable[tuple[Any, ...]], make: Callable[..., _T]) -> dict[str, list[_T]]:
    """Make a record of each row, whose first column is its schema."""
    found: dict[str, list[_T]] = {}
    for schema, *facts in rows:
        found.setdefault(schema, []).append(make(*facts))
    return found


def count_rows(connection: Connection, schema: str) -> dict[str, int]:
    """Return the rows of every table of a schema, goose's version tables included, by table name."""
    tables = connection.execute(
        'SELECT tablename::text COLLATE "C" FROM pg_tables WHERE schemaname = %s ORDER BY 1', [schema]
    ).fetchall()
    queries = count_queries(schema, [table for (table,) in tables])
    return {table: count for query in queries for _, table, count in connection.execute(query)}


def count_queries(schema: str, tables: Sequence[str]) -> Iterator[sql.Composed]:
    """Yield queries that give schema, table and number of rows, for some of the tables each.

    A query locks all of its tables and their indexes, and a big schema has more of them than the server has locks.
    """
    for start in range(0, len(tables), _TABLES_A_QUERY):
        yield sql.SQL(" UNION ALL ").join(
            sql.SQL("SELECT {}, {}, count(*) FROM {}").format(schema, table, sql.Identifier(schema, table))
            for table in tables[start : start + _TABLES_A_QUERY]
        )
