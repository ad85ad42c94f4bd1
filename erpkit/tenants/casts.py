"""What changing a column's type does to the values that are there. Pure."""

from __future__ import annotations

import re
from typing import Literal

__all__ = ["Risk", "cast_risk"]

Risk = Literal["none", "fails", "loses"]

_WHOLE = ("smallint", "integer", "bigint")
_INEXACT = ("real", "double precision")
_TEXTS = ("character varying", "text")


def cast_risk(old: str, new: str) -> Risk:
    """Return what `ALTER COLUMN … TYPE` does where a value does not fit into the new type, written as PostgreSQL writes it.

    `loses`: values are rounded or cut off without a word. `fails`: PostgreSQL refuses, also where there is no such cast or where
    it is not known here. `none`: every value fits.
    """
    (kind, sizes), (new_kind, new_sizes) = _parse(old), _parse(new)
    if kind == new_kind == "numeric":
        return _numeric_risk(sizes, new_sizes)
    if kind == new_kind and kind.startswith(("timestamp", "time ", "interval")):
        return "loses" if new_sizes and new_sizes < (sizes or (6,)) else "none"
    if kind in _TEXTS and new_kind in _TEXTS:
        return "none" if not new_sizes or (sizes and sizes <= new_sizes) else "fails"
    if kind in _WHOLE and new_kind in _WHOLE:
        return "none" if _WHOLE.index(kind) <= _WHOLE.index(new_kind) else "fails"
    if new_kind == "numeric" and kind in _WHOLE:
        return "none" if not new_sizes else "fails"
    if (kind, new_kind) == _INEXACT:
        return "none"
    return "loses" if _loses(kind, new_kind) else "fails"


def _numeric_risk(sizes: tuple[int, ...], new: tuple[int, ...]) -> Risk:
    if not new:
        return "none"
    if not sizes or new[1] < sizes[1]:
        return "loses"
    return "fails" if new[0] - new[1] < sizes[0] - sizes[1] else "none"


def _loses(kind: str, new: str) -> bool:
    numbers = (*_WHOLE, "numeric", *_INEXACT)
    return (
        (kind in ("numeric", *_INEXACT) and new in numbers)
        or (kind in ("integer", "bigint") and new in _INEXACT)
        or (kind.startswith("timestamp") and new.startswith(("date", "time ")))
        or (new.startswith("character") and not new.startswith("character varying"))
    )


def _parse(text: str) -> tuple[str, tuple[int, ...]]:
    """Split `numeric(12,2)` into its name and its numbers, `timestamp(3) with time zone` likewise."""
    match = re.fullmatch(r"([^(]+?)(?:\((\d+(?:,-?\d+)?)\))?( with(?:out)? time zone)?", text)
    if match is None:
        return text, ()
    sizes = tuple(int(size) for size in (match[2] or "").split(",") if size)
    return match[1] + (match[3] or ""), sizes
