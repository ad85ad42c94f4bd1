"""Names of SQL as names of Python, and how generated code is laid out."""

from __future__ import annotations

import ast
import keyword
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import count

from erpkit.queries.types import PYTHON_TYPES, Name

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
