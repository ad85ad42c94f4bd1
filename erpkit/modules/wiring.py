"""How modules are wired: who needs whom, in which way, and whether their messages and handlers fit together."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, get_args

from erpkit.finding import Finding, Severity
from erpkit.modules.cycles import Cut
from erpkit.modules.module import EventHandler, ModuleLike, answers_of, is_foreign, tools_of, topic_of, upcasters_of
from erpkit.plural import count_of

Kind = Literal[
    "declared", "import", "event", "foreign key", "view", "query", "trigger", "policy", "function", "inherits", "default",
    "type", "sql", "migration", "route", "command", "rule", "check", "index", "sequence", "database",
]  # fmt: skip
KINDS: tuple[Kind, ...] = get_args(Kind)
Relation = Literal["requires", "listens"]


@dataclass(frozen=True, order=True)
class Edge:
    """Module `source` needs module `target`; `evidence` says in words what shows it: a file and line, a constraint, a topic.

    `path`, `line` and `column` are where it stands in a file, counted from 1, "" and 0 where it stands in none. It is not
    `certain` where only a name was found, in the body of a function for instance.
    """

    source: str
    target: str
    kind: Kind
    evidence: str
    path: str = ""
    line: int = 0
    column: int = 0
    certain: bool = True

    @property
    def relation(self) -> Relation:
        """`listens` for an event's message, which needs no load order and closes no cycle; else `requires`."""
        return "listens" if self.kind == "event" else "requires"

    def __str__(self) -> str:
        return f"{self.source} -> {self.target}: {self.kind}, {self.evidence}"


@dataclass(frozen=True)
class Unread:
    """What could not be read: a file, a folder, or a source as a whole, why not, and the `modules` that it belongs to."""

    problem: str
    path: str = ""
    line: int = 0
    modules: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.problem


@dataclass(frozen=True)
class Couplings:
    """What was found in fact: its edges, what could not be looked at, and the modules of which not all was seen.

    `not_asked` is what was left out on purpose: no fault. Of a module in `partly_read` it cannot be told that it does not use
    what it declares.
    """

    edges: tuple[Edge, ...] = ()
    not_read: tuple[Unread, ...] = ()
    partly_read: frozenset[str] = frozenset()
    not_asked: tuple[str, ...] = ()


def declared_edges(modules: Iterable[ModuleLike]) -> list[Edge]:
    """Return what modules declare; one that is read from a file tells the line."""
    return [
        Edge(module.name, name, "declared", _declared_at(module, name))
        for module in modules
        for name in module.dependencies
    ]


def event_edges(modules: Sequence[ModuleLike]) -> list[Edge]:
    """Return an edge from each handler's module to the one that publishes its event."""
    publishers = {event: module.name for module in modules for event in module.publishes}
    return [
        Edge(module.name, publisher, "event", _handling(publisher, module, handler, event))
        for module in modules
        for handler in module.subscribes
        for event in handler.events
        if (publisher := publishers.get(event)) is not None and publisher != module.name
    ]


def place_of(module: str, line: int, *, is_package: bool = False) -> str:
    """Return file and line of a Python module, by its dotted name."""
    return f"{module.replace('.', '/')}{'/__init__' if is_package else ''}.py:{line}"


def handler_place(module: ModuleLike, handler: EventHandler) -> str:
    """Return file and line of a handler's function, "" for one that is written in another language."""
    code = None if is_foreign(module) else getattr(handler.function, "__code__", None)
    return f"{shorten_path(Path(code.co_filename))}:{code.co_firstlineno}" if code else ""


def shorten_path(path: Path) -> str:
    """Return a path as seen from the working folder, or from the folder that Python imports it from."""
    text = path.as_posix()
    roots = [root if root.endswith("/") else f"{root}/" for root in (Path.cwd().as_posix(), *sys.path) if root]
    return min((text[len(root) :] for root in roots if text.startswith(root)), key=len, default=text)


def _declared_at(module: ModuleLike, dependency: str) -> str:
    tell = getattr(module, "declared_at", None)
    return str(tell(dependency)) if tell else f"dependencies of {module.name}"


def _handling(publisher: str, module: ModuleLike, handler: EventHandler, event: type) -> str:
    place = handler_place(module, handler)
    return f"{handler.name} handles {topic_of(publisher, event)}{f' ({place})' if place else ''}"


NOT_READ = "not read"
_WARNINGS = frozenset({
    NOT_READ, "no modules", "hidden cycle", "undeclared dependency", "unused dependency", "layer violation", "unknown layer",
    "unhandled event", "split projection",
})  # fmt: skip


@dataclass(frozen=True)
class ModuleFinding:
    """One thing that is wrong: its kind, the modules concerned, what it is, what to do, and what shows it."""

    kind: str
    modules: tuple[str, ...]
    problem: str
    remedy: str
    evidence: tuple[str, ...] = ()

    @property
    def severity(self) -> Severity:
        """`error` where start-up refuses the modules, else `warning`."""
        return "warning" if self.kind in _WARNINGS else "error"

    @property
    def finding(self) -> Finding:
        """The same as findings of other kinds are."""
        return Finding(self.kind, "", self.problem, self.severity, self.remedy, self.evidence, of="module")

    def __str__(self) -> str:
        return f"{self.kind}: {self.problem}; {self.remedy}" if self.remedy else f"{self.kind}: {self.problem}"


def wiring_faults(modules: Sequence[ModuleLike]) -> list[ModuleFinding]:
    """Return what would keep a message from its handler; start-up stops at the first, a report shows all of them."""
    return [
        *_handled_twice("command", [(m.name, handler.command) for m in modules for handler in m.commands]),
        *_handled_twice("query", [(m.name, handler.query) for m in modules for handler in answers_of(m)]),
        *_published_twice(modules),
        *_same_topic(modules),
        *_same_tool(modules),
        *_orphan_handlers(modules),
        *_handler_faults(modules),
        *_upcaster_faults(modules),
    ]


def _handled_twice(kind: str, declared: Sequence[tuple[str, type]]) -> Iterator[ModuleFinding]:
    for message, count in Counter(message for _, message in declared).items():
        if count > 1:
            names = tuple(name for name, other in declared if other is message)
            problem = f"{kind} {message.__name__} has {count} handlers, in {', '.join(names)}"
            yield ModuleFinding(f"{kind} handled twice", names, problem, "keep one")


def _published_twice(modules: Sequence[ModuleLike]) -> Iterator[ModuleFinding]:
    for event, count in Counter(event for m in modules for event in m.publishes).items():
        if count > 1:
            names = tuple(m.name for m in modules for other in m.publishes if other is event)
            problem = f"{event.__name__} is published by {', '.join(names)}"
            yield ModuleFinding("event published twice", names, problem, "let one module publish it")


def _same_topic(modules: Sequence[ModuleLike]) -> Iterator[ModuleFinding]:
    for module in modules:
        handled = [*(h.command for h in module.commands), *(h.query for h in answers_of(module))]
        types: set[type] = {*handled, *module.publishes}
        for name, count in Counter(message.__name__ for message in types).items():
            if count > 1:
                problem = f"{count} messages have the topic {module.name}.{name}"
                yield ModuleFinding("topic used twice", (module.name,), problem, "rename all but one")


def _same_tool(modules: Sequence[ModuleLike]) -> Iterator[ModuleFinding]:
    owners: dict[str, list[str]] = {}
    for module in modules:
        for tool in tools_of(module):
            owners.setdefault(tool.name_in(module.name), []).append(module.name)
    for name, names in owners.items():
        if len(names) > 1:
            problem = f"{count_of(len(names), 'tool is', 'tools are')} named {name}, in {', '.join(names)}"
            yield ModuleFinding("tool named twice", tuple(names), problem, "rename all but one")


def _orphan_handlers(modules: Sequence[ModuleLike]) -> Iterator[ModuleFinding]:
    published = {event for module in modules for event in module.publishes}
    for module in modules:
        for handler in module.subscribes:
            for event in (event for event in handler.events if event not in published):
                problem = f"{handler.name} subscribes to {event.__name__}, which no module publishes"
                remedy, place = "publish the event or remove the handler", handler_place(module, handler)
                yield ModuleFinding("orphan handler", (module.name,), problem, remedy, (place,) if place else ())


def _handler_faults(modules: Sequence[ModuleLike]) -> Iterator[ModuleFinding]:
    """An effect outside the database must say whether it wants all history; a name that is taken over must be free."""
    names = {handler.name for module in modules for handler in module.subscribes}
    for module, handler in ((owner, one) for owner in modules for one in owner.subscribes):
        if handler.is_outside and handler.start is None:
            problem = f"{handler.name} has effects outside the database and does not say where it starts"
            remedy = 'add start="now" for new events only, or start="beginning" for all that the log has'
            yield ModuleFinding("no start", (module.name,), problem, remedy)
        for former in names.intersection(handler.former_names):
            problem = f"{handler.name} takes over from {former}, which is still a handler"
            yield ModuleFinding("taken over alive", (module.name,), problem, f"remove {former}, or `formerly`")


def _upcaster_faults(modules: Sequence[ModuleLike]) -> Iterator[ModuleFinding]:
    """An event's upcasters stand beside it, in the module that publishes it, and lead from version 1 on without a gap."""
    for module in modules:
        versions: dict[type, list[int]] = {}
        for upcaster in upcasters_of(module):
            versions.setdefault(upcaster.event, []).append(upcaster.from_version)
        for event, found in versions.items():
            if event not in module.publishes:
                problem = f"{module.name} has an upcaster of {event.__name__}, which it does not publish"
                yield ModuleFinding("orphan upcaster", (module.name,), problem, "move it to the module that does")
            elif sorted(found) != [*range(1, len(found) + 1)]:
                problem = f"the upcasters of {topic_of(module.name, event)} are from versions {sorted(found)}"
                yield ModuleFinding("upcaster gap", (module.name,), problem, "have one from each version, 1 first")


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
