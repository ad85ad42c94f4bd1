"""The SQL in the strings of Python code that names another module's tables."""

from __future__ import annotations

import ast
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from erpkit.couplings.names import is_statement, is_telling, read_names, read_words, words_of
from erpkit.couplings.source import PythonFile
from erpkit.couplings.tables import TableOwners, Use
from erpkit.modules.wiring import Edge, shorten_path

_PART = re.compile(r"\b(?:FROM|JOIN|INTO|UPDATE|TABLE)\s")  # of a statement, in capitals as SQL alone has them
_HOLE = "_"  # stands for what an f-string fills in


@dataclass(frozen=True)
class _Text:
    """A string in a file, where it begins, and whether each of its lines is one of the file's."""

    value: str
    line: int
    column: int
    is_as_written: bool


def sql_uses(file: PythonFile, owners: TableOwners, made: Collection[str]) -> Iterator[Use]:
    """Yield each table of another module that the strings of a file name; certain where the string is a statement of SQL.

    `made` are the tables and functions that are known to be there: in any other string, only they are looked for.
    """
    if not owners.others(file.module, words_of(file.path.read_text(encoding="utf-8", errors="replace"))):
        return
    found = dict[str, Use]()
    for text in _strings(file):
        if owners.others(file.module, words_of(text.value)):
            for use in _uses_in(text, file, owners, made):
                if use.table not in found or (use.edge.certain and not found[use.table].edge.certain):
                    found[use.table] = use
    yield from found.values()


def _uses_in(text: _Text, file: PythonFile, owners: TableOwners, made: Collection[str]) -> Iterator[Use]:
    path, is_sql = shorten_path(file.path), is_statement(text.value)
    is_part = _PART.search(text.value) is not None
    for mention in (read_names if len(text.value.split()) > 1 else read_words)(text.value):
        name = mention.name
        certain = is_sql and (mention.place == "table" or (mention.place == "call" and name in made))
        is_likely = name in made and (is_telling(name) or (is_part and mention.place == "table"))
        if owners.others(file.module, [name]) and (certain or is_likely):
            line = text.line + (mention.line - 1 if text.is_as_written else 0)
            words = f"{path}:{line} {'uses' if certain else 'names'} {name}"
            yield Use(name, Edge(file.module, str(owners.find(name)), "sql", words, path, line, text.column, certain))


def _strings(file: PythonFile) -> Iterator[_Text]:
    """Yield the strings of a file, with a mark for what an f-string fills in, but for those that are statements: docstrings."""
    passed = set[int]()
    for node in file.nodes:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant | ast.JoinedStr):
            passed.add(id(node.value))
        if isinstance(node, ast.JoinedStr):
            passed.update(id(part) for part in node.values)
            value = "".join(str(part.value) if isinstance(part, ast.Constant) else _HOLE for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            value = node.value
        elif isinstance(node, ast.Constant) and isinstance(node.value, bytes):  # psycopg takes these, too
            value = node.value.decode(errors="replace")
        else:
            continue
        if id(node) not in passed:
            lines = (node.end_lineno or node.lineno) - node.lineno
            yield _Text(value, node.lineno, node.col_offset + 1, lines == value.count("\n"))
