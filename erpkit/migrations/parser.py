"""goose's file format: a pure function from a file's text to its statements.

The rules are those of goose v3.27 (`internal/sqlparser/parser.go`), so that a file means the same to both. Where goose would
drop a line without a word (the one after an empty StatementBegin block), the file is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from erpkit.errors import MigrationError
from erpkit.migrations.envsub import SPACE, expand_line

__all__ = ["Direction", "ParsedMigration", "parse_migration"]

Direction = Literal["up", "down"]

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
        raise _error(number, f"{line.strip()!r} is no annotation of goose's")
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
