"""What a picture shows of a graph that is too large to be drawn whole: one module's neighbourhood, or the most needed modules. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from erpkit.errors import UsageError
from erpkit.modules.wiring import Component, Edge, ModuleGraph
from erpkit.plural import count_of

Pair = tuple[str, str]

FEW_ARROWS = 40  # so many are drawn one by one and kind by kind
_FEW_OTHERS = 15  # subscriptions and the like beside many arrows
_BOXES = 30  # of a graph that is larger
_INSIDE = 3  # components of which a cycle is shown
_LONGEST_PATH = 12  # modules of a cycle that are shown
_FEW_CUTS = 6  # of its edges to cut


@dataclass(frozen=True)
class Node:
    """A box: a module, a component as a whole (its `members`), or what is counted instead of drawn.

    `needed_by` is how many modules outside of it need it, None where all of them are drawn.
    """

    name: str
    needed_by: int | None = None
    members: tuple[str, ...] = ()
    is_count: bool = False
    title: str = ""  # what the box says, the name unless given


@dataclass(frozen=True)
class Excerpt:
    """The boxes and arrows to draw: `pairs` are from a box to one that it needs, `red` those in a cycle, `cuts` those to cut.

    `inside` are boxes that stand inside a component, by its name. `notes` say what is shown and what is not.
    """

    nodes: tuple[Node, ...]
    pairs: Mapping[Pair, tuple[Edge, ...]]
    red: frozenset[Pair] = frozenset()
    cuts: frozenset[Pair] = frozenset()
    inside: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def choose_part(graph: ModuleGraph, around: str = "", most: int = 40, *, reduced: bool = True) -> Excerpt:
    """Choose what to draw: `around` a module what it needs and what needs it, else all, or of more than `most` the most needed.

    Where `reduced`, arrows that others imply are left out of many. Raises UsageError for a module that is not in the graph.
    """
    known = [*graph.names, *(name for name in graph.outside if name not in graph.names)]
    if around and around not in known:
        raise UsageError(f"there is no module {around}")
    if around:
        return _neighbourhood(graph, around, most, len(known))
    if len(known) <= most:
        return _whole(graph, known, reduced=reduced)
    return _overview(graph, known, min(most, _BOXES))


def _whole(graph: ModuleGraph, known: Sequence[str], *, reduced: bool) -> Excerpt:
    pairs = {pair: edges for pair, edges in graph.pairs.items() if pair[0] != pair[1]}
    red, cuts = _red(graph), _cuts(graph)
    drawn, left_out = _without_implied(pairs, cuts, keep=red | _undeclared(graph)) if reduced else (pairs, 0)
    return Excerpt(tuple(Node(name) for name in known), drawn, red, cuts, notes=_implied(left_out))


def _neighbourhood(graph: ModuleGraph, module: str, most: int, total: int) -> Excerpt:
    """A module, what it needs itself, and what depends on it, the nearest first; what there is no room for is counted."""
    needs, needed_by = _neighbours(graph.pairs)
    needed = sorted(needs[module], key=lambda name: (-len(needed_by[name]), name))
    _, binding = _neighbours(pair for pair, edges in graph.pairs.items() if any(edge.binds for edge in edges))
    distance = _distances(module, needed_by[module] - needs[module], binding)
    dependents = sorted(distance, key=lambda name: (distance[name], -len(needed_by[name]), name))
    room = max(most - 1 - len(dependents), (most - 1) // 3)
    shown = (module, *needed[:room], *dependents[: most - 1 - len(needed[:room])])
    pairs = _star(graph, module, {*shown}, distance)
    counts = _left_out(
        module, [n for n in needed if n not in shown], {n: distance[n] for n in dependents if n not in shown}
    )
    between = sum({*shown}.issuperset(pair) and pair[0] != pair[1] for pair in graph.pairs) - len(pairs)
    notes = [f"{module}, what it needs and what depends on it: {len(shown):,} of {count_of(total, 'module')}"]
    if between:
        notes.append(f"{count_of(between, 'arrow')} between the others {'is' if between == 1 else 'are'} left out")
    nodes = (*(Node(name) for name in shown), *(Node(name, is_count=True) for name in counts))
    return Excerpt(nodes, pairs | dict.fromkeys(counts.values(), ()), _red(graph), _cuts(graph), notes=tuple(notes))


def _star(
    graph: ModuleGraph, module: str, shown: Collection[str], distance: Mapping[str, int]
) -> dict[Pair, tuple[Edge, ...]]:
    """Return the arrows that lead to or from a module, and from there to those that depend on it by way of others."""
    return {
        (source, target): edges
        for (source, target), edges in graph.pairs.items()
        if source != target and source in shown and target in shown
        and (module in (source, target) or (distance.get(source, 0) > 1 and distance.get(target) == distance[source] - 1))
    }  # fmt: skip


def _left_out(module: str, needed: Sequence[str], dependents: Mapping[str, int]) -> dict[str, Pair]:
    """Return what is counted instead of drawn, in words, with the arrow of each."""
    direct = sum(steps == 1 for steps in dependents.values())
    found = dict[str, Pair]()
    for count, words in ((direct, "that need it"), (len(dependents) - direct, "that need these")):
        if count:
            name = f"and {count:,} more {words}"
            found[name] = name, module
    if needed:
        name = f"and {len(needed):,} more that it needs"
        found[name] = module, name
    return found


def _overview(graph: ModuleGraph, known: Sequence[str], most: int) -> Excerpt:
    """The modules that findings name and that most others need, each component as one box, with how many need each."""
    wholes = {_name_of(component): component for component in graph.components if len(component.modules) > 1}
    home = {name: whole for whole, component in wholes.items() for name in component.modules}
    pairs, needed_by = _condensed(graph, home)
    everything = dict.fromkeys(home.get(name, name) for name in known)
    wanted = [*sorted(wholes, key=lambda name: -len(wholes[name].modules))[: most // 4]]
    wanted += [home.get(name, name) for f in graph.findings if "cycle" not in f.kind for name in f.modules][: most // 2]
    wanted += sorted(everything, key=lambda name: (-len(needed_by.get(name, ())), name))
    names = [name for name in dict.fromkeys(wanted) if name in everything][:most]
    shown = set(names)
    inner = {pair: edges for pair, edges in pairs.items() if shown.issuperset(pair)}
    keep = {(home.get(source, source), home.get(target, target)) for source, target in _undeclared(graph)}
    drawn, left_out = _without_implied(inner, (), keep=keep)
    opened = [whole for whole in names if whole in wholes and len(wholes[whole].path) <= _LONGEST_PATH][:_INSIDE]
    red = {whole: [*pairwise(wholes[whole].path), *wholes[whole].cut.edges[:_FEW_CUTS]] for whole in opened}
    inside = {whole: tuple(dict.fromkeys(name for pair in some for name in pair)) for whole, some in red.items()}
    cycles = {pair: graph.pairs[pair] for some in red.values() for pair in some}
    notes = (
        _shares(
            sum(len(wholes[name].modules) if name in wholes else 1 for name in names),
            len(known),
            bool(shown & wholes.keys()),
        ),
        "(n): so many modules need it",
        *_implied(left_out),
    )
    nodes = [
        Node(
            name,
            len(needed_by.get(name, ())),
            wholes[name].modules if name in wholes else (),
            title=_title(name, name in inside),
        )
        for name in names
    ]
    nodes += [Node(name) for path in inside.values() for name in path]
    return Excerpt(tuple(nodes), {**drawn, **cycles}, frozenset(cycles), _cuts(graph), inside, notes)


def _shares(shown: int, total: int, has_cycles: bool) -> str:
    words = f"{shown:,} of {count_of(total, 'module')}: those that findings name and those that most others need"
    return f"{words}; a cycle is one box" if has_cycles else words


def _title(name: str, is_opened: bool) -> str:
    """Return what a box says: a component whose cycle is shown beside it need not name its modules."""
    return name.partition(":")[0] if is_opened else name


def _condensed(
    graph: ModuleGraph, home: Mapping[str, str]
) -> tuple[dict[Pair, tuple[Edge, ...]], Mapping[str, set[str]]]:
    """Return the pairs between boxes, and the modules that need each box from outside."""
    found: dict[Pair, list[Edge]] = defaultdict(list)
    needed_by: dict[str, set[str]] = defaultdict(set)
    for (source, target), edges in graph.pairs.items():
        pair = home.get(source, source), home.get(target, target)
        if pair[0] != pair[1]:
            found[pair] += edges
            if any(edge.binds for edge in edges):
                needed_by[pair[1]].add(source)
    return {pair: tuple(edges) for pair, edges in found.items()}, needed_by


def _name_of(component: Component) -> str:
    names = ", ".join([*component.modules[:3], *(["…"] if len(component.modules) > 3 else [])])
    return f"{count_of(len(component.modules), 'module')} in a cycle: {names}"


def _without_implied(
    pairs: Mapping[Pair, tuple[Edge, ...]], cuts: Collection[Pair], keep: Collection[Pair]
) -> tuple[dict[Pair, tuple[Edge, ...]], int]:
    """Leave out, of many arrows, those that others imply; and of many subscriptions all. Return how many of both."""
    if len(pairs) <= FEW_ARROWS:
        return dict(pairs), 0
    import networkx  # noqa: PLC0415 - slow to import

    binding = [pair for pair, edges in pairs.items() if pair not in cuts and any(edge.binds for edge in edges)]
    directed: networkx.DiGraph[str] = networkx.DiGraph(binding)
    kept = {*networkx.transitive_reduction(directed).edges, *cuts, *keep}
    others = [pair for pair in pairs if pair not in directed.edges and pair not in kept]
    kept |= {*others} if len(others) <= _FEW_OTHERS else set()
    return {pair: edges for pair, edges in pairs.items() if pair in kept}, sum(pair not in kept for pair in pairs)


def _implied(count: int) -> tuple[str, ...]:
    words = "arrow that others imply, or that only listens, is", "arrows that others imply, or that only listen, are"
    return (f"{count_of(count, *words)} left out",) if count else ()


def _neighbours(pairs: Iterable[Pair]) -> tuple[defaultdict[str, set[str]], defaultdict[str, set[str]]]:
    needs, needed_by = defaultdict[str, set[str]](set), defaultdict[str, set[str]](set)
    for source, target in pairs:
        if source != target:
            needs[source].add(target)
            needed_by[target].add(source)
    return needs, needed_by


def _distances(module: str, direct: Iterable[str], needed_by: Mapping[str, Collection[str]]) -> dict[str, int]:
    """Return how far each module is that depends on one: 1 where it is among the `direct` ones."""
    found, nearest, steps = dict.fromkeys(sorted(direct), 1), sorted(direct), 1
    while nearest:
        steps += 1
        reached = dict.fromkeys(one for name in nearest for one in sorted(needed_by.get(name, ())))
        nearest = [name for name in reached if name not in found and name != module]
        found |= dict.fromkeys(nearest, steps)
    return found


def _cuts(graph: ModuleGraph) -> frozenset[Pair]:
    return frozenset(pair for component in graph.components for pair in component.cut.edges)


def _red(graph: ModuleGraph) -> frozenset[Pair]:
    return frozenset(pair for component in graph.components for pair in pairwise(component.path)) | _cuts(graph)


def _undeclared(graph: ModuleGraph) -> set[Pair]:
    return {(f.modules[0], f.modules[1]) for f in graph.findings if f.kind == "undeclared dependency"}
