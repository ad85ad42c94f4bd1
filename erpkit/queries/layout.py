"""How generated code is laid out: its imports, and brackets that are too long for a line."""

from __future__ import annotations

import ast
from collections.abc import Sequence

__all__ = ["IMPORTED", "WIDTH", "bracket", "imports"]

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
    """Return the names that the code refers to; a parameter called `date` is no use of the type."""
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
