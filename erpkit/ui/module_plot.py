"""The picture of the module graph."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from erpkit.modules import Edge, ModuleCheck
from erpkit.ui.module_layout import Layout, lay_out
from erpkit.ui.module_part import FEW_ARROWS, Part, choose_part
from erpkit.ui.plots import AMBER, BLUE, GREY, RED, Picture, picture_of
from erpkit.visible import visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["plot_modules"]

Pair = tuple[str, str]
Point = tuple[float, float]

# Okabe and Ito's colours, which people who see fewer colours can tell apart.
_COLORS = {
    "declared": GREY, "import": "#0072b2", "event": "#e69f00", "foreign key": "#009e73", "view": "#009e73", "query": "#cc79a7",
}  # fmt: skip
_WORDS = {
    "declared": "declared only", "import": "import", "event": "event", "foreign key": "key or view", "view": "key or view",
    "query": "query", "cycle": "in a cycle",
}  # fmt: skip
_OUTSIDE = "#64748b"
_DASHES = (0, (4, 2))
_ROW, _BOX, _GAP = 0.46, 0.3, 0.75  # inches: from row to row, a box's height, between layers
_LETTER, _LONGEST = 0.078, 36  # inches a letter, letters a name


def plot_modules(check: ModuleCheck, *, around: str = "", most: int = 40) -> Picture:
    """Draw modules in layers from left to right, an arrow to each one that needs another; kinds by colour, cycles in red.

    Of more modules than `most`, those are drawn that findings are about and that most others need, and the rest is counted.
    With `around`, that module and what depends on it.
    """
    if not check.names:
        return Picture("<p>There are no modules.</p>", "no modules")
    part = choose_part(check, around, most)
    cuts = {pair for knot in check.knots for pair in knot.cut.edges} & set(part.pairs)
    red = {pair for knot in check.knots for pair in pairwise(knot.path)} | cuts
    sketch = _sketch(part, lay_out(part.names, part.pairs, cuts), red, cuts)
    figure = _painted(sketch, _box_colors(check, part, around, red), _notes(check, part, around))
    return picture_of(figure, _in_words(check, part))


@dataclass(frozen=True)
class _Line:
    path: Sequence[Point]
    kind: str
    is_declared: bool
    is_cut: bool


@dataclass(frozen=True)
class _Sketch:
    """Where everything goes, in inches: the middle and width of each box, its label, and the lines."""

    labels: Mapping[str, str]
    at: Mapping[str, Point]
    boxes: Mapping[str, float]
    lines: Sequence[_Line]
    width: float

    @property
    def bounds(self) -> tuple[float, float]:
        """The lowest and the highest place that something takes."""
        heights = [y for _, y in self.at.values()] + [y for line in self.lines for _, y in line.path]
        return min(heights) - 0.35, max(heights) + 0.35


def _sketch(part: Part, layout: Layout, red: Collection[Pair], cuts: Collection[Pair]) -> _Sketch:
    labels = {name: _label(name, part.more.get(name, 0)) for name in part.names}
    left, width = _columns(layout, labels)
    at = {name: (left[layer] + width[layer] / 2, -height * _ROW) for name, (layer, height) in layout.places.items()}
    boxes = {name: _width(label) for name, label in labels.items()}
    lines = []
    for (source, target), edges in part.pairs.items():
        if (source, target) in cuts:
            path = _arc(at[target], at[source])
        else:
            bends = [(left[layer], width[layer], -height * _ROW) for layer, height in layout.bends[source, target]]
            path = _curve(at[target], boxes[target], bends, at[source], boxes[source])
        lines += _lines(path, edges, (source, target) in red, (source, target) in cuts, len(part.pairs) > FEW_ARROWS)
    return _Sketch(labels, at, boxes, lines, left[-1] + width[-1] + 0.2)


def _painted(sketch: _Sketch, colors: Mapping[str, str], notes: Sequence[str]) -> Figure:
    from matplotlib.figure import Figure  # noqa: PLC0415 - slow to import

    (low, high), entries = sketch.bounds, _legend_entries(sketch.lines)
    foot = 0.42 + 0.2 * len(notes)
    width, height = max(sketch.width, _legend_width(entries), 5.5), high - low + foot
    figure = Figure(figsize=(width, height))
    where = (0, foot / height, sketch.width / width, 1 - foot / height)
    axes = figure.add_axes(where, xlim=(0, sketch.width), ylim=(low, high))
    axes.set_axis_off()
    for line in sketch.lines:
        _draw_line(axes, line)
    for name, label in sketch.labels.items():
        _draw_box(axes, sketch.at[name], sketch.boxes[name], label, colors[name])
    _legend(figure, entries, notes)
    return figure


def _box_colors(check: ModuleCheck, part: Part, around: str, red: Collection[Pair]) -> dict[str, str]:
    in_cycle = {name for pair in red for name in pair}
    return {
        name: AMBER if name == around else RED if name in in_cycle else _OUTSIDE if name in check.outside else BLUE
        for name in part.names
    }


def _columns(layout: Layout, labels: Mapping[str, str]) -> tuple[list[float], list[float]]:
    """Left edge and width of each layer, in inches: as wide as its longest name."""
    width = [0.0] * layout.layers
    for name, (layer, _) in layout.places.items():
        width[layer] = max(width[layer], _width(labels[name]))
    passing = Counter(layer for bends in layout.bends.values() for layer, _ in bends)
    left, x = [], 0.2
    for layer, wide in enumerate(width):
        left.append(x)
        x += wide + _GAP + 0.02 * min(passing[layer], 40)
    return left, width


def _lines(path: Sequence[Point], edges: Iterable[Edge], red: bool, cut: bool, alone: bool) -> list[_Line]:
    """One line for each kind, side by side; one alone where there are many."""
    kinds = list(dict.fromkeys(edge.kind for edge in edges))
    is_declared = "declared" in kinds
    found = [kind for kind in kinds if kind != "declared"] or kinds
    if red:
        return [_Line(path, "cycle", is_declared, cut)]
    found = found[:1] if alone else found
    offsets = [0.055 * (n - (len(found) - 1) / 2) for n in range(len(found))]
    return [
        _Line([(x, y + offset) for x, y in path], kind, is_declared, cut)
        for kind, offset in zip(found, offsets, strict=True)
    ]


def _curve(
    start: Point, start_width: float, bends: Sequence[tuple[float, float, float]], end: Point, end_width: float
) -> list[Point]:
    """Points of a curve that leaves a box to the right, runs level through the layers that it passes, and enters another."""
    stops: list[Point] = [(start[0] + start_width / 2, start[1])]
    for left, width, y in bends:
        stops += [(left, y), (left + width, y)]
    stops.append((end[0] - end_width / 2, end[1]))
    points = [stops[0]]
    for (x, y), (to_x, to_y) in pairwise(stops):
        middle = (x + to_x) / 2
        points += [(middle, y), (middle, to_y), (to_x, to_y)]
    return points


def _arc(start: Point, end: Point) -> list[Point]:
    """Points of a curve that leads back, over the boxes."""
    top = max(start[1], end[1]) + _BOX + 0.12 * abs(start[0] - end[0]) ** 0.5
    return [(start[0], start[1] + _BOX / 2), (start[0], top), (end[0], top), (end[0], end[1] + _BOX / 2)]


def _draw_line(axes: Axes, line: _Line) -> None:
    from matplotlib.patches import FancyArrowPatch  # noqa: PLC0415
    from matplotlib.path import Path  # noqa: PLC0415

    red = line.kind == "cycle"
    axes.add_patch(
        FancyArrowPatch(
            path=Path(list(line.path), [Path.MOVETO] + [Path.CURVE4] * (len(line.path) - 1)),
            arrowstyle="-|>",
            mutation_scale=11,
            color=RED if red else _COLORS[line.kind],
            linewidth=3.2 if line.is_cut else 2.0 if red else 1.3,
            linestyle="-" if line.is_declared else _DASHES,
            zorder=5 if line.is_cut else 2 if red else 1,  # what leads back would be lost behind boxes
        )
    )


def _draw_box(axes: Axes, at: Point, width: float, label: str, color: str) -> None:
    from matplotlib.patches import FancyBboxPatch  # noqa: PLC0415

    corner = (at[0] - width / 2, at[1] - _BOX / 2)
    shape = "round,pad=0,rounding_size=0.07"
    axes.add_patch(
        FancyBboxPatch(corner, width, _BOX, shape, facecolor=color, edgecolor="white", linewidth=1, zorder=3)
    )
    axes.text(*at, label.replace("$", r"\$"), ha="center", va="center", color="white", fontsize=9, zorder=4)


def _legend_entries(lines: Sequence[_Line]) -> list[tuple[str, str, float, bool]]:
    """Word, colour and width of each kind of line that is drawn, and whether it is dashed."""
    kinds = dict.fromkeys(_WORDS[line.kind] for line in lines)
    colors = {_WORDS[kind]: color for kind, color in {**_COLORS, "cycle": RED}.items()}
    entries = [(word, colors[word], 2.0, False) for word in kinds]
    if any(not line.is_declared for line in lines):
        entries.append(("not declared itself", "#334155", 1.5, True))
    if any(line.is_cut for line in lines):
        entries.append(("to cut", RED, 3.6, False))
    return entries


def _legend_width(entries: Sequence[tuple[str, str, float, bool]]) -> float:
    return sum(0.5 + 0.072 * len(word) for word, *_ in entries) + 0.3


def _legend(figure: Figure, entries: Sequence[tuple[str, str, float, bool]], notes: Sequence[str]) -> None:
    from matplotlib.lines import Line2D  # noqa: PLC0415

    handles = [
        Line2D([], [], color=color, linewidth=width, linestyle=_DASHES if dashed else "-", label=word)
        for word, color, width, dashed in entries
    ]
    height = figure.get_figheight()
    if handles:
        figure.legend(handles=handles, loc="lower left", bbox_to_anchor=(0, 0.2 * len(notes) / height), ncols=len(handles),
                      frameon=False, fontsize=8, handlelength=1.8, columnspacing=1.2)  # fmt: skip
    for number, note in enumerate(reversed(notes)):
        figure.text(0.2 / figure.get_figwidth(), (0.07 + 0.2 * number) / height, note, fontsize=8, color="#334155")


def _notes(check: ModuleCheck, part: Part, around: str) -> list[str]:
    total = len(check.names) + len(check.outside)
    notes = []
    if around:
        notes.append(f"{around} and what depends on it, {len(part.names)} of {total} modules")
    elif len(part.names) < total:
        notes.append(f"{len(part.names)} of {total} modules: those that findings name and those that most others need")
    if any(part.more.values()):
        notes.append("+n: so many modules more need it")
    if set(check.outside) & set(part.names):
        notes.append("grey modules are outside of what was read")
    if part.implied:
        notes.append(f"{part.implied} arrows that others imply are left out")
    return notes


def _width(label: str) -> float:
    return _LETTER * len(label) + 0.24


def _label(name: str, more: int) -> str:
    name = visible(name)
    short = name if len(name) <= _LONGEST else f"{name[:_LONGEST]}…"
    return f"{short}  +{more}" if more else short


def _in_words(check: ModuleCheck, part: Part) -> str:
    cycles = "; ".join(f"cycle: {' -> '.join(_shortened(knot.path))}" for knot in check.knots[:5])
    order = f"load order: {', '.join(_shortened(check.order))}" if check.order else ""
    return "; ".join(text for text in (cycles, order) if text) or f"{len(part.names)} modules"


def _shortened(names: Sequence[str], most: int = 30) -> list[str]:
    return [*names] if len(names) <= most else [*names[:most], f"… {len(names) - most} more"]
