"""What migrations declare that sqlc keeps to itself: which tables are views, what domains are, which functions there are."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["NOTHING_DECLARED", "Declared", "read_declared"]

_NAME = r'(?:IF\s+NOT\s+EXISTS\s+)?(?:"?\w+"?\s*\.\s*)?(?:"([^"]+)"|(\w+))'
_VIEW = re.compile(
    r"\bCREATE\s+(?:OR\s+REPLACE\s+)?(?:TEMP(?:ORARY)?\s+|RECURSIVE\s+|MATERIALIZED\s+)*VIEW\s+" + _NAME, re.IGNORECASE
)
_COPY = re.compile(r"\bCREATE\s+(?:UNLOGGED\s+)?TABLE\s+" + _NAME + r"\s+AS\b", re.IGNORECASE)
_FUNCTION = re.compile(r"\bCREATE\s+(?:OR\s+REPLACE\s+)?FUNCTION\s+" + _NAME + r"\s*\(", re.IGNORECASE)
_DOMAIN = re.compile(r"\bCREATE\s+DOMAIN\s+" + _NAME + r"\s+(?:AS\s+)?(\w+)(?!\s*\[|\w)", re.IGNORECASE)


@dataclass(frozen=True)
class Declared:
    """Names out of migrations; `functions` are those of which there is one, so that its result has one type."""

    views: frozenset[str]
    functions: frozenset[str]
    domains: Mapping[str, str]


NOTHING_DECLARED = Declared(frozenset(), frozenset(), {})


def read_declared(folders: Sequence[Path]) -> Declared:
    """Read what the migrations in `folders` declare; what is dropped later is still in it."""
    text = "\n".join(path.read_text(encoding="utf-8") for folder in folders for path in sorted(folder.glob("*.sql")))
    functions = Counter(_named(match) for match in _FUNCTION.finditer(text))
    return Declared(
        views=frozenset(_named(match) for pattern in (_VIEW, _COPY) for match in pattern.finditer(text)),
        functions=frozenset(name for name, count in functions.items() if count == 1),
        domains={_named(match): match[3].lower() for match in _DOMAIN.finditer(text)},
    )


def _named(match: re.Match[str]) -> str:
    return match[1] or match[2].lower()
