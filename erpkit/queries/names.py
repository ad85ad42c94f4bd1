"""Names of SQL as names of Python."""

from __future__ import annotations

import keyword
import re

__all__ = ["LOCALS", "quoted", "snake", "unique"]

LOCALS = {"connection", "cursor", "row", "found"}  # the variables of generated functions


def quoted(text: str) -> str:
    """Write a string as ruff does."""
    quote = "'" if '"' in text and "'" not in text else '"'
    return quote + text.replace("\\", "\\\\").replace(quote, f"\\{quote}") + quote


def snake(name: str) -> str:
    """Turn `PlaceOrder` or `Odd Name` into `place_order`, `odd_name`; a keyword gets an underscore."""
    return _identifier(re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower())


def _identifier(name: str) -> str:
    plain = re.sub(r"\W", "_", name, flags=re.ASCII)
    plain = f"_{plain}" if plain[:1].isdigit() else plain
    return f"{plain}_" if keyword.iskeyword(plain) else plain


def unique(name: str, taken: set[str]) -> str:
    """Return `name`, or one like it that is not taken."""
    if name not in taken:
        return name
    if name in LOCALS:
        return unique(f"{name}_", taken)
    return next(candidate for n in range(2, 1000) if (candidate := f"{name}_{n}") not in taken)
