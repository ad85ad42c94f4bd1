"""Fit a table into the width of a terminal: which columns are shown, and how wide each is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

GAP = 2  # blanks between two columns
_FAIR = 24  # characters; a narrower column of sentences is hard to read


@dataclass(frozen=True)
class Room:
    """How much room a column needs: its longest word at `least`, `cells` to fold none, `whole` not to fold its head either.

    Columns that are `minor` are the first to be left out, and one in which a row is in trouble is among the last.
    """

    least: int
    cells: int
    whole: int
    is_minor: bool = False
    is_in_trouble: bool = False

    @property
    def fair(self) -> int:
        """The width below which it is better to leave out a minor column."""
        return max(self.least, min(self.cells, _FAIR))


def fit(rooms: Sequence[Room], width: int) -> Mapping[int, int]:
    """Return the columns that fit into a terminal, with their widths.

    Sentences are folded first, between words. Then columns are left out: those that are minor, then others, from the right, and at
    last those in which a row is in trouble.
    The first column always stays, and no column is narrower than its longest word. Pure.
    """
    kept = list(range(len(rooms)))
    for column in [n for n in reversed(kept) if rooms[n].is_minor and not rooms[n].is_in_trouble and n]:
        if _needed([rooms[n].fair for n in kept]) > width:
            kept.remove(column)
    wanted = len(kept)
    for column in sorted(kept[1:], key=lambda n: (rooms[n].is_in_trouble, -n)):
        if _needed([rooms[n].least for n in kept]) > width:
            kept.remove(column)
    for column in (
        range(len(rooms)) if len(kept) < wanted else ()
    ):  # one that was left out in vain, as a wider one had to go
        more = sorted({*kept, column})
        if _needed([rooms[n].fair for n in more]) <= width:
            kept = more
    return _share({n: rooms[n] for n in kept}, width)


def _needed(widths: Sequence[int]) -> int:
    return sum(widths) + GAP * (len(widths) - 1)


def _share(rooms: Mapping[int, Room], width: int) -> dict[int, int]:
    """Give each column what it needs at least, and the rest of the width first to cells and then to heads, narrow ones first."""
    widths = {n: room.least for n, room in rooms.items()}
    left = max(width - _needed(list(widths.values())), 0)
    for wanted in ({n: room.cells for n, room in rooms.items()}, {n: room.whole for n, room in rooms.items()}):
        for n in sorted(rooms, key=lambda n: wanted[n] - widths[n]):
            more = min(wanted[n] - widths[n], left)
            widths[n], left = widths[n] + more, left - more
    return widths
