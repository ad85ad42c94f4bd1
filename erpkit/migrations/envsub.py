"""Environment variables in migrations (`ENVSUB ON`): a pure function from a line and an environment to a line.

The grammar is that of the library which goose v3.27 uses, mfridman/interpolate v0.0.2: `$NAME`, `${NAME}`,
`${NAME:-default}` (unset or empty), `${NAME-default}` (unset), `${NAME?message}` (an error where unset),
`${NAME:offset}` and `${NAME:offset:length}` (in bytes); `$$` and `\\$` stand for a dollar sign. A default may hold more of
them. `${NAME:+word}` and `${NAME:?message}` are errors, there as here.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping

from erpkit.errors import MigrationError

__all__ = ["SPACE", "expand_line"]

# What Go calls a space; Python's str.split() and str.strip() know four control characters more.
SPACE = "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000"

_INTEGER = re.compile(r"[+-]?0*[0-9]{1,18}")
# Go's decoder cannot tell this character from a broken one, and so the library stops reading a word there.
_UNREADABLE = "\N{REPLACEMENT CHARACTER}"


def expand_line(line: str, environ: Mapping[str, str]) -> str:
    """Return `line` with its variables filled in; raises MigrationError, which never shows a value."""
    expanded = _Reader(line, environ).text()
    try:
        expanded.encode()
    except UnicodeEncodeError:
        raise MigrationError("a variable's value is not valid UTF-8, or was cut within a character") from None
    return expanded


class _Reader:
    """Reads a line once from left to right, and expands as it goes; `live` is False in a word that is not used."""

    def __init__(self, line: str, environ: Mapping[str, str]) -> None:
        self.line = line
        self.environ = environ
        self.position = 0

    def text(self, stop: str = "", *, live: bool = True) -> str:
        """Read up to a character of `stop` or to the end."""
        parts: list[str] = []
        while (char := self._peek()) and char not in stop:
            if self._skip("\\\\"):
                parts.append("\\\\")
            elif self._skip("\\$") or self._skip("$$"):
                parts.append("$")
            elif self._skip("$("):  # a shell's command, which is left alone
                parts.append("$(")
            elif char == "$" and self.position < len(self.line) - 1:
                self.position += 1
                parts.append(self._variable(live))
            else:
                self.position += 1
                parts.append(char + self._until("$\\" + stop))
        return "".join(parts)

    def _variable(self, live: bool) -> str:
        if not self._skip("{"):
            return self.environ.get(self._name(), "")
        name = self._name()
        if self._skip("}"):
            return self.environ.get(name, "")
        value = self._operation(name, live)
        if not self._skip("}"):
            raise MigrationError(f"${{{name}…: the closing brace is missing")
        return value

    def _operation(self, name: str, live: bool) -> str:
        value = self.environ.get(name)
        if self._skip(":-"):
            default = self.text("}", live=live and not value)
            return value or default
        if self._skip("-"):
            default = self.text("}", live=live and value is None)
            return default if value is None else value
        if self._skip("?"):
            return self._required(name, value, live)
        if self._skip(":"):
            return self._substring(name, value or "")
        raise MigrationError(f"${{{name}…: after the name may stand }} :- - ? or a colon and an offset")

    def _required(self, name: str, value: str | None, live: bool) -> str:
        start = self.position
        self.text("}", live=live and value is None)
        if live and value is None:
            # As it was written: what it expands to may hold a secret.
            raise MigrationError(f"${name}: {self.line[start : self.position] or 'not set'}")
        return value or ""

    def _substring(self, name: str, value: str) -> str:
        raw = value.encode("utf-8", "surrogateescape")
        start = self._integer(name, self._until(":}"))
        start = min(max(start + len(raw) if start < 0 else start, 0), len(raw))
        end = len(raw)
        if self._peek() != "}":
            self.position += 1
            length = self._integer(name, self._until("}"))
            end = start + length if length >= 0 else max(len(raw) + length, start)
        return raw[start:end].decode("utf-8", "surrogateescape")

    def _integer(self, name: str, word: str) -> int:
        word = word.strip(SPACE)
        if not _INTEGER.fullmatch(word):
            raise MigrationError(f"${{{name}:…}}: {word!r} is no whole number")
        return int(word)

    def _name(self) -> str:
        if not _is_letter(self._peek()):
            raise MigrationError("a name must follow '$', a letter first; write '$$' for a dollar sign")
        start = self.position
        while (char := self._peek()) and (_is_letter(char) or char == "_" or unicodedata.category(char)[0] == "N"):
            self.position += 1
        return self.line[start : self.position]

    def _until(self, stop: str) -> str:
        start = self.position
        while (char := self._peek()) and char not in stop and char != _UNREADABLE:
            self.position += 1
        return self.line[start : self.position]

    def _peek(self) -> str:
        return self.line[self.position : self.position + 1]

    def _skip(self, prefix: str) -> bool:
        if found := self.line.startswith(prefix, self.position):
            self.position += len(prefix)
        return found


def _is_letter(char: str) -> bool:
    return char != "" and unicodedata.category(char)[0] == "L"
