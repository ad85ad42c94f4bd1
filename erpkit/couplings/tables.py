"""The owners of tables, and the files of SQL that use another module's: queries and migrations."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from erpkit.couplings.names import Mention, read_names, words_of
from erpkit.errors import QueryError, first_line
from erpkit.modules.module import ModuleLike, tables_of
from erpkit.modules.python import unreadable
from erpkit.modules.wiring import Edge, Unread, shorten_path
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
        self._found: dict[str, str | None] = {}

    def find(self, table: str) -> str | None:
        """Return the name of the module that owns a table, or None."""
        if table not in self._found:
            self._found[table] = self._find(table)
        return self._found[table]

    def _find(self, table: str) -> str | None:
        found = [(len(pattern), name) for pattern, name in self._others if fnmatchcase(table, pattern)]
        for length in range(min(len(table), self._longest), 0, -1):
            if (name := self._prefixes.get(table[:length])) is not None:
                found.append((length, name))
                break
        return max(found)[1] if found else None

    def others(self, module: str, names: Collection[str]) -> set[str]:
        """Return those of some names that are another module's."""
        return {name for name in names if self.find(name) not in (None, module)}


@dataclass(frozen=True)
class Use:
    """A table of another module that a text of SQL names, and the edge that this makes."""

    table: str
    edge: Edge


@dataclass(frozen=True)
class SqlFiles:
    """What the files of queries and migrations say: their uses of other modules' tables, and what each module makes."""

    uses: tuple[Use, ...]
    made: frozenset[str]
    unread: tuple[Unread, ...]


def read_sql_files(modules: Sequence[ModuleLike], owners: TableOwners) -> SqlFiles:
    """Read the queries and migrations of modules; a file that cannot be read, and a query that is not understood, is told."""
    unread: list[Unread] = []
    migrations = [
        (module, path, text) for module in modules for path, text in _texts(module, module.migrations, unread)
    ]
    made = frozenset(match[1].lower() for _, _, text in migrations for match in _CREATES.finditer(text))
    uses = [use for module in modules for use in _query_uses(module, owners, made, unread)]
    uses += [use for module, path, text in migrations for use in _migration_uses(module, path, text, owners, made)]
    return SqlFiles(tuple(uses), made, tuple(unread))


def is_use(mention: Mention, made: Collection[str]) -> bool:
    """Tell whether a mention is of a table or a function, as far as that can be known without the server."""
    return mention.place == "table" or mention.name in made


_CREATES = re.compile(
    r"\bcreate\s+(?:or\s+replace\s+)?(?:unlogged\s+|recursive\s+|materialized\s+|foreign\s+)*"
    r"(?:table|view|sequence|type|domain|function|procedure|aggregate)\s+(?:if\s+not\s+exists\s+)?(?:\"?\w+\"?\.)?\"?(\w+)",
    re.IGNORECASE,
)


def _migration_uses(
    module: ModuleLike, path: Path, text: str, owners: TableOwners, made: Collection[str]
) -> Iterator[Use]:
    """Yield each other module's table that a migration names, once, at the first line that is surest."""
    if not owners.others(module.name, words_of(text)):
        return  # without the name of another module's table it need not be read
    place, found = shorten_path(path), dict[str, Use]()
    for mention in sorted(read_names(text), key=lambda one: (one.place not in ("table", "call"), one.line)):
        if mention.name not in found and owners.others(module.name, [mention.name]) and is_use(mention, made):
            certain = mention.place in ("table", "call")
            words = f"{place}:{mention.line} {'uses' if certain else 'names'} {mention.name}"
            owner = str(owners.find(mention.name))
            edge = Edge(module.name, owner, "migration", words, place, mention.line, 1, certain)
            found[mention.name] = Use(mention.name, edge)
    yield from found.values()


def _texts(module: ModuleLike, folder: Path | None, unread: list[Unread]) -> Iterator[tuple[Path, str]]:
    if folder is None or not folder.is_dir():
        return
    try:
        files = sorted(path for path in folder.iterdir() if path.name.endswith(".sql"))
    except OSError as error:
        files = []
        unread.append(unreadable(folder, module.name, error))
    for path in files:
        place = shorten_path(path)
        try:
            yield path, path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeError) as error:
            unread.append(Unread(f"{place} was not read: {error}", place, modules=(module.name,)))


_NAME = re.compile(r"^--\s*name:\s*(\w+)", re.MULTILINE)


def _query_uses(module: ModuleLike, owners: TableOwners, made: Collection[str], unread: list[Unread]) -> Iterator[Use]:
    try:
        folder = queries_folder(module)
    except QueryError as error:
        unread.append(Unread(f"queries were not read: {error}", modules=(module.name,)))
        return
    for path, whole in _texts(module, folder, unread):
        place = shorten_path(path)
        for name, line, text in _queries(whole):
            if not owners.others(module.name, words_of(text)):
                continue
            tables, problem = _tables(text, made)
            if problem:
                told = f"queries were not read: {place}:{line}: not understood: {problem}"
                unread.append(Unread(told, place, line, (module.name,)))
            for table in sorted(owners.others(module.name, tables)):
                certain = tables[table]
                words = f"{name} ({place}:{line}) {'uses' if certain else 'names'} {table}"
                owner = str(owners.find(table))
                yield Use(table, Edge(module.name, owner, "query", words, place, line, 1, certain))


def _queries(text: str) -> Iterator[tuple[str, int, str]]:
    """Yield name, line and text of each query in a file."""
    starts = list(_NAME.finditer(text))
    for start, end in zip(starts, [*(match.start() for match in starts[1:]), len(text)], strict=True):
        yield start[1], text.count("\n", 0, start.start()) + 1, text[start.start() : end]


def _tables(text: str, made: Collection[str]) -> tuple[dict[str, bool], str]:
    """Return what a query names, and whether that is certain; and why it is not understood, or ""."""
    import sqlglot  # noqa: PLC0415 - slow to import
    from sqlglot import expressions  # noqa: PLC0415

    mentions = list(read_names(text))
    found = {one.name: one.place == "call" for one in mentions if one.place in ("call", "string") and one.name in made}
    try:
        statements = sqlglot.parse(text, dialect="postgres")
    except sqlglot.errors.SqlglotError as error:
        return found | {one.name: False for one in mentions if one.place == "table"}, first_line(error)
    trees = [statement for statement in statements if statement is not None]
    if any(isinstance(tree, expressions.Command) for tree in trees):  # syntax that sqlglot does not know
        return found | {one.name: True for one in mentions if one.place == "table"}, ""
    own = {cte.alias for tree in trees for cte in tree.find_all(expressions.CTE)}
    named = {_name(table) for tree in trees for table in tree.find_all(expressions.Table)} - own - {""}
    return found | dict.fromkeys(named, True), ""


def _name(table: expressions.Table) -> str:
    return table.name if getattr(table.this, "quoted", False) else table.name.lower()
