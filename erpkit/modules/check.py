"""What is wrong with a set of modules, as findings for people rather than as errors at start-up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from erpkit.modules.module import ModuleLike, attributes_missing, topic_of
from erpkit.modules.order import dependency_graph, find_cycle
from erpkit.modules.wiring import ModuleFinding, wiring_faults

if TYPE_CHECKING:
    import networkx

__all__ = ["ModuleCheck", "check_modules"]


@dataclass(frozen=True)
class ModuleCheck:
    """The result of `check_modules`: the modules in load order (as found, where there is none), the graph, the findings."""

    modules: tuple[ModuleLike, ...]
    order: tuple[str, ...]
    graph: networkx.DiGraph[str]
    findings: tuple[ModuleFinding, ...]
    cycle: tuple[str, ...] = ()


def check_modules(candidates: Iterable[object]) -> ModuleCheck:
    """Check modules without stopping at the first fault; use it for reports, and `load_order` at start-up."""
    import networkx  # noqa: PLC0415

    all_candidates = list(candidates)
    modules = [module for module in all_candidates if isinstance(module, ModuleLike)]
    graph = dependency_graph(modules)
    cycle = find_cycle(graph)
    known = {module.name for module in modules}
    findings = [
        *_not_modules(all_candidates),
        *_duplicates(modules),
        *_missing(modules, known),
        *_cycle_finding(cycle),
        *wiring_faults(modules),
        *_event_findings(modules),
    ]
    order = (
        ()
        if cycle
        else tuple(name for name in networkx.lexicographical_topological_sort(graph.reverse()) if name in known)
    )
    in_order = sorted(modules, key=lambda module: order.index(module.name) if order else 0)
    return ModuleCheck(tuple(in_order), order, graph, tuple(findings), tuple(cycle))


def _not_modules(candidates: Sequence[object]) -> list[ModuleFinding]:
    return [
        ModuleFinding("no module", (), f"{c!r} lacks {', '.join(attributes_missing(c))}", "register an erpkit.Module")
        for c in candidates
        if not isinstance(c, ModuleLike)
    ]


def _duplicates(modules: Sequence[ModuleLike]) -> list[ModuleFinding]:
    counts = Counter(module.name for module in modules)
    return [
        ModuleFinding("duplicate", (name,), f"{count} modules are named {name}", "rename all but one")
        for name, count in counts.items()
        if count > 1
    ]


def _missing(modules: Sequence[ModuleLike], known: set[str]) -> list[ModuleFinding]:
    return [
        ModuleFinding(
            "missing dependency",
            (m.name, name),
            f"{m.name} depends on {name}, which is not registered",
            "register or remove it",
        )
        for m in modules
        for name in m.dependencies
        if name not in known
    ]


def _cycle_finding(cycle: Sequence[str]) -> list[ModuleFinding]:
    if not cycle:
        return []
    last, first = cycle[-2], cycle[-1]
    remedy = f"cut one dependency, {last} -> {first} for example: let {first} publish an event that {last} handles"
    return [ModuleFinding("cycle", tuple(cycle[:-1]), " -> ".join(cycle), remedy)]


def _event_findings(modules: Sequence[ModuleLike]) -> list[ModuleFinding]:
    publisher = {event: module.name for module in modules for event in module.publishes}
    handled = {handler.event for module in modules for handler in module.subscribes}
    findings = [
        ModuleFinding(
            "unhandled event",
            (name,),
            f"nobody handles {topic_of(name, event)}",
            "subscribe to it or stop publishing it",
        )
        for event, name in publisher.items()
        if event not in handled
    ]
    for module in modules:
        for handler in module.subscribes:
            source = publisher.get(handler.event)
            if source is not None and source not in (module.name, *module.dependencies):
                problem = f"{handler.name} handles an event of {source}, which {module.name} does not depend on"
                findings.append(
                    ModuleFinding("undeclared dependency", (module.name, source), problem, f"declare {source}")
                )
    return findings
