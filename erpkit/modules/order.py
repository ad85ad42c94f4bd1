"""The order in which modules load: a topological sort of their dependencies, or an error that names what is wrong."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from erpkit.errors import ModuleError
from erpkit.modules.module import ModuleLike, attributes_missing

if TYPE_CHECKING:
    import networkx

__all__ = ["dependency_graph", "find_cycle", "load_order"]

_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}", re.ASCII)


def load_order(candidates: Iterable[object]) -> tuple[ModuleLike, ...]:
    """Sort modules so that each follows those that it depends on; by name where the dependencies leave a choice.

    Raises ModuleError for an object that is no module, a duplicate, a missing dependency, and a cycle, named in full.
    """
    modules = [_checked(candidate) for candidate in candidates]
    by_name = {module.name: module for module in modules}
    _refuse_duplicates(modules)
    _refuse_missing(modules)
    graph = dependency_graph(modules)
    if cycle := find_cycle(graph):
        raise ModuleError(
            f"modules depend on each other in a cycle: {' -> '.join(cycle)}; remove one of these dependencies"
        )
    import networkx  # noqa: PLC0415 - slow to import, and only needed here

    return tuple(by_name[name] for name in networkx.lexicographical_topological_sort(graph.reverse()))


def dependency_graph(modules: Sequence[ModuleLike]) -> networkx.DiGraph[str]:
    """Return the graph of declared dependencies; an edge points from a module to one that it depends on."""
    import networkx  # noqa: PLC0415

    graph: networkx.DiGraph[str] = networkx.DiGraph()
    graph.add_nodes_from(module.name for module in modules)
    graph.add_edges_from((module.name, dependency) for module in modules for dependency in module.dependencies)
    return graph


def find_cycle(graph: networkx.DiGraph[str]) -> list[str]:
    """Return one cycle as names, the first repeated at the end, starting at the name that sorts first; [] without one."""
    import networkx  # noqa: PLC0415

    try:
        names = [edge[0] for edge in networkx.find_cycle(graph)]
    except networkx.NetworkXNoCycle:
        return []
    start = names.index(min(names))
    return [*names[start:], *names[:start], names[start]]


def _checked(candidate: object) -> ModuleLike:
    missing = attributes_missing(candidate)
    if missing or isinstance(candidate, type) or not isinstance(candidate, ModuleLike):
        lacks = f" (it lacks {', '.join(missing)})" if missing else ""
        raise ModuleError(f"{candidate!r} is no module{lacks}: register an erpkit.Module")
    if not isinstance(candidate.name, str) or not _NAME.fullmatch(candidate.name):
        raise ModuleError(
            f"{candidate.name!r} is no module name: use a-z, 0-9 and _, a letter first, at most 40 characters"
        )
    return candidate


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
