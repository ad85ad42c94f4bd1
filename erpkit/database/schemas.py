"""Reading the same thing from many schemas in few round trips."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any

from psycopg import sql

from erpkit.database.scope import Connection

__all__ = ["fetch_union", "schemas_with_table"]


def fetch_union(connection: Connection, queries: Iterable[sql.Composed], chunk: int = 500) -> list[tuple[Any, ...]]:
    """Run queries of the same shape over many schemas as UNION ALL, `chunk` of them a round trip; return all rows."""
    rows: list[tuple[Any, ...]] = []
    remaining = iter(queries)
    while batch := list(islice(remaining, chunk)):
        rows += connection.execute(sql.SQL(" UNION ALL ").join(batch)).fetchall()
    return rows


def schemas_with_table(connection: Connection, table: str, schemas: Sequence[str]) -> set[str]:
    """Return those of `schemas` that have a table of this name."""
    rows = connection.execute(
        "SELECT schemaname FROM pg_tables WHERE tablename = %s AND schemaname = ANY(%s)", [table, list(schemas)]
    )
    return {schema for (schema,) in rows}
