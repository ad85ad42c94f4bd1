"""Cycles in a graph, the shortest of each component, and the smallest set of edges whose removal leaves none.

That set is a minimum feedback arc set. Finding one is NP-hard. It is exact for small components (dynamic programming over sets,
E. Lawler 1964). Otherwise it is a good order (the greedy one of Eades, Lin and Smyth 1993, improved by moving nodes), which `cuts`
proves or improves where there are not too many edges, beside a bound that tells how far off it may be.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from graphlib import TopologicalSorter
from itertools import pairwise
from random import Random

Graph = Mapping[str, Collection[str]]

_CYCLE_BUDGET = 500_000  # edges to walk in search of a shorter cycle


def graph_of(pairs: Iterable[tuple[str, str]], nodes: Iterable[str] = ()) -> dict[str, list[str]]:
    """Return pairs as nodes with their successors, each once, in the order given."""
    found: dict[str, dict[str, None]] = {node: {} for node in nodes}
    for source, target in pairs:
        found.setdefault(source, {})[target] = None
        found.setdefault(target, {})
    return {node: list(successors) for node, successors in found.items()}


def find_components(graph: Graph) -> list[tuple[str, ...]]:
    """Return the sets of nodes that reach each other (strongly connected components that hold a cycle), sorted."""
    import networkx  # noqa: PLC0415 - slow to import

    directed: networkx.DiGraph[str] = networkx.DiGraph()
    directed.add_edges_from((node, successor) for node, successors in graph.items() for successor in successors)
    found = networkx.strongly_connected_components(directed)
    return sorted(
        tuple(sorted(component)) for component in found if len(component) > 1 or any(node in graph[node] for node in component)
    )  # fmt: skip


def within(graph: Graph, nodes: Collection[str]) -> dict[str, list[str]]:
    """Return the part of a graph between the nodes given."""
    inside = set(nodes)
    return {node: [successor for successor in graph[node] if successor in inside] for node in nodes}


def shortest_cycle(graph: Graph, component: Collection[str]) -> tuple[str, ...]:
    """Return a cycle through nodes of a component, the first repeated at the end: the shortest, in large components a short one.

    The one that begins at the node that sorts first is taken where several are as short.
    """
    part = within(graph, sorted(component))
    best: tuple[str, ...] = ()
    walked = 0
    for start in part:
        found, steps = cycle_through(part, start, len(best) - 2 if best else len(part))
        walked += steps
        best = found or best
        if best and (len(best) <= 3 or walked > _CYCLE_BUDGET):
            break
    return best


def cycle_through(graph: Graph, start: str, most: int) -> tuple[tuple[str, ...], int]:
    """Return a shortest way from a node back to it of at most so many edges, and how many edges were looked at."""
    came_from: dict[str, str] = {}
    level, steps = [start], 0
    while level and most > 0:
        reached: list[str] = []
        for node in level:
            for successor in graph[node]:
                steps += 1
                if successor == start:
                    return _way(came_from, start, node), steps
                if successor not in came_from:
                    came_from[successor] = node
                    reached.append(successor)
        level, most = reached, most - 1
    return (), steps


def _way(came_from: Mapping[str, str], start: str, end: str) -> tuple[str, ...]:
    names = [end]
    while names[-1] != start:
        names.append(came_from[names[-1]])
    return (*reversed(names), start)


Pair = tuple[str, str]

_EXACT = 13  # nodes: 2^13 sets
_BUDGET = 400_000  # edges to look at in each step that could be improved for ever
_SAMPLE = 48  # cycles
_PROVABLE = 450  # edges, which are more than thirty modules can have when no two oppose each other
_STEPS = 600_000_000  # about a second
_ONE = 1_000_000  # weighs one edge: what it costs to cut it decides only between sets of as many edges


@dataclass(frozen=True)
class Cut:
    """Edges whose removal breaks every cycle of a component; no set of fewer than `at_least` does."""

    edges: tuple[Pair, ...]
    at_least: int

    @property
    def is_smallest(self) -> bool:
        """Whether it is known that no smaller set will do."""
        return len(self.edges) == self.at_least

    def __str__(self) -> str:
        edges = ", ".join(f"{source} -> {target}" for source, target in self.edges)
        return edges if self.is_smallest else f"{edges} (at least {self.at_least} must go; a smaller cut may exist)"


def smallest_cut(graph: Graph, component: Collection[str], cost: Callable[[Pair], int] = lambda _: 0) -> Cut:
    """Return a smallest set of edges of a component to cut; of those that are as small a cheap one, the cheapest if it has few nodes.

    `cost` is what it takes to cut one edge, the number of places to change for instance. Deterministic, and pure.
    """
    part = within(graph, sorted(component))
    weights = {
        source: {target: _ONE + min(cost((source, target)), 999) for target in targets}
        for source, targets in part.items()
    }
    if len(part) <= _EXACT:
        edges = sorted(_backward(weights, _best_order(weights)))
        return Cut(tuple(edges), len(edges))
    # One of two edges that oppose each other must go in any case, and the order of the others decides which.
    rest = {node: [other for other in part[node] if node not in part[other]] for node in part}
    cuts = [_cut_of_rest(within(rest, nodes), weights) for nodes in find_components(rest)]
    edges = _cut_of(part, weights, _order_without(rest, [edge for cut in cuts for edge in cut.edges]))
    edges = sorted(_with_cheaper(part, weights, edges))
    opposed = sum(node in part[other] for node in part for other in part[node] if other <= node)
    return Cut(tuple(edges), min(opposed + sum(cut.at_least for cut in cuts), len(edges)))


def _cut_of_rest(part: dict[str, list[str]], weights: dict[str, dict[str, int]]) -> Cut:
    """Return a cut of a component in which no two edges oppose each other."""
    own = {source: {target: weights[source][target] for target in targets} for source, targets in part.items()}
    if len(part) <= _EXACT:
        edges = list(_backward(own, _best_order(own)))
        return Cut(tuple(edges), len(edges))
    at_least = _disjoint_cycles(part)
    edges = _cut_of(part, own, _greedy_order(part))
    if len(edges) > at_least:
        others = _cut_of(part, own, _greedy_order(_without_common_edges(part)))
        edges = min(edges, others, key=lambda cut: sum(own[source][target] for source, target in cut))
    if len(edges) > at_least and sum(map(len, part.values())) <= _PROVABLE:
        return _proved(part, own, edges)
    return Cut(tuple(edges), min(max(at_least, 1), len(edges)))


def _proved(part: dict[str, list[str]], weights: dict[str, dict[str, int]], known: list[Pair]) -> Cut:
    """Return a smallest cut by linear programming, or the one that is known with a better bound."""
    from erpkit.modules.cuts import prove  # noqa: PLC0415 - numpy is slow to import

    names = list(part)
    number = {name: n for n, name in enumerate(names)}
    pairs = [(source, target) for source, targets in part.items() for target in targets]
    costs = [weights[source][target] - _ONE for source, target in pairs]
    edges = [(number[source], number[target]) for source, target in pairs]
    found, at_least = prove(edges, costs, [(number[source], number[target]) for source, target in known], _STEPS)
    return Cut(tuple((names[source], names[target]) for source, target in found), at_least)


def _order_without(graph: Graph, cuts: Iterable[Pair]) -> list[str]:
    """Return an order in which all edges but some point forward."""
    gone = set(cuts)
    before: dict[str, list[str]] = {node: [] for node in graph}
    for source, targets in graph.items():
        for target in targets:
            if (source, target) not in gone:
                before[target].append(source)
    return list(TopologicalSorter(before).static_order())


def _cut_of(graph: Graph, weights: dict[str, dict[str, int]], order: list[str]) -> list[Pair]:
    return sorted(_without_needless(graph, list(_backward(weights, _improved(weights, order)))))


def _backward(weights: dict[str, dict[str, int]], order: Sequence[str]) -> Iterator[Pair]:
    """The edges that point back in an order, or at their own source."""
    place = {node: number for number, node in enumerate(order)}
    return ((s, t) for s, targets in weights.items() for t in targets if place[t] <= place[s])


def _best_order(weights: dict[str, dict[str, int]]) -> list[str]:
    """For each set of nodes the cheapest order of it, from the smaller sets: what is put last points back at the others."""
    names = list(weights)
    number = {name: n for n, name in enumerate(names)}
    pulls = [_sums([weights[name].get(other, 0) for other in names]) for name in names]
    half = len(names) // 2
    low = (1 << half) - 1
    best, last = [0] * (1 << len(names)), [0] * (1 << len(names))
    for nodes in range(1, 1 << len(names)):
        choices = []
        for name in range(len(names)):
            if nodes >> name & 1:
                rest = nodes & ~(1 << name)
                choices.append((best[rest] + pulls[name][0][rest & low] + pulls[name][1][rest >> half], name))
        best[nodes], last[nodes] = min(choices)
    order, nodes = [], (1 << len(names)) - 1
    while nodes:
        order.append(names[last[nodes]])
        nodes &= ~(1 << number[order[-1]])
    return order[::-1]


def _sums(values: list[int]) -> tuple[list[int], list[int]]:
    """Return the sum of each subset of the first half of the values, and of the second half."""
    halves = values[: len(values) // 2], values[len(values) // 2 :]
    sums: tuple[list[int], list[int]] = ([0], [0])
    for half, found in zip(halves, sums, strict=True):
        for value in half:
            found += [value + other for other in found]
    return sums


def _without_common_edges(graph: Graph) -> dict[str, list[str]]:
    """Take out the edges that most of a sample of cycles go through, again and again: the few wrong ones in a sound order."""
    random, budget = Random(1), 5 * _BUDGET
    left = {node: list(successors) for node, successors in graph.items()}
    while budget > 0 and (components := find_components(left)):
        home = {node: number for number, component in enumerate(components) for node in component}
        inside = {n: [s for s in left[n] if home.get(s, -1) == home[n]] for n in home}
        edges = [(source, target) for source, targets in inside.items() for target in targets]
        budget -= 10 * len(edges)
        cycles: list[set[Pair]] = []
        for source, target in random.sample(edges, min(_SAMPLE, len(edges))):
            successors, inside[source] = inside[source], [target]
            cycle, steps = cycle_through(inside, source, len(inside))
            inside[source] = successors
            cycles.append(set(pairwise(cycle)))
            budget -= steps
        for source, target in _hitting(cycles):
            left[source].remove(target)
    return left


def _hitting(cycles: list[set[Pair]]) -> list[Pair]:
    """Choose edges so that each cycle has one, those first that most have; stop when an edge would only break a few."""
    chosen: list[Pair] = []
    few = len(cycles) // 8
    while cycles:
        counts = Counter(edge for cycle in cycles for edge in cycle)
        edge, count = min(counts.items(), key=lambda item: (-item[1], item[0]))
        if chosen and count <= few:
            break
        chosen.append(edge)
        cycles = [cycle for cycle in cycles if edge not in cycle]
    return chosen


def _greedy_order(graph: Graph) -> list[str]:
    """Take sinks last, sources first, and between them the node with the most edges out over edges in."""
    into: dict[str, list[str]] = {node: [] for node in graph}
    for node, successors in graph.items():
        for successor in successors:
            into[successor].append(node)
    out_degree, in_degree = {n: len(s) for n, s in graph.items()}, {n: len(p) for n, p in into.items()}
    heap = [(_urgency(out_degree[node], in_degree[node]), node) for node in graph]
    heapq.heapify(heap)
    first: list[str] = []
    last: list[str] = []
    left = set(graph)
    while left:
        urgency, node = heapq.heappop(heap)
        if node not in left or urgency != _urgency(out_degree[node], in_degree[node]):
            continue
        left.remove(node)
        (last if out_degree[node] == 0 else first).append(node)
        for other, degree in [(n, in_degree) for n in graph[node]] + [(n, out_degree) for n in into[node]]:
            if other in left:
                degree[other] -= 1
                heapq.heappush(heap, (_urgency(out_degree[other], in_degree[other]), other))
    return [*first, *reversed(last)]


def _urgency(out_degree: int, in_degree: int) -> tuple[int, int]:
    if out_degree == 0 or in_degree == 0:
        return (0, 0)
    return (1, in_degree - out_degree)


def _improved(weights: dict[str, dict[str, int]], order: list[str]) -> list[str]:
    """Move one node after the other to where fewest edges point back, until nothing is gained or the budget is spent."""
    into: dict[str, dict[str, int]] = {node: {} for node in weights}
    for source, targets in weights.items():
        for target, weight in targets.items():
            into[target][source] = weight
    place = {node: number for number, node in enumerate(order)}
    budget, gained = 5 * _BUDGET, True
    while gained and budget > 0:
        gained = False
        for node in list(order):
            here = place[node]
            better = _better_place(place, node, weights[node], into[node])
            budget -= 4 * (len(weights[node]) + len(into[node])) + 1
            if better != here and budget > 0:
                order.insert(better, order.pop(here))
                low, high = min(here, better), max(here, better) + 1
                place.update(zip(order[low:high], range(low, high), strict=True))
                budget -= (high - low) // 4
                gained = True
    return order


def _better_place(place: dict[str, int], node: str, out_of: dict[str, int], into: dict[str, int]) -> int:
    """Return where a node would cost least: before the first place all its edges from others point back."""
    here = place[node]
    changes = {other: out_of.get(other, 0) - into.get(other, 0) for other in {**out_of, **into} if other != node}
    gains = sorted((place[other], change) for other, change in changes.items())
    cost, best, best_cost, here_cost = 0, 0, 0, 0
    for other, change in gains:
        cost += change
        if other < here:
            here_cost = cost
        if cost < best_cost:
            best, best_cost = other + (other < here), cost
    return here if best_cost >= here_cost else best


def _without_needless(graph: Graph, cuts: list[Pair]) -> list[Pair]:
    """Put back each edge that closes no cycle any more, as far as the budget goes."""
    left = {node: dict.fromkeys(successors) for node, successors in graph.items()}
    for source, target in cuts:
        del left[source][target]
    kept, budget = [], _BUDGET
    for source, target in cuts:
        reached, steps = _reaches(left, target, source) if budget > 0 else (True, 0)
        budget -= steps
        if reached:
            kept.append((source, target))
        else:
            left[source][target] = None
    return kept


def _with_cheaper(graph: Graph, weights: dict[str, dict[str, int]], cuts: list[Pair]) -> list[Pair]:
    """Cut the cheaper one of two edges that oppose each other where that closes no cycle, as far as the budget goes."""
    left = {node: dict.fromkeys(successors) for node, successors in graph.items()}
    for source, target in cuts:
        del left[source][target]
    found, budget = [], _BUDGET
    for source, target in cuts:
        is_cheaper = source in left[target] and weights[target][source] < weights[source][target]
        if is_cheaper and budget > 0:
            del left[target][source]
            reached, steps = _reaches(left, target, source)
            budget -= steps
            left[target if reached else source][source if reached else target] = None
            found.append((source, target) if reached else (target, source))
        else:
            found.append((source, target))
    return found


def _reaches(graph: Graph, start: str, goal: str) -> tuple[bool, int]:
    seen, waiting, steps = {start}, [start], 0
    while waiting:
        node = waiting.pop()
        if node == goal:
            return True, steps
        for successor in graph[node]:
            steps += 1
            if successor not in seen:
                seen.add(successor)
                waiting.append(successor)
    return False, steps


def _disjoint_cycles(graph: Graph) -> int:
    """Count cycles that share no edge, short ones first: so many edges must be cut at least."""
    left = {node: dict.fromkeys(successors) for node, successors in graph.items()}
    count, budget = 0, _BUDGET
    for source, target in [(s, t) for s, targets in graph.items() for t in targets if s < t and s in graph[t]]:
        del left[source][target], left[target][source]
        count += 1
    for most in (1, 3, len(left)):
        for start in left:
            while budget > 0:
                cycle, steps = cycle_through(left, start, most)
                budget -= steps + 1
                if not cycle:
                    break
                for source, target in pairwise(cycle):
                    del left[source][target]
                count += 1
    return count
