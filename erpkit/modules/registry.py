"""The registry of modules: where they come from, their load order, and the look-ups by message."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from glob import glob
from graphlib import CycleError, TopologicalSorter
from heapq import heappop, heappush
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from traceback import extract_tb
from typing import TYPE_CHECKING, TypeVar

from erpkit.config import Settings, expand_home
from erpkit.errors import ModuleError, NoModulesError, UsageError, describe_error
from erpkit.modules.cycles import find_components, shortest_cycle
from erpkit.modules.faults import name_faults, refuse, select_modules, structure_faults, wiring_faults
from erpkit.modules.module import (
    CommandHandler,
    EventHandler,
    ModuleLike,
    Query,
    QueryHandler,
    Upcaster,
    answers_of,
    is_foreign,
    topic_of,
    upcasters_of,
)
from erpkit.modules.wiring import Edge, ModuleFinding, Unread
from erpkit.plural import count_of

if TYPE_CHECKING:
    import networkx

DEFAULT_GROUP = "erpkit.modules"
SAMPLE_GROUP = "erpkit.sample"


@dataclass(frozen=True)
class Candidates:
    """What is registered, unchecked, and what is wrong with what could not be loaded."""

    modules: tuple[object, ...]
    faults: tuple[ModuleFinding, ...] = ()


def find_modules(settings: Settings) -> list[object]:
    """Load what is registered, unchecked; raises ModuleError at the first that cannot be loaded, and as `read_candidates`."""
    found = read_candidates(settings)
    for fault in found.faults:
        raise ModuleError(f"{fault.problem}; {fault.remedy}")
    return list(found.modules)


def read_candidates(settings: Settings) -> Candidates:
    """Load what is registered in the configured source: an entry-point group, or the path of a modules.toml.

    With the embedded server and no module of one's own, that is the sample ERP. Raises ModuleError for a source that is not
    there or registers nothing, and for a modules.toml that is not valid; NoModulesError where no source is named, either.
    """
    if settings.modules is not None and is_path(settings.modules):
        from erpkit.modules.manifest import read_manifest  # noqa: PLC0415 - pydantic is slow to import

        return Candidates(tuple(read_manifest(expand_home("ERPKIT_MODULES", settings.modules))))
    group = settings.modules or DEFAULT_GROUP
    entries = entry_points(group=group)
    if not entries and settings.modules is None and settings.is_embedded:
        entries = entry_points(group=SAMPLE_GROUP)
    if not entries and settings.tenants_query is not None:
        return Candidates(())  # another ERP's database can be read without its modules
    if not entries:
        kind = NoModulesError if settings.modules is None else ModuleError
        foreign = "; for an ERP that erpkit did not make: erpkit doctor" if settings.modules is None else ""
        raise kind(
            f"no module is registered under the entry-point group {group}: see ERPKIT_MODULES in the notebook guide/own_erp{foreign}"
        )
    return _load_all(group, entries)


def is_path(source: str) -> bool:
    """Tell a path from the name of a group, which is made of words and dots."""
    return source.endswith(".toml") or "/" in source or "\\" in source or source in (".", "..")


def _load_all(group: str, entries: Iterable[EntryPoint]) -> Candidates:
    by_name: dict[str, list[EntryPoint]] = defaultdict(list)
    for entry in entries:
        by_name[entry.name].append(entry)
    modules: list[object] = []
    faults: list[ModuleFinding] = []
    for name, same in by_name.items():
        if len(same) > 1:
            faults.append(_registered_twice(group, name, same))
            continue
        loaded = _load(same[0])
        if isinstance(loaded, ModuleFinding):
            faults.append(loaded)
        else:
            modules.append(loaded)
    return Candidates(tuple(modules), tuple(faults))


def _registered_twice(group: str, name: str, entries: Iterable[EntryPoint]) -> ModuleFinding:
    owners = [f"{entry.value}, from {entry.dist.name if entry.dist is not None else 'a path'}" for entry in entries]
    problem = (
        f"entry point {name} is registered {count_of(len(owners), 'time')} under {group}: {'; '.join(sorted(owners))}"
    )
    return ModuleFinding("registered twice", (name,), problem, "uninstall or rename all but one")


def _load(entry: EntryPoint) -> object:
    try:
        return entry.load()
    except (Exception, SystemExit) as error:
        problem = f"entry point {entry.name} ({entry.value}) cannot be loaded: {_reason(error)}"
        return ModuleFinding("cannot be loaded", (entry.name,), problem, "fix its import, or uninstall it")


def _reason(error: BaseException) -> str:
    """Return why and where an import failed, in one line."""
    said = describe_error(error)
    frames = [frame for frame in extract_tb(error.__traceback__) if not frame.filename.startswith("<frozen")]
    last = frames[-1]
    is_ours = last.filename == __file__ or bool({"importlib", "importlib_metadata"} & {*Path(last.filename).parts})
    return said if is_ours else f"{said} ({last.filename}:{last.lineno})"


@dataclass(frozen=True)
class Source:
    """Candidates for modules and what was wrong on the way to them; `imports` were read with them, of Odoo's addons.

    Modules `outside` exist elsewhere; with `indirect`, what is declared by way of others is declared well enough.
    """

    name: str
    candidates: tuple[object, ...]
    findings: tuple[ModuleFinding, ...] = ()
    imports: tuple[Edge, ...] | None = None
    not_read: tuple[Unread, ...] = ()
    outside: tuple[str, ...] = ()
    indirect: bool = False


def read_source(settings: Settings, odoo: Sequence[Path] = ()) -> Source:
    """Read what `settings.modules` names, or folders of Odoo's addons; an entry point that cannot be loaded is a finding.

    A folder's path as `settings.modules` is a folder of addons, too, and so is a pattern such as `oca/*`. Raises ModuleError or
    UsageError for a source that is named and is not there.
    """
    if not odoo and settings.modules and (Path(settings.modules).is_dir() or _PATTERN.search(settings.modules)):
        odoo = [Path(settings.modules)]
    if odoo:
        from erpkit.modules.odoo import read_addons  # noqa: PLC0415 - few have addons

        addons = read_addons([folder for path in odoo for folder in _folders(path)])
        name = f"Odoo's addons in {', '.join(map(str, odoo))}"
        return Source(
            name, addons.modules, addons.findings, addons.imports, addons.not_read, addons.outside, indirect=True
        )
    try:
        found = read_candidates(settings)
    except NoModulesError:
        found = Candidates(())  # which is a finding
    return Source(_name_of(settings), found.modules, found.faults)


_PATTERN = re.compile(r"[*?\[]")


def _folders(path: Path) -> list[Path]:
    """Return the folders that a path names: one, or all that match it as a pattern."""
    text = str(path.expanduser())
    if not _PATTERN.search(text) or Path(text).is_dir():
        return [Path(text)]
    found = [Path(one) for one in sorted(glob(text)) if Path(one).is_dir()]  # noqa: PTH207 - it may be absolute
    if not found:
        raise UsageError(f"{path}: no folder matches")
    return found


def _name_of(settings: Settings) -> str:
    if settings.modules is None and settings.is_embedded and not entry_points(group=DEFAULT_GROUP):
        return SAMPLE_GROUP
    return settings.modules or DEFAULT_GROUP


def load_order(candidates: Iterable[object]) -> tuple[ModuleLike, ...]:
    """Sort modules so that each follows those that it depends on; by name where the dependencies leave a choice.

    Raises ModuleError for an object that is not a module, a duplicate, a missing dependency, a module that depends on itself, and
    cycles, each of them named in full.
    """
    everyone = list(candidates)
    modules = select_modules(everyone)
    refuse([*name_faults(modules), *structure_faults(everyone)])
    by_name = {module.name: module for module in modules}
    return tuple(by_name[name] for name in _sort(modules))


def _sort(modules: Sequence[ModuleLike]) -> Iterator[str]:
    """Yield the names in load order, by graphlib: every command sorts, and networkx is slow to import."""
    sorter = TopologicalSorter({module.name: module.dependencies for module in modules})
    try:
        sorter.prepare()
    except CycleError:
        _refuse_cycles(dependency_graph(modules))
        raise
    ready = sorted(sorter.get_ready())
    while ready:
        yield (name := heappop(ready))
        sorter.done(name)
        for following in sorter.get_ready():
            heappush(ready, following)


def dependency_graph(modules: Sequence[ModuleLike]) -> networkx.DiGraph[str]:
    """Return the graph of declared dependencies; an edge points from a module to one that it depends on."""
    import networkx  # noqa: PLC0415

    graph: networkx.DiGraph[str] = networkx.DiGraph()
    graph.add_nodes_from(module.name for module in modules)
    graph.add_edges_from((module.name, dependency) for module in modules for dependency in module.dependencies)
    return graph


def find_cycles(graph: networkx.DiGraph[str]) -> list[list[str]]:
    """Return a short cycle for each component of modules that reach each other, the first name repeated at the end.

    Never all cycles: their number explodes. Sorted by name.
    """
    following = {name: list(edges) for name, edges in graph.adjacency()}
    return sorted(list(shortest_cycle(following, component)) for component in find_components(following))


def _refuse_cycles(graph: networkx.DiGraph[str]) -> None:
    cycles = find_cycles(graph)
    named = "; ".join(" -> ".join(cycle) for cycle in cycles)
    if len(cycles) == 1:
        raise ModuleError(f"modules depend on each other in a cycle: {named}; remove one of these dependencies")
    if cycles:
        raise ModuleError(
            f"modules depend on each other in {count_of(len(cycles), 'cycle')}: {named}; remove one dependency of each"
        )


_Answer = TypeVar("_Answer")


@dataclass(frozen=True)
class Registry:
    """The modules of one ERP in load order, with the look-ups that the buses need."""

    modules: tuple[ModuleLike, ...]

    @classmethod
    def of(cls, modules: Iterable[ModuleLike]) -> Registry:
        """Sort `modules` and wire their messages to their handlers; raises ModuleError, naming the first culprit."""
        return _wired(modules)

    def check_handlers(self) -> None:
        """Raise UsageError where no module's handlers can run here, as all are written in another language."""
        if self.modules and all(map(is_foreign, self.modules)):
            raise UsageError(
                f"a modules.toml describes {self.modules[0].name} and the others: their handlers are written in another "
                "language and do not run here"
            )

    def topic(self, message: type) -> str:
        """Return the topic of an event, command or query type; raises ModuleError when no module declares it."""
        try:
            return self._topics[message]
        except KeyError:
            raise ModuleError(
                f"no module publishes or handles {message.__name__}: list it in its module's record"
            ) from None

    @property
    def topics(self) -> list[str]:
        """The topics of all messages that modules declare, commands and queries, too."""
        return list(self._topics.values())

    def version(self, event: type) -> int:
        """Return the version in which an event is written: one more than its last upcaster's."""
        return len(self.upcasters(event)) + 1

    def upcasters(self, event: type) -> tuple[Upcaster, ...]:
        """Return the upcasters of an event, the one from version 1 first."""
        return self._upcasters.get(event, ())

    def command_handler(self, command: type) -> CommandHandler:
        """Return the one handler of a command; raises ModuleError when there is none."""
        for handler in (handler for module in self.modules for handler in module.commands):
            if handler.command is command:
                return handler
        raise ModuleError(f"command {command.__name__} has no handler: list one under its module's commands")

    def query_handler(self, query: type[Query[_Answer]]) -> QueryHandler[_Answer]:
        """Return the one handler of a query; raises ModuleError when there is none."""
        for handler in (handler for module in self.modules for handler in answers_of(module)):
            if handler.query is query:
                return handler
        raise ModuleError(f"query {query.__name__} has no handler: list one under its module's answers")

    @cached_property
    def event_handlers(self) -> dict[str, EventHandler]:
        """All event handlers by name, in load order; not those that are written in another language."""
        return {
            handler.name: handler for module in self.modules if not is_foreign(module) for handler in module.subscribes
        }

    def topics_of(self, handler: EventHandler) -> tuple[str, ...]:
        """Return the topics that an event handler listens to."""
        return tuple(self.topic(event) for event in handler.events)

    def event_of(self, handler: EventHandler, topic: str) -> type:
        """Return which of its events a handler gets under a topic; raises ModuleError for one that it does not listen to."""
        if not isinstance(handler.event, tuple):
            return handler.event
        event = self._handled.get((handler.name, topic))
        if event is None:
            raise ModuleError(f"{handler.name} does not handle {topic}: add its type to the handler's events")
        return event

    @cached_property
    def _handled(self) -> dict[tuple[str, str], type]:
        return {(h.name, self.topic(event)): event for h in self.event_handlers.values() for event in h.events}

    @cached_property
    def _topics(self) -> dict[type, str]:
        return {
            message: topic_of(module.name, message)
            for module in self.modules
            for messages in (
                module.publishes,
                (handler.command for handler in module.commands),
                (handler.query for handler in answers_of(module)),
            )
            for message in messages
        }

    @cached_property
    def _upcasters(self) -> dict[type, tuple[Upcaster, ...]]:
        found: dict[type, tuple[Upcaster, ...]] = {}
        everyone: list[Upcaster] = [upcaster for module in self.modules for upcaster in upcasters_of(module)]
        for upcaster in sorted(everyone, key=lambda upcaster: upcaster.from_version):
            found[upcaster.event] = (*found.get(upcaster.event, ()), upcaster)
        return found


def load_modules(settings: Settings) -> Registry:
    """Find, sort and check the modules of the ERP; raises ModuleError, naming the culprit."""
    return _wired(find_modules(settings))


def _wired(candidates: Iterable[object]) -> Registry:
    ordered = load_order(candidates)
    refuse(wiring_faults(ordered))
    return Registry(ordered)
