"""Which Python type a PostgreSQL type is read as; psycopg's defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["PYTHON_TYPES", "Column", "camel", "python_type"]

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
PYTHON_TYPES: Mapping[str, str] = {name: python for python, names in _NAMES.items() for name in names.split()}


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


def python_type(column: Column) -> str:
    """Return the annotation of a column: `list[...]` a dimension of an array, `| None` where NULL may come."""
    if column.embeds is not None:
        return f"{camel(column.embeds)}Row"
    name = camel(column.type) if column.is_enum else PYTHON_TYPES.get(column.type, "Any")
    for _ in range(column.dimensions):
        name = f"list[{name}]"
    return name if column.not_null or name in ("Any", "None") else f"{name} | None"


def camel(name: str) -> str:
    """Turn `billing_invoices` into `BillingInvoices`."""
    return "".join(part[:1].upper() + part[1:] for part in name.split("_"))
