"""The order in which modules load: a topological sort of their dependencies, or an error that names what is wrong."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from graphlib import CycleError, TopologicalSorter
from heapq import heappop, heappush
from typing import TYPE_CHECKING

from erpkit.errors import ModuleError
from erpkit.modules.cycles import find_components, shortest_cycle
from erpkit.modules.module import ModuleLike, check_module

if TYPE_CHECKING:
    import networkx

__all__ = ["dependency_graph", "find_cycles", "load_order"]

_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}", re.ASCII)


def load_order(candidates: Iterable[object]) -> tuple[ModuleLike, ...]:
    """Sort modules so that each follows those that it depends on; by name where the dependencies leave a choice.

    Raises ModuleError for an object that is not a module, a duplicate, a missing dependency, a module that depends on itself, and
    cycles, each of them named in full.
    """
    modules = [_checked(candidate) for candidate in candidates]
    by_name = {module.name: module for module in modules}
    _refuse_duplicates(modules)
    _refuse_missing(modules)
    return tuple(by_name[name] for name in _sort(modules))


def _sort(modules: Sequence[ModuleLike]) -> Iterator[str]:
    """Give the names in load order: Kahn's algorithm by graphlib, as every command sorts, and networkx takes long to import."""
    sorter = TopologicalSorter({module.name: module.dependencies for module in modules})
    try:
        sorter.prepare()
    except CycleError:
        _refuse_cycles(dependency_graph(modules))
        raise
    ready = sorted(sorter.get_ready())
    while ready:
        yield (name := heappop(ready))
        sorter.done(name)
        for following in sorter.get_ready():
            heappush(ready, following)


def dependency_graph(modules: Sequence[ModuleLike]) -> networkx.DiGraph[str]:
    """Return the graph of declared dependencies; an edge points from a module to one that it depends on."""
    import networkx  # noqa: PLC0415

    graph: networkx.DiGraph[str] = networkx.DiGraph()
    graph.add_nodes_from(module.name for module in modules)
    graph.add_edges_from((module.name, dependency) for module in modules for dependency in module.dependencies)
    return graph


def find_cycles(graph: networkx.DiGraph[str]) -> list[list[str]]:
    """Return a short cycle for each component of modules that reach each other, the first name repeated at the end.

    Never all cycles: their number explodes. Sorted by name.
    """
    following = {name: list(edges) for name, edges in graph.adjacency()}
    return sorted(list(shortest_cycle(following, component)) for component in find_components(following))


def _checked(candidate: object) -> ModuleLike:
    module = check_module(candidate)
    if not _NAME.fullmatch(module.name):
        raise ModuleError(
            f"{module.name!r} is not a module name: use a-z, 0-9 and _, a letter first, at most 40 characters"
        )
    return module


def _refuse_duplicates(modules: Sequence[ModuleLike]) -> None:
    names = Counter(module.name for module in modules)
    if twice := sorted(name for name, count in names.items() if count > 1):
        raise ModuleError(f"more than one module is named {', '.join(twice)}: names must be unique")
    handlers = Counter(handler.name for module in modules for handler in module.subscribes)
    if twice := sorted(name for name, count in handlers.items() if count > 1):
        raise ModuleError(f"more than one event handler is named {', '.join(twice)}: names must be unique")


def _refuse_missing(modules: Sequence[ModuleLike]) -> None:
    known = {module.name for module in modules}
    for module in modules:
        if missing := sorted(set(module.dependencies) - known):
            raise ModuleError(f"module {module.name} depends on {', '.join(missing)}, which is not registered")


def _refuse_cycles(graph: networkx.DiGraph[str]) -> None:
    cycles = find_cycles(graph)
    named = "; ".join(" -> ".join(cycle) for cycle in cycles)
    if alone := [cycle[0] for cycle in cycles if len(cycle) == 2]:
        raise ModuleError(f"module {alone[0]} depends on itself ({named}): remove that dependency")
    if len(cycles) == 1:
        raise ModuleError(f"modules depend on each other in a cycle: {named}; remove one of these dependencies")
    if cycles:
        raise ModuleError(
            f"modules depend on each other in {len(cycles)} cycles: {named}; remove one dependency of each"
        )
