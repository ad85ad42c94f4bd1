"""Where in its file a statement failed: from what PostgreSQL answered to the message that it was sent in."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import psycopg

from erpkit.migrations.files import Step
from erpkit.migrations.tokens import split_statements

__all__ = ["Part", "Place", "note_place", "place_in", "place_of"]

_LONGEST = 200  # characters of a statement that are shown
_BEFORE = 60  # of those, how many before the position that PostgreSQL names


@dataclass(frozen=True)
class Part:
    """A part of a message: one of the statements of a step, counted from 0, or something of erpkit's own."""

    text: str
    step: Step | None = None
    number: int = 0


@dataclass(frozen=True)
class Place:
    """A line of a migration's file, counted from 1, the column in it if PostgreSQL named one, and the statement there."""

    line: int
    column: int | None
    statement: str

    def __str__(self) -> str:
        column = f", column {self.column}" if self.column is not None else ""
        return f"line {self.line}{column}" + (f": {self.statement}" if self.statement else "")


def place_in(parts: Sequence[Part], separator: str, count: int, error: psycopg.Error) -> Place | None:
    """Find the statement that failed after `count` others of the message were answered; None where it is erpkit's own.

    PostgreSQL reads the whole message before it runs anything of it: a syntax error is known by its position alone.
    """
    position = _position(error)
    start = 0
    for part in parts:
        end = start + len(part.text)
        if position is not None:
            if start <= position <= end:
                return _place(part, position - start, is_exact=True)
        elif (statements := split_statements(part.text)) and count < len(statements):
            return _place(part, statements[count].start, is_exact=False)
        else:
            count -= len(statements)
        start = end + len(separator)
    return None


def note_place(error: psycopg.Error, place: Place | None) -> None:
    """Keep with an error where it happened."""
    vars(error)["erpkit_place"] = place


def place_of(error: BaseException) -> Place | None:
    """Return what `note_place` kept with an error."""
    found: Place | None = vars(error).get("erpkit_place")
    return found


def _position(error: psycopg.Error) -> int | None:
    written = error.diag.statement_position
    return int(written) - 1 if written else None


def _place(part: Part, offset: int, *, is_exact: bool) -> Place | None:
    if part.step is None:
        return None
    migration, direction = part.step
    lines = migration.content.lines(direction)
    first = lines[part.number] if part.number < len(lines) else 1
    # A variable's value may hold a line's end, and a secret: what is known is where the statement begins.
    if migration.content.uses_environment:
        return Place(first, None, "")
    before = part.text[:offset]
    column = len(before) - (before.rfind("\n") + 1) + 1 if is_exact else None
    return Place(first + before.count("\n"), column, _show(part.text, offset))


def _show(text: str, offset: int) -> str:
    """Return the statement that `offset` is in, in one line, or what is around it where that is long."""
    statements = split_statements(text)
    starts = [statement.start for statement in statements if statement.start <= offset]
    start = starts[-1] if starts else 0
    following = [statement.start for statement in statements if statement.start > offset]
    whole = text[start : following[0] if following else len(text)]
    shown = whole[max(offset - start - _BEFORE, 0) :] if len(whole) > _LONGEST else whole
    shown = re.sub(r"\s+", " ", shown[: 2 * _LONGEST]).strip()
    cut = shown[:_LONGEST].rstrip()
    return ("… " if len(whole) > _LONGEST and offset - start > _BEFORE else "") + cut + (" …" if cut != shown else "")
