"""Dependencies that a module has and does not declare: what shows them, and whether declaring or cutting is the cure. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, is_dataclass, replace
from typing import Any

from erpkit.finding import Finding
from erpkit.modules.check import ModuleCheck, check_modules
from erpkit.modules.module import Module, ModuleLike
from erpkit.modules.wiring import Couplings
from erpkit.result import Summary
from erpkit.table import Column, Table


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

    @property
    def can_be_declared(self) -> bool:
        """Whether declaring it leaves the modules loadable."""
        return not self.cycle

    @property
    def cure(self) -> str:
        """What to change, in words for a developer."""
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
        """One line a piece of evidence that a module needs another one."""
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
        return Summary(f"Undeclared dependencies of {len(self.check.modules)} modules", facts, findings)

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


def plan_declarations(modules: Iterable[object], couplings: Couplings) -> Declarations:
    """Check modules against their couplings, and again as they would be if they declared what they use. Pure."""
    candidates = tuple(modules)
    check = check_modules(candidates, couplings)
    undeclared = tuple(find_undeclared(check))
    declared = tuple(declare(candidates, undeclared))
    planned = check_modules(declared, couplings)
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
    return [
        Undeclared(source, target, tuple(evidence), (*declared[source], target), _cycle(check, source, target))
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
