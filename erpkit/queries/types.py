"""Parts of queries: text, tables, enums and columns, their Python types and names, and the format of generated code."""

from __future__ import annotations

import ast
import keyword
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import NamedTuple

AS_SQLC_SAYS = "?"  # the type that sqlc found: written in the SQL, or that of a function without overloads

_NAMES = {
    "int": "int2 int4 int8 smallint integer int bigint smallserial serial bigserial serial2 serial4 serial8 oid",
    "float": "float4 float8 real double float",
    "Decimal": "numeric decimal",
    "bool": "bool boolean",
    "str": "text varchar bpchar char character citext name string",
    "bytes": "bytea",
    "UUID": "uuid",
    "date": "date",
    "time": "time timetz",
    "datetime": "timestamp timestamptz",
    "timedelta": "interval",
    "None": "void",
}
# All other types (ranges, network addresses, …) are Any.
PYTHON_TYPES: Mapping[str, str] = {name: python for python, names in _NAMES.items() for name in names.split()} | {
    "double precision": "float",
    "character varying": "str",
    "time without time zone": "time",
    "time with time zone": "time",
    "timestamp without time zone": "datetime",
    "timestamp with time zone": "datetime",
}


class Name(NamedTuple):
    """The name of a table, a type or a function; `schema` is empty for the tenant's own."""

    schema: str
    name: str

    def __str__(self) -> str:
        return f"{self.schema}.{self.name}" if self.schema else self.name


@dataclass(frozen=True)
class Enum:
    """An enum, and its name in generated code."""

    name: Name
    python: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """A table or a view, and the class of its rows in generated code."""

    name: Name
    row_class: str
    columns: tuple[Column, ...]
    is_view: bool = False


@dataclass(frozen=True)
class Column:
    """A column or a parameter as sqlc describes it.

    `type` is the name of a built-in type without `pg_catalog.`, or of a type of the ERP, with its schema unless that is the
    tenant's. `table` is the origin of a query's column according to sqlc.
    """

    name: str
    type: str
    not_null: bool
    dimensions: int = 0
    enum: Enum | None = None
    embeds: Table | None = None
    table: Name | None = None

    @property
    def is_json(self) -> bool:
        """Whether a parameter must be wrapped for the driver."""
        return self.type in ("json", "jsonb")

    @property
    def is_of_schema(self) -> bool:
        """Whether its type has a different oid in each schema, so that the driver does not know it."""
        return self.enum is not None or self.type == "citext"

    @property
    def is_read_as_text(self) -> bool:
        """Whether it is an array that the driver returns as text."""
        return self.dimensions == 1 and self.is_of_schema


@dataclass(frozen=True)
class Result:
    """One expression that a query returns; `source` is the table or alias that qualifies it.

    `table` is that table, if it is known. `is_optional` tells that an outer join may leave its row out, `is_ambiguous` that several
    tables have that name.
    """

    column: Column
    source: str
    is_optional: bool
    table: Table | None = None
    is_ambiguous: bool = False


def python_type(column: Column) -> str:
    """Return the annotation of a column: `list[...]` for each dimension of an array, `| None` if it may be NULL."""
    if column.embeds is not None:
        return f"{column.embeds.row_class}{'' if column.not_null else ' | None'}"
    if column.dimensions > 1 and column.is_of_schema:
        return "Any"
    name = column.enum.python if column.enum else PYTHON_TYPES.get(column.type, "Any")
    for _ in range(column.dimensions):
        name = f"list[{name}]"
    return name if column.not_null or name in ("Any", "None") else f"{name} | None"


# Strings, quoted names, comments and $$ … $$, in which dollar signs and words are not part of the statement.
OPAQUE = (
    r"""(?P<opaque>[eE]'(?:[^'\\]|\\.|'')*'|'(?:[^']|'')*'|"(?:[^"]|"")*"|--[^\n]*|/\*.*?\*/|"""
    r"""\$(?P<tag>[A-Za-z_]*)\$.*?\$(?P=tag)\$)"""
)
_OPAQUE = re.compile(OPAQUE, re.DOTALL)
_WIDTH = 100


def to_psycopg(text: str, names: Mapping[int, str], slices: Collection[int] = ()) -> str:
    """Replace `$1` by `%(name)s`, double every literal %, and compare with a slice by ANY, which takes any length."""
    parts = []
    for piece, is_opaque in pieces(text):
        part = piece.replace("%", "%%")
        if not is_opaque:
            part = _any_for_in(part, slices)
            part = re.sub(r"\$(\d+)", lambda match: f"%({names[int(match[1])]})s", part)
        parts.append(part)
    return "".join(parts)


def to_numbered(text: str) -> str:
    """Replace psycopg's named placeholders by `$1`, for the server."""
    numbers: dict[str, int] = {}

    def replaced(match: re.Match[str]) -> str:
        return "%" if match[1] is None else f"${numbers.setdefault(match[1], len(numbers) + 1)}"

    return re.sub(r"%%|%\((\w+)\)s", replaced, text)


def spaced(text: str) -> str:
    """Add a blank after each placeholder, as sqlglot reads `$1,$` as the start of a string."""
    return "".join(piece if is_opaque else re.sub(r"\$\d+", r"\g<0> ", piece) for piece, is_opaque in pieces(text))


def wrap(text: str) -> str:
    """Break long lines at blanks outside strings and comments."""
    lines = [""]
    for piece, is_opaque in pieces(text):
        for word in [piece] if is_opaque else re.split(r"(?<=\s)", piece):
            if not is_opaque and len(lines[-1]) + len(word.rstrip()) > _WIDTH and lines[-1].endswith(" "):
                lines[-1] = lines[-1].rstrip()
                lines.append("  ")
            *whole, last = word.split("\n")
            for line in whole:
                lines[-1] += line
                lines.append("")
            lines[-1] += last
    return "\n".join(lines)


def pieces(text: str) -> Iterator[tuple[str, bool]]:
    """Split a text into SQL and opaque pieces: strings, quoted names, comments, function bodies."""
    start = 0
    for match in _OPAQUE.finditer(text):
        yield text[start : match.start()], False
        yield match[0], True
        start = match.end()
    yield text[start:], False


def _any_for_in(text: str, slices: Collection[int]) -> str:
    for number in slices:
        text = re.sub(rf"\bNOT\s+IN\s*\(\s*\${number}\s*\)", f"<> ALL (${number})", text, flags=re.IGNORECASE)
        text = re.sub(rf"\bIN\s*\(\s*\${number}\s*\)", f"= ANY (${number})", text, flags=re.IGNORECASE)
    return text


WIDTH = 120
_IMPORTS = (
    ("collections.abc", ("Iterable",)),
    ("dataclasses", ("dataclass",)),
    ("datetime", ("date", "datetime", "time", "timedelta")),
    ("decimal", ("Decimal",)),
    ("typing", ("Any", "Final", "Literal")),
    ("uuid", ("UUID",)),
    ("", ()),
    ("psycopg", ("Connection", "Cursor")),
    ("psycopg.rows", ("tuple_row",)),
    ("psycopg.types.json", ("Json", "Jsonb")),
    ("", ()),
    ("erpkit.queries.arrays", ("enum_list", "enum_lists")),
    ("erpkit.queries.batches", ("copy_rows", "run_batch")),
)
IMPORTED = frozenset(name for _, names in _IMPORTS for name in names)


def imports(source: str) -> str:
    """Return the imports that `source` needs, sorted as by ruff."""
    names = _names_used(source)
    groups: list[list[str]] = [[]]
    for package, offered in _IMPORTS:
        used = [name for name in offered if name in names]
        if not package:
            groups.append([])
        elif used:
            groups[-1].append(f"from {package} import {', '.join(used)}")
    return "\n\n".join("\n".join(group) for group in groups if group)


def _names_used(source: str) -> set[str]:
    """Return the names that the code refers to; a parameter called `date` does not refer to the type."""
    used: set[str] = set()
    for node in ast.parse(source).body:
        own: set[str] = set()
        if isinstance(node, ast.FunctionDef):
            own = {argument.arg for argument in node.args.args}
            for argument in node.args.args:
                used |= _names_in(argument)
            used |= _names_in(node.returns)
        used |= _names_in(node) - own
    return used


def _names_in(node: ast.AST | None) -> set[str]:
    return {found.id for found in ast.walk(node) if isinstance(found, ast.Name)} if node is not None else set()


def bracket(opening: str, items: Sequence[str], closing: str, indent: int = 0) -> str:
    """Format a bracket as ruff does: on one line, or its content on one line, or each item on its own line."""
    line = f"{opening}{', '.join(items)}{closing}"
    if len(line) + indent <= WIDTH:
        return line
    if len(inner := f"    {', '.join(items)}") + indent <= WIDTH and not opening.endswith(("[", "{")):
        return "\n".join([opening, inner, closing])
    return "\n".join([opening, *(f"    {item}," for item in items), closing])


TYPE_NAMES = frozenset({*PYTHON_TYPES.values(), "Any", "list"})
_VARIABLES = {"connection", "cursor", "row", "found"}  # of generated functions
LOCALS = _VARIABLES | {name for name in IMPORTED if "_" in name}  # and the functions that they call


def quoted(text: str) -> str:
    """Return a string literal as ruff writes it."""
    quote = "'" if '"' in text and "'" not in text else '"'
    escaped = text.replace("\\", "\\\\").replace(quote, f"\\{quote}")
    return quote + escaped.replace("\n", "\\n").replace("\r", "\\r") + quote


def snake(name: str) -> str:
    """Return `PlaceOrder` as `place_order`, `Odd Name` as `odd_name`; a keyword gets an underscore."""
    return _identifier(re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower())


def camel(name: str) -> str:
    """Return `billing_invoices` as `BillingInvoices`, without characters that Python names cannot have."""
    words = "".join(part[:1].upper() + part[1:] for part in re.split(r"[\W_]+", name, flags=re.ASCII))
    return f"_{words}" if words[:1].isdigit() else words


def function_name(query: str) -> str:
    """Return the name of a query's function; it must not hide a type, nor its constant an import."""
    name = snake(query)
    return f"{name}_" if name in TYPE_NAMES or not IMPORTED.isdisjoint({name, name.upper()}) else name


def fields(columns: Iterable[str]) -> list[str]:
    """Return the names of a class's fields: none hides a type, has a private name, or occurs twice."""
    names: list[str] = []
    for number, column in enumerate(columns, 1):
        field = re.sub("^__+", "_", snake(column or f"column_{number}"))
        names.append(unique(f"{field}_" if field in TYPE_NAMES else field, names))
    return names


def unique(name: str, taken: Collection[str], separator: str = "_") -> str:
    """Return `name`, or a similar one that is not taken."""
    if name not in taken:
        return name
    if name in LOCALS:
        return unique(f"{name}_", taken)
    return next(candidate for n in count(2) if (candidate := f"{name}{separator}{n}") not in taken)


def row_classes(tables: Iterable[Name]) -> dict[Name, str]:
    """Return the names of the classes of tables' rows; the schema is part of it only if two schemas have such a table."""
    return _class_names({name: f"{camel(name.name)}Row" for name in tables}, set())


def enum_names(enums: Iterable[Name], taken: Collection[str]) -> dict[Name, str]:
    """Return the names of enums likewise; they must differ from imports and from names `taken`."""
    wanted = {name: camel(name.name) for name in enums}
    no_names = {"", *IMPORTED, *keyword.kwlist}
    return _class_names({name: f"{plain}Enum" if plain in no_names else plain for name, plain in wanted.items()}, taken)


def _class_names(wanted: Mapping[Name, str], taken: Collection[str]) -> dict[Name, str]:
    """Assign names in an order that does not depend on where things were declared: the tenant's own come first."""
    common = {plain for plain, times in Counter(wanted.values()).items() if times > 1}
    given: dict[Name, str] = {}
    for name, plain in sorted(wanted.items()):
        told_apart = f"{camel(name.schema)}{plain}" if plain in common else plain
        given[name] = unique(told_apart, {*taken, *given.values()}, "")
    return given


def _identifier(name: str) -> str:
    plain = re.sub(r"\W", "_", name, flags=re.ASCII)
    plain = f"_{plain}" if plain[:1].isdigit() else plain
    return f"{plain}_" if keyword.iskeyword(plain) else plain
