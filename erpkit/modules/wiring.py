"""How modules are wired: who needs whom, in which way, and whether their messages and handlers fit together."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal, get_args

from erpkit.finding import Finding, Severity
from erpkit.grouping import group_by
from erpkit.modules.cycles import Cut
from erpkit.modules.kinds import FINDINGS
from erpkit.modules.module import EventHandler, ModuleLike, is_foreign, topic_of

Kind = Literal[
    "declared", "import", "event", "foreign key", "view", "query", "trigger", "policy", "function", "inherits", "default",
    "type", "sql", "migration", "route", "command", "rule", "check", "index", "sequence", "database",
]  # fmt: skip
KINDS: tuple[Kind, ...] = get_args(Kind)
IN_CODE = frozenset(
    {"declared", "import", "event", "query", "sql", "migration", "route", "command"}
)  # the others: in a database
Relation = Literal["requires", "listens"]


@dataclass(frozen=True, order=True)
class Place:
    """Where something stands in a file, counted from 1, 0 where that is not known, and in words what stands there."""

    path: str
    line: int = 0
    column: int = 0
    text: str = ""

    def __str__(self) -> str:
        return f"{self.path}:{self.line}" if self.line else self.path


@dataclass(frozen=True, order=True)
class Edge:
    """Module `source` needs module `target`; `evidence` says in words what shows it: a file and line, a constraint, a topic.

    A module that `listens` to another's messages needs no load order, and closes no cycle; otherwise it `requires` the other.
    `path`, `line` and `column` are where it stands in a file, counted from 1, "" and 0 where it stands in none. It is not
    `certain` where only a name was found, in the body of a function for instance. An import below `if TYPE_CHECKING` is
    `for_types`.
    """

    source: str
    target: str
    kind: Kind
    evidence: str
    path: str = ""
    line: int = 0
    column: int = 0
    certain: bool = True
    relation: Relation = "requires"
    for_types: bool = False

    @property
    def place(self) -> Place | None:
        """Where it stands in a file, None where it stands in none."""
        return Place(self.path, self.line, self.column, f"{self.kind}: {self.evidence}") if self.path else None

    @property
    def binds(self) -> bool:
        """Whether it decides the load order: it is certain, and more than a subscription."""
        return self.certain and self.relation == "requires"

    def __str__(self) -> str:
        return f"{self.source} -> {self.target}: {self.kind}, {self.evidence}"


@dataclass(frozen=True)
class Unread:
    """What could not be read: a file, a folder, or a source as a whole, why not, and the `modules` that it belongs to.

    It is `info` where erpkit has no reader for it at all, for the imports of another language.
    """

    problem: str
    path: str = ""
    line: int = 0
    modules: tuple[str, ...] = ()
    severity: Severity = "warning"

    def __str__(self) -> str:
        return self.problem


@dataclass(frozen=True)
class Couplings:
    """What was found in fact: its edges, what could not be looked at, and the modules of which not all was seen.

    `not_asked` is what was left out on purpose: no fault. Of a module in `partly_read` it cannot be told that it does not use
    what it declares. `homes` are the files of packages by module.
    """

    edges: tuple[Edge, ...] = ()
    not_read: tuple[Unread, ...] = ()
    partly_read: frozenset[str] = frozenset()
    not_asked: tuple[str, ...] = ()
    homes: Mapping[str, str] = field(default_factory=dict)


def places_of(edges: Iterable[Edge]) -> tuple[Place, ...]:
    """Return the places of edges in files, each once."""
    return tuple(dict.fromkeys(place for edge in edges if (place := edge.place)))


def declared_edges(modules: Iterable[ModuleLike]) -> list[Edge]:
    """Return what modules declare; one that is read from a file tells the line."""
    return [
        Edge(module.name, name, "declared", str(place), place.path if place.line else "", place.line)
        for module in modules
        for name in module.dependencies
        for place in [_declared_at(module, name)]
    ]


def event_edges(modules: Sequence[ModuleLike]) -> list[Edge]:
    """Return an edge from each handler's module to the one that publishes its event."""
    publishers = {event: module.name for module in modules for event in module.publishes}
    return [
        _listening(publisher, module, handler, event)
        for module in modules
        for handler in module.subscribes
        for event in handler.events
        if (publisher := publishers.get(event)) is not None and publisher != module.name
    ]


def _listening(publisher: str, module: ModuleLike, handler: EventHandler, event: type) -> Edge:
    path, line = find_handler(module, handler)
    place = f" ({path}:{line})" if path else ""
    words = f"{handler.name} handles {topic_of(publisher, event)}{place}"
    return Edge(module.name, publisher, "event", words, path, line, relation="listens")


def find_handler(module: ModuleLike, handler: EventHandler) -> tuple[str, int]:
    """Return file and line of a handler's function, "" and 0 for one that is written in another language."""
    code = None if is_foreign(module) else getattr(handler.function, "__code__", None)
    return (shorten_path(Path(code.co_filename)), code.co_firstlineno) if code else ("", 0)


def shorten_path(path: Path) -> str:
    """Return a path as seen from the working folder, or from the folder that Python imports it from."""
    text = str(path)
    roots = [root if root.endswith("/") else f"{root}/" for root in (os.getcwd(), *sys.path) if root]  # noqa: PTH109 - quicker
    return min((text[len(root) :] for root in roots if text.startswith(root)), key=len, default=text)


def _declared_at(module: ModuleLike, dependency: str) -> Place:
    tell = getattr(module, "declared_at", None)
    return tell(dependency) if tell else Place(f"dependencies of {module.name}")


@dataclass(frozen=True)
class ModuleFinding:
    """One thing that is wrong: its kind, the modules concerned, what it is, what to do, and what shows it."""

    kind: str
    modules: tuple[str, ...]
    problem: str
    remedy: str
    evidence: tuple[str, ...] = ()
    places: tuple[Place, ...] = ()
    grade: Severity | None = None

    @property
    def severity(self) -> Severity:
        """Its `grade`, or else that of its kind: `error` where start-up refuses the modules."""
        return self.grade or FINDINGS[self.kind][0]

    @property
    def rule(self) -> str:
        """The name of its kind for other programs, which does not change: `undeclared-dependency`."""
        return self.kind.replace(" ", "-")

    @property
    def finding(self) -> Finding:
        """The same as findings of other kinds are."""
        return Finding(self.kind, "", self.problem, self.severity, self.remedy, self.evidence, of="module")

    def __str__(self) -> str:
        return f"{self.kind}: {self.problem}; {self.remedy}" if self.remedy else f"{self.kind}: {self.problem}"


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
        return {
            pair: tuple(edges) for pair, edges in group_by(self.edges, lambda one: (one.source, one.target)).items()
        }

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The names of all modules, in load order where there is one, each once."""
        return self.order or tuple(sorted({module.name for module in self.modules}))
