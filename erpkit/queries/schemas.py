"""Which schema a name is of: sqlc takes `public` for the schema of all names that have none."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import count

from erpkit.queries.declared import fold
from erpkit.queries.types import Name

__all__ = ["Apart", "tell_apart"]

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
