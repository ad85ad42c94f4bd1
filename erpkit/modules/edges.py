"""Edges of the module graph: who needs whom, in which way, and what shows it."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from erpkit.modules.module import EventHandler, ModuleLike, is_foreign, topic_of

__all__ = [
    "KINDS",
    "Couplings",
    "Edge",
    "Kind",
    "declared_edges",
    "event_edges",
    "handler_place",
    "place_of",
    "shorten_path",
]

Kind = Literal["declared", "import", "event", "foreign key", "view", "query"]
KINDS: tuple[Kind, ...] = ("declared", "import", "event", "foreign key", "view", "query")


@dataclass(frozen=True, order=True)
class Edge:
    """Module `source` needs module `target`; `evidence` is a file and line, a constraint, a view, a topic or a query."""

    source: str
    target: str
    kind: Kind
    evidence: str

    def __str__(self) -> str:
        return f"{self.source} -> {self.target}: {self.kind}, {self.evidence}"


@dataclass(frozen=True)
class Couplings:
    """What was found in fact: its edges, in words what could not be looked at, and the modules of which not all was seen.

    `not_asked` is what was left out on purpose: no fault. Of a module in `partly_read` it cannot be told that it does not use
    what it declares.
    """

    edges: tuple[Edge, ...] = ()
    not_read: tuple[str, ...] = ()
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
        Edge(module.name, publisher, "event", _handling(publisher, module, handler))
        for module in modules
        for handler in module.subscribes
        if (publisher := publishers.get(handler.event)) is not None and publisher != module.name
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


def _handling(publisher: str, module: ModuleLike, handler: EventHandler) -> str:
    place = handler_place(module, handler)
    return f"{handler.name} handles {topic_of(publisher, handler.event)}{f' ({place})' if place else ''}"
