"""Whose a table is: modules say it by patterns of names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase

from erpkit.modules.module import ModuleLike, tables_of

__all__ = ["TableOwners"]

_PREFIX = re.compile(r"[^*?\[]+\*")


class TableOwners:
    """The modules' tables; where several patterns match, the longest decides: `sales_eu_*` before `sales_*`."""

    def __init__(self, modules: Sequence[ModuleLike]) -> None:
        patterns = [(pattern, module.name) for module in modules for pattern in tables_of(module)]
        self._prefixes = {pattern[:-1]: name for pattern, name in patterns if _PREFIX.fullmatch(pattern)}
        self._others = [(pattern, name) for pattern, name in patterns if not _PREFIX.fullmatch(pattern)]
        self._longest = max(map(len, self._prefixes), default=0)

    def find(self, table: str) -> str | None:
        """Return the name of the module that owns a table, or None."""
        found = [(len(pattern), name) for pattern, name in self._others if fnmatchcase(table, pattern)]
        for length in range(min(len(table), self._longest), 0, -1):
            if (name := self._prefixes.get(table[:length])) is not None:
                found.append((length, name))
                break
        return max(found)[1] if found else None
