"""Rules that derive the type and the nullability of an expression of SQL."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from sqlglot import exp

from erpkit.queries.types import AS_SQLC_SAYS, PYTHON_TYPES, Column, Name, Result, Table

UNKNOWN = Column("", "", not_null=False)


@dataclass(frozen=True)
class Source:
    """A table, subquery or function in FROM; `columns` is None if they are unknown, as for a function.

    `schema` is the schema that may qualify a table without an alias.
    """

    name: str
    columns: Mapping[str, Column] | None
    is_optional: bool = False
    schema: str = ""
    table: Table | None = None


@dataclass(frozen=True)
class Scope:
    """The meaning of names in a statement; `read` returns the results of a query inside an expression."""

    tables: Mapping[Name, Table]
    functions: frozenset[str]
    parameters: Mapping[int, Column]
    ctes: Mapping[str, Mapping[str, Column]]
    read: Callable[[exp.Expr, Scope], list[Result]]
    sources: tuple[Source, ...] = ()

    def sources_of(self, column: exp.Column) -> list[Source]:
        """Return the sources that a column may belong to, by its qualifiers."""
        table, schema = column.args.get("table"), column.args.get("db")
        return [
            source
            for source in self.sources
            if (table is None or source.name == name_of(table)) and (schema is None or source.schema == name_of(schema))
        ]


def expression(node: exp.Expr, scope: Scope) -> Column:
    """Return type and nullability of an expression; without a rule, it may be NULL and of any type."""
    for kinds, rule in _RULES:
        if isinstance(node, kinds):
            return rule(node, scope)
    return UNKNOWN


def _operands(node: exp.Expr, scope: Scope) -> list[Column]:
    return [expression(child, scope) for child in node.iter_expressions()]


def _inner(node: exp.Expr, scope: Scope) -> Column:
    return expression(node.this, scope)


def _column(node: exp.Expr, scope: Scope) -> Column:
    if not isinstance(node, exp.Column):
        return UNKNOWN
    name = name_of(node.this)
    found = [
        replace(source.columns[name], not_null=source.columns[name].not_null and not source.is_optional)
        for source in scope.sources_of(node)
        if source.columns is not None and name in source.columns
    ]
    return common(found) if found else UNKNOWN  # several only after USING


def _literal(node: exp.Expr, _: Scope) -> Column:
    text = str(node.this)
    return Column("", "text" if node.is_string else "int" if text.isdigit() else "numeric", not_null=True)


def _parameter(node: exp.Expr, scope: Scope) -> Column:
    return scope.parameters.get(int(node.name), UNKNOWN) if node.name.isdigit() else UNKNOWN


def _cast(node: exp.Expr, scope: Scope) -> Column:
    """Return the type of a cast; NULL and a JSON null stay NULL."""
    inner = _inner(node, scope)
    not_null = inner.not_null and not inner.is_json
    wanted = node.args["to"].sql("postgres").lower()
    dimensions, name = wanted.count("[]"), wanted.replace("[]", "").split("(")[0].strip()
    return Column("", name if name in PYTHON_TYPES else AS_SQLC_SAYS, not_null, dimensions)


def _first_not_null(node: exp.Expr, scope: Scope) -> Column:
    parts = _operands(node, scope)
    return replace(common(parts), not_null=any(part.not_null for part in parts))


def _is(node: exp.Expr, _: Scope) -> Column:
    kind = node.expression.this if isinstance(node.expression, exp.Not) else node.expression
    return Column("", "bool", isinstance(kind, exp.Null | exp.Boolean))  # IS JSON may be NULL


def _comparison(node: exp.Expr, scope: Scope) -> Column:
    return Column("", "bool", all(part.not_null for part in _operands(node, scope)))


def _arithmetic(node: exp.Expr, scope: Scope) -> Column:
    parts = _operands(node, scope)
    return Column("", _number(parts), all(part.not_null for part in parts))


def _concatenation(node: exp.Expr, scope: Scope) -> Column:
    parts = _operands(node, scope)
    is_text = all(PYTHON_TYPES.get(part.type) == "str" and not part.dimensions for part in parts)
    return Column("", "text" if is_text else "", all(part.not_null for part in parts))


def _case(node: exp.Expr, scope: Scope) -> Column:
    branches = [expression(branch.args["true"], scope) for branch in node.args["ifs"]]
    default = node.args.get("default")
    return common([*branches, expression(default, scope) if default is not None else _NULL])


def _extreme(node: exp.Expr, scope: Scope) -> Column:
    return replace(_inner(node, scope), not_null=False)


def _sum(node: exp.Expr, scope: Scope) -> Column:
    kind = _inner(node, scope).type
    if isinstance(node, exp.Sum) and kind in _SHORT_INTEGERS:
        return Column("", "int8", not_null=False)
    number = PYTHON_TYPES.get(kind, "")
    return Column("", {"int": "numeric", "Decimal": "numeric", "float": "float8"}.get(number, ""), not_null=False)


def _window(node: exp.Expr, scope: Scope) -> Column:
    inner = node.this.this if isinstance(node.this, exp.Filter) else node.this
    if isinstance(inner, exp.Anonymous) and inner.name.lower() in _RANKS:
        return _BIGINT
    return expression(inner, scope) if isinstance(inner, _OVER_WINDOWS) else UNKNOWN


def _subquery(node: exp.Expr, scope: Scope) -> Column:
    """Return the type of a subquery, which may be NULL if there is no row; an aggregate always has one."""
    select = node.this
    results = scope.read(select, replace(scope, sources=()))
    if not results:
        return UNKNOWN
    first = results[0].column
    return replace(first, not_null=first.not_null and is_one_row(select, results))


def is_one_row(tree: exp.Expr, results: Sequence[Result]) -> bool:
    """Tell whether a query only aggregates, and so returns one row even from an empty table."""
    if not isinstance(tree, exp.Select) or any(tree.args.get(key) for key in _MANY_OR_NONE):
        return False
    if any(result.column.type in ("", AS_SQLC_SAYS) for result in results) or tree.find(exp.Anonymous):
        return False  # a function may return many rows
    return any(item.find(*_AGGREGATES) and not item.find(exp.Select, exp.Window) for item in tree.expressions)


def _function(node: exp.Expr, scope: Scope) -> Column:
    known = node.name.lower() in scope.functions
    return Column("", AS_SQLC_SAYS, not_null=False) if known else UNKNOWN


def _always(type_: str) -> Callable[[exp.Expr, Scope], Column]:
    return lambda _node, _scope: Column("", type_, not_null=True)


def _text_function(type_: str) -> Callable[[exp.Expr, Scope], Column]:
    def rule(node: exp.Expr, scope: Scope) -> Column:
        inner = _inner(node, scope)
        return replace(inner, type=type_) if PYTHON_TYPES.get(inner.type) == "str" and not inner.dimensions else UNKNOWN

    return rule


def common(parts: Sequence[Column]) -> Column:
    """Return the common type of `parts` in Python, which is not null if all of them are not null."""
    not_null = all(part.not_null for part in parts)
    told = [part for part in parts if part is not _NULL]
    if len(told) > 1 and any(part.type == AS_SQLC_SAYS for part in told):
        return Column("", "", not_null)  # sqlc takes the type of the first one
    if len({(PYTHON_TYPES.get(p.type, p.type), p.enum, p.dimensions) for p in told}) == 1:
        return replace(told[0], not_null=not_null)
    return Column("", _number(told), not_null)


def _number(parts: Sequence[Column]) -> str:
    kinds = {PYTHON_TYPES.get(part.type, "") if not part.dimensions else "" for part in parts}
    if not kinds <= {"int", "Decimal", "float"}:
        return ""
    return "float8" if "float" in kinds else "numeric" if "Decimal" in kinds else "int8"


def name_of(node: exp.Expr) -> str:
    """Return an identifier as PostgreSQL folds it."""
    return str(node.this) if node.args.get("quoted") else str(node.name).lower()


_NULL = Column("NULL", "", not_null=False)
_BIGINT = Column("", "bigint", not_null=True)
_SHORT_INTEGERS = ("int2", "int4", "smallint", "integer", "int", "serial", "smallserial", "serial2", "serial4")
_RANKS = ("row_number", "rank", "dense_rank")
_MANY_OR_NONE = ("group", "having", "limit", "offset", "distinct")
_AGGREGATES = (exp.Count, exp.Sum, exp.Avg, exp.Min, exp.Max)
_OVER_WINDOWS = (*_AGGREGATES, exp.RowNumber)
_RULES: tuple[tuple[tuple[type[exp.Expr], ...], Callable[[exp.Expr, Scope], Column]], ...] = (
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
