"""What start-up refuses, as findings: it stops at the first one, and a check shows all of them. Pure."""

from __future__ import annotations

import inspect
import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path

from erpkit.errors import ModuleError
from erpkit.modules.module import (
    EventHandler,
    ModuleLike,
    answers_of,
    is_foreign,
    protocol_faults,
    short,
    tools_of,
    topic_of,
    upcasters_of,
)
from erpkit.modules.wiring import Edge, ModuleFinding, Place, declared_edges, find_handler, places_of, shorten_path
from erpkit.plural import count_of

_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}", re.ASCII)


def refuse(faults: Sequence[ModuleFinding]) -> None:
    """Raise ModuleError for the first fault, if there is one."""
    for fault in faults:
        raise ModuleError(f"{fault.problem}: {fault.remedy}")


def select_modules(candidates: Sequence[object]) -> list[ModuleLike]:
    """Return those of the candidates that are modules."""
    return [one for one in candidates if isinstance(one, ModuleLike) and not protocol_faults(one)]


def structure_faults(candidates: Sequence[object], outside: Collection[str] = ()) -> list[ModuleFinding]:
    """Return what keeps modules from being told apart and put in an order, but for cycles; modules `outside` exist elsewhere."""
    modules = select_modules(candidates)
    edges = declared_edges(modules)
    return [
        *_not_modules(candidates),
        *_same_name(modules),
        *_same_handler(modules),
        *missing_faults(edges, {*outside, *(module.name for module in modules)}),
        *_depends_on_itself(edges),
    ]


def name_faults(modules: Sequence[ModuleLike]) -> list[ModuleFinding]:
    """Return modules whose name cannot be the namespace of topics and tables."""
    remedy = "use a-z, 0-9 and _, a letter first, at most 40 characters"
    return [
        ModuleFinding("bad name", (module.name,), f"{short(module.name)} is not a module name", remedy)
        for module in modules
        if not _NAME.fullmatch(module.name)
    ]


def _not_modules(candidates: Sequence[object]) -> Iterator[ModuleFinding]:
    for one in candidates:
        if faults := protocol_faults(one):
            problem = f"{short(one)} is not a module ({'; '.join(faults)})"
            yield ModuleFinding("no module", (), problem, "register an erpkit.Module", tuple(faults))


def _same_name(modules: Sequence[ModuleLike]) -> Iterator[ModuleFinding]:
    for name, count in Counter(module.name for module in modules).items():
        if count > 1:
            paths = [str(path) for m in modules if m.name == name and (path := getattr(m, "path", None))]
            problem, remedy = f"more than one module is named {name}", "names must be unique: rename all but one"
            yield ModuleFinding("duplicate", (name,), problem, remedy, tuple(paths), tuple(map(Place, paths)))


def _same_handler(modules: Sequence[ModuleLike]) -> Iterator[ModuleFinding]:
    owned = [(handler.name, module, handler) for module in modules for handler in module.subscribes]
    for name, count in Counter(name for name, _, _ in owned).items():
        if count > 1:
            same = [(module, handler) for other, module, handler in owned if other == name]
            names = tuple(dict.fromkeys(module.name for module, _ in same))
            places = tuple(place for module, handler in same for place in handler_places(module, handler))
            problem = f"more than one event handler is named {name}, in {', '.join(names)}"
            remedy = "names must be unique: rename all but one"
            yield ModuleFinding("handler named twice", names, problem, remedy, tuple(map(str, places)), places)


def missing_faults(edges: Sequence[Edge], known: Collection[str]) -> Iterator[ModuleFinding]:
    """Yield each dependency on a module that does not exist, with the one whose name comes near it."""
    for edge in edges:
        if edge.kind == "declared" and edge.target not in known:
            near = get_close_matches(edge.target, known, n=1, cutoff=0.75)
            remedy = f"did you mean {near[0]}?" if near else "register it, or remove the dependency"
            problem = f"module {edge.source} depends on {edge.target}, which is not registered"
            names = (edge.source, edge.target)
            yield ModuleFinding("missing dependency", names, problem, remedy, (edge.evidence,), places_of([edge]))


def _depends_on_itself(edges: Sequence[Edge]) -> Iterator[ModuleFinding]:
    for edge in edges:
        if edge.source == edge.target:
            problem = f"module {edge.source} depends on itself ({edge.source} -> {edge.source})"
            yield ModuleFinding(
                "cycle", (edge.source,), problem, "remove that dependency", (edge.evidence,), places_of([edge])
            )


def handler_places(module: ModuleLike, handler: EventHandler) -> tuple[Place, ...]:
    """Return the place of a handler's function, () for one that is written in another language."""
    path, line = find_handler(module, handler)
    return (Place(path, line),) if path else ()


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
        *_function_faults(modules),
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
                remedy = "publish the event or remove the handler"
                places = handler_places(module, handler)
                shown = tuple(map(str, places))
                yield ModuleFinding("orphan handler", (module.name,), problem, remedy, shown, places)


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


def _function_faults(modules: Sequence[ModuleLike]) -> Iterator[ModuleFinding]:
    """Yield handlers that are no functions, or that cannot be called with what they are given."""
    for module in modules:
        for what, function, given in [] if is_foreign(module) else _functions(module):
            if fault := _call_fault(function, given):
                call = f"({', '.join(given)})"
                remedy = f"give a function that is called as function{call}"
                yield ModuleFinding(
                    "bad handler", (module.name,), f"{what} {fault}", remedy, (), _code_places(function)
                )


def _functions(module: ModuleLike) -> Iterator[tuple[str, object, tuple[str, ...]]]:
    """Yield each function of a module, with what it is called in words, and what it is given."""
    for command in module.commands:
        yield (
            f"the handler of command {topic_of(module.name, command.command)}",
            command.function,
            ("command", "context"),
        )
    for answer in answers_of(module):
        yield f"the handler of query {topic_of(module.name, answer.query)}", answer.function, ("query", "context")
    for handler in module.subscribes:
        yield f"the handler {handler.name}", handler.function, ("event", "context")
    if (lifespan := getattr(module, "lifespan", None)) is not None:
        yield f"the lifespan of {module.name}", lifespan, ("public",)
    for upcaster in upcasters_of(module):
        yield f"the upcaster of {topic_of(module.name, upcaster.event)}", upcaster.function, ("payload",)


def _call_fault(function: object, given: Sequence[str]) -> str:
    if not callable(function):
        return f"is {short(function)}, which is no function"
    called = function if inspect.isroutine(function) else getattr(function, "__call__", function)  # noqa: B004
    if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(called):
        return "is an async function, which is never awaited"
    if inspect.isgeneratorfunction(function) or inspect.isgeneratorfunction(called):
        return "is a generator, whose body never runs"
    try:
        signature = inspect.signature(function, follow_wrapped=False)
    except (ValueError, TypeError):
        return ""  # written in C: it cannot be told
    try:
        signature.bind(*given)
    except TypeError:
        return f"takes {signature}"
    return ""


def _code_places(function: object) -> tuple[Place, ...]:
    code = getattr(function, "__code__", None)
    return (Place(shorten_path(Path(code.co_filename)), code.co_firstlineno),) if code else ()


def folder_faults(modules: Sequence[ModuleLike]) -> Iterator[ModuleFinding]:
    """Yield folders of migrations that are not there; `migrate` refuses them."""
    for module in modules:
        if module.migrations is not None and not module.migrations.is_dir():
            problem = f"module {module.name}: there is no migrations folder {module.migrations}"
            yield ModuleFinding("missing folder", (module.name,), problem, "make it, or correct the module's record")
