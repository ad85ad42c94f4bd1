"""From sqlc's SQL to psycopg's and back: placeholders by name, and every literal % doubled."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping

__all__ = ["pieces", "spaced", "to_numbered", "to_psycopg", "wrap"]

# What may hold a dollar sign or a word that is none of the statement's: strings, quoted names, comments, $$ … $$.
_OPAQUE = re.compile(
    r"""(?P<opaque>[eE]'(?:[^'\\]|\\.|'')*'|'(?:[^']|'')*'|"(?:[^"]|"")*"|--[^\n]*|/\*.*?\*/|\$(?P<tag>[A-Za-z_]*)\$.*?\$(?P=tag)\$)""",
    re.DOTALL,
)
_WIDTH = 100


def to_psycopg(text: str, names: Mapping[int, str], slices: Collection[int] = ()) -> str:
    """Turn `$1` into `%(name)s`, double every literal %, and compare with a slice by ANY, which takes any length."""
    parts = []
    for piece, is_opaque in pieces(text):
        part = piece.replace("%", "%%")
        if not is_opaque:
            part = _any_for_in(part, slices)
            part = re.sub(r"\$(\d+)", lambda match: f"%({names[int(match[1])]})s", part)
        parts.append(part)
    return "".join(parts)


def to_numbered(text: str) -> str:
    """Turn psycopg's named placeholders into `$1`, for the server itself."""
    numbers: dict[str, int] = {}

    def replaced(match: re.Match[str]) -> str:
        return "%" if match[1] is None else f"${numbers.setdefault(match[1], len(numbers) + 1)}"

    return re.sub(r"%%|%\((\w+)\)s", replaced, text)


def spaced(text: str) -> str:
    """Put a blank behind each placeholder: sqlglot reads `$1,$` as the beginning of a string."""
    return "".join(piece if is_opaque else re.sub(r"\$\d+", r"\g<0> ", piece) for piece, is_opaque in pieces(text))


def wrap(text: str) -> str:
    """Break lines that are too long, at blanks outside of strings and comments."""
    lines = [""]
    for piece, is_opaque in pieces(text):
        for word in [piece] if is_opaque else re.split(r"(?<=\s)", piece):
            if not is_opaque and len(lines[-1]) + len(word.rstrip()) > _WIDTH and lines[-1].endswith(" "):
                lines[-1] = lines[-1].rstrip()
                lines.append("  ")
            *whole, last = word.split("\n")
            for line in whole:
                lines[-1] += line
                lines.append("")
            lines[-1] += last
    return "\n".join(lines)


def pieces(text: str) -> Iterator[tuple[str, bool]]:
    """Split a text into what is SQL and what is opaque: strings, quoted names, comments, function bodies."""
    start = 0
    for match in _OPAQUE.finditer(text):
        yield text[start : match.start()], False
        yield match[0], True
        start = match.end()
    yield text[start:], False


def _any_for_in(text: str, slices: Collection[int]) -> str:
    for number in slices:
        text = re.sub(rf"\bNOT\s+IN\s*\(\s*\${number}\s*\)", f"<> ALL (${number})", text, flags=re.IGNORECASE)
        text = re.sub(rf"\bIN\s*\(\s*\${number}\s*\)", f"= ANY (${number})", text, flags=re.IGNORECASE)
    return text
