"""Analyse a query by sqlglot: type and nullability of its results, and the COPY that corresponds to an INSERT."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import sqlglot
from psycopg import sql
from sqlglot import exp
from sqlglot.errors import SqlglotError

from erpkit.errors import QueryError
from erpkit.queries.expressions import Scope, Source, common, expression, is_one_row, name_of
from erpkit.queries.types import Column, Name, Result, Table, spaced


@dataclass(frozen=True)
class Reading:
    """The results of a query, whether it always returns one row, and the tables that it names."""

    results: Sequence[Result]
    is_one_row: bool
    tables: frozenset[Name]


def read_query(
    text: str, tables: Mapping[Name, Table], functions: frozenset[str], parameters: Mapping[int, Column]
) -> Reading | None:
    """Read a query; `tables` maps every name that SQL may use. Returns None if sqlglot does not understand the SQL."""
    try:
        tree = sqlglot.parse_one(spaced(text), read="postgres")
        results = _results(tree, Scope(tables, functions, parameters, {}, _results))
    except SqlglotError:
        return None
    named = {_table_name(node) for node in tree.find_all(exp.Table) if isinstance(node.this, exp.Identifier)}
    return Reading(results, is_one_row(tree, results), frozenset(tables[name].name for name in named if name in tables))


def _results(tree: exp.Expr, scope: Scope) -> list[Result]:
    scope = _with_ctes(tree, scope)
    if isinstance(tree, exp.Subquery):
        return _results(tree.this, scope)
    if isinstance(tree, exp.SetOperation):
        pairs = zip(_results(tree.left, scope), _results(tree.right, scope), strict=False)
        return [Result(replace(common([a.column, b.column]), name=a.column.name), "", True) for a, b in pairs]
    if not isinstance(tree, exp.Select | exp.Insert | exp.Update | exp.Delete | exp.Merge):
        return []
    scope = replace(scope, sources=tuple(_sources(tree, scope)))
    returning = tree.args.get("returning")
    items = tree.expressions if isinstance(tree, exp.Select) else returning.expressions if returning else []
    return [_result(item, scope) for item in items]


def _result(item: exp.Expr, scope: Scope) -> Result:
    qualifier = item.args.get("table") if isinstance(item, exp.Column) else None
    known = scope.sources_of(item) if isinstance(item, exp.Column) and qualifier is not None else []
    return Result(
        replace(expression(item, scope), name=_output_name(item)),
        source=name_of(qualifier) if qualifier is not None else "",
        is_optional=not known or any(one.is_optional for one in known),
        table=known[0].table if known else None,
        is_ambiguous=len(known) > 1,
    )


def _with_ctes(tree: exp.Expr, scope: Scope) -> Scope:
    for cte in getattr(_argument(tree, "with"), "expressions", ()):
        name = name_of(cte.args["alias"].this)
        scope = replace(scope, ctes={**scope.ctes, name: _cte(cte, name, scope)})
    return scope


def _cte(cte: exp.CTE, name: str, scope: Scope) -> dict[str, Column]:
    """Return the columns of a WITH query; those of a recursive one start as its first part's and are weakened until both agree."""
    first = cte.this.left if isinstance(cte.this, exp.SetOperation) else cte.this
    without = replace(scope, ctes={**scope.ctes, name: {}})
    columns = _named(_results(first, without), cte.args["alias"])
    for _ in range(len(columns) + 2):
        within = replace(scope, ctes={**scope.ctes, name: columns})
        if (found := _named(_results(cte.this, within), cte.args["alias"])) == columns:
            return columns
        columns = found
    return {}


def _named(results: Sequence[Result], alias: exp.Expr | None) -> dict[str, Column]:
    renamed = [name_of(column) for column in alias.args.get("columns") or ()] if alias is not None else []
    names = [*renamed, *(result.column.name for result in results[len(renamed) :])]
    return {name: result.column for name, result in zip(names, results, strict=False)}


def _sources(tree: exp.Expr, scope: Scope) -> list[Source]:
    """Return the sources of a statement, including the table that it writes to."""
    if isinstance(tree, exp.Select):
        start = _argument(tree, "from")
        found = _relation(start.this, scope) if start is not None else []
        found = _joined(found, tree.args.get("joins"), scope)
        group = tree.args.get("group")
        has_sets = group is not None and group.find(exp.Rollup, exp.Cube, exp.GroupingSets) is not None
        return _optional(found) if has_sets else found
    if isinstance(tree, exp.Merge):
        return [*_relation(tree.this, scope), *_optional(_relation(tree.args["using"], scope))]
    target = tree.this.this if isinstance(tree.this, exp.Schema) else tree.this
    others = tree.args.get("using") or []
    if (start := _argument(tree, "from")) is not None:
        others = [start.this]
    return [*_relation(target, scope), *(source for other in others for source in _relation(other, scope))]


def _relation(node: exp.Expr, scope: Scope) -> list[Source]:
    alias = node.args.get("alias")
    name = name_of(alias.this) if alias is not None and alias.this is not None else ""
    found = [Source(name, None)]
    if isinstance(node, exp.Table) and isinstance(node.this, exp.Identifier):
        found = [_named_source(node, name, scope)]
    elif isinstance(node, exp.Subquery) and isinstance(node.this, exp.Select | exp.SetOperation):
        found = [Source(name, _named(_results(node.this, replace(scope, sources=())), alias))]
    elif isinstance(node, exp.Subquery) and alias is None:
        found = _relation(node.this, scope)
    return _joined(found, node.args.get("joins"), scope)


def _named_source(node: exp.Table, alias: str, scope: Scope) -> Source:
    """Return the source of a name; one without a schema may be a WITH query's."""
    name = _table_name(node)
    named = node.args.get("alias")
    if named is not None and named.args.get("columns"):
        return Source(alias, None)
    if not name.schema and name.name in scope.ctes:
        return Source(alias or name.name, scope.ctes[name.name])
    if (table := scope.tables.get(name)) is None:
        return Source(alias or name.name, None)
    columns = {column.name: column for column in table.columns}
    return Source(alias or name.name, columns, schema="" if alias else name.schema, table=table)


def _table_name(node: exp.Table) -> Name:
    schema = node.args.get("db")
    return Name(name_of(schema) if schema is not None else "", name_of(node.this))


def _joined(found: list[Source], joins: Iterable[exp.Join] | None, scope: Scope) -> list[Source]:
    for join in joins or ():
        right, side = _relation(join.this, scope), (join.side or "").upper()
        found = [
            *(_optional(found) if side in ("RIGHT", "FULL") else found),
            *(_optional(right) if side in ("LEFT", "FULL") else right),
        ]
    return found


def _optional(sources: Iterable[Source]) -> list[Source]:
    return [replace(source, is_optional=True) for source in sources]


def _argument(tree: exp.Expr, key: str) -> exp.Expr | None:
    """Return an argument by name; some versions of sqlglot append `_` to Python's keywords."""
    found: exp.Expr | None = tree.args.get(key) or tree.args.get(f"{key}_")
    return found


def _output_name(item: exp.Expr) -> str:
    if isinstance(item, exp.Alias):
        return name_of(item.args["alias"])
    return name_of(item.this) if isinstance(item, exp.Column) else item.key


def as_copy(file: str, query: str, text: str, tables: Mapping[Name, Table]) -> tuple[str, tuple[int, ...]]:
    """Return the COPY for an INSERT, and the number of the parameter for each column.

    sqlc has already refused several rows, ON CONFLICT, RETURNING and WITH. Raises QueryError for the rest that COPY cannot do.
    """
    tree = _parse(text)
    values = tree.expression if isinstance(tree, exp.Insert) else None
    row = values.expressions[0] if isinstance(values, exp.Values) else None
    if tree is None or row is None or not all(isinstance(value, exp.Parameter) for value in row.expressions):
        raise _refused(file, query, "is not an INSERT of one row of parameters into whole columns")
    target, columns = _target(tree)
    name = Name(name_of(target.args["db"]) if target.args.get("db") else "", name_of(target.this))
    table = tables.get(name)
    if table is not None and table.is_view:
        raise _refused(file, query, f"fills {name}, which is a view")
    return _copy(name, columns), tuple(int(value.name) for value in row.expressions)


def _parse(text: str) -> exp.Expr | None:
    """Parse an INSERT without OVERRIDING SYSTEM VALUE, which a COPY does anyway."""
    plain = re.sub(r"\bOVERRIDING\s+SYSTEM\s+VALUE\b", "", spaced(text), flags=re.IGNORECASE)
    try:
        return sqlglot.parse_one(plain, read="postgres")
    except SqlglotError:
        return None


def _target(tree: exp.Expr) -> tuple[exp.Expr, list[str]]:
    """Return the table, and its columns if they are listed."""
    if isinstance(tree.this, exp.Schema):
        return tree.this.this, [name_of(part) for part in tree.this.expressions]
    return tree.this, []


def _copy(name: Name, columns: Sequence[str]) -> str:
    target = sql.Identifier(*([name.schema] if name.schema else []), name.name).as_string()
    listed = ", ".join(sql.Identifier(column).as_string() for column in columns)
    return f"COPY {target} ({listed}) FROM STDIN"


def _refused(file: str, query: str, reason: str) -> QueryError:
    return QueryError(f"{file}: query {query} {reason}, and COPY cannot do that: use :batchexec")
