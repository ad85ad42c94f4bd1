"""What-if questions on a module graph: an edge that is cut, a module that changes, a dependency that is declared."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, is_dataclass, replace
from typing import TYPE_CHECKING, Any

from erpkit.errors import UsageError
from erpkit.finding import Finding
from erpkit.modules.check import ModuleCheck, check_modules, find_cycles, find_homes
from erpkit.modules.cycles import graph_of
from erpkit.modules.findings import list_evidence
from erpkit.modules.module import Module, ModuleLike
from erpkit.modules.rules import Rules
from erpkit.modules.wiring import Component, Couplings, Edge
from erpkit.near import find_near
from erpkit.plural import count_of
from erpkit.result import Summary
from erpkit.table import Column, Table

if TYPE_CHECKING:
    import networkx

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
        places = f"{count_of(len(self.edges), 'place')} to change"
        if not self.before:
            cycles = "there is no cycle now, and there would be none"
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
        return (
            f"{count_of(count, 'module depends', 'modules depend')} on {self.module}: {', '.join(self.direct)}{by_way}"
        )

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
    """Tell how the modules would be without the edges named, `sales->catalog` each; raises UsageError for an unknown edge."""
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
    near = find_near(name, known, 1)
    return f": did you mean {near[0]}?" if near else ""


def _order(check: ModuleCheck, edges: Iterable[Edge]) -> tuple[str, ...]:
    import networkx  # noqa: PLC0415

    graph: networkx.DiGraph[str] = networkx.DiGraph()
    graph.add_nodes_from(check.names)
    graph.add_edges_from((e.target, e.source) for e in edges if e.kind == "declared" and e.source != e.target)
    return tuple(networkx.lexicographical_topological_sort(graph))


@dataclass(frozen=True)
class Undeclared:
    """Module `module` needs module `needs`; `dependencies` are what its record would say if it declared that.

    `cycle` is what declaring it would close, () where it closes none: then declaring is enough.
    """

    module: str
    needs: str
    evidence: tuple[str, ...]
    dependencies: tuple[str, ...]
    cycle: tuple[str, ...] = ()
    file: str = ""  # the modules.toml, or an addon's manifest, that describes the module; "" where Python does

    @property
    def can_be_declared(self) -> bool:
        """Whether declaring it leaves the modules loadable."""
        return not self.cycle

    @property
    def cure(self) -> str:
        """What to change, in words for a developer."""
        if self.can_be_declared and self.file:
            return f"declare: depends = {json.dumps(self.dependencies)} in {self.file}"
        if self.can_be_declared:
            return f"declare: Module({self.module!r}, dependencies={self.dependencies!r})"
        path = " -> ".join(self.cycle)
        return f"cut: declaring it would close the cycle {path}; let {self.module} publish what {self.needs} handles, or move it there"


@dataclass(frozen=True)
class Declarations:
    """What modules use without declaring it, and how they would be if they declared what can be.

    `check` is of the modules as they are, `planned` of `modules`, which declare more; `left` is what they still do not.
    """

    check: ModuleCheck
    undeclared: tuple[Undeclared, ...]
    modules: tuple[object, ...]
    planned: ModuleCheck
    left: tuple[Undeclared, ...]

    @property
    def is_cure(self) -> bool:
        """Whether the declarations leave nothing undeclared and no cycle."""
        return not self.left and not self.planned.cycle

    @property
    def table(self) -> Table[tuple[Undeclared, str]]:
        """One row per piece of evidence that a module needs another one."""
        rows = [(one, evidence) for one in self.undeclared for evidence in one.evidence]
        return Table(_EVIDENCE, rows, "Every dependency is declared.")

    @property
    def cures(self) -> str:
        """What to change, and the load order then, a line each."""
        return "\n".join([*(one.cure for one in self.undeclared), f"load order then: {self.planned.load_order}"])

    def summary(self, remaining: Sequence[Undeclared] | None = None) -> Summary:
        """Sum up what is to declare and to cut; `remaining` are the findings, by default all that is undeclared."""
        to_declare = sum(one.can_be_declared for one in self.undeclared)
        findings = [
            Finding("undeclared dependency", "", f"{one.module} needs {one.needs}: {one.cure}", of="module")
            for one in (self.undeclared if remaining is None else remaining)
        ]
        facts = {"to declare": to_declare, "to cut": len(self.undeclared) - to_declare}
        return Summary(f"Undeclared dependencies of {count_of(len(self.check.modules), 'module')}", facts, findings)

    def __str__(self) -> str:
        lines = [
            f"{one.module} needs {one.needs}, and declares {', '.join(one.dependencies[:-1]) or 'nothing'}"
            for one in self.undeclared
        ]
        return "\n".join([f"load order: {self.check.load_order}", *lines])


_EVIDENCE = (
    Column[tuple[Undeclared, str]]("module", lambda row: row[0].module),
    Column[tuple[Undeclared, str]]("needs", lambda row: row[0].needs),
    Column[tuple[Undeclared, str]]("evidence", lambda row: row[1]),
)


def plan_declarations(modules: Iterable[object], couplings: Couplings, rules: Rules | None = None) -> Declarations:
    """Check modules against their couplings by some rules, and again as they would be if they declared what they use. Pure."""
    candidates, rules = tuple(modules), rules or Rules()
    check = check_modules(candidates, couplings, rules=rules)
    undeclared = tuple(find_undeclared(check))
    declared = tuple(declare(candidates, undeclared))
    planned = check_modules(declared, couplings, rules=rules)
    return Declarations(check, undeclared, declared, planned, tuple(find_undeclared(planned)))


def find_undeclared(check: ModuleCheck) -> list[Undeclared]:
    """Return the undeclared dependencies among the findings of a check, one a pair of modules, by name."""
    found: dict[tuple[str, str], list[str]] = {}
    for finding in check.findings:
        if finding.kind == "undeclared dependency":
            source, target = finding.modules
            evidence = getattr(finding, "evidence", ()) or (finding.problem,)
            found.setdefault((source, target), []).extend(evidence)
    declared = {module.name: tuple(module.dependencies) for module in check.modules}
    files = find_homes(check.modules)
    return [
        Undeclared(
            source,
            target,
            tuple(evidence),
            (*declared[source], target),
            _cycle(check, source, target),
            files.get(source, ""),
        )
        for (source, target), evidence in sorted(found.items())
    ]


def declare(modules: Iterable[object], undeclared: Sequence[Undeclared]) -> list[object]:
    """Return the modules as they would be if they declared those of `undeclared` that can be; try them with `check_modules`."""
    wanted: dict[str, list[str]] = {}
    for one in undeclared:
        if one.can_be_declared:
            wanted.setdefault(one.module, []).append(one.needs)
    return [_declared(module, wanted) for module in modules]


def _declared(module: object, wanted: dict[str, list[str]]) -> object:
    if not isinstance(module, ModuleLike) or module.name not in wanted:
        return module
    dependencies = (*module.dependencies, *wanted[module.name])
    if is_dataclass(module) and not isinstance(module, type):
        changed: Any = module
        return replace(changed, dependencies=dependencies)
    return Module(
        module.name, dependencies, module.migrations, tuple(module.commands), tuple(module.publishes), tuple(module.subscribes)
    )  # fmt: skip


def _cycle(check: ModuleCheck, source: str, target: str) -> tuple[str, ...]:
    import networkx  # noqa: PLC0415 - slow to import

    try:
        return (source, *networkx.shortest_path(check.graph, target, source))
    except (networkx.NetworkXNoPath, networkx.NodeNotFound):
        return ()
