"""The picture of the module graph."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from erpkit.modules import Edge, ModuleCheck
from erpkit.ui.module_layout import Layout, lay_out, without_implied
from erpkit.ui.plots import AMBER, BLUE, GREY, RED, Picture, picture_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_modules"]

Pair = tuple[str, str]
Point = tuple[float, float]

# Okabe and Ito's colours, which people who see fewer colours can tell apart.
_COLORS = {
    "declared": GREY, "import": "#0072b2", "event": "#e69f00", "foreign key": "#009e73", "view": "#009e73", "query": "#cc79a7",
}  # fmt: skip
_ROW, _BOX, _GAP = 0.46, 0.3, 0.75  # inches: from row to row, a box's height, between layers
_LETTER, _LONGEST = 0.078, 36  # inches a letter, letters a name
_FEW = 40  # arrows that may be drawn kind by kind


@dataclass(frozen=True)
class _Part:
    """What of a graph is drawn: some modules, the arrows between them, and how many others need each."""

    names: tuple[str, ...]
    pairs: Mapping[Pair, tuple[Edge, ...]]
    more: Mapping[str, int]
    implied: int


def plot_modules(check: ModuleCheck, *, around: str = "", most: int = 40) -> Picture:
    """Draw modules in layers from left to right, an arrow to each one that needs another; kinds by colour, cycles in red.

    Of more modules than `most`, those are drawn that findings are about and that most others need, and the rest is counted.
    With `around`, that module and what depends on it.
    """
    if not check.names:
        return Picture("<p>There are no modules.</p>", "no modules")
    part = _part_of(check, _chosen(check, around, most))
    cuts = {pair for knot in check.knots for pair in knot.cut.edges} & set(part.pairs)
    layout = lay_out(part.names, [pair for pair in part.pairs if all(name in part.names for name in pair)], cuts)
    return _drawn(check, part, layout, cuts, around)


def _chosen(check: ModuleCheck, around: str, most: int) -> list[str]:
    """Choose modules to draw, in the order of how interesting they are."""
    known = [*check.names, *(check.outside if len(check.names) + len(check.outside) <= most else ())]
    needed_by: dict[str, set[str]] = {}
    for source, target in check.pairs:
        needed_by.setdefault(target, set()).add(source)
    if around:
        return _around(around, needed_by)[:most]
    if len(known) <= most:
        return known
    cuts = [name for knot in check.knots for pair in knot.cut.edges[: most // 4] for name in pair]
    in_cycles = [*cuts, *(name for knot in check.knots for name in knot.path)]
    at_fault = [name for finding in check.findings if "cycle" not in finding.kind for name in finding.modules]
    hubs = sorted(known, key=lambda name: (-len(needed_by.get(name, ())), name))
    wanted = dict.fromkeys([*in_cycles[: most // 2], *at_fault[: most // 2], *hubs])
    return [name for name in wanted if name in set(known)][:most]


def _around(module: str, needed_by: Mapping[str, Collection[str]]) -> list[str]:
    """Return a module and those that need it, the nearest first."""
    found = {module: None}
    nearest = [module]
    while nearest:
        nearest = sorted({one for name in nearest for one in needed_by.get(name, ())} - set(found))
        found |= dict.fromkeys(nearest)
    return list(found)


def _part_of(check: ModuleCheck, names: Sequence[str]) -> _Part:
    shown = set(names)
    pairs = {pair: edges for pair, edges in check.pairs.items() if shown.issuperset(pair) and pair[0] != pair[1]}
    more = Counter(target for source, target in check.pairs if target in shown and source not in shown)
    if len(pairs) <= _FEW:
        return _Part(tuple(names), pairs, more, 0)
    cuts = {pair for knot in check.knots for pair in knot.cut.edges}
    special = {pair for knot in check.knots for pair in pairwise(knot.path)} | _at_fault(check)
    kept = {*without_implied([pair for pair in pairs if pair not in cuts], special), *cuts}
    few = {pair: edges for pair, edges in pairs.items() if pair in kept}
    return _Part(tuple(names), few, more, len(pairs) - len(few))


def _at_fault(check: ModuleCheck) -> set[Pair]:
    """The pairs of which one uses the other without having declared it."""
    return {(f.modules[0], f.modules[1]) for f in check.findings if f.kind == "undeclared dependency"}


def _drawn(check: ModuleCheck, part: _Part, layout: Layout, cuts: Collection[Pair], around: str) -> Picture:
    from matplotlib.figure import Figure  # noqa: PLC0415 - slow to import

    labels = {name: _label(name, part.more.get(name, 0)) for name in part.names}
    left, width = _columns(layout, labels)
    at = {name: (left[layer] + width[layer] / 2, -height * _ROW) for name, (layer, height) in layout.places.items()}
    boxes = {name: _LETTER * len(labels[name]) + 0.24 for name in part.names}
    in_cycle = {pair for knot in check.knots for pair in pairwise(knot.path)} | set(cuts)
    lines = []
    for pair, edges in part.pairs.items():
        if pair in cuts:
            path = _arc(at[pair[1]], at[pair[0]])
        else:
            bends = [(left[layer], width[layer], -height * _ROW) for layer, height in layout.bends[pair]]
            path = _curve(at[pair[1]], boxes[pair[1]], bends, at[pair[0]], boxes[pair[0]])
        lines += _lines(path, edges, red=pair in in_cycle, cut=pair in cuts, alone=len(part.pairs) > _FEW)
    points = [*at.values(), *(point for line in lines for point in line.path)]
    low, high = min(y for _, y in points) - 0.35, max(y for _, y in points) + 0.35
    total = left[-1] + width[-1] + 0.2
    notes = _notes(check, part, around)
    figure = Figure(figsize=(max(total, 5.5), high - low + 0.42 + 0.2 * len(notes)))
    bottom = (0.42 + 0.2 * len(notes)) / figure.get_figheight()
    axes = figure.add_axes((0, bottom, total / figure.get_figwidth(), 1 - bottom), xlim=(0, total), ylim=(low, high))
    axes.set_axis_off()
    for line in lines:
        _draw_line(axes, line)
    red = {name for pair in in_cycle for name in pair}
    for name in part.names:
        color = AMBER if name == around else RED if name in red else "#64748b" if name in check.outside else BLUE
        _draw_box(axes, at[name], boxes[name], labels[name], color)
    _legend(figure, lines, notes)
    return picture_of(figure, _in_words(check, part))


def _columns(layout: Layout, labels: Mapping[str, str]) -> tuple[list[float], list[float]]:
    """Left edge and width of each layer, in inches: as wide as its longest name."""
    width = [0.0] * layout.layers
    for name, (layer, _) in layout.places.items():
        width[layer] = max(width[layer], _LETTER * len(labels[name]) + 0.24)
    passing = Counter(layer for bends in layout.bends.values() for layer, _ in bends)
    left, x = [], 0.2
    for layer, wide in enumerate(width):
        left.append(x)
        x += wide + _GAP + 0.02 * min(passing[layer], 40)
    return left, width


@dataclass(frozen=True)
class _Line:
    path: Sequence[Point]
    kind: str
    is_declared: bool
    is_cut: bool


def _lines(path: Sequence[Point], edges: Iterable[Edge], *, red: bool, cut: bool, alone: bool) -> list[_Line]:
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
            linestyle="-" if line.is_declared else (0, (4, 2)),
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


def _legend(figure: object, lines: Sequence[_Line], notes: Sequence[str]) -> None:
    from matplotlib.figure import Figure  # noqa: PLC0415
    from matplotlib.lines import Line2D  # noqa: PLC0415

    assert isinstance(figure, Figure)
    words = {
        "declared": "declared only", "import": "import", "event": "event", "foreign key": "key or view", "view": "key or view",
        "query": "query", "cycle": "in a cycle",
    }  # fmt: skip
    kinds = {words[line.kind]: RED if line.kind == "cycle" else _COLORS[line.kind] for line in lines}
    handles = [Line2D([], [], color=color, linewidth=2, label=word) for word, color in kinds.items()]
    if any(not line.is_declared for line in lines):
        handles.append(
            Line2D([], [], color="#334155", linewidth=1.5, linestyle=(0, (4, 2)), label="not declared itself")
        )
    if any(line.is_cut for line in lines):
        handles.append(Line2D([], [], color=RED, linewidth=3.6, label="to cut"))
    height = figure.get_figheight()
    if handles:
        figure.legend(handles=handles, loc="lower left", bbox_to_anchor=(0, 0.2 * len(notes) / height), ncols=len(handles),
                      frameon=False, fontsize=8, handlelength=1.8, columnspacing=1.2)  # fmt: skip
    for number, note in enumerate(reversed(notes)):
        figure.text(0.2 / figure.get_figwidth(), (0.07 + 0.2 * number) / height, note, fontsize=8, color="#334155")


def _notes(check: ModuleCheck, part: _Part, around: str) -> list[str]:
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


def _label(name: str, more: int) -> str:
    short = name if len(name) <= _LONGEST else f"{name[:_LONGEST]}…"
    return f"{short}  +{more}" if more else short


def _in_words(check: ModuleCheck, part: _Part) -> str:
    cycles = "; ".join(f"cycle: {' -> '.join(_shortened(knot.path))}" for knot in check.knots[:5])
    order = f"load order: {', '.join(_shortened(check.order))}" if check.order else ""
    return "; ".join(text for text in (cycles, order) if text) or f"{len(part.names)} modules"


def _shortened(names: Sequence[str], most: int = 30) -> list[str]:
    return [*names] if len(names) <= most else [*names[:most], f"… {len(names) - most} more"]
