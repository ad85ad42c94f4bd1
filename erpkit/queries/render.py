"""The Python source of a module's queries: a frozen dataclass a row shape, one function a query. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from erpkit.errors import QueryError
from erpkit.queries.layout import IMPORTED, WIDTH, bracket, imports
from erpkit.queries.names import LOCALS, quoted, snake, unique
from erpkit.queries.sqlc import Query, Request
from erpkit.queries.text import to_psycopg, wrap
from erpkit.queries.types import PYTHON_TYPES, Column, camel, enum_name, python_type

__all__ = ["render"]

_TYPE_NAMES = {*PYTHON_TYPES.values(), "Any", "list"}  # a field of such a name would hide the type from its neighbours


@dataclass(frozen=True)
class _Function:
    """A query with its Python names: parameters in the order of their numbers, and the class of its rows, if there is one."""

    query: Query
    name: str
    parameters: tuple[tuple[str, Column], ...]
    row_class: str | None
    sql: str
    embedded: Mapping[str, tuple[Column, ...]]


def render(module: str, request: Request) -> str:
    """Write the source for one module's queries, in their order; raises QueryError for an annotation that is not known.

    The same request gives the same text, laid out as ruff lays it out.
    """
    functions = [_function(module, query, request) for query in request.queries]
    _refuse_duplicates(module, [function.name for function in functions])
    body = "\n\n\n".join([*_classes(request, functions), *(_source(function) for function in functions)])
    enums = "\n".join(_enum(name, request.enums[name]) for name in _used_enums(request, functions))
    header = (
        f'"""The queries of {module}, typed; generated from queries/*.sql by `erpkit queries generate`: do not edit."""'
    )
    constants = "\n\n".join(_constant(function) for function in functions)
    parts = [part for part in (enums, constants) if part]
    top = "\n\n".join([header, imports("\n".join([*parts, body])), *parts])
    return f"{top}\n\n\n{body}\n" if body else f"{header}\n"


def _function(module: str, query: Query, request: Request) -> _Function:
    if query.command not in _RETURNS:
        known = ", ".join(_RETURNS)
        raise QueryError(
            f"module {module}: {query.file}: query {query.name} is {query.command}, which is not known: use {known}"
        )
    _refuse_unseen(module, query, request)
    names: dict[int, str] = {}
    for number, column in sorted(query.parameters, key=lambda item: item[0]):
        names[number] = unique(snake(column.name or f"argument_{number}"), set(names.values()) | LOCALS)
    parameters = tuple((names[number], column) for number, column in query.parameters)
    text = to_psycopg(query.text, names, query.slices)
    embedded = {column.embeds: request.tables[column.embeds] for column in query.columns if column.embeds}
    name = snake(query.name)
    name = f"{name}_" if name in _TYPE_NAMES or name.upper() in IMPORTED else name
    return _Function(query, name, parameters, _row_class(query, request), text, embedded)


def _row_class(query: Query, request: Request) -> str | None:
    """Name the class of the rows: the table's where they are its rows, none for a single plain value."""
    if query.command not in (":one", ":many") or not query.columns:
        return None
    for table, columns in request.tables.items():
        if _shape(columns) == _shape(query.columns) and re.search(rf"\b{re.escape(table)}\b", query.text):
            return f"{camel(table)}Row"
    if len(query.columns) == 1 and query.columns[0].embeds:
        return None
    return None if len(query.columns) == 1 else f"{camel(query.name)}Row"


def _shape(columns: Sequence[Column]) -> list[tuple[str, str]]:
    return [(column.name, python_type(column)) for column in columns]


def _classes(request: Request, functions: Sequence[_Function]) -> Iterator[str]:
    """Write the tables' classes first: others may hold their rows."""
    shown = [function for function in functions if function.query.command in (":one", ":many")]
    named = {function.row_class for function in shown}
    named |= {f"{camel(c.embeds)}Row" for function in shown for c in function.query.columns if c.embeds}
    tables = {f"{camel(table)}Row": (table, columns) for table, columns in request.tables.items()}
    for name in sorted(named & set(tables), key=str):
        table, columns = tables[str(name)]
        yield _class(str(name), f"A row of {table}.", columns)
    for function in functions:
        if function.row_class is not None and function.row_class not in tables:
            yield _class(function.row_class, f"A row of `{function.name}`.", function.query.columns)


def _class(name: str, docstring: str, columns: Sequence[Column]) -> str:
    fields: list[str] = []
    for number, column in enumerate(columns, 1):
        field = snake(column.name or f"column_{number}")
        fields.append(unique(f"{field}_" if field in _TYPE_NAMES else field, set(fields)))
    lines = [f"    {field}: {python_type(column)}" for field, column in zip(fields, columns, strict=True)]
    return "\n".join(["@dataclass(frozen=True)", f"class {name}:", f'    """{docstring}"""', "", *lines])


def _enum(name: str, values: Sequence[str]) -> str:
    return bracket(f"{enum_name(name)} = Literal[", [quoted(value) for value in values], "]")


def _used_enums(request: Request, functions: Sequence[_Function]) -> list[str]:
    used = {c.type for f in functions for c in (*f.query.columns, *(column for _, column in f.parameters)) if c.is_enum}
    embedded = {c.embeds for f in functions for c in f.query.columns if c.embeds}
    used |= {c.type for table in embedded for c in request.tables[str(table)] if c.is_enum}
    return sorted(used)


def _constant(function: _Function) -> str:
    escaped = wrap(function.sql.strip()).replace("\\", "\\\\").replace('"""', '\\"\\"\\"')
    if escaped.endswith('"'):
        escaped = f'{escaped[:-1]}\\"'
    return f'{function.name.upper()}: Final = """\n{escaped}\n"""'


def _source(function: _Function) -> str:
    returns, body = _RETURNS[function.query.command](function)
    parameters = ["connection: Connection[Any]", *(f"{name}: {python_type(c)}" for name, c in function.parameters)]
    signature = bracket(f"def {function.name}(", parameters, f") -> {returns}:")
    return "\n".join([signature, _docstring(function), *(f"    {line}" for line in body)])


def _docstring(function: _Function) -> str:
    text = [line.replace("\\", "\\\\").replace('"""', '\\"\\"\\"') for line in function.query.comments]
    text = text or [f"Run {function.query.name} ({function.query.command})."]
    if text[-1].endswith('"'):
        text[-1] = f'{text[-1][:-1]}\\"'
    if len(text) == 1:
        return f'    """{text[0]}"""'
    return "\n".join([f'    """{text[0]}', *(f"    {line}".rstrip() for line in text[1:]), '    """'])


def _one(function: _Function) -> tuple[str, list[str]]:
    if function.query.is_one_row:
        return _always_one(function)
    returns = _row_type(function)
    if not returns.endswith("| None") and returns not in ("Any", "None"):
        returns += " | None"
    read = [*_execute(function, "cursor = connection.cursor(row_factory=tuple_row)"), "row = cursor.fetchone()"]
    name, parts = _row(function)
    if not name:
        return returns, [*read, f"found: {returns} = None if row is None else {parts[0]}", "return found"]
    line = f"return None if row is None else {name}({', '.join(parts)})"
    if len(line) + 4 <= WIDTH:
        return returns, [*read, line]
    made = bracket(f"return {name}(", parts, ")", 4).split("\n")
    return returns, [*read, "if row is None:", "    return None", *made]


def _always_one(function: _Function) -> tuple[str, list[str]]:
    returns, (name, parts) = _row_type(function), _row(function)
    read = [*_execute(function, "cursor = connection.cursor(row_factory=tuple_row)"), "(row,) = cursor"]
    if not name:
        return returns, [*read, f"found: {returns} = {parts[0]}", "return found"]
    return returns, [*read, *bracket(f"return {name}(", parts, ")", 4).split("\n")]


def _many(function: _Function) -> tuple[str, list[str]]:
    read = _execute(function, "cursor = connection.cursor(row_factory=tuple_row)")
    name, parts = _row(function)
    value = f"{name}({', '.join(parts)})" if name else parts[0]
    returns = f"list[{_row_type(function)}]"
    if len(line := f"return [{value} for row in cursor]") + 4 <= WIDTH:
        return returns, [*read, line]
    if len(line := f"    {value} for row in cursor") + 4 <= WIDTH:
        return returns, [*read, "return [", line, "]"]
    made = [f"    {line}" for line in bracket(f"{name}(", parts, ")", 8).split("\n")]
    return returns, [*read, "return [", *made, "    for row in cursor", "]"]


def _exec(function: _Function) -> tuple[str, list[str]]:
    return "None", _run(function, "")


def _execrows(function: _Function) -> tuple[str, list[str]]:
    return "int", [*_run(function, "cursor = "), "return cursor.rowcount"]


def _execresult(function: _Function) -> tuple[str, list[str]]:
    return "Cursor[Any]", _run(function, "return ")


_RETURNS: dict[str, Callable[[_Function], tuple[str, list[str]]]] = {
    ":one": _one,
    ":many": _many,
    ":exec": _exec,
    ":execrows": _execrows,
    ":execresult": _execresult,
}


def _execute(function: _Function, opening: str) -> list[str]:
    return [opening, *_run(function, "", "cursor")]


def _run(function: _Function, prefix: str, target: str = "connection") -> list[str]:
    """Hand parameters over always, an empty dict too: the driver takes a doubled % for one only then."""
    items = [f'"{name}": {_argument(name, column)}' for name, column in function.parameters]
    start = f"{prefix}{target}.execute({function.name.upper()}, {{"
    line = f"{start}{', '.join(items)}}})"
    if len(line) + 4 <= WIDTH:
        return [line]
    inner = f"    {function.name.upper()}, {{{', '.join(items)}}}"
    if len(inner) + 4 <= WIDTH:
        return [f"{prefix}{target}.execute(", inner, ")"]
    opening = f"{prefix}{target}.execute("
    return [opening, f"    {function.name.upper()},", "    {", *(f"        {item}," for item in items), "    },", ")"]


def _argument(name: str, column: Column) -> str:
    if not column.is_json:
        return name
    wrapper = "Jsonb" if column.type == "jsonb" else "Json"
    wrapped = f"[{wrapper}(item) for item in {name}]" if column.dimensions else f"{wrapper}({name})"
    return wrapped if column.not_null else f"None if {name} is None else {wrapped}"


def _row_type(function: _Function) -> str:
    return function.row_class or (python_type(function.query.columns[0]) if function.query.columns else "None")


def _row(function: _Function) -> tuple[str, list[str]]:
    """Return the class that a result is made with, none for a plain value, and its arguments, taken out of `row`.

    An embedded table takes as many values as it has columns.
    """
    columns = function.query.columns
    if function.row_class is None and len(columns) == 1 and columns[0].embeds:
        inner = function.embedded[columns[0].embeds]
        if not columns[0].not_null:
            return "", [_embedded(columns[0], inner, 0, "row")]
        return python_type(columns[0]), [_all(inner, "row")]
    if function.row_class is None:
        return "", [_value(columns[0], 0) if columns else "None"]
    if not function.embedded:
        return function.row_class, [_all(columns, "row")]
    parts, position = [], 0
    for column in columns:
        if column.embeds is None:
            parts.append(_value(column, position))
            position += 1
        else:
            inner = function.embedded[column.embeds]
            end = position + len(inner)
            parts.append(_embedded(column, inner, position, f"row[{position}:{end}]"))
            position = end
    return function.row_class, parts


def _embedded(column: Column, inner: Sequence[Column], position: int, values: str) -> str:
    """Make an embedded table's row; where an outer join has left it out, a column that is never NULL says so."""
    made = f"{camel(str(column.embeds))}Row({_all(inner, values)})"
    if column.not_null:
        return made
    key = position + next(place for place, one in enumerate(inner) if one.not_null)
    return f"None if row[{key}] is None else {made}"


def _refuse_unseen(module: str, query: Query, request: Request) -> None:
    for column in query.columns:
        if column.embeds and not column.not_null and not any(one.not_null for one in request.tables[column.embeds]):
            raise QueryError(
                f"module {module}: {query.file}: query {query.name} embeds {column.name}, which an outer join may leave out, "
                f"and no column of {column.embeds} is NOT NULL to tell by: name the columns instead"
            )


def _all(columns: Sequence[Column], values: str) -> str:
    arrays = [str(place) for place, column in enumerate(columns) if column.is_read_as_text]
    return f"*enum_lists({values}, {', '.join(arrays)})" if arrays else f"*{values}"


def _value(column: Column, position: int) -> str:
    return f"enum_list(row[{position}])" if column.is_read_as_text else f"row[{position}]"


def _refuse_duplicates(module: str, names: Sequence[str]) -> None:
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise QueryError(f"module {module}: more than one query becomes {', '.join(twice)}(): rename all but one")
