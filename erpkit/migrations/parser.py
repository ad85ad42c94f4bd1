"""goose's file format: a pure function from a file's text to its statements.

The rules are those of goose v3.27 (`internal/sqlparser/parser.go`), so that a file means the same to both.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from erpkit.errors import MigrationError

__all__ = ["Direction", "ParsedMigration", "parse_migration"]

Direction = Literal["up", "down"]

_ANNOTATIONS = ("up", "down", "statementbegin", "statementend", "no transaction", "envsub on", "envsub off")


@dataclass(frozen=True)
class ParsedMigration:
    """The statements of a migration file, each with its closing semicolon, and whether they run in a transaction."""

    up: tuple[str, ...]
    down: tuple[str, ...]
    use_transaction: bool = True

    def statements(self, direction: Direction) -> tuple[str, ...]:
        """Return the statements for one direction."""
        return self.up if direction == "up" else self.down


def parse_migration(text: str) -> ParsedMigration:
    """Split a migration file into statements; raises MigrationError, with the line's number, for a broken one."""
    parser = _Parser()
    # Go's scanner ends a line at "\n" and drops one "\r" before it; str.splitlines would know more line ends.
    lines = text.removesuffix("\n").split("\n") if text else []
    for number, line in enumerate(lines, start=1):
        parser.feed(number, line.removesuffix("\r"))
    return parser.finish()


@dataclass
class _Parser:
    direction: Direction | None = None
    in_block: bool = False  # between StatementBegin and StatementEnd
    use_transaction: bool = True
    buffer: list[str] = field(default_factory=list)
    statements: dict[Direction, list[str]] = field(default_factory=lambda: {"up": [], "down": []})

    def feed(self, number: int, line: str) -> None:
        if line.strip().startswith("--") and "+goose" in line:
            self._annotate(number, _annotation(number, line))
        elif not self.buffer and (line.strip().startswith("--") or line == ""):
            return
        elif self.direction is None:
            if line.strip():
                raise _error(number, "SQL before the annotation '-- +goose Up'")
        else:
            self.buffer.append(line)
            if not self.in_block and _ends_statement(line):
                self._close_statement()

    def finish(self) -> ParsedMigration:
        if self.direction is None:
            raise MigrationError("the annotation '-- +goose Up' is missing")
        if self.in_block:
            raise MigrationError("the annotation '-- +goose StatementEnd' is missing")
        self._refuse_leftover("at the end of the file")
        return ParsedMigration(tuple(self.statements["up"]), tuple(self.statements["down"]), self.use_transaction)

    def _annotate(self, number: int, annotation: str) -> None:
        match annotation:
            case "up":
                if self.direction is not None:
                    raise _error(number, "a second annotation '-- +goose Up'")
                self.direction = "up"
            case "down":
                if self.direction != "up" or self.in_block:
                    raise _error(number, "'-- +goose Down' must stand once, after the statements of '-- +goose Up'")
                self._refuse_leftover(f"before line {number}")
                self.direction = "down"
            case "statementbegin":
                if self.direction is None or self.in_block:
                    raise _error(
                        number, "'-- +goose StatementBegin' must follow '-- +goose Up' or Down, and not another one"
                    )
                self.in_block = True
            case "statementend":
                if not self.in_block:
                    raise _error(number, "'-- +goose StatementEnd' without a StatementBegin")
                self.in_block = False
                self._close_statement()
            case "no transaction":
                self.use_transaction = False
            case "envsub on":
                raise _error(number, "environment substitution (ENVSUB ON) is not supported")

    def _close_statement(self) -> None:
        assert self.direction is not None
        self.statements[self.direction].append("\n".join(self.buffer).strip())
        self.buffer.clear()

    def _refuse_leftover(self, where: str) -> None:
        if leftover := "\n".join(self.buffer).strip():
            raise MigrationError(f"unfinished statement {where}: {leftover.splitlines()[0]!r}; is a semicolon missing?")
        self.buffer.clear()


def _annotation(number: int, line: str) -> str:
    if line[0] in " \t":
        raise _error(number, f"an annotation must start the line: {line.strip()!r}")
    name = line.replace("--", "").replace("+goose", "", 1).strip().lower()
    if name not in _ANNOTATIONS:
        raise _error(number, f"{line.strip()!r} is no annotation of goose's")
    return name


def _ends_statement(line: str) -> bool:
    """Tell whether the last word before a trailing comment ends in a semicolon; quotes do not matter to goose."""
    last = ""
    for word in line.split():
        if word.startswith("--"):
            break
        last = word
    return last.endswith(";")


def _error(number: int, problem: str) -> MigrationError:
    return MigrationError(f"line {number}: {problem}")
