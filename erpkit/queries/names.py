"""Names of SQL as names of Python."""

from __future__ import annotations

import keyword
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from itertools import count

from erpkit.queries.layout import IMPORTED
from erpkit.queries.types import PYTHON_TYPES, Name

__all__ = [
    "LOCALS",
    "TYPE_NAMES",
    "camel",
    "enum_names",
    "fields",
    "function_name",
    "quoted",
    "row_classes",
    "snake",
    "unique",
]

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
    """Turn `billing_invoices` into `BillingInvoices`; what is no name in Python loses the letters that are none."""
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
