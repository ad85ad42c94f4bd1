"""Cycles in a graph: one for each component of nodes that reach each other, the shortest; never all, whose number explodes."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

__all__ = ["Graph", "cycle_through", "find_components", "graph_of", "shortest_cycle", "within"]

Graph = Mapping[str, Collection[str]]

_BUDGET = 500_000  # edges to walk in search of a shorter cycle


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
        if best and (len(best) <= 3 or walked > _BUDGET):
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
