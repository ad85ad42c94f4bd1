"""What migrations declare that sqlc keeps to itself: views, domains, functions, and which schema a name is of."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count

from erpkit.queries.types import Name, pieces

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


# `public.name` outside of strings, comments, function bodies and other quoted names.
_PUBLIC = re.compile(
    r"""[eE]'(?:[^'\\]|\\.|'')*'|'(?:[^']|'')*'|--[^\n]*|/\*.*?\*/|\$(?P<tag>[A-Za-z_]*)\$.*?\$(?P=tag)\$"""
    r"""|(?<![\w$."])(?P<schema>public|"public")(?P<dot>\s*\.\s*)(?P<name>"(?:[^"]|"")+"|[^\W\d][\w$]*)|"(?:[^"]|"")*["]""",
    re.DOTALL | re.IGNORECASE,
)


@dataclass(frozen=True)
class Apart:
    """The names that stand for one thing in `public` and for another in the tenant's schema.

    sqlc is shown another schema, `alias`, of as many letters, where `public` stands in front of one of them.
    """

    alias: str = ""
    names: frozenset[str] = frozenset()

    def hide(self, text: str) -> str:
        """Write SQL as sqlc is shown it."""

        def shown(match: re.Match[str]) -> str:
            if match["name"] is None or fold(match["name"]) not in self.names:
                return match[0]
            return match["schema"].lower().replace("public", self.alias) + match["dot"] + match["name"]

        return _PUBLIC.sub(shown, text) if self.names else text

    def restore(self, text: str) -> str:
        """Write what sqlc says as it is meant."""
        return text.replace(self.alias, "public") if self.names else text

    def of_sqlc(self, schema: str, name: str) -> Name:
        """Name what sqlc means by a schema and a name."""
        return Name({"public": "", self.alias: "public" if self.names else ""}.get(schema, schema), name)

    def written(self, name: Name) -> Name:
        """Name what is meant by a name as it is written in SQL."""
        return Name("", name.name) if name.schema == "public" and name.name not in self.names else name


def tell_apart(texts: Sequence[str], own: Collection[str]) -> Apart:
    """Find the names that are declared without a schema, `own`, and are used in `public` as well."""
    used = {fold(match["name"]) for text in texts for match in _PUBLIC.finditer(text) if match["name"] is not None}
    names = frozenset(used & set(own))
    if not names:
        return Apart()
    taken = "\n".join(texts).lower()
    return Apart(next(alias for n in count() if (alias := f"pub_{n:02}") not in taken), names)
