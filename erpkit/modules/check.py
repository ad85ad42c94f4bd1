"""What is wrong with a set of modules, as findings for people rather than as errors at start-up."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from erpkit.modules.cuts import Cut, smallest_cut
from erpkit.modules.cycles import find_knots, graph_of, shortest_cycle, within
from erpkit.modules.edges import Couplings, Edge, declared_edges, event_edges
from erpkit.modules.findings import (
    cycle_findings,
    duplicate_findings,
    event_findings,
    layer_findings,
    missing_findings,
    not_module_findings,
    self_findings,
    undeclared_findings,
    unused_findings,
)
from erpkit.modules.layers import Layers
from erpkit.modules.module import ModuleLike
from erpkit.modules.order import dependency_graph
from erpkit.modules.protocol import protocol_faults
from erpkit.modules.wiring import ModuleFinding, wiring_faults

if TYPE_CHECKING:
    import networkx

__all__ = ["Knot", "ModuleCheck", "check_modules", "find_cycles"]

_NO_LAYERS = Layers()


@dataclass(frozen=True)
class Knot:
    """Modules that all reach each other: one cycle that shows it, and the smallest set of edges to cut.

    `is_declared` tells that the declared dependencies alone make a cycle, so that start-up refuses them; otherwise it is
    what was found in fact that closes it.
    """

    modules: tuple[str, ...]
    path: tuple[str, ...]
    cut: Cut
    is_declared: bool = True


@dataclass(frozen=True)
class ModuleCheck:
    """The result of `check_modules`: the modules in load order (as found, where there is none), edges, knots and findings.

    `graph` is the declared one; `edges` are all, declared or found in fact. `not_read` says in words what was not looked at,
    `target` where the modules were read from. Modules `outside` are needed, and not among these.
    """

    modules: tuple[ModuleLike, ...]
    order: tuple[str, ...]
    graph: networkx.DiGraph[str]
    findings: tuple[ModuleFinding, ...]
    edges: tuple[Edge, ...] = ()
    knots: tuple[Knot, ...] = ()
    not_read: tuple[str, ...] = ()
    outside: tuple[str, ...] = ()
    target: str = ""

    @property
    def cycle(self) -> tuple[str, ...]:
        """The first cycle of declared dependencies, () where there is none."""
        return next((knot.path for knot in self.knots if knot.is_declared), ())

    @cached_property
    def pairs(self) -> Mapping[tuple[str, str], tuple[Edge, ...]]:
        """The edges by source and target."""
        found: dict[tuple[str, str], list[Edge]] = {}
        for edge in self.edges:
            found.setdefault((edge.source, edge.target), []).append(edge)
        return {pair: tuple(edges) for pair, edges in found.items()}

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The names of all modules, in load order where there is one, each once."""
        return self.order or tuple(sorted({module.name for module in self.modules}))


def check_modules(
    candidates: Iterable[object],
    couplings: Couplings | None = None,
    *,
    layers: Layers = _NO_LAYERS,
    findings: Sequence[ModuleFinding] = (),
    outside: Iterable[str] = (),
    indirect: bool = False,
    target: str = "",
) -> ModuleCheck:
    """Check modules without stopping at the first fault; use it for reports, and `load_order` at start-up.

    `couplings` are what was found in fact beside what is declared here, `findings` what was wrong before. Modules `outside` are
    known to exist elsewhere. With `indirect`, a dependency that is only declared by way of others is declared well enough.
    """
    all_candidates = list(candidates)
    modules = [one for one in all_candidates if isinstance(one, ModuleLike) and not protocol_faults(one)]
    known = {module.name for module in modules}
    edges = sorted({*declared_edges(modules), *event_edges(modules), *(couplings.edges if couplings else ())})
    inside = [edge for edge in edges if edge.source in known and edge.target in known]
    knots = find_cycles(inside)
    graph = dependency_graph(modules)
    order = () if any(knot.is_declared for knot in knots) else _order(graph, known)
    place = {name: number for number, name in enumerate(order)}
    all_findings = [
        *findings,
        *not_module_findings(all_candidates),
        *duplicate_findings(modules),
        *missing_findings(edges, known | set(outside)),
        *self_findings(edges),
        *cycle_findings(knots, inside),
        *wiring_faults(modules),
        *undeclared_findings(inside, indirect=indirect),
        *layer_findings(inside, layers, known),
        *event_findings(modules),
        *unused_findings(inside, couplings),
    ]
    return ModuleCheck(
        tuple(sorted(modules, key=lambda module: place.get(module.name, 0))),
        order,
        graph,
        tuple(all_findings),
        tuple(edges),
        tuple(knots),
        couplings.not_read if couplings else (),
        outside=tuple(sorted({edge.target for edge in edges} - known)),
        target=target,
    )


def find_cycles(edges: Iterable[Edge]) -> list[Knot]:
    """Return one knot for each set of modules that reach each other, through edges of any kind; those of start-up first."""
    found: dict[tuple[str, str], list[Edge]] = {}
    for edge in edges:
        if edge.source != edge.target:
            found.setdefault((edge.source, edge.target), []).append(edge)
    graph = graph_of(found)
    declared = graph_of((pair for pair, several in found.items() if any(e.kind == "declared" for e in several)), graph)
    knots = []
    for modules in find_knots(graph):
        at_start = find_knots(within(declared, modules))
        path = shortest_cycle(declared, at_start[0]) if at_start else shortest_cycle(graph, modules)
        cut = smallest_cut(graph, modules, lambda pair: len(found[pair]))
        knots.append(Knot(modules, path, cut, bool(at_start)))
    return sorted(knots, key=lambda knot: not knot.is_declared)


def _order(graph: networkx.DiGraph[str], known: set[str]) -> tuple[str, ...]:
    import networkx  # noqa: PLC0415

    sound = networkx.DiGraph(graph)
    sound.remove_edges_from(list(networkx.selfloop_edges(sound)))
    return tuple(n for n in networkx.lexicographical_topological_sort(sound.reverse(copy=False)) if n in known)
