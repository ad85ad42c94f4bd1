"""What queries consist of: their text, names, tables, enums and columns, and the Python type that each is read as."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
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
OPAQUE = (
    r"""(?P<opaque>[eE]'(?:[^'\\]|\\.|'')*'|'(?:[^']|'')*'|"(?:[^"]|"")*"|--[^\n]*|/\*.*?\*/|"""
    r"""\$(?P<tag>[A-Za-z_]*)\$.*?\$(?P=tag)\$)"""
)
_OPAQUE = re.compile(OPAQUE, re.DOTALL)
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
