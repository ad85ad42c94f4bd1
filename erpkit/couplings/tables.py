"""The owners of tables, and the files of SQL that use another module's: queries and migrations."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from erpkit.errors import QueryError, first_line
from erpkit.modules.module import ModuleLike, tables_of
from erpkit.modules.wiring import Edge, shorten_path
from erpkit.queries import queries_folder

if TYPE_CHECKING:
    from sqlglot import expressions

_PREFIX = re.compile(r"[^*?\[]+\*")


class TableOwners:
    """Finds the module that owns a table; of several matching patterns the longest decides: `sales_eu_*` before `sales_*`."""

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


_NAME = re.compile(r"^--\s*name:\s*(\w+)", re.MULTILINE)
_WORD = re.compile(r"[a-z_]\w*", re.IGNORECASE)


def query_edges(modules: Sequence[ModuleLike], owners: TableOwners) -> list[Edge]:
    """Return an edge for each query and each table of another module in it; raises QueryError if sqlglot cannot parse one."""
    return [edge for module in modules for edge in _edges_of(module, owners)]


def _edges_of(module: ModuleLike, owners: TableOwners) -> Iterator[Edge]:
    folder = queries_folder(module)
    for path in sorted(folder.glob("*.sql")) if folder else ():
        for name, line, text in _queries(path):
            if not any(owners.find(word) not in (None, module.name) for word in set(_WORD.findall(text.lower()))):
                continue  # without the name of another module's table it need not be parsed
            for table in _tables(text, f"{shorten_path(path)}:{line}"):
                owner = owners.find(table)
                if owner is not None and owner != module.name:
                    yield Edge(module.name, owner, "query", f"{name} ({shorten_path(path)}:{line}) uses {table}")


def _queries(path: Path) -> Iterator[tuple[str, int, str]]:
    """Yield name, line and text of each query in a file."""
    text = path.read_text(encoding="utf-8")
    starts = list(_NAME.finditer(text))
    for start, end in zip(starts, [*(match.start() for match in starts[1:]), len(text)], strict=True):
        yield start[1], text.count("\n", 0, start.start()) + 1, text[start.start() : end]


def _tables(text: str, place: str) -> list[str]:
    """Return the tables that a statement names, without those that its WITH defines."""
    import sqlglot  # noqa: PLC0415 - slow to import
    from sqlglot import expressions  # noqa: PLC0415

    try:
        statements = sqlglot.parse(text, dialect="postgres")
    except sqlglot.errors.SqlglotError as error:
        raise QueryError(f"{place}: not understood: {first_line(error)}") from None
    trees = [statement for statement in statements if statement is not None]
    own = {cte.alias for tree in trees for cte in tree.find_all(expressions.CTE)}
    named = {_name(table) for tree in trees for table in tree.find_all(expressions.Table)}
    return sorted(named - own - {""})


def _name(table: expressions.Table) -> str:
    return table.name if getattr(table.this, "quoted", False) else table.name.lower()
