"""A number with its noun in the singular or the plural."""

from __future__ import annotations


def count_of(number: int, one: str, many: str = "") -> str:
    """Return a number and its noun: `1 finding`, `2 findings`.

    `many` is the plural where it is not `one` with an s; the verb may be part of both: `count_of(n, "event waits", "events wait")`.
    """
    return f"{number:,} {one if number == 1 else many or f'{one}s'}"


def part_of(part: int, total: int, noun: str, does: str, do: str) -> str:
    """Return a part of a number with its verb, which goes by the part: `1 of 12 tenants differs`, `2 of 12 tenants differ`."""
    return f"{part:,} of {count_of(total, noun)} {does if part == 1 else do}"
