"""goose's file format: a pure function from a file's text to its statements.

The rules are those of goose v3.27 (`internal/sqlparser/parser.go`), so that a file means the same to both. Where goose would
drop a line without a word (the one after an empty StatementBegin block), the file is refused.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from erpkit.errors import MigrationError

Direction = Literal["up", "down"]

# What Go calls a space; Python's str.split() and str.strip() know four control characters more.
SPACE = "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000"

_INTEGER = re.compile(r"[+-]?0*[0-9]{1,18}")
# Go's decoder cannot tell this character from a broken one, and so the library stops reading a word there.
_UNREADABLE = "\N{REPLACEMENT CHARACTER}"

_ANNOTATIONS = ("up", "down", "statementbegin", "statementend", "no transaction", "envsub on", "envsub off")
_SPACES = re.compile(f"[{SPACE}]+")
_LONGEST_LINE = 4 * 1024 * 1024 - 1  # bytes: the size of goose's buffer, less the line's end


@dataclass(frozen=True)
class _Line:
    number: int
    text: str  # with its variables filled in
    written: str  # as it stands in the file, for errors


@dataclass(frozen=True)
class ParsedMigration:
    """The statements of a migration file, each with its closing semicolon, and whether they run in a transaction.

    `up_lines` and `down_lines` are the lines on which the statements start. `uses_environment` tells that the statements
    hold values of environment variables, which may be secret.
    """

    up: tuple[str, ...]
    down: tuple[str, ...]
    use_transaction: bool = True
    uses_environment: bool = False
    up_lines: tuple[int, ...] = field(default=(), compare=False, repr=False)
    down_lines: tuple[int, ...] = field(default=(), compare=False, repr=False)

    def statements(self, direction: Direction) -> tuple[str, ...]:
        """Return the statements for one direction."""
        return self.up if direction == "up" else self.down

    def lines(self, direction: Direction) -> tuple[int, ...]:
        """Return the lines on which those statements start."""
        return self.up_lines if direction == "up" else self.down_lines


def parse_migration(text: str, environ: Mapping[str, str] | None = None) -> ParsedMigration:
    """Split a migration file into statements; raises MigrationError, with the line's number, for a broken one.

    `environ` is what `ENVSUB ON` fills in from, nothing unless given; an error never shows a value from it.
    """
    parser = _Parser(environ or {})
    # Go's scanner ends a line at "\n" and drops one "\r" before it; str.splitlines would know more line ends.
    lines = text.removesuffix("\n").split("\n") if text else []
    for number, line in enumerate(lines, start=1):
        if len(line.encode("utf-8", "surrogatepass")) > _LONGEST_LINE:
            raise _error(number, "longer than the 4 MiB that goose reads")
        parser.feed(number, line.removesuffix("\r"))
    return parser.finish()


@dataclass
class _Parser:
    environ: Mapping[str, str]
    direction: Direction | None = None
    in_block: bool = False  # between StatementBegin and StatementEnd
    after_empty_block: bool = False
    use_transaction: bool = True
    expands: bool = False  # between ENVSUB ON and ENVSUB OFF
    uses_environment: bool = False
    buffer: list[_Line] = field(default_factory=list)
    statements: dict[Direction, list[tuple[str, int]]] = field(default_factory=lambda: {"up": [], "down": []})

    def feed(self, number: int, line: str) -> None:
        blank = not line.strip(SPACE)
        comment = line.strip(SPACE).startswith("--")
        if comment and "+goose" in line:
            self._annotate(number, _annotation(number, line))
        elif (not self.buffer and (comment or line == "")) or (self.direction is None and blank):
            return
        else:
            self._add(number, line)

    def finish(self) -> ParsedMigration:
        if self.direction is None:
            raise MigrationError("the annotation '-- +goose Up' is missing")
        if self.in_block:
            raise MigrationError("the annotation '-- +goose StatementEnd' is missing")
        self._refuse_leftover("at the end of the file")
        up, down = self.statements["up"], self.statements["down"]
        return ParsedMigration(
            up=tuple(text for text, _ in up),
            down=tuple(text for text, _ in down),
            use_transaction=self.use_transaction,
            uses_environment=self.uses_environment,
            up_lines=tuple(line for _, line in up),
            down_lines=tuple(line for _, line in down),
        )

    def _add(self, number: int, line: str) -> None:
        if self.direction is None:
            if line.startswith("\ufeff"):
                raise _error(number, "the file starts with a byte order mark: save it as UTF-8 without one")
            raise _error(number, "SQL before the annotation '-- +goose Up'")
        if self.after_empty_block:
            raise _error(
                number, "goose skips this line, because the StatementBegin block before it is empty: remove it"
            )
        text = self._expand(number, line) if self.expands else line
        self.buffer.append(_Line(number, text, line))
        if not self.in_block and _ends_statement(text):
            self._close_statement()

    def _expand(self, number: int, line: str) -> str:
        self.uses_environment = True
        try:
            return expand_line(line, self.environ)
        except MigrationError as error:
            raise _error(number, f"environment substitution: {error}") from None

    def _annotate(self, number: int, annotation: str) -> None:
        match annotation:
            case "up":
                if self.direction is not None:
                    raise _error(number, "a second annotation '-- +goose Up'")
                self.direction = "up"
            case "down":
                self._start_down(number)
            case "statementbegin" | "statementend":
                self._block(number, begins=annotation == "statementbegin")
            case "no transaction":
                self.use_transaction = False
            case _:
                self.expands = annotation == "envsub on"

    def _start_down(self, number: int) -> None:
        if self.direction != "up" or self.in_block:
            raise _error(number, "'-- +goose Down' must stand once, after the statements of '-- +goose Up'")
        self._refuse_leftover(f"before line {number}")
        self.direction = "down"
        self.after_empty_block = False

    def _block(self, number: int, *, begins: bool) -> None:
        if begins and (self.direction is None or self.in_block):
            raise _error(number, "'-- +goose StatementBegin' must follow '-- +goose Up' or Down, and not another one")
        if not begins and not self.in_block:
            raise _error(number, "'-- +goose StatementEnd' without a StatementBegin")
        self.in_block = begins
        self.after_empty_block = not begins and not self.buffer
        if not begins and self.buffer:
            self._close_statement()

    def _close_statement(self) -> None:
        assert self.direction is not None
        start = next((line.number for line in self.buffer if line.text.strip(SPACE)), self.buffer[0].number)
        self.statements[self.direction].append(("\n".join(line.text for line in self.buffer).strip(SPACE), start))
        self.buffer.clear()

    def _refuse_leftover(self, where: str) -> None:
        if leftover := [line.written.strip(SPACE) for line in self.buffer if line.text.strip(SPACE)]:
            raise MigrationError(f"unfinished statement {where}: {leftover[0]!r}; is a semicolon missing?")
        self.buffer.clear()


def _annotation(number: int, line: str) -> str:
    if line[0] in " \t":
        raise _error(number, f"an annotation must start the line: {line.strip()!r}")
    name = line.replace("--", "").replace("+goose", "", 1).strip(SPACE).casefold()
    if name not in _ANNOTATIONS:
        raise _error(number, f"{line.strip()!r} is not an annotation that goose knows")
    return name


def _ends_statement(text: str) -> bool:
    """Tell whether the last word before a trailing comment ends in a semicolon; quotes do not matter to goose."""
    last = ""
    for word in _SPACES.split(text):
        if word.startswith("--"):
            break
        last = word or last
    return last.endswith(";")


def _error(number: int, problem: str) -> MigrationError:
    return MigrationError(f"line {number}: {problem}")


def expand_line(line: str, environ: Mapping[str, str]) -> str:
    """Return `line` with its variables filled in; raises MigrationError, which never shows a value.

    The grammar is that of the library which goose v3.27 uses, mfridman/interpolate v0.0.2: `$NAME`, `${NAME}`,
    `${NAME:-default}` (unset or empty), `${NAME-default}` (unset), `${NAME?message}` (an error where unset),
    `${NAME:offset}` and `${NAME:offset:length}` (in bytes); `$$` and `\\$` stand for a dollar sign. A default may hold more of
    them. `${NAME:+word}` and `${NAME:?message}` are errors, there as here.
    """
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
            raise MigrationError(f"${{{name}:…}}: {word!r} is not a whole number")
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
