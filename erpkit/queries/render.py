"""Write the Python source of a module's queries: a frozen dataclass for each shape of rows, a function for each query. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from erpkit.errors import QueryError
from erpkit.queries.catalog import Query, Request
from erpkit.queries.types import (
    IMPORTED,
    LOCALS,
    WIDTH,
    Column,
    Enum,
    Table,
    bracket,
    camel,
    fields,
    function_name,
    imports,
    python_type,
    quoted,
    snake,
    to_psycopg,
    unique,
    wrap,
)

_ROWS = (":one", ":many", ":batchone", ":batchmany")
_SERIES = (":copyfrom", ":batchexec", ":batchone", ":batchmany")  # these take many rows of parameters


@dataclass(frozen=True)
class _Function:
    """A query with its Python names: parameters in the order of their numbers, and the class of its rows, if any.

    `element` is the class of one row of parameters, for a query that takes many rows of several parameters.
    """

    query: Query
    name: str
    parameters: tuple[tuple[str, Column], ...]
    row_class: str | None
    element: str | None
    sql: str


def render(module: str, request: Request) -> str:
    """Write the source for one module's queries, in order; raises QueryError for an unknown annotation.

    The same request gives the same text, formatted as by ruff.
    """
    for query in request.queries:
        _refuse_unclear(module, query)
    names = [function_name(query.name) for query in request.queries]
    _refuse_duplicates(module, names)
    taken = {*names, *(name.upper() for name in names), *IMPORTED}
    taken |= {table.row_class for table in request.tables.values()} | {enum.python for enum in request.enums.values()}
    functions = [_function(query, taken) for query in request.queries]
    body = "\n\n\n".join([*_classes(functions), *(_source(function) for function in functions)])
    enums = "\n".join(_enum(enum) for enum in _used_enums(functions))
    header = (
        f'"""The queries of {module}, typed; generated from queries/*.sql by `erpkit queries generate`: do not edit."""'
    )
    constants = "\n\n".join(_constant(function) for function in functions)
    parts = [part for part in (enums, constants) if part]
    top = "\n\n".join([header, imports("\n".join([*parts, body])), *parts])
    return f"{top}\n\n\n{body}\n" if body else f"{header}\n"


def _function(query: Query, taken: set[str]) -> _Function:
    """Choose the Python names of a query; the names of its classes are added to `taken`."""
    numbered = sorted(query.parameters, key=lambda item: item[0])
    names = _parameter_names(query, [column.name or f"argument_{number}" for number, column in numbered])
    by_number = {number: name for (number, _), name in zip(numbered, names, strict=True)}
    return _Function(
        query,
        name=function_name(query.name),
        parameters=tuple((by_number[number], column) for number, column in query.parameters),
        row_class=_row_class(query, taken),
        element=_own_class(query, "Params", taken) if query.command in _SERIES and len(names) > 1 else None,
        sql=query.text if query.copied else to_psycopg(query.text, by_number, query.slices),
    )


def _parameter_names(query: Query, wanted: Sequence[str]) -> list[str]:
    if query.command in _SERIES:
        return fields(wanted)
    names: list[str] = []
    for name in wanted:
        names.append(unique(snake(name), {*names, *LOCALS}))
    return names


def _row_class(query: Query, taken: set[str]) -> str | None:
    """Return the name of the rows' class: the table's for whole rows, None for a single plain value."""
    if query.command not in _ROWS or not query.columns:
        return None
    if query.table is not None:
        return query.table.row_class
    return None if len(query.columns) == 1 else _own_class(query, "Row", taken)


def _own_class(query: Query, ending: str, taken: set[str]) -> str:
    name = unique(f"{camel(query.name)}{ending}", taken, "")
    taken.add(name)
    return name


def _classes(functions: Sequence[_Function]) -> Iterator[str]:
    """Write the classes, those of tables first, as others may contain their rows."""
    shown = [function for function in functions if function.query.command in _ROWS]
    tables = {table.row_class: table for function in shown for table in _tables(function.query)}
    for name, table in sorted(tables.items()):
        yield _class(name, f"A row of {table.name}.", table.columns)
    for function in functions:
        if function.element is not None:
            columns = [column for _, column in function.parameters]
            doc = f"What `{function.name}` takes for one element."
            yield _class(function.element, doc, columns, [name for name, _ in function.parameters])
        if function.row_class is not None and function.row_class not in tables:
            yield _class(function.row_class, f"A row of `{function.name}`.", function.query.columns)


def _tables(query: Query) -> list[Table]:
    embedded = [column.embeds for column in query.columns if column.embeds is not None]
    return embedded if query.table is None else [*embedded, query.table]


def _class(name: str, docstring: str, columns: Sequence[Column], names: Sequence[str] | None = None) -> str:
    names = names or fields(column.name for column in columns)
    lines = [f"    {field}: {python_type(column)}" for field, column in zip(names, columns, strict=True)]
    return "\n".join(["@dataclass(frozen=True)", f"class {name}:", f'    """{_escaped(docstring)}"""', "", *lines])


def _enum(enum: Enum) -> str:
    return bracket(f"{enum.python} = Literal[", [quoted(value) for value in enum.values], "]")


def _used_enums(functions: Sequence[_Function]) -> list[Enum]:
    columns = [c for f in functions for c in (*f.query.columns, *(column for _, column in f.parameters))]
    columns += [c for column in columns if column.embeds is not None for c in column.embeds.columns]
    return sorted({column.enum for column in columns if column.enum is not None}, key=lambda enum: enum.name[::-1])


def _constant(function: _Function) -> str:
    return f'{function.name.upper()}: Final = """\n{_escaped(wrap(function.sql.strip()))}\n"""'


def _escaped(text: str) -> str:
    """Escape a text for a triple-quoted string."""
    escaped = text.replace("\\", "\\\\").replace('"""', '\\"\\"\\"')
    return f'{escaped[:-1]}\\"' if escaped.endswith('"') else escaped


def _source(function: _Function) -> str:
    returns, body = _RETURNS[function.query.command](function)
    parameters = [f"{name}: {python_type(column)}" for name, column in function.parameters]
    if function.query.command in _SERIES:
        parameters = [f"{_series(function)}: Iterable[{_element_type(function)}]"]
    signature = bracket(f"def {function.name}(", ["connection: Connection[Any]", *parameters], f") -> {returns}:")
    return "\n".join([signature, _docstring(function), *(f"    {line}".rstrip() for line in body)])


def _docstring(function: _Function) -> str:
    text = list(function.query.comments) or [f"Run {function.query.name} ({function.query.command})."]
    if len(text) == 1:
        return f'    """{_escaped(text[0])}"""'
    first, *others = _escaped("\n".join(text)).split("\n")
    return "\n".join([f'    """{first}', *(f"    {line}".rstrip() for line in others), '    """'])


def _one(function: _Function) -> tuple[str, list[str]]:
    returns, read = _read_one(function)
    return returns, [*_execute(function, "cursor = connection.cursor(row_factory=tuple_row)"), *read]


def _read_one(function: _Function, indent: int = 4) -> tuple[str, list[str]]:
    """Write the code that reads one row from `cursor`, or None."""
    if function.query.is_one_row:
        return _read_the_one(function, indent)
    returns = _row_type(function)
    if not returns.endswith("| None") and returns not in ("Any", "None"):
        returns += " | None"
    read = ["row = cursor.fetchone()"]
    name, parts = _row(function)
    if not name:
        value = f"None if row is None else {parts[0]}"
        if any(re.search(rf"\b{name}\b", returns) for name, _ in function.parameters):  # a parameter hides the type
            return returns, [*read, f"return {value}"]
        return returns, [*read, f"found: {returns} = {value}", "return found"]
    line = f"return None if row is None else {name}({', '.join(parts)})"
    if len(line) + indent <= WIDTH:
        return returns, [*read, line]
    made = bracket(f"return {name}(", parts, ")", indent).split("\n")
    return returns, [*read, "if row is None:", "    return None", *made]


def _read_the_one(function: _Function, indent: int) -> tuple[str, list[str]]:
    returns, (name, parts) = _row_type(function), _row(function)
    read = ["(row,) = cursor"]
    if not name:
        return returns, [*read, f"found: {returns} = {parts[0]}", "return found"]
    return returns, [*read, *bracket(f"return {name}(", parts, ")", indent).split("\n")]


def _many(function: _Function) -> tuple[str, list[str]]:
    returns, read = _read_many(function)
    return returns, [*_execute(function, "cursor = connection.cursor(row_factory=tuple_row)"), *read]


def _read_many(function: _Function, indent: int = 4) -> tuple[str, list[str]]:
    """Write the code that reads all rows from `cursor`."""
    name, parts = _row(function)
    value = f"{name}({', '.join(parts)})" if name else parts[0]
    returns = f"list[{_row_type(function)}]"
    if len(line := f"return [{value} for row in cursor]") + indent <= WIDTH:
        return returns, [line]
    if len(line := f"    {value} for row in cursor") + indent <= WIDTH:
        return returns, ["return [", line, "]"]
    made = [f"    {line}" for line in bracket(f"{name}(", parts, ")", indent + 4).split("\n")]
    return returns, ["return [", *made, "    for row in cursor", "]"]


def _exec(function: _Function) -> tuple[str, list[str]]:
    return "None", _run(function, "")


def _execrows(function: _Function) -> tuple[str, list[str]]:
    return "int", [*_run(function, "cursor = "), "return cursor.rowcount"]


def _execresult(function: _Function) -> tuple[str, list[str]]:
    return "Cursor[Any]", _run(function, "return ")


def _copyfrom(function: _Function) -> tuple[str, list[str]]:
    names = dict(zip((number for number, _ in function.query.parameters), function.parameters, strict=True))
    values = [_element_value(function, *names[number]) for number in function.query.copied]
    inner = _inner(
        "values", f"one: {_element_type(function)}", "list[Any]", bracket("return [", values, "]", 8).split("\n")
    )
    return "int", [*inner, f"return copy_rows(connection, {function.name.upper()}, map(values, rows))"]


def _batchexec(function: _Function) -> tuple[str, list[str]]:
    return _batch(function, "int", ["return cursor.rowcount"])


def _batchone(function: _Function) -> tuple[str, list[str]]:
    return _batch(function, *_read_one(function, 8))


def _batchmany(function: _Function) -> tuple[str, list[str]]:
    return _batch(function, *_read_many(function, 8))


def _batch(function: _Function, returns: str, read: Sequence[str]) -> tuple[str, list[str]]:
    items = [f'"{name}": {_element_value(function, name, column)}' for name, column in function.parameters]
    values = bracket("return {", items, "}", 8).split("\n")
    return f"list[{returns}]", [
        *_inner("values", f"one: {_element_type(function)}", "dict[str, Any]", values),
        *_inner("read", "cursor: Cursor[Any]", returns, read)[1:],
        f"return run_batch(connection, {function.name.upper()}, map(values, batch), read)",
    ]


def _inner(name: str, parameter: str, returns: str, body: Sequence[str]) -> list[str]:
    signature = bracket(f"def {name}(", [parameter], f") -> {returns}:", 4).split("\n")
    return ["", *signature, *(f"    {line}" for line in body), ""]


def _series(function: _Function) -> str:
    return "rows" if function.query.command == ":copyfrom" else "batch"


def _element_type(function: _Function) -> str:
    return function.element or python_type(function.parameters[0][1])


def _element_value(function: _Function, name: str, column: Column) -> str:
    return _argument(f"one.{name}" if function.element else "one", column)


_RETURNS: dict[str, Callable[[_Function], tuple[str, list[str]]]] = {
    ":one": _one,
    ":many": _many,
    ":exec": _exec,
    ":execrows": _execrows,
    ":execresult": _execresult,
    ":copyfrom": _copyfrom,
    ":batchexec": _batchexec,
    ":batchone": _batchone,
    ":batchmany": _batchmany,
}
ANNOTATIONS = tuple(_RETURNS)


def _execute(function: _Function, opening: str) -> list[str]:
    return [opening, *_run(function, "", "cursor")]


def _run(function: _Function, prefix: str, target: str = "connection") -> list[str]:
    """Always pass parameters, even an empty dict: otherwise the driver does not replace a doubled %."""
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
    """Return the class of a result, empty for a plain value, and its arguments, which are taken from `row`.

    An embedded table takes as many values as it has columns.
    """
    columns = function.query.columns
    if function.row_class is None and len(columns) == 1 and (table := columns[0].embeds) is not None:
        if not columns[0].not_null:
            return "", [_embedded(columns[0], table, 0, "row")]
        return table.row_class, [_all(table.columns, "row")]
    if function.row_class is None:
        return "", [_value(columns[0], 0) if columns else "None"]
    if all(column.embeds is None for column in columns):
        return function.row_class, [_all(columns, "row")]
    parts, position = [], 0
    for column in columns:
        if column.embeds is None:
            parts.append(_value(column, position))
            position += 1
        else:
            end = position + len(column.embeds.columns)
            parts.append(_embedded(column, column.embeds, position, f"row[{position}:{end}]"))
            position = end
    return function.row_class, parts


def _embedded(column: Column, table: Table, position: int, values: str) -> str:
    """Write an embedded table's row; a column that is NOT NULL tells whether an outer join has left it out."""
    made = f"{table.row_class}({_all(table.columns, values)})"
    if column.not_null:
        return made
    key = position + next(place for place, one in enumerate(table.columns) if one.not_null)
    return f"None if row[{key}] is None else {made}"


def _refuse_unclear(module: str, query: Query) -> None:
    """Raise QueryError for a query whose annotation does not fit it."""
    place = f"module {module}: {query.file}: query {query.name}"
    if query.command not in _RETURNS:
        raise QueryError(f"{place} is {query.command}, an unknown annotation: use {', '.join(_RETURNS)}")
    if query.command in _ROWS and not query.columns:
        raise QueryError(
            f"{place} is {query.command} and returns nothing: give the table an alias instead of schema.table.*"
        )
    if query.command in _SERIES and not query.parameters:
        raise QueryError(f"{place} is {query.command} and has no parameters: use :exec")
    for column in query.columns:
        if column.embeds and not column.not_null and not any(one.not_null for one in column.embeds.columns):
            raise QueryError(
                f"{place} embeds {column.name}, which an outer join may leave out, "
                f"and {column.embeds.name} has no NOT NULL column that would tell: name the columns instead"
            )


def _all(columns: Sequence[Column], values: str) -> str:
    arrays = [str(place) for place, column in enumerate(columns) if column.is_read_as_text]
    return f"*enum_lists({values}, {', '.join(arrays)})" if arrays else f"*{values}"


def _value(column: Column, position: int) -> str:
    return f"enum_list(row[{position}])" if column.is_read_as_text else f"row[{position}]"


def _refuse_duplicates(module: str, names: Sequence[str]) -> None:
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise QueryError(f"module {module}: more than one query becomes {', '.join(twice)}(): rename all but one")
