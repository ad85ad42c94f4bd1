"""The module graph: dependencies, load order and cycles."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from erpkit.modules.cycles import Cut
from erpkit.modules.module import ModuleLike
from erpkit.modules.wiring import Edge, ModuleFinding

__all__ = ["Component", "ModuleGraph"]


@dataclass(frozen=True)
class Component:
    """Modules that all reach each other: one cycle that shows it, and the smallest set of edges to cut.

    `is_declared` tells that the declared dependencies alone make a cycle, so that start-up refuses them; otherwise it is
    what was found in fact that closes it.
    """

    modules: tuple[str, ...]
    path: tuple[str, ...]
    cut: Cut
    is_declared: bool = True


@dataclass(frozen=True)
class ModuleGraph:
    """Modules in load order (as found, where there is none), their edges, declared or found in fact, and the findings.

    `components` are the strongly connected ones with a cycle. Modules `outside` are needed, and not among these.
    """

    modules: tuple[ModuleLike, ...]
    order: tuple[str, ...]
    findings: tuple[ModuleFinding, ...]
    edges: tuple[Edge, ...] = ()
    components: tuple[Component, ...] = ()
    outside: tuple[str, ...] = ()

    @property
    def cycle(self) -> tuple[str, ...]:
        """The first cycle of declared dependencies, () where there is none."""
        return next((component.path for component in self.components if component.is_declared), ())

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
