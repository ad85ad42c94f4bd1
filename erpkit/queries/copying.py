"""From the INSERT that `:copyfrom` stands above to a COPY."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import sqlglot
from psycopg import sql
from sqlglot import exp
from sqlglot.errors import SqlglotError

from erpkit.errors import QueryError
from erpkit.queries.expressions import name_of
from erpkit.queries.text import spaced
from erpkit.queries.types import Name, Table

__all__ = ["as_copy"]


def as_copy(file: str, query: str, text: str, tables: Mapping[Name, Table]) -> tuple[str, tuple[int, ...]]:
    """Return the COPY, and the number of the parameter that each column takes.

    sqlc has refused all but one row of parameters, ON CONFLICT, RETURNING and WITH. Raises QueryError for what else a COPY cannot do.
    """
    tree = _parse(text)
    values = tree.expression if isinstance(tree, exp.Insert) else None
    row = values.expressions[0] if isinstance(values, exp.Values) else None
    if tree is None or row is None or not all(isinstance(value, exp.Parameter) for value in row.expressions):
        raise _refused(file, query, "is no INSERT of one row of parameters into whole columns")
    target, columns = _target(tree)
    name = Name(name_of(target.args["db"]) if target.args.get("db") else "", name_of(target.this))
    table = tables.get(name)
    if table is not None and table.is_view:
        raise _refused(file, query, f"fills {name}, which is a view")
    return _copy(name, columns), tuple(int(value.name) for value in row.expressions)


def _parse(text: str) -> exp.Expr | None:
    """Parse it without what a COPY does anyway."""
    plain = re.sub(r"\bOVERRIDING\s+SYSTEM\s+VALUE\b", "", spaced(text), flags=re.IGNORECASE)
    try:
        return sqlglot.parse_one(plain, read="postgres")
    except SqlglotError:
        return None


def _target(tree: exp.Expr) -> tuple[exp.Expr, list[str]]:
    """Return the table, and the columns if they are named."""
    if isinstance(tree.this, exp.Schema):
        return tree.this.this, [name_of(part) for part in tree.this.expressions]
    return tree.this, []


def _copy(name: Name, columns: Sequence[str]) -> str:
    target = sql.Identifier(*([name.schema] if name.schema else []), name.name).as_string()
    listed = ", ".join(sql.Identifier(column).as_string() for column in columns)
    return f"COPY {target} ({listed}) FROM STDIN"


def _refused(file: str, query: str, reason: str) -> QueryError:
    return QueryError(f"{file}: query {query} {reason}, and COPY cannot do that: use :batchexec")
