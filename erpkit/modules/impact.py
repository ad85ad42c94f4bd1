"""What would be otherwise: if an edge were cut, or if a module changed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING

from erpkit.errors import UsageError
from erpkit.modules.check import ModuleCheck, find_cycles
from erpkit.modules.cycles import graph_of
from erpkit.modules.findings import list_evidence
from erpkit.modules.graph import Component
from erpkit.modules.wiring import Edge
from erpkit.table import Column, Table

if TYPE_CHECKING:
    import networkx

__all__ = ["Impact", "WhatIf", "cut_edges", "find_impact"]

Pair = tuple[str, str]


@dataclass(frozen=True)
class WhatIf:
    """How the modules would be without some edges: what would have to change, and which cycles would be left."""

    cut: tuple[Pair, ...]
    edges: tuple[Edge, ...]
    before: tuple[Component, ...]
    after: tuple[Component, ...]
    order: tuple[str, ...]
    """The load order then, () while declared dependencies make a cycle."""

    def __str__(self) -> str:
        names = ", ".join(f"{source} -> {target}" for source, target in self.cut)
        places = f"{len(self.edges)} place{'' if len(self.edges) == 1 else 's'} to change"
        if not self.before:
            cycles = "there is no cycle now, and would be none"
        elif not self.after:
            cycles = "no cycle would be left"
        else:
            cycles = "left: " + "; ".join(" -> ".join(component.path) for component in self.after)
        return f"without {names}: {places}; {cycles}"

    @property
    def table(self) -> Table[Edge]:
        """One line for each place that would have to change."""
        return Table(_PLACES, self.edges, "There is nothing to change.")


@dataclass(frozen=True)
class Impact:
    """Which modules depend on one: `direct` on itself, with the edges that show it, `indirect` by way of those."""

    module: str
    direct: tuple[str, ...]
    indirect: tuple[str, ...]
    edges: tuple[Edge, ...]

    def __str__(self) -> str:
        if not self.direct:
            return f"nothing depends on {self.module}"
        by_way = f"; by way of these: {', '.join(self.indirect)}" if self.indirect else ""
        count = len(self.direct) + len(self.indirect)
        verb = "module depends" if count == 1 else "modules depend"
        return f"{count} {verb} on {self.module}: {', '.join(self.direct)}{by_way}"

    @property
    def table(self) -> Table[tuple[str, str, str]]:
        """One line for each module that depends on it, the direct ones first with what shows it."""
        direct = [(name, "directly", list_evidence(self._evidence(name))) for name in self.direct]
        return Table(_DEPENDENTS, [*direct, *((name, "by way of others", "") for name in self.indirect)])

    def _evidence(self, name: str) -> list[str]:
        return [f"{edge.kind}: {edge.evidence}" for edge in self.edges if edge.source == name]


_PLACES = (
    Column[Edge]("module", lambda edge: edge.source),
    Column[Edge]("needs", lambda edge: edge.target),
    Column[Edge]("kind", lambda edge: edge.kind),
    Column[Edge]("to change", lambda edge: edge.evidence),
)
_DEPENDENTS = (
    Column[tuple[str, str, str]]("module", lambda row: row[0]),
    Column[tuple[str, str, str]]("depends", lambda row: row[1]),
    Column[tuple[str, str, str]]("evidence", lambda row: row[2]),
)


def cut_edges(check: ModuleCheck, cuts: Sequence[str]) -> WhatIf:
    """Tell how the modules would be without the edges named, `sales->catalog` each; raises UsageError for one that is none."""
    pairs = tuple(_pair(check, text) for text in cuts)
    inside = [edge for edge in check.edges if edge.target in check.names]
    left = [edge for edge in inside if (edge.source, edge.target) not in pairs]
    gone = tuple(edge for edge in check.edges if (edge.source, edge.target) in pairs)
    after = tuple(find_cycles(left))
    order = () if any(component.is_declared for component in after) else _order(check, left)
    return WhatIf(pairs, gone, check.components, after, order)


def find_impact(check: ModuleCheck, module: str) -> Impact:
    """Find what depends on a module, in any way; raises UsageError for an unknown one."""
    known = [*check.names, *check.outside]
    if module not in known:
        raise UsageError(f"there is no module {module}{_meant(module, known)}")
    needed_by = graph_of(((edge.target, edge.source) for edge in check.edges), known)
    direct = tuple(sorted(name for name in needed_by[module] if name != module))
    seen, waiting = {module, *direct}, list(direct)
    while waiting:
        fresh = set(needed_by[waiting.pop()]) - seen
        seen |= fresh
        waiting += fresh
    edges = tuple(edge for edge in check.edges if edge.target == module and edge.source != module)
    return Impact(module, direct, tuple(sorted(seen - {module, *direct})), edges)


def _pair(check: ModuleCheck, text: str) -> Pair:
    source, found, target = (part.strip() for part in text.partition("->"))
    if not (source and found and target):
        raise UsageError(f"{text!r} is not an edge: write it as sales->catalog")
    if (source, target) not in check.pairs:
        known = [f"{one}->{other}" for one, other in check.pairs]
        raise UsageError(f"there is no edge {source}->{target}{_meant(f'{source}->{target}', known)}")
    return source, target


def _meant(name: str, known: Iterable[str]) -> str:
    close = get_close_matches(name, list(known), n=1)
    return f": did you mean {close[0]}?" if close else ""


def _order(check: ModuleCheck, edges: Iterable[Edge]) -> tuple[str, ...]:
    import networkx  # noqa: PLC0415

    graph: networkx.DiGraph[str] = networkx.DiGraph()
    graph.add_nodes_from(check.names)
    graph.add_edges_from((e.target, e.source) for e in edges if e.kind == "declared" and e.source != e.target)
    return tuple(networkx.lexicographical_topological_sort(graph))
