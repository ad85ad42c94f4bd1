"""Dependencies that a module has and does not declare: what shows them, and whether declaring or cutting is the cure. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, is_dataclass, replace
from typing import Any

from erpkit.modules.check import ModuleCheck
from erpkit.modules.module import Module, ModuleLike

__all__ = ["Undeclared", "declare", "find_undeclared"]


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
