"""What queries consist of: their text, names, tables, enums and columns, and the Python type that each is read as."""

from __future__ import annotations

import ast
import keyword
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import NamedTuple

AS_SQLC_SAYS = "?"  # the type that is written down in the SQL, or that of a function of which there is only one

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
# What is not in here (a domain, a range, a network address) is Any.
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
    """An enum, and what generated code calls it."""

    name: Name
    python: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """A table or a view, and the class that generated code has for its rows."""

    name: Name
    row_class: str
    columns: tuple[Column, ...]
    is_view: bool = False


@dataclass(frozen=True)
class Column:
    """A column or a parameter as sqlc describes it.

    `type` is a built-in type's name without its `pg_catalog.`, or that of a type of the ERP, with its schema where it is not the
    tenant's own. `table` is where a query's column comes from by sqlc's word.
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
        """Whether a value must be wrapped on its way in."""
        return self.type in ("json", "jsonb")

    @property
    def is_of_schema(self) -> bool:
        """Whether it is of a type that has another number in each schema, so that the driver does not know it."""
        return self.enum is not None or self.type == "citext"

    @property
    def is_read_as_text(self) -> bool:
        """Whether it is an array that the driver hands over as text."""
        return self.dimensions == 1 and self.is_of_schema


@dataclass(frozen=True)
class Result:
    """One expression that a query returns; `source` is the table, or its alias, that stands in front of it.

    `table` is that table where it is known to be one. `is_optional` says that an outer join may leave its row out. `is_ambiguous`
    says that several tables go by that name.
    """

    column: Column
    source: str
    is_optional: bool
    table: Table | None = None
    is_ambiguous: bool = False


def python_type(column: Column) -> str:
    """Return the annotation of a column: `list[...]` a dimension of an array, `| None` where NULL may come."""
    if column.embeds is not None:
        return f"{column.embeds.row_class}{'' if column.not_null else ' | None'}"
    if column.dimensions > 1 and column.is_of_schema:
        return "Any"
    name = column.enum.python if column.enum else PYTHON_TYPES.get(column.type, "Any")
    for _ in range(column.dimensions):
        name = f"list[{name}]"
    return name if column.not_null or name in ("Any", "None") else f"{name} | None"


# What may hold a dollar sign or a word that is none of the statement's: strings, quoted names, comments, $$ … $$.
_OPAQUE = re.compile(
    r"""(?P<opaque>[eE]'(?:[^'\\]|\\.|'')*'|'(?:[^']|'')*'|"(?:[^"]|"")*"|--[^\n]*|/\*.*?\*/|\$(?P<tag>[A-Za-z_]*)\$.*?\$(?P=tag)\$)""",
    re.DOTALL,
)
_WIDTH = 100


def to_psycopg(text: str, names: Mapping[int, str], slices: Collection[int] = ()) -> str:
    """Turn `$1` into `%(name)s`, double every literal %, and compare with a slice by ANY, which takes any length."""
    parts = []
    for piece, is_opaque in pieces(text):
        part = piece.replace("%", "%%")
        if not is_opaque:
            part = _any_for_in(part, slices)
            part = re.sub(r"\$(\d+)", lambda match: f"%({names[int(match[1])]})s", part)
        parts.append(part)
    return "".join(parts)


def to_numbered(text: str) -> str:
    """Turn psycopg's named placeholders into `$1`, for the server itself."""
    numbers: dict[str, int] = {}

    def replaced(match: re.Match[str]) -> str:
        return "%" if match[1] is None else f"${numbers.setdefault(match[1], len(numbers) + 1)}"

    return re.sub(r"%%|%\((\w+)\)s", replaced, text)


def spaced(text: str) -> str:
    """Put a blank behind each placeholder: sqlglot reads `$1,$` as the beginning of a string."""
    return "".join(piece if is_opaque else re.sub(r"\$\d+", r"\g<0> ", piece) for piece, is_opaque in pieces(text))


def wrap(text: str) -> str:
    """Break lines that are too long, at blanks outside of strings and comments."""
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
    """Split a text into what is SQL and what is opaque: strings, quoted names, comments, function bodies."""
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
    """Write the imports that `source` needs, sorted as ruff sorts them."""
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
    """Lay out a bracket as ruff does: on one line, else its content on one, else an item a line."""
    line = f"{opening}{', '.join(items)}{closing}"
    if len(line) + indent <= WIDTH:
        return line
    if len(inner := f"    {', '.join(items)}") + indent <= WIDTH and not opening.endswith(("[", "{")):
        return "\n".join([opening, inner, closing])
    return "\n".join([opening, *(f"    {item}," for item in items), closing])


TYPE_NAMES = frozenset({*PYTHON_TYPES.values(), "Any", "list"})
_VARIABLES = {"connection", "cursor", "row", "found"}  # of generated functions
LOCALS = _VARIABLES | {name for name in IMPORTED if "_" in name}  # and what they call


def quoted(text: str) -> str:
    """Write a string as ruff does."""
    quote = "'" if '"' in text and "'" not in text else '"'
    escaped = text.replace("\\", "\\\\").replace(quote, f"\\{quote}")
    return quote + escaped.replace("\n", "\\n").replace("\r", "\\r") + quote


def snake(name: str) -> str:
    """Turn `PlaceOrder` or `Odd Name` into `place_order`, `odd_name`; a keyword gets an underscore."""
    return _identifier(re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower())


def camel(name: str) -> str:
    """Turn `billing_invoices` into `BillingInvoices`; characters that a Python name cannot have are left out."""
    words = "".join(part[:1].upper() + part[1:] for part in re.split(r"[\W_]+", name, flags=re.ASCII))
    return f"_{words}" if words[:1].isdigit() else words


def function_name(query: str) -> str:
    """Name a query's function; it may hide no type, and its constant no import."""
    name = snake(query)
    return f"{name}_" if name in TYPE_NAMES or not IMPORTED.isdisjoint({name, name.upper()}) else name


def fields(columns: Iterable[str]) -> list[str]:
    """Name the fields of a class: none hides a type from its neighbours, is private to the class, or comes twice."""
    names: list[str] = []
    for number, column in enumerate(columns, 1):
        field = re.sub("^__+", "_", snake(column or f"column_{number}"))
        names.append(unique(f"{field}_" if field in TYPE_NAMES else field, names))
    return names


def unique(name: str, taken: Collection[str], separator: str = "_") -> str:
    """Return `name`, or one like it that is not taken."""
    if name not in taken:
        return name
    if name in LOCALS:
        return unique(f"{name}_", taken)
    return next(candidate for n in count(2) if (candidate := f"{name}{separator}{n}") not in taken)


def row_classes(tables: Iterable[Name]) -> dict[Name, str]:
    """Name the classes of tables' rows: the schema stands in front only where two schemas have a table of that name."""
    return _class_names({name: f"{camel(name.name)}Row" for name in tables}, set())


def enum_names(enums: Iterable[Name], taken: Collection[str]) -> dict[Name, str]:
    """Name enums likewise, beside the names that generated code imports or has `taken`."""
    wanted = {name: camel(name.name) for name in enums}
    no_names = {"", *IMPORTED, *keyword.kwlist}
    return _class_names({name: f"{plain}Enum" if plain in no_names else plain for name, plain in wanted.items()}, taken)


def _class_names(wanted: Mapping[Name, str], taken: Collection[str]) -> dict[Name, str]:
    """Give out names in an order that does not depend on where things were declared: the tenant's own come first."""
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
