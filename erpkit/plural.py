"""A number with its noun in the singular or the plural."""

from __future__ import annotations


def count_of(number: int, one: str, many: str = "") -> str:
    """Return a number and its noun: `1 finding`, `2 findings`.

    `many` is the plural where it is not `one` with an s; the verb may be part of both: `count_of(n, "event waits", "events wait")`.
    """
    return f"{number:,} {one if number == 1 else many or f'{one}s'}"
