"""The smallest cut of a graph, proved by linear programming.

A cut has an edge of each cycle. Give each edge a share, so that the shares of each cycle add up to 1 or more: the least sum of
shares is a bound that no cut beats, and where each share is 0 or 1, they are the cut. The dual program packs cycles so that no edge
is used more than once; the simplex method solves it from an empty packing. Cycles are found when they are needed, the shortest ones
by the shares (M. Grötschel, M. Jünger and G. Reinelt, A Cutting Plane Algorithm for the Linear Ordering Problem, 1984). Where a
share is neither 0 nor 1, both cases are searched.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import pairwise
from math import ceil
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    Vector = np.ndarray[Any, np.dtype[np.float64]]

Edge = tuple[int, int]
Cycle = tuple[int, ...]

_GOLDEN = 0.6180339887
_APART = 1e-6  # edges differ by as much in weight, so that the simplex method does not stand still
_CHEAP = 1e-8  # weighs one unit of an edge's cost, of 999 at most
_SLACK = 0.02  # more than all of these and errors of computing add up to, and less than an edge
_KEPT = 1e4  # the weight of an edge that is not cut
_TINY = 1e-9
_CLOSE = 1e-6


def prove(
    edges: Sequence[Edge], costs: Sequence[int], known: Collection[Edge], steps: int
) -> tuple[Collection[Edge], int]:
    """Return a smallest cut, and how many edges must go at least: as many, unless the steps ran out before that was proved.

    `known` is a cut to beat. Of cuts that are as small, one that is cheap by the `costs` is preferred. A step is a number that is
    computed with, so that a graph has the same answer on each machine; 600 million take about a second.
    """
    search = _Search(edges, costs, known, steps)
    done = search.visit(frozenset(), frozenset())
    return search.best, len(search.best) if done else min(search.at_least, len(search.best))


class _Search:
    """A search over edges that are cut or kept for good; the bound of the first visit holds for all cuts."""

    def __init__(self, edges: Sequence[Edge], costs: Sequence[int], known: Collection[Edge], steps: int) -> None:
        import numpy  # noqa: PLC0415 - slow to import

        self.best, self.at_least = known, 0
        self._edges = edges
        spread = (numpy.arange(len(edges)) * _GOLDEN) % 1 * _APART
        self._weights: Vector = 1 + spread + numpy.minimum(costs, 999) * _CHEAP
        self._cycles = _Cycles(edges)
        self._steps = steps

    def visit(self, cut: frozenset[int], kept: frozenset[int]) -> bool:
        """Search all cuts with some edges and without others; False where the steps ran out."""
        weights = self._weights.copy()
        weights[list(kept)] = _KEPT
        packing = _Packing(self._cycles, weights, cut, self._steps)
        shares = packing.fill(len(self.best) - len(cut))
        self._steps, bound = packing.steps, packing.bound()
        if not cut and not kept:
            self.at_least = bound
        if shares is not None:
            self.best = min(self.best, self._round(shares, cut), key=len)
        if len(cut) + bound >= len(self.best):
            return True
        if shares is None:
            return False
        split = [number for number, share in enumerate(shares) if _CLOSE < share < 1 - _CLOSE]
        if not split:
            return True
        one = min(split, key=lambda number: (abs(shares[number] - 0.5), number))
        return self.visit(cut | {one}, kept) and self.visit(cut, kept | {one})

    def _round(self, shares: Vector, cut: Collection[int]) -> list[Edge]:
        """Return a cut of edges with large shares: those that close a cycle when they are put in, the smallest shares first."""
        order = sorted(range(len(self._edges)), key=lambda number: (number in cut, round(float(shares[number]), 6)))
        reach: dict[int, int] = {node: 1 << node for edge in self._edges for node in edge}  # a bit for each node
        found = []
        for source, target in (self._edges[number] for number in order):
            if reach[target] >> source & 1:
                found.append((source, target))
            elif not reach[source] >> target & 1:
                for node, bits in reach.items():
                    if bits >> source & 1:
                        reach[node] = bits | reach[target]
        return found


class _Cycles:
    """The cycles of a graph that were found so far, a row of `rows` each, which has 1 for each of its edges."""

    def __init__(self, edges: Sequence[Edge]) -> None:
        import numpy  # noqa: PLC0415

        self.edges = edges
        self._number = {edge: number for number, edge in enumerate(edges)}
        self._sources, self._targets = (numpy.array(ends) for ends in zip(*edges, strict=True))
        self._size = int(max(self._sources.max(), self._targets.max())) + 1
        self._all = numpy.zeros((4 * len(edges), len(edges)))
        self._found: dict[Cycle, None] = {}

    @property
    def rows(self) -> Vector:
        return self._all[: len(self._found)]

    def find_short(self, shares: Vector, cut: Collection[int]) -> bool:
        """Add cycles whose shares do not add up to 1, each with an edge that is in no other; tell whether there was one."""
        import numpy  # noqa: PLC0415

        lengths = numpy.maximum(shares, 0) + _CLOSE / 10  # of as short ones, the one of few edges
        lengths[list(cut)] = numpy.inf
        distances, following = self._distances(lengths)
        around = lengths + distances[self._targets, self._sources]
        before, used = len(self._found), set[int]()
        for number in numpy.argsort(around, kind="stable"):
            if around[number] >= 1 - _CLOSE:
                break
            cycle = self._walk(following, *self.edges[number])
            if not used.issuperset(cycle):
                used.update(cycle)
                self._add(cycle)
        return len(self._found) > before

    def _distances(self, lengths: Vector) -> tuple[Vector, Any]:
        """Return the length of the shortest way between any two nodes, and the node that follows on it (Floyd and Warshall)."""
        import numpy  # noqa: PLC0415

        nodes = numpy.arange(self._size)
        distances = numpy.full((self._size, self._size), numpy.inf)
        distances[self._sources, self._targets] = lengths
        following = numpy.broadcast_to(nodes, distances.shape).copy()
        for node in nodes:
            by_way = distances[:, node, None] + distances[node]
            better = by_way < distances - _TINY
            distances = numpy.where(better, by_way, distances)
            following = numpy.where(better, following[:, node, None], following)
        return distances, following

    def _walk(self, following: Any, source: int, target: int) -> Cycle:
        nodes = [source, target]
        while nodes[-1] != source:
            nodes.append(int(following[nodes[-1], source]))
        return tuple(sorted(self._number[edge] for edge in pairwise(nodes)))

    def _add(self, cycle: Cycle) -> None:
        import numpy  # noqa: PLC0415

        if cycle in self._found:
            return
        if len(self._found) == len(self._all):
            self._all = numpy.vstack([self._all, numpy.zeros_like(self._all)])
        self._all[len(self._found), list(cycle)] = 1
        self._found[cycle] = None


class _Packing:
    """How often each cycle is taken, so that no edge is used more than its weight: the revised simplex method."""

    def __init__(self, cycles: _Cycles, weights: Vector, cut: frozenset[int], steps: int) -> None:
        import numpy  # noqa: PLC0415

        self._cycles, self._weights, self._cut = cycles, weights, cut
        self._inverse = numpy.eye(len(weights))
        self._values = weights.copy()
        self._basis = numpy.full(len(weights), -1)  # the cycle of each row, -1 for what is left of an edge's weight
        self.steps = steps

    def fill(self, enough: int) -> Vector | None:
        """Take as many cycles as there can be, and return the shares of the edges; None when it is `enough`, or the steps ran out."""
        while self.steps > 0:
            taken = self._basis >= 0
            if taken @ self._values > enough - 1 and self.bound() >= enough:
                return None
            shares = taken @ self._inverse
            column = self._entering(shares)
            if column is not None:
                self._pivot(*column)
            elif not self._cycles.find_short(shares, self._cut):
                return shares
        return None

    def bound(self) -> int:
        """Return how many edges must be cut besides those that are."""
        taken = self._basis >= 0
        times = self._values[taken].clip(0)
        loads = times @ self._cycles.rows[self._basis[taken]]
        return ceil(float(times.sum() / max(1.0, (loads / self._weights).max(initial=1.0))) - _SLACK)

    def _entering(self, shares: Vector) -> tuple[Vector, int] | None:
        """Return what improves the packing most, as a column of the program: an edge that has some weight left, or a cycle."""
        edge = int(shares.argmin())
        if shares[edge] < -_TINY:
            return self._inverse[:, edge].copy(), -1
        rows = self._cycles.rows
        self.steps -= rows.size
        lengths = rows @ shares
        if self._cut:
            lengths[rows[:, list(self._cut)].any(axis=1)] = 1
        if len(lengths) == 0 or lengths.min() >= 1 - _CLOSE:
            return None
        cycle = int(lengths.argmin())
        return self._inverse @ rows[cycle], cycle

    def _pivot(self, column: Vector, entering: int) -> None:
        """Exchange what runs out first for what enters."""
        import numpy  # noqa: PLC0415

        with numpy.errstate(divide="ignore", invalid="ignore"):
            ratios = numpy.where(column > _TINY, self._values / column, numpy.inf)
        row = int(ratios.argmin())
        self._values -= ratios[row] * column
        self._values[row] = ratios[row]
        scaled = self._inverse[row] / column[row]
        self._inverse -= numpy.outer(column, scaled)
        self._inverse[row] = scaled
        self._basis[row] = entering
        self.steps -= self._inverse.size
