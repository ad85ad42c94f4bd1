"""What a query's results surely are: never NULL, and of which type.

sqlc calls a cast, a comparison, an arithmetic expression and most functions' results not null, types them by the first
function of that name, and knows nothing of a RIGHT JOIN inside a view. What is read here from the SQL itself is less, and
holds: a column is not null where its table says so and no outer join can leave it out; an expression by the rules below.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

from erpkit.queries.types import AS_SQLC_SAYS, PYTHON_TYPES, Column, Result

__all__ = ["read_results"]

UNKNOWN = Column("", "", not_null=False)

_Tables = Mapping[str, tuple[Column, ...]]


@dataclass(frozen=True)
class _Source:
    """Something that columns are taken from; `columns` is None where they are not known, a function's for example."""

    name: str
    columns: Mapping[str, Column] | None
    is_optional: bool = False


@dataclass(frozen=True)
class _Scope:
    tables: _Tables
    functions: frozenset[str]
    parameters: Mapping[int, Column]
    ctes: Mapping[str, Mapping[str, Column]]
    sources: tuple[_Source, ...] = ()


def read_results(
    text: str, tables: _Tables, functions: frozenset[str], parameters: Mapping[int, Column]
) -> tuple[list[Result], bool] | None:
    """Return what a query returns, expression by expression, and whether it is one row in any case.

    None where its SQL is not understood.
    """
    try:
        tree = sqlglot.parse_one(text, read="postgres")
        results = _results(tree, _Scope(tables, functions, parameters, {}))
    except SqlglotError:
        return None
    return results, _is_one_row(tree, results)


def _results(tree: exp.Expr, scope: _Scope) -> list[Result]:
    scope = _with_ctes(tree, scope)
    if isinstance(tree, exp.Subquery):
        return _results(tree.this, scope)
    if isinstance(tree, exp.SetOperation):
        pairs = zip(_results(tree.left, scope), _results(tree.right, scope), strict=False)
        return [Result(replace(_common([a.column, b.column]), name=a.column.name), "", True) for a, b in pairs]
    scope = replace(scope, sources=tuple(_sources(tree, scope)))
    returning = tree.args.get("returning")
    items = tree.expressions if isinstance(tree, exp.Select) else returning.expressions if returning else []
    return [_result(item, scope) for item in items]


def _result(item: exp.Expr, scope: _Scope) -> Result:
    source = _name(item.args["table"]) if isinstance(item, exp.Column) and item.args.get("table") else ""
    known = [one for one in scope.sources if one.name == source]
    is_optional = not known or any(one.is_optional for one in known)
    return Result(replace(_expression(item, scope), name=_output_name(item)), source, is_optional)


def _with_ctes(tree: exp.Expr, scope: _Scope) -> _Scope:
    for cte in getattr(_argument(tree, "with"), "expressions", ()):
        name = _name(cte.args["alias"].this)
        scope = replace(scope, ctes={**scope.ctes, name: _cte(cte, name, scope)})
    return scope


def _cte(cte: exp.CTE, name: str, scope: _Scope) -> dict[str, Column]:
    """Take the columns of a recursive one to be its first part's, and weaken them until both parts agree."""
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
    renamed = [_name(column) for column in alias.args.get("columns") or ()] if alias is not None else []
    names = [*renamed, *(result.column.name for result in results[len(renamed) :])]
    return {name: result.column for name, result in zip(names, results, strict=False)}


def _sources(tree: exp.Expr, scope: _Scope) -> list[_Source]:
    """Return the tables of a statement, those that it writes to included."""
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


def _relation(node: exp.Expr, scope: _Scope) -> list[_Source]:
    alias = node.args.get("alias")
    name = _name(alias.this) if alias is not None and alias.this is not None else ""
    found = [_Source(name, None)]
    if isinstance(node, exp.Table) and isinstance(node.this, exp.Identifier):
        found = [_Source(name or _name(node.this), _table(node, scope))]
    elif isinstance(node, exp.Subquery) and isinstance(node.this, exp.Select | exp.SetOperation):
        found = [_Source(name, _named(_results(node.this, replace(scope, sources=())), alias))]
    elif isinstance(node, exp.Subquery) and alias is None:
        found = _relation(node.this, scope)
    return _joined(found, node.args.get("joins"), scope)


def _table(node: exp.Table, scope: _Scope) -> Mapping[str, Column] | None:
    name, alias = _name(node.this), node.args.get("alias")
    if node.args.get("db") is not None or (alias is not None and alias.args.get("columns")):
        return None
    if name in scope.ctes:
        return scope.ctes[name]
    return {column.name: column for column in scope.tables[name]} if name in scope.tables else None


def _joined(found: list[_Source], joins: Iterable[exp.Join] | None, scope: _Scope) -> list[_Source]:
    for join in joins or ():
        right, side = _relation(join.this, scope), (join.side or "").upper()
        found = [
            *(_optional(found) if side in ("RIGHT", "FULL") else found),
            *(_optional(right) if side in ("LEFT", "FULL") else right),
        ]
    return found


def _optional(sources: Iterable[_Source]) -> list[_Source]:
    return [replace(source, is_optional=True) for source in sources]


def _expression(node: exp.Expr, scope: _Scope) -> Column:
    """Return type and nullability of an expression; what has no rule here may be NULL, and be anything."""
    for kinds, rule in _RULES:
        if isinstance(node, kinds):
            return rule(node, scope)
    return UNKNOWN


def _operands(node: exp.Expr, scope: _Scope) -> list[Column]:
    return [_expression(child, scope) for child in node.iter_expressions()]


def _inner(node: exp.Expr, scope: _Scope) -> Column:
    return _expression(node.this, scope)


def _column(node: exp.Expr, scope: _Scope) -> Column:
    qualifier = _name(node.args["table"]) if node.args.get("table") else ""
    sources = [source for source in scope.sources if not qualifier or source.name == qualifier]
    found = [
        replace(source.columns[_name(node.this)], not_null=source.columns[_name(node.this)].not_null and not source.is_optional)
        for source in sources
        if source.columns is not None and _name(node.this) in source.columns
    ]  # fmt: skip
    if not found or node.args.get("db"):
        return UNKNOWN
    return _common(found)  # more than one only after USING


def _literal(node: exp.Expr, _: _Scope) -> Column:
    text = str(node.this)
    return Column("", "text" if node.is_string else "int" if text.isdigit() else "numeric", not_null=True)


def _parameter(node: exp.Expr, scope: _Scope) -> Column:
    return scope.parameters.get(int(node.name), UNKNOWN) if node.name.isdigit() else UNKNOWN


def _cast(node: exp.Expr, scope: _Scope) -> Column:
    """A cast of NULL is NULL, and so is one of JSON's null."""
    inner = _inner(node, scope)
    not_null = inner.not_null and not inner.is_json
    wanted = node.args["to"].sql("postgres").lower()
    dimensions, name = wanted.count("[]"), wanted.replace("[]", "").split("(")[0].strip()
    return Column("", name if name in PYTHON_TYPES else AS_SQLC_SAYS, not_null, dimensions)


def _first_not_null(node: exp.Expr, scope: _Scope) -> Column:
    parts = _operands(node, scope)
    return replace(_common(parts), not_null=any(part.not_null for part in parts))


def _is(node: exp.Expr, _: _Scope) -> Column:
    kind = node.expression.this if isinstance(node.expression, exp.Not) else node.expression
    return Column("", "bool", isinstance(kind, exp.Null | exp.Boolean))  # IS JSON may be NULL


def _comparison(node: exp.Expr, scope: _Scope) -> Column:
    return Column("", "bool", all(part.not_null for part in _operands(node, scope)))


def _arithmetic(node: exp.Expr, scope: _Scope) -> Column:
    parts = _operands(node, scope)
    return Column("", _number(parts), all(part.not_null for part in parts))


def _concatenation(node: exp.Expr, scope: _Scope) -> Column:
    parts = _operands(node, scope)
    is_text = all(PYTHON_TYPES.get(part.type) == "str" and not part.dimensions for part in parts)
    return Column("", "text" if is_text else "", all(part.not_null for part in parts))


def _case(node: exp.Expr, scope: _Scope) -> Column:
    branches = [_expression(branch.args["true"], scope) for branch in node.args["ifs"]]
    default = node.args.get("default")
    return _common([*branches, _expression(default, scope) if default is not None else _NULL])


def _extreme(node: exp.Expr, scope: _Scope) -> Column:
    return replace(_inner(node, scope), not_null=False)


def _sum(node: exp.Expr, scope: _Scope) -> Column:
    kind = _inner(node, scope).type
    if isinstance(node, exp.Sum) and kind in _SHORT_INTEGERS:
        return Column("", "int8", not_null=False)
    number = PYTHON_TYPES.get(kind, "")
    return Column("", {"int": "numeric", "Decimal": "numeric", "float": "float8"}.get(number, ""), not_null=False)


def _window(node: exp.Expr, scope: _Scope) -> Column:
    inner = node.this.this if isinstance(node.this, exp.Filter) else node.this
    if isinstance(inner, exp.Anonymous) and inner.name.lower() in _RANKS:
        return _BIGINT
    return _expression(inner, scope) if isinstance(inner, _OVER_WINDOWS) else UNKNOWN


def _subquery(node: exp.Expr, scope: _Scope) -> Column:
    """One value out of a query that may find no row, unless all that it does is to count them."""
    select = node.this
    results = _results(select, replace(scope, sources=()))
    if not results:
        return UNKNOWN
    first = results[0].column
    return replace(first, not_null=first.not_null and _is_one_row(select, results))


def _is_one_row(tree: exp.Expr, results: Sequence[Result]) -> bool:
    """Whether all that a query does is to count, sum and the like: that finds one row in an empty table, too."""
    if not isinstance(tree, exp.Select) or any(tree.args.get(key) for key in _MANY_OR_NONE):
        return False
    if any(result.column.type in ("", AS_SQLC_SAYS) for result in results) or tree.find(exp.Anonymous):
        return False  # a function may return many rows
    return any(item.find(*_AGGREGATES) and not item.find(exp.Select, exp.Window) for item in tree.expressions)


def _function(node: exp.Expr, scope: _Scope) -> Column:
    known = node.name.lower() in scope.functions
    return Column("", AS_SQLC_SAYS, not_null=False) if known else UNKNOWN


def _always(type_: str) -> Callable[[exp.Expr, _Scope], Column]:
    return lambda _node, _scope: Column("", type_, not_null=True)


def _text_function(type_: str) -> Callable[[exp.Expr, _Scope], Column]:
    def rule(node: exp.Expr, scope: _Scope) -> Column:
        inner = _inner(node, scope)
        return replace(inner, type=type_) if PYTHON_TYPES.get(inner.type) == "str" and not inner.dimensions else UNKNOWN

    return rule


def _common(parts: Sequence[Column]) -> Column:
    """Return the type that all of `parts` are read as in Python; not null where all are."""
    not_null = all(part.not_null for part in parts)
    told = [part for part in parts if part is not _NULL]
    if len(told) > 1 and any(part.type == AS_SQLC_SAYS for part in told):
        return Column("", "", not_null)  # sqlc takes the first one's
    if len({(PYTHON_TYPES.get(p.type, p.type), p.is_enum, p.dimensions) for p in told}) == 1:
        return replace(told[0], not_null=not_null)
    return Column("", _number(told), not_null)


def _number(parts: Sequence[Column]) -> str:
    kinds = {PYTHON_TYPES.get(part.type, "") if not part.dimensions else "" for part in parts}
    if not kinds <= {"int", "Decimal", "float"}:
        return ""
    return "float8" if "float" in kinds else "numeric" if "Decimal" in kinds else "int8"


def _name(node: exp.Expr) -> str:
    return str(node.this) if node.args.get("quoted") else str(node.name).lower()


def _output_name(item: exp.Expr) -> str:
    if isinstance(item, exp.Alias):
        return _name(item.args["alias"])
    return _name(item.this) if isinstance(item, exp.Column) else item.key


def _argument(tree: exp.Expr, key: str) -> exp.Expr | None:
    """Sqlglot has renamed those of its arguments that are Python's keywords."""
    found: exp.Expr | None = tree.args.get(key) or tree.args.get(f"{key}_")
    return found


_NULL = Column("NULL", "", not_null=False)
_BIGINT = Column("", "bigint", not_null=True)
_SHORT_INTEGERS = ("int2", "int4", "smallint", "integer", "int", "serial", "smallserial", "serial2", "serial4")
_RANKS = ("row_number", "rank", "dense_rank")
_MANY_OR_NONE = ("group", "having", "limit", "offset", "distinct")
_AGGREGATES = (exp.Count, exp.Sum, exp.Avg, exp.Min, exp.Max)
_OVER_WINDOWS = (*_AGGREGATES, exp.RowNumber)
_RULES: tuple[tuple[tuple[type[exp.Expr], ...], Callable[[exp.Expr, _Scope], Column]], ...] = (
    ((exp.Alias, exp.Paren, exp.Filter, exp.Neg), _inner),
    ((exp.Column,), _column),
    ((exp.Literal,), _literal),
    ((exp.Boolean, exp.Exists, exp.NullSafeEQ, exp.NullSafeNEQ), _always("bool")),
    ((exp.Is,), _is),
    ((exp.Null,), lambda _node, _scope: _NULL),
    ((exp.Parameter,), _parameter),
    ((exp.Cast,), _cast),
    ((exp.Coalesce, exp.Greatest, exp.Least), _first_not_null),
    ((exp.EQ, exp.NEQ, exp.GT, exp.GTE, exp.LT, exp.LTE, exp.And, exp.Or, exp.Not, exp.Like, exp.ILike), _comparison),
    ((exp.Add, exp.Sub, exp.Mul, exp.Div, exp.Mod), _arithmetic),
    ((exp.DPipe,), _concatenation),
    ((exp.Case,), _case),
    ((exp.Count, exp.RowNumber), _always("bigint")),
    ((exp.CurrentTimestamp,), _always("timestamptz")),
    ((exp.CurrentDate,), _always("date")),
    ((exp.Min, exp.Max), _extreme),
    ((exp.Sum, exp.Avg), _sum),
    ((exp.Window,), _window),
    ((exp.Subquery,), _subquery),
    ((exp.Upper, exp.Lower), _text_function("text")),
    ((exp.Length,), _text_function("int4")),
    ((exp.Anonymous,), _function),
)
