"""Text and values that any program and database can take: without halves of characters, NUL and numbers that are none."""

from __future__ import annotations

import math
import re
from typing import Any

_REDRAWN = re.compile(r"[^\n]*\r(?=[^\n\r])")


def escape_surrogates(value: Any) -> Any:
    r"""Return a structure of dicts, lists and strings with each half of a character written as `\ud800`."""
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return type(value)({escape_surrogates(key): escape_surrogates(item) for key, item in value.items()})
    return [escape_surrogates(item) for item in value] if isinstance(value, list) else value


def storable(value: Any) -> Any:
    r"""Return what PostgreSQL can store as text or jsonb: NUL as `\x00`, NaN and infinity as text, no half of a character."""
    if isinstance(value, str):
        return escape_surrogates(value).replace("\x00", "\\x00")
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, dict):
        return {storable(str(key)): storable(item) for key, item in value.items()}
    return [storable(item) for item in value] if isinstance(value, list | tuple) else value


def redrawn(text: str) -> str:
    """Return a text as a terminal leaves it: of a line that was drawn anew after a carriage return only the last state."""
    return _REDRAWN.sub("", text) if "\r" in text else text


def redrawn_part(text: str) -> str:
    """Return a part of a text likewise; it may still draw anew the line in which the part before it ended."""
    first, end, rest = text.partition("\n")
    left = redrawn(first)
    return f"{left if left == first else chr(13) + left}{end}{redrawn(rest)}"
