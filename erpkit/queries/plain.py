"""Queries out of plain SQL files with sqlc's annotations, without sqlc and without the migrations that it needs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from erpkit.errors import QueryError
from erpkit.queries.types import OPAQUE

__all__ = ["PlainQuery", "read_plain_queries"]

ANNOTATION = re.compile(r"^[ \t]*(?:--|#|/\*)[ \t]*name:[ \t]*(\w+)[ \t]*(:?\w*)[^\n]*\n?", re.MULTILINE)

# sqlc's macros and `@name`, which is none where an operator such as <@ ends; what is opaque is left as it is.
_MACRO = re.compile(
    rf"""sqlc\.(?P<macro>n?arg|slice|embed)\(\s*['"]?(?P<argument>\w+)['"]?\s*\)|{OPAQUE}|(?<![-+*/<>=~!@\#%^&|`?\w])@(?P<name>[A-Za-z_]\w*)""",
    re.DOTALL,
)
_NUMBER = re.compile(r"\$(\d+)")
_COMMENT = re.compile(r"--[^\n]*|/\*.*?\*/", re.DOTALL)


@dataclass(frozen=True)
class PlainQuery:
    """One query as it is written, with `$1` in place of sqlc's named parameters; `place` is its file and line."""

    name: str
    command: str
    text: str
    place: str


def read_plain_queries(texts: dict[Path, str]) -> Iterator[PlainQuery]:
    """Yield the queries of some files. Pure.

    A star stands for the columns that each tenant has, where sqlc would write those of the migrations. Raises QueryError, naming
    file and line, for SQL that no annotation names, and for an annotation without a statement.
    """
    for path, text in texts.items():
        starts = list(ANNOTATION.finditer(text))
        if _is_statement(text[: starts[0].start() if starts else len(text)]):
            raise QueryError(f"{path.name}: it has SQL that no annotation names: write -- name: GetOrder :one above it")
        for start, end in zip(starts, [*(match.start() for match in starts[1:]), len(text)], strict=True):
            place = f"{path.name}:{text.count(chr(10), 0, start.start()) + 1}"
            statement = text[start.end() : end].strip()
            if not _is_statement(statement):
                raise QueryError(f"{place}: query {start[1]} has no statement")
            yield PlainQuery(start[1], start[2], number_parameters(statement).rstrip().rstrip(";"), place)


def number_parameters(text: str) -> str:
    """Turn `sqlc.arg(name)` and its like into `$1`, the same number for the same name, and `sqlc.embed(t)` into `t.*`."""
    numbers: dict[str, int] = {}
    taken = max(map(int, _NUMBER.findall(text)), default=0)

    def replaced(match: re.Match[str]) -> str:
        if match["macro"] == "embed":
            return f"{match['argument']}.*"
        name = match["argument"] or match["name"]
        return f"${numbers.setdefault(name, taken + len(numbers) + 1)}" if name else match[0]

    return _MACRO.sub(replaced, text)


def _is_statement(text: str) -> bool:
    return bool(_COMMENT.sub("", text).strip().strip(";").strip())
