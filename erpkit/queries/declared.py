"""What migrations declare that sqlc keeps to itself: which tables are views, what domains are, which functions there are."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from erpkit.queries.text import pieces
from erpkit.queries.types import Name

__all__ = ["NOTHING_DECLARED", "Declared", "fold", "read_declared"]

_PART = r'(?:"(?:[^"]|"")+"|[^\W\d][\w$]*)'
_NAME = rf"(?:IF\s+NOT\s+EXISTS\s+)?(?:({_PART})\s*\.\s*)?({_PART})"
_VIEW = re.compile(
    r"\bCREATE\s+(?:OR\s+REPLACE\s+)?(?:TEMP(?:ORARY)?\s+|RECURSIVE\s+|MATERIALIZED\s+)*VIEW\s+" + _NAME, re.IGNORECASE
)
_TABLE = re.compile(r"\bCREATE\s+(?:UNLOGGED\s+|FOREIGN\s+)?TABLE\s+" + _NAME + r"(\s+AS\b)?", re.IGNORECASE)
_FUNCTION = re.compile(r"\bCREATE\s+(?:OR\s+REPLACE\s+)?FUNCTION\s+" + _NAME + r"\s*\(", re.IGNORECASE)
_DOMAIN = re.compile(
    rf"\bCREATE\s+DOMAIN\s+{_NAME}\s+(?:AS\s+)?(?:({_PART})\s*\.\s*)?({_PART})(?!\s*\[|\w)", re.IGNORECASE
)
_TYPE = re.compile(r"\bCREATE\s+TYPE\s+" + _NAME, re.IGNORECASE)


@dataclass(frozen=True)
class Declared:
    """Names out of migrations, as they are written there.

    `functions` are those of which there is one, so that its result has one type. The columns of `views` and `copies` (made by
    CREATE TABLE … AS) are never NOT NULL. `own` are all names without a schema.
    """

    views: frozenset[Name]
    copies: frozenset[Name]
    functions: frozenset[Name]
    domains: Mapping[Name, Name]
    own: frozenset[str]


NOTHING_DECLARED = Declared(frozenset(), frozenset(), frozenset(), {}, frozenset())


def read_declared(texts: Iterable[str]) -> Declared:
    """Read what migrations declare outside of comments and strings; what is dropped later is still in it."""
    text = "\n".join(
        "".join(" " if is_opaque and not piece.startswith('"') else piece for piece, is_opaque in pieces(text))
        for text in texts
    )
    functions = Counter(_named(match) for match in _FUNCTION.finditer(text))
    tables = [(_named(match), match[3] is not None) for match in _TABLE.finditer(text)]
    views = frozenset(_named(match) for match in _VIEW.finditer(text))
    domains = {_named(match): Name(fold(match[3] or ""), fold(match[4])) for match in _DOMAIN.finditer(text)}
    types = [_named(match) for match in _TYPE.finditer(text)]
    declared = (*functions, *views, *domains, *types, *(name for name, _ in tables))
    return Declared(
        views=views,
        copies=frozenset(name for name, is_copy in tables if is_copy),
        functions=frozenset(name for name, times in functions.items() if times == 1),
        domains=domains,
        own=frozenset(name.name for name in declared if not name.schema),
    )


def fold(identifier: str) -> str:
    """Read an identifier as PostgreSQL does."""
    return identifier[1:-1].replace('""', '"') if identifier.startswith('"') else identifier.lower()


def _named(match: re.Match[str]) -> Name:
    return Name(fold(match[1] or ""), fold(match[2]))
