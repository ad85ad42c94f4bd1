"""Exact row counts of one schema."""

from __future__ import annotations

from psycopg import sql

from erpkit.database import Connection, fetch_union

__all__ = ["count_rows"]

_TABLES_A_QUERY = (
    50  # a query locks each of its tables and their indexes, and a big schema has more than the server can
)


def count_rows(connection: Connection, schema: str) -> dict[str, int]:
    """Return the rows of every table of a schema, goose's version tables included, by table name."""
    tables = connection.execute(
        'SELECT tablename::text COLLATE "C" FROM pg_tables WHERE schemaname = %s ORDER BY 1', [schema]
    ).fetchall()
    queries = (
        sql.SQL("SELECT {}, count(*) FROM {}").format(sql.Literal(table), sql.Identifier(schema, table))
        for (table,) in tables
    )
    return dict(fetch_union(connection, queries, _TABLES_A_QUERY))
