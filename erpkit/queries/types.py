"""Which Python type a PostgreSQL type is read as; psycopg's defaults."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["AS_SQLC_SAYS", "PYTHON_TYPES", "Column", "Result", "camel", "enum_name", "python_type"]

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
_IMPORTED = ("Any", "Connection", "Cursor", "Decimal", "Final", "Json", "Jsonb", "Literal")


@dataclass(frozen=True)
class Column:
    """A column or a parameter as sqlc describes it; `type` has lost its `pg_catalog.`."""

    name: str
    type: str
    not_null: bool
    dimensions: int = 0
    is_enum: bool = False
    embeds: str | None = None

    @property
    def is_json(self) -> bool:
        """Whether a value must be wrapped on its way in."""
        return self.type in ("json", "jsonb")

    @property
    def is_read_as_text(self) -> bool:
        """Whether it is an array of a type that has another number in each schema, so that the driver does not know it."""
        return self.dimensions == 1 and (self.is_enum or self.type == "citext")


@dataclass(frozen=True)
class Result:
    """One expression that a query returns; `source` is the table, or its alias, that stands in front of it.

    `is_optional` says that an outer join may leave that table's row out.
    """

    column: Column
    source: str
    is_optional: bool


def python_type(column: Column) -> str:
    """Return the annotation of a column: `list[...]` a dimension of an array, `| None` where NULL may come."""
    if column.embeds is not None:
        return f"{camel(column.embeds)}Row{'' if column.not_null else ' | None'}"
    if column.dimensions > 1 and (column.is_enum or column.type == "citext"):
        return "Any"
    name = enum_name(column.type) if column.is_enum else PYTHON_TYPES.get(column.type, "Any")
    for _ in range(column.dimensions):
        name = f"list[{name}]"
    return name if column.not_null or name in ("Any", "None") else f"{name} | None"


def enum_name(name: str) -> str:
    """Return what an enum is called, beside the names that generated code imports."""
    return f"{camel(name)}Enum" if camel(name) in _IMPORTED else camel(name)


def camel(name: str) -> str:
    """Turn `billing_invoices` into `BillingInvoices`; what is no name in Python loses the letters that are none."""
    words = "".join(part[:1].upper() + part[1:] for part in re.split(r"[\W_]+", name, flags=re.ASCII))
    return f"_{words}" if words[:1].isdigit() else words
