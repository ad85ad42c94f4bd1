"""Checking modules: what is wrong with them as findings, rather than as errors at start-up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import TYPE_CHECKING

from erpkit.finding import exit_code
from erpkit.modules.baseline import NEVER, Baseline
from erpkit.modules.cycles import find_components, graph_of, shortest_cycle, smallest_cut, within
from erpkit.modules.faults import folder_faults, name_faults, select_modules, structure_faults, wiring_faults
from erpkit.modules.findings import (
    allowance_findings,
    coverage_findings,
    cycle_findings,
    event_findings,
    forbidden_findings,
    graded,
    layer_findings,
    list_evidence,
    undeclared_findings,
    unused_findings,
)
from erpkit.modules.kinds import REFUSED
from erpkit.modules.module import EventHandler, ModuleLike, topic_of
from erpkit.modules.picture import draw_modules
from erpkit.modules.registry import dependency_graph
from erpkit.modules.rules import Rules
from erpkit.modules.wiring import (
    Component,
    Couplings,
    Edge,
    ModuleFinding,
    ModuleGraph,
    declared_edges,
    event_edges,
)
from erpkit.result import Picture, Result, Summary
from erpkit.table import Column, Table, Tone

if TYPE_CHECKING:
    import networkx

_NO_RULES, _NO_BASELINE = Rules(), Baseline()


@dataclass(frozen=True)
class ModuleCheck(Result, ModuleGraph):
    """The result of `check_modules`: the graph with its findings, as a picture and as tables.

    `graph` is the declared one. `not_read` says in words what was not looked at, `target` where the modules were read from.
    `known` is how many findings the baseline has, which are not among these, and `homes` are the modules' own files.
    `never` are the kinds of findings that no baseline hides.
    """

    graph: networkx.DiGraph[str] = field(kw_only=True)
    not_read: tuple[str, ...] = ()
    target: str = ""
    known: int = 0
    homes: Mapping[str, str] = field(default_factory=dict)
    never: frozenset[str] = NEVER

    def picture(self, around: str = "") -> Picture:
        """Draw the graph, or a module and what depends on it."""
        return draw_modules(self, around=around)

    @property
    def load_order(self) -> str:
        """The load order in words, or why there is none."""
        cycle = f"none, there is a cycle: {' -> '.join(self.cycle)}" if self.cycle else "none, there are no modules"
        return ", ".join(self.order) or cycle

    @property
    def finding_table(self) -> Table[ModuleFinding]:
        """One row per finding: its kind, the problem, the remedy and what shows it."""
        return Table(
            _FINDINGS,
            self.findings,
            "There are none.",
            is_trouble=True,
            about=(*dict.fromkeys(f.kind for f in self.findings),),
        )

    @property
    def module_table(self) -> Table[ModuleLike]:
        """One row per module: what it depends on and what it declares."""
        return module_table(self.modules)

    @property
    def event_table(self) -> Table[tuple[str, list[EventHandler]]]:
        """One row per event: its topic and who handles it."""
        handlers = [handler for module in self.modules for handler in module.subscribes]
        events = [(module, event) for module in self.modules for event in module.publishes]
        rows = [(topic_of(m.name, event), [h for h in handlers if event in h.events]) for m, event in events]
        return Table(_EVENTS, rows, "There are no events.")

    @property
    def coupling_table(self) -> Table[tuple[Edge, ...]]:
        """One line for each two modules of which one needs the other, what is not declared first."""
        rows = sorted(self.pairs.values(), key=lambda edges: _declared(edges) != "no")
        return Table(_COUPLINGS, rows, "No module needs another.")

    @property
    def summary(self) -> Summary:
        """Its figures, and what needs work."""
        facts = {
            "modules": len(self.names),
            "dependencies": sum(any(edge.kind == "declared" for edge in edges) for edges in self.pairs.values()),
            "couplings": sum(edge.kind != "declared" for edge in self.edges),
            "cycles": len(self.components),
            "events": sum(len(module.publishes) for module in self.modules),
            "not read": len(self.not_read),
            "findings": len(self.findings),
            **({"in the baseline": self.known} if self.known else {}),
        }
        findings = [finding.finding for finding in self.findings]
        title = "The module graph needs work" if exit_code(findings) else "The module graph is sound"
        return Summary(f"{title}: {self.target}" if self.target else title, facts, findings)

    def __repr__(self) -> str:
        return str(self.summary)

    def _repr_html_(self) -> str:
        return self.summary.html() + self.picture()._repr_html_()


def module_table(modules: Sequence[ModuleLike]) -> Table[ModuleLike]:
    """One row per module: what it depends on and what it declares."""
    return Table(_MODULES, modules, _NO_MODULES)


def _tone(finding: ModuleFinding) -> Tone:
    return "muted" if finding.severity == "info" else finding.severity


def _found(edges: Sequence[Edge]) -> list[Edge]:
    return [edge for edge in edges if edge.kind != "declared"]


def _kinds(edges: Sequence[Edge]) -> str:
    counts = Counter(edge.kind for edge in _found(edges))
    return ", ".join(f"{kind} ({count})" if count > 1 else kind for kind, count in counts.items())


def _declared(edges: Sequence[Edge]) -> str:
    """Tell whether a dependency is declared, or need not be."""
    if any(edge.kind == "declared" for edge in edges):
        return "yes"
    return "listens" if all(edge.relation == "listens" for edge in edges) else "no"


_FINDINGS = (
    Column[ModuleFinding]("kind", lambda f: f.kind, tone=_tone),
    Column[ModuleFinding]("problem", lambda f: f.problem),
    Column[ModuleFinding]("remedy", lambda f: f.remedy),
    Column[ModuleFinding]("evidence", lambda f: list_evidence(f.evidence)),
)
_NO_MODULES = "There are no modules. ERPKIT_MODULES names an entry-point group or a modules.toml that registers them."


def _count_migrations(module: ModuleLike) -> int:
    """Count files; of golang-migrate's, which are two for a version, the one that goes up."""
    files = module.migrations.glob("*.sql") if module.migrations else ()
    return sum(not file.name.endswith(".down.sql") for file in files)


_MODULES = (
    Column[ModuleLike]("module", lambda m: m.name),
    Column[ModuleLike]("depends on", lambda m: m.dependencies),
    Column[ModuleLike]("migrations", _count_migrations),
    Column[ModuleLike]("commands", lambda m: len(m.commands), minor=True),
    Column[ModuleLike]("publishes", lambda m: [event.__name__ for event in m.publishes]),
    Column[ModuleLike]("handlers", lambda m: len(m.subscribes), minor=True),
)
_EVENTS = (
    Column[tuple[str, list[EventHandler]]]("topic", lambda row: row[0]),
    Column[tuple[str, list[EventHandler]]](
        "handled by", lambda row: [h.name for h in row[1]] or "no handler", tone=lambda row: "" if row[1] else "warning"
    ),
    Column[tuple[str, list[EventHandler]]]("replayable", lambda row: [h.name for h in row[1] if h.replayable]),
)
_COUPLINGS = (
    Column[tuple[Edge, ...]]("module", lambda edges: edges[0].source),
    Column[tuple[Edge, ...]]("needs", lambda edges: edges[0].target),
    Column[tuple[Edge, ...]]("declared", _declared, tone=lambda edges: "warning" if _declared(edges) == "no" else ""),
    Column[tuple[Edge, ...]]("found", lambda edges: _kinds(edges) or None),
    Column[tuple[Edge, ...]]("evidence", lambda edges: list_evidence([e.evidence for e in _found(edges)]) or None),
)


def check_modules(
    candidates: Iterable[object],
    couplings: Couplings | None = None,
    *,
    rules: Rules = _NO_RULES,
    baseline: Baseline = _NO_BASELINE,
    findings: Sequence[ModuleFinding] = (),
    outside: Iterable[str] = (),
    indirect: bool = False,
    starts: bool = True,
    target: str = "",
    today: date | None = None,
) -> ModuleCheck:
    """Check modules without stopping at the first fault; use it for reports, and `load_order` at start-up.

    `couplings` are what was found in fact beside what is declared here, `findings` what was wrong before. Modules `outside` are
    known to exist elsewhere. With `indirect`, a dependency that is only declared by way of others is declared well enough.
    Modules that erpkit never `starts` may have any name. `today` decides what the `rules` still allow. What the `baseline` has is
    counted, and is no finding.
    """
    all_candidates, elsewhere, day = list(candidates), set(outside), today or date.today()
    modules = select_modules(all_candidates)
    known = {module.name for module in modules}
    found = couplings or Couplings()
    all_edges = {*declared_edges(modules), *event_edges(modules), *found.edges}
    edges = sorted(edge for edge in all_edges if rules.counts(edge))
    inside = [edge for edge in edges if edge.source in known and edge.target in known]
    allowed = {edge for edge in inside if rules.allows(edge, day)}
    judged = [edge for edge in inside if edge not in allowed]
    binding = [edge for edge in inside if edge.kind == "declared" or edge not in allowed]
    components = find_cycles(binding)
    graph = dependency_graph(modules)
    order = () if any(component.is_declared for component in components) else _order(graph, known)
    place = {name: number for number, name in enumerate(order)}
    all_findings = [
        *findings,
        *(name_faults(modules) if starts else ()),
        *structure_faults(all_candidates, elsewhere),
        *cycle_findings(components, binding),
        *wiring_faults(modules),
        *folder_faults(modules),
        *undeclared_findings(binding, indirect=indirect),
        *layer_findings(judged, rules.layers, known),
        *forbidden_findings(judged, rules, known),
        *allowance_findings(inside, rules, day),
        *event_findings(modules),
        *unused_findings(inside, couplings),
        *coverage_findings(modules, found.not_read, rules),
    ]
    fresh, in_baseline = baseline.filter(
        graded(all_findings, rules),
        _never(starts=starts),
        _unseen(found, known),
        only_code=starts and bool(found.not_asked),
    )
    return ModuleCheck(
        tuple(sorted(modules, key=lambda module: place.get(module.name, 0))),
        order,
        tuple(fresh),
        tuple(edges),
        tuple(components),
        tuple(sorted({edge.target for edge in edges} - known)),
        (*(str(one) for one in found.not_read if rules.reads(one.path)), *found.not_asked),
        target,
        in_baseline,
        {**found.homes, **find_homes(modules)},
        _never(starts=starts),
        graph=graph,
    )


def _unseen(found: Couplings, everyone: set[str]) -> set[str]:
    """Return the modules that were not read whole, though erpkit can read them."""
    failed = [one for one in found.not_read if one.severity != "info"]
    if any(not one.modules for one in failed):
        return everyone
    return {name for one in failed for name in one.modules}


def _never(*, starts: bool) -> frozenset[str]:
    return NEVER | REFUSED if starts else NEVER


def find_homes(modules: Iterable[ModuleLike]) -> dict[str, str]:
    """Return the files that describe modules: a modules.toml, or the manifest of an addon."""
    return {module.name: tell("").path for module in modules if (tell := getattr(module, "declared_at", None))}


def find_cycles(edges: Iterable[Edge]) -> list[Component]:
    """Return one component for each set of modules that require each other, in any way; those of start-up first.

    A subscription requires nothing, so modules that answer each other by events are no cycle.
    """
    found: dict[tuple[str, str], list[Edge]] = {}
    listened: set[tuple[str, str]] = set()
    for edge in edges:
        if edge.relation == "listens":
            listened.add((edge.source, edge.target))
        elif edge.source != edge.target and edge.binds:
            found.setdefault((edge.source, edge.target), []).append(edge)
    graph = graph_of(found)
    declared = graph_of((pair for pair, several in found.items() if any(e.kind == "declared" for e in several)), graph)
    components = []
    for modules in find_components(graph):
        at_start = find_components(within(declared, modules))
        path = shortest_cycle(declared, at_start[0]) if at_start else shortest_cycle(graph, modules)
        cut = smallest_cut(
            graph, modules, lambda pair: 0 if _is_idle(found[pair], pair in listened) else len(found[pair])
        )
        components.append(Component(modules, path, cut, bool(at_start)))
    return sorted(components, key=lambda component: not component.is_declared)


def _is_idle(edges: Sequence[Edge], is_listened: bool) -> bool:
    """Tell whether a dependency is declared for a subscription alone, which needs no declaration."""
    return is_listened and all(edge.kind == "declared" for edge in edges)


def _order(graph: networkx.DiGraph[str], known: set[str]) -> tuple[str, ...]:
    import networkx  # noqa: PLC0415

    sound = networkx.DiGraph(graph)
    sound.remove_edges_from(list(networkx.selfloop_edges(sound)))
    return tuple(n for n in networkx.lexicographical_topological_sort(sound.reverse(copy=False)) if n in known)
