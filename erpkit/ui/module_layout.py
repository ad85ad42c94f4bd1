"""Where modules and their arrows go in a picture: layers from left to right, with few crossings (Sugiyama's method). Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from erpkit.modules.cycles import find_knots, graph_of

__all__ = ["Layout", "lay_out", "without_implied"]

Pair = tuple[str, str]
_Node = str | tuple[str, str, int]  # a module, or a point in a layer that a long arrow passes

_SWEEPS = 8
_PASSES = 6
_BOX, _BEND = 1.0, 0.45  # the height of a module's row, and of an arrow's that passes


@dataclass(frozen=True)
class Layout:
    """Layer and height of each module, and of the points that long arrows pass, by source and target."""

    places: Mapping[str, tuple[int, float]]
    bends: Mapping[Pair, Sequence[tuple[int, float]]]

    @property
    def layers(self) -> int:
        """How many layers there are."""
        return 1 + max((layer for layer, _ in self.places.values()), default=-1)


def lay_out(names: Iterable[str], pairs: Collection[Pair], back: Collection[Pair] = ()) -> Layout:
    """Place modules so that each stands to the right of those that it needs.

    `pairs` are source and target, the source needs the target; those in `back` are left out of account, so that the rest
    has no cycle. Raises ValueError when it has one all the same.
    """
    forward = [(s, t) for s, t in dict.fromkeys(pairs) if s != t and (s, t) not in back]
    depth = _depths(graph_of(forward, names))
    links: list[tuple[_Node, _Node]] = []
    layers: list[list[_Node]] = [[] for _ in range(1 + max(depth.values(), default=-1))]
    for name in sorted(depth):
        layers[depth[name]].append(name)
    passing: dict[Pair, list[_Node]] = {}
    for source, target in forward:
        points: list[_Node] = [(source, target, layer) for layer in range(depth[target] + 1, depth[source])]
        for point in points:
            layers[_layer_of(point)].append(point)
        passing[source, target] = points
        links += zip([target, *points], [*points, source], strict=True)
    left, right = _sides(links)
    _uncross(layers, left, right)
    height = _heights(layers, left, right)
    return Layout(
        {name: (layer, height[name]) for name, layer in depth.items()},
        {pair: [(_layer_of(point), height[point]) for point in points] for pair, points in passing.items()},
    )


def without_implied(pairs: Iterable[Pair], keep: Collection[Pair] = ()) -> list[Pair]:
    """Leave out the pairs that others imply: who needs a needs b too, if a needs b. Those in `keep` stay.

    Only for pairs without a cycle.
    """
    all_pairs = list(pairs)
    graph = graph_of(all_pairs)
    number = {name: n for n, name in enumerate(graph)}
    depth = _depths(graph)
    reach: dict[str, int] = {}
    for name in sorted(graph, key=depth.__getitem__):
        reach[name] = 0
        for target in graph[name]:
            reach[name] |= reach[target] | 1 << number[target]
    return [
        (source, target)
        for source, target in all_pairs
        if (source, target) in keep
        or not any(other != target and reach[other] >> number[target] & 1 for other in graph[source])
    ]


def _depths(graph: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """The length of the longest way down from each node, without recursion: 500 may stand in a row."""
    if find_knots(graph):
        raise ValueError("there is a cycle in what is to be laid out")
    depth: dict[str, int] = {}
    for start in graph:
        waiting = [start]
        while waiting:
            name = waiting[-1]
            open_ones = [target for target in graph[name] if target not in depth]
            if open_ones:
                waiting += open_ones
            else:
                depth[name] = 1 + max((depth[target] for target in graph[name]), default=-1)
                waiting.pop()
    return depth


def _layer_of(point: _Node) -> int:
    assert isinstance(point, tuple)
    return point[2]


def _sides(links: Iterable[tuple[_Node, _Node]]) -> tuple[dict[_Node, list[_Node]], dict[_Node, list[_Node]]]:
    left: dict[_Node, list[_Node]] = {}
    right: dict[_Node, list[_Node]] = {}
    for one, other in links:
        right.setdefault(one, []).append(other)
        left.setdefault(other, []).append(one)
    return left, right


def _uncross(
    layers: list[list[_Node]], left: Mapping[_Node, list[_Node]], right: Mapping[_Node, list[_Node]]
) -> None:  # fmt: skip
    """Sort each layer by the mean place of its neighbours in the one before, to and fro."""
    for sweep in range(_SWEEPS):
        order, neighbours = (layers[1:], left) if sweep % 2 == 0 else (layers[-2::-1], right)
        place = {node: row / max(len(layer), 1) for layer in layers for row, node in enumerate(layer)}
        for layer in order:
            mean = {n: fmean(place[m] for m in neighbours[n]) if n in neighbours else place[n] for n in layer}
            layer.sort(key=lambda node: mean[node])
            place |= {node: row / len(layer) for row, node in enumerate(layer)}


def _heights(
    layers: Sequence[Sequence[_Node]], left: Mapping[_Node, list[_Node]], right: Mapping[_Node, list[_Node]]
) -> dict[_Node, float]:
    """Give each node the height of its neighbours as far as the order and the room between boxes allow; 0 is the middle."""
    height: dict[_Node, float] = {}
    for layer in layers:
        height |= _stack(layer, dict.fromkeys(layer, 0.0))
    for number in range(_PASSES):
        for layer in layers if number % 2 == 0 else reversed(layers):
            near = {node: [*left.get(node, ()), *right.get(node, ())] for node in layer}
            wish = {n: fmean(height[m] for m in near[n]) if near[n] else height[n] for n in layer}
            height |= _stack(layer, wish)
    return height


def _stack(layer: Sequence[_Node], wish: Mapping[_Node, float]) -> dict[_Node, float]:
    """Put nodes below each other in their order, as near to what they wish for as they can be (in least squares).

    Those that would overlap become one block, which stands where they wish for on the average.
    """
    offset, top = [], 0.0
    for before, node in zip([None, *layer], layer, strict=False):
        top += (_room(before) + _room(node)) / 2 if before is not None else 0.0
        offset.append(top)
    blocks: list[list[float]] = []
    for node, down in zip(layer, offset, strict=True):
        blocks.append([wish[node] - down, 1])
        while len(blocks) > 1 and blocks[-2][0] >= blocks[-1][0]:
            mean, count = blocks.pop()
            blocks[-1] = [
                (blocks[-1][0] * blocks[-1][1] + mean * count) / (blocks[-1][1] + count),
                blocks[-1][1] + count,
            ]
    tops = [mean for mean, count in blocks for _ in range(int(count))]
    return {node: at + down for node, at, down in zip(layer, tops, offset, strict=True)}


def _room(node: _Node) -> float:
    return _BOX if isinstance(node, str) else _BEND
