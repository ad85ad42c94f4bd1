"""Read arrays of an enum: as each tenant's schema has its own enum type, the driver returns them as text."""

from __future__ import annotations

import re
from typing import Any

_ELEMENT = re.compile(r'"((?:[^"\\]|\\.)*)"|([^,{}"]+)')


def enum_list(value: Any) -> Any:
    """Read a one-dimensional array literal, `{happy,"very sad",NULL}`, into a list; a list and None stay what they are."""
    if not isinstance(value, str):
        return value
    return [
        re.sub(r"\\(.)", r"\1", quoted) if quoted else None if plain == "NULL" else plain
        for quoted, plain in _ELEMENT.findall(value)
    ]


def enum_lists(values: tuple[Any, ...], *places: int) -> tuple[Any, ...]:
    """Read the array literals at some places of a row."""
    return tuple(enum_list(value) if place in places else value for place, value in enumerate(values))
