"""The findings on a module graph, each with its evidence and its remedy. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import date
from fnmatch import fnmatchcase
from itertools import pairwise

from erpkit.finding import Severity
from erpkit.grouping import group_by
from erpkit.modules.cycles import Cut, Pair
from erpkit.modules.kinds import NOT_READ
from erpkit.modules.module import EventHandler, ModuleLike, topic_of
from erpkit.modules.rules import Layers, Rules
from erpkit.modules.wiring import Component, Couplings, Edge, ModuleFinding, Place, Unread, places_of
from erpkit.plural import count_of

_EVIDENCE = 6  # pieces that a line names
_NAMED = 12  # modules or edges in a sentence


def coverage_findings(modules: Sequence[ModuleLike], not_read: Iterable[Unread], rules: Rules) -> list[ModuleFinding]:
    """Findings for what was not read: no modules at all, or code and tables that could not be read."""
    nothing = ModuleFinding(
        "no modules",
        (),
        "no module was found, so nothing was checked",
        "describe them in a modules.toml, whose path goes into ERPKIT_MODULES, or register them",
    )
    return [
        *([] if modules else [nothing]),
        *(unread_finding(one, strict=rules.strict) for one in not_read if rules.reads(one.path)),
    ]


def unread_finding(unread: Unread, *, strict: bool) -> ModuleFinding:
    """What could not be read, as a finding."""
    places = (Place(unread.path, unread.line),) if unread.path else ()
    grade: Severity = "error" if strict else unread.severity
    return ModuleFinding(NOT_READ, unread.modules, unread.problem, "", (), places, grade)


def cycle_findings(components: Iterable[Component], edges: Sequence[Edge]) -> list[ModuleFinding]:
    """One finding per component: a cycle, the edges to cut, and the evidence for each edge."""
    required = _by_pair(edge for edge in edges if edge.binds)
    listened = {(edge.source, edge.target) for edge in edges if edge.relation == "listens"}
    return [_cycle_finding(component, required, listened) for component in components]


def _cycle_finding(
    component: Component, pairs: Mapping[Pair, Sequence[Edge]], listened: Collection[Pair]
) -> ModuleFinding:
    size = (
        f"; {count_of(len(component.modules), 'module')} reach each other"
        if len(component.modules) > len(set(component.path))
        else ""
    )
    kind = "cycle" if component.is_declared else "hidden cycle"
    steps = (
        [] if component.is_declared else [pair for pair in pairwise(component.path) if pair not in component.cut.edges]
    )
    shown = [edge for pair in component.cut.edges for edge in pairs[pair]] + [pairs[pair][0] for pair in steps]
    remedy, evidence = _how_to_cut(component.cut, pairs, listened), tuple(map(str, shown))
    return ModuleFinding(kind, component.modules, f"{_path(component.path)}{size}", remedy, evidence, places_of(shown))


def _how_to_cut(cut: Cut, pairs: Mapping[Pair, Sequence[Edge]], listened: Collection[Pair]) -> str:
    """Say which edges to cut and how; a module that only listens to what it declares can do without declaring it."""
    idle = [pair for pair in cut.edges if pair in listened and all(edge.kind == "declared" for edge in pairs[pair])]
    needed = [pair for pair in cut.edges if pair not in idle]
    bound = "" if cut.is_smallest else f" (at least {cut.at_least} must go; a smaller cut may exist)"
    how = [
        f"remove {source} -> {target} from what {source} declares: it only listens, which needs no declaration"
        for source, target in idle[:_NAMED]
    ]
    if needed:
        more = f" and {len(needed) - _NAMED:,} more" if len(needed) > _NAMED else ""
        names = ", ".join(f"{source} -> {target}" for source, target in needed[:_NAMED]) + more
        how.append(f"cut {names}{bound}: let the needed module publish an event that the other handles")
    return "; ".join(how)


def _path(names: Sequence[str]) -> str:
    if len(names) <= 2 * _NAMED:
        return " -> ".join(names)
    left_out = len(names) - 2 * _NAMED
    return " -> ".join([*names[:_NAMED], f"… {left_out} more …", *names[-_NAMED:]])


def undeclared_findings(edges: Iterable[Edge], *, indirect: bool) -> list[ModuleFinding]:
    """What a module requires without having declared it; with `indirect`, declared by way of others is well enough.

    A subscription declares itself. Where only a name was found, the dependency is possible, and no more.
    """
    pairs = _by_pair(edge for edge in edges if edge.relation == "requires")
    declared: dict[str, set[str]] = {}
    for (source, target), several in pairs.items():
        if any(edge.kind == "declared" for edge in several):
            declared.setdefault(source, set()).add(target)
    return [
        _undeclared(source, target, several)
        for (source, target), several in pairs.items()
        if target not in declared.get(source, ()) and not (indirect and _leads(declared, source, target))
    ]


def _undeclared(source: str, target: str, edges: Sequence[Edge]) -> ModuleFinding:
    is_certain = any(edge.certain for edge in edges)
    kind, verb = ("undeclared dependency", "uses") if is_certain else ("possible dependency", "seems to use")
    problem = f"{source} {verb} {target} without declaring it: {_kinds(edges)}"
    remedy, evidence = f"declare {target} in {source}, or stop using it", _told(edges)
    return ModuleFinding(kind, (source, target), problem, remedy, evidence, places_of(edges))


def _told(edges: Iterable[Edge]) -> tuple[str, ...]:
    return tuple(f"{edge.kind}: {edge.evidence}" for edge in edges)


def unused_findings(edges: Iterable[Edge], couplings: Couplings | None) -> list[ModuleFinding]:
    """Declared dependencies that nothing uses, for modules that were read completely."""
    if couplings is None:
        return []
    return [
        ModuleFinding(
            "unused dependency",
            (source, target),
            f"{source} declares {target}, but no import, event, foreign key, view or query needs it",
            "remove it, unless it is used in a way that cannot be seen from here",
            tuple(edge.evidence for edge in several),
            places_of(several),
        )
        for (source, target), several in _by_pair(edges).items()
        if all(edge.kind == "declared" for edge in several) and source not in couplings.partly_read and source != target
    ]


def layer_findings(edges: Iterable[Edge], layers: Layers, known: set[str]) -> list[ModuleFinding]:
    """Modules that require one of a higher layer, and layers that no module is in; listening to a higher one is allowed."""
    mistyped = [
        ModuleFinding("unknown layer", (), f"no module is named {name}, which the layers list", "correct the layers")
        for name in layers.unused(known)
    ]
    if not layers.patterns:
        return []
    layer = {name: layers.of(name) for name in known}
    return mistyped + [
        ModuleFinding(
            "layer violation",
            (source, target),
            f"{source} (layer {below + 1}) needs {target} of the higher layer {above + 1}",
            f"reverse the dependency: let {target} need {source}",
            _told(several),
            places_of(several),
        )
        for (source, target), several in _by_pair(edge for edge in edges if edge.binds).items()
        if (below := layer[source]) is not None and (above := layer[target]) is not None and above < below
    ]


def forbidden_findings(edges: Iterable[Edge], rules: Rules, known: Collection[str]) -> list[ModuleFinding]:
    """Couplings that the rules forbid, declared or not, one a rule and pair of modules; and names in them that no module has."""
    places = (Place(rules.path, 1),) if rules.path else ()
    names = dict.fromkeys(name for rule in rules.forbidden for name in (rule.source, rule.target))
    mistyped = [
        ModuleFinding(
            "unknown module",
            (),
            f"no module is named {name}, which a forbidden coupling names",
            "correct the rules",
            (),
            places,
        )
        for name in names
        if not any(fnmatchcase(module, name) for module in known)
    ]
    return mistyped + [
        ModuleFinding(
            "forbidden coupling",
            (source, target),
            f"{source} -> {target} is forbidden{f', as {rule.reason}' if rule.reason else ''}: {_kinds(several)}",
            "remove it, or allow it in the rules, with a reason",
            _told(several),
            places_of(several),
        )
        for rule in rules.forbidden
        for (source, target), several in _by_pair(edge for edge in edges if rule.covers(edge)).items()
        if source != target
    ]


def allowance_findings(edges: Sequence[Edge], rules: Rules, today: date) -> Iterator[ModuleFinding]:
    """Yield what the rules allow and that has ended, or that there is not."""
    places = (Place(rules.path, 1),) if rules.path else ()
    for rule in rules.allowed:
        if not any(rule.covers(edge) for edge in edges):
            remedy = "remove it from the rules"
            yield ModuleFinding("unused allowance", (), f"{rule} is allowed, and there is none", remedy, (), places)
        elif not rule.holds(today):
            problem = f"{rule} was allowed until {rule.until}, as {rule.reason}"
            yield ModuleFinding("expired allowance", (), problem, "remove the coupling, or set a new date", (), places)


def event_findings(modules: Sequence[ModuleLike]) -> list[ModuleFinding]:
    """Events without a handler, and tables that several handlers keep from different events."""
    publisher = {event: module.name for module in modules for event in module.publishes}
    handled = {event for module in modules for handler in module.subscribes for event in handler.events}
    unhandled = [
        ModuleFinding(
            "unhandled event",
            (name,),
            f"no module handles {topic_of(name, event)}",
            "subscribe to it or stop publishing it",
            (f"published by {name}",),
        )
        for event, name in publisher.items()
        if event not in handled
    ]
    return [*unhandled, *(finding for module in modules for finding in _split_projections(module))]


def _split_projections(module: ModuleLike) -> Iterator[ModuleFinding]:
    """Yield each table that several handlers of a module keep from different topics: they overtake each other."""
    writers: dict[str, list[EventHandler]] = {}
    for handler in module.subscribes:
        for table in () if handler.any_order else handler.writes:
            writers.setdefault(table, []).append(handler)
    for table, handlers in writers.items():
        if len({frozenset(handler.events) for handler in handlers}) > 1:
            names = ", ".join(handler.name for handler in handlers)
            problem = f"{names} write {table} from different topics, each in an order of its own"
            remedy = (
                "make them one handler of several events, or declare any_order=True where the order does not matter"
            )
            yield ModuleFinding("split projection", (module.name,), problem, remedy)


def graded(findings: Iterable[ModuleFinding], rules: Rules) -> Iterator[ModuleFinding]:
    """Yield findings with the severities that the rules give their kinds, without those that are off."""
    for finding in findings:
        grade = rules.severities.get(finding.kind)
        if grade is None or (finding.kind == NOT_READ and rules.strict):
            yield finding
        elif grade != "off":
            yield replace(finding, grade=grade)


def list_evidence(evidence: Sequence[str]) -> str:
    """Return the first pieces of evidence in a line, and count the others."""
    more = f"; and {len(evidence) - _EVIDENCE:,} more" if len(evidence) > _EVIDENCE else ""
    return "; ".join(evidence[:_EVIDENCE]) + more


def _by_pair(edges: Iterable[Edge]) -> dict[tuple[str, str], list[Edge]]:
    return group_by(edges, lambda edge: (edge.source, edge.target))


def _kinds(edges: Iterable[Edge]) -> str:
    counts = Counter(edge.kind for edge in edges)
    return ", ".join(kind if count == 1 else f"{kind} ({count})" for kind, count in counts.items())


def _leads(declared: Mapping[str, set[str]], source: str, target: str) -> bool:
    """Tell whether declared dependencies lead from one module to another."""
    seen, waiting = {source}, [source]
    while waiting:
        for name in declared.get(waiting.pop(), ()):
            if name == target:
                return True
            if name not in seen:
                seen.add(name)
                waiting.append(name)
    return False
