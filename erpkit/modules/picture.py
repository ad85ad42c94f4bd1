"""The picture of the module graph: drawn by Graphviz, and as Mermaid's text for a README or a wiki."""

from __future__ import annotations

import os
import re
import sys
import threading
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from itertools import pairwise
from typing import Any

from erpkit.modules.wiring import Edge, ModuleGraph
from erpkit.plural import count_of
from erpkit.result import Picture
from erpkit.visible import visible, visible_html


def as_mermaid(graph: ModuleGraph) -> str:
    """Write a flowchart: arrows lead from a module to those that need it; undeclared ones are dotted, cycles and cuts red."""
    ids = {name: f"m{number}" for number, name in enumerate([*graph.names, *graph.outside])}
    in_cycle = {
        pair for component in graph.components for pair in zip(component.path, component.path[1:], strict=False)
    }
    to_cut = {pair for component in graph.components for pair in component.cut.edges}
    lines = ["flowchart LR", *(f'    {ids[name]}["{_text(name)}"]' for name in ids)]
    red = []
    for number, (pair, edges) in enumerate(graph.pairs.items()):
        lines.append(f"    {ids[pair[1]]} {_arrow(edges, cut=pair in to_cut)} {ids[pair[0]]}")
        if pair in in_cycle | to_cut:
            red.append(str(number))
    if red:
        lines.append(f"    linkStyle {','.join(red)} stroke:#dc2626,stroke-width:3px")
    if graph.outside:
        lines.append(f"    class {','.join(ids[name] for name in graph.outside)} outside")
        lines.append("    classDef outside stroke-dasharray:4")
    return "\n".join(lines)


def _arrow(edges: Iterable[Edge], *, cut: bool) -> str:
    kinds = list(dict.fromkeys(edge.kind for edge in edges))
    line = "-->" if "declared" in kinds else "-.->"
    words = [kind for kind in kinds if kind != "declared"] + (["to cut"] if cut else [])
    return f"{line}|{', '.join(words)}|" if words else line


def _text(name: str) -> str:
    return (
        visible(name)
        .replace("&", "#amp;")
        .replace("`", "#96;")
        .replace('"', "#quot;")
        .replace("<", "#lt;")
        .replace(">", "#gt;")
    )


Pair = tuple[str, str]

# Okabe and Ito's colours, which people who see fewer colours can tell apart.
_COLORS = {
    "declared": "#64748b", "import": "#0072b2", "event": "#d55e00", "foreign key": "#009e73", "view": "#009e73",
    "query": "#cc79a7", "cycle": "#dc2626",
}  # fmt: skip
_WORDS = {
    "declared": "declared only", "import": "import", "event": "event", "foreign key": "key or view", "view": "key or view",
    "query": "query", "cycle": "in a cycle",
}  # fmt: skip
_INK = "#010203"  # stands for the colour of the text around the picture, which Graphviz cannot name
_FONT = 'fontname="sans-serif"'
_FEW_ARROWS = 40  # so many are drawn one by one and kind by kind
_EVIDENCE = 8  # lines in a tooltip
_LONGEST = 36  # characters of a name

_drawing = threading.Lock()  # the library is not safe for threads


def draw_modules(graph: ModuleGraph, *, around: str = "", most: int = 40) -> Picture:
    """Draw modules from left to right in load order, an arrow to each one that needs another; evidence is in the tooltips.

    Kinds are colours, what is not declared is dashed, cycles are red, and the edges to cut are thick. Of more modules than
    `most`, those are drawn that findings are about and that most others need, and the others are counted. With `around`, that
    module and what depends on it. Without the extra `graph` the picture is Mermaid's text.
    """
    if not graph.names:
        return Picture("There are no modules.", "no modules")
    part = _choose(graph, around, most)
    text = _in_words(graph, part)
    try:
        return Picture(_drawn("\n".join(_dot(graph, part, around))), text)
    except ImportError:
        return _in_mermaid(graph, text)


def _in_mermaid(graph: ModuleGraph, text: str) -> Picture:
    note = "pip install 'erpkit[graph]' draws this graph; until then this is its text for Mermaid"
    return Picture(f"{note}:\n{as_mermaid(graph)}", text)


def _drawn(dot: str) -> str:
    with _drawing:
        svg: str = _graphviz().AGraph(string=dot).draw(format="svg", prog="dot").decode()
    svg = svg[svg.index("<svg") :].replace(f'"{_INK}"', '"currentColor"')
    width = re.search(r'width="(\d+)pt"', svg)
    # On a narrow screen it is scrolled rather than made so small that its names cannot be read.
    return svg.replace("<svg ", f'<svg style="min-width:{int(width[1]) if width else 0}px" ', 1)


@cache
def _graphviz() -> Any:
    """Import Graphviz and let it read the system's fonts once, without the warnings that it prints about their configuration.

    The wheel's fontconfig is older than some systems' configuration, and no setting keeps it from reading that.
    """
    pygraphviz = import_module("pygraphviz")
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        pygraphviz.AGraph(string="digraph { a }").draw(format="svg", prog="dot")
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
    return pygraphviz


@dataclass(frozen=True)
class _Part:
    """What of a graph is drawn: some modules, the arrows between them, and how many others need each."""

    names: tuple[str, ...]
    pairs: Mapping[Pair, tuple[Edge, ...]]
    more: Mapping[str, int]
    implied: int


def _choose(graph: ModuleGraph, around: str, most: int) -> _Part:
    """Choose modules to draw, and of many arrows between them those that others do not imply."""
    names = _names(graph, around, most)
    shown = set(names)
    pairs = {pair: edges for pair, edges in graph.pairs.items() if shown.issuperset(pair) and pair[0] != pair[1]}
    more = Counter(target for source, target in graph.pairs if target in shown and source not in shown)
    if len(pairs) <= _FEW_ARROWS:
        return _Part(tuple(names), pairs, more, 0)
    kept = _reduced(pairs, _cuts(graph)) | _red(graph) | _undeclared(graph)
    few = {pair: edges for pair, edges in pairs.items() if pair in kept}
    return _Part(tuple(names), few, more, len(pairs) - len(few))


def _names(graph: ModuleGraph, around: str, most: int) -> list[str]:
    """Choose modules to draw, the most interesting first."""
    known = [*graph.names, *(graph.outside if len(graph.names) + len(graph.outside) <= most else ())]
    needed_by: dict[str, set[str]] = {}
    for source, target in graph.pairs:
        needed_by.setdefault(target, set()).add(source)
    if around:
        return _around(around, needed_by)[:most]
    if len(known) <= most:
        return known
    cuts = [name for component in graph.components for pair in component.cut.edges[: most // 4] for name in pair]
    in_cycles = [*cuts, *(name for component in graph.components for name in component.path)]
    at_fault = [name for finding in graph.findings if "cycle" not in finding.kind for name in finding.modules]
    needs = Counter(source for source, _ in graph.pairs)
    linked = [name for name in known if needs[name] or name in needed_by]
    hubs = sorted(linked, key=lambda name: (-len(needed_by.get(name, ())), -needs[name], name))
    wanted = dict.fromkeys([*in_cycles[: most // 2], *at_fault[: most // 2], *hubs])
    all_known = set(known)
    return [name for name in wanted if name in all_known][:most]


def _around(module: str, needed_by: Mapping[str, Collection[str]]) -> list[str]:
    """Return a module and those that need it, the nearest first."""
    found = {module: None}
    nearest = [module]
    while nearest:
        nearest = sorted({one for name in nearest for one in needed_by.get(name, ())} - set(found))
        found |= dict.fromkeys(nearest)
    return list(found)


def _reduced(pairs: Iterable[Pair], cuts: Collection[Pair]) -> set[Pair]:
    """Return the arrows that others do not imply, once the cuts are made."""
    import networkx  # noqa: PLC0415 - slow to import

    graph = networkx.DiGraph([pair for pair in pairs if pair not in cuts])
    return set(networkx.transitive_reduction(graph).edges)


def _cuts(graph: ModuleGraph) -> set[Pair]:
    return {pair for component in graph.components for pair in component.cut.edges}


def _red(graph: ModuleGraph) -> set[Pair]:
    return {pair for component in graph.components for pair in pairwise(component.path)} | _cuts(graph)


def _undeclared(graph: ModuleGraph) -> set[Pair]:
    return {(f.modules[0], f.modules[1]) for f in graph.findings if f.kind == "undeclared dependency"}


def _dot(graph: ModuleGraph, part: _Part, around: str) -> Iterator[str]:
    """Yield the lines of the graph in Graphviz's language."""
    ids = {name: f"m{number}" for number, name in enumerate(part.names)}
    red, cuts, alone = _red(graph), _cuts(graph), len(part.pairs) > _FEW_ARROWS
    in_cycle = {name for pair in red for name in pair}
    arrows = [arrow for pair, edges in part.pairs.items() for arrow in _arrows(pair, edges, red, cuts, alone=alone)]
    yield "digraph modules { graph [rankdir=LR bgcolor=transparent nodesep=.18 ranksep=.6 fontsize=10"
    yield f'{_FONT} fontcolor="{_INK}" labeljust=l label=<{_legend(arrows, _notes(graph, part, around))}>]'
    yield f'node [shape=box style="rounded,filled" height=.3 margin=".12,.04" penwidth=0 {_FONT} fontsize=11 fontcolor=white]'
    yield "edge [arrowsize=.6 penwidth=1.3]"
    for name in part.names:
        outside = name in graph.outside
        color = "#b45309" if name == around else "#dc2626" if name in in_cycle else "#64748b" if outside else "#2563eb"
        yield f'{ids[name]} [label="{_label(name, part.more.get(name, 0))}" fillcolor="{color}" tooltip="{_escape(name)}"]'
    for arrow in arrows:
        weight = " penwidth=3.2 constraint=false" if arrow.is_cut else " penwidth=2" if arrow.kind == "cycle" else ""
        dashes = "" if arrow.is_declared else " style=dashed"
        ends = f"{ids[arrow.pair[1]]} -> {ids[arrow.pair[0]]}"
        yield f'{ends} [color="{_COLORS[arrow.kind]}" tooltip="{_escape(arrow.evidence)}"{weight}{dashes}]'
    yield "}"


@dataclass(frozen=True)
class _Arrow:
    pair: Pair
    kind: str
    evidence: str
    is_declared: bool
    is_cut: bool


def _arrows(
    pair: Pair, edges: Sequence[Edge], red: Collection[Pair], cuts: Collection[Pair], *, alone: bool
) -> Iterator[_Arrow]:
    """Yield one arrow for each kind; one alone where there are many, or where it is red."""
    kinds = list(dict.fromkeys(edge.kind for edge in edges))
    found = [kind for kind in kinds if kind != "declared"] or kinds
    if pair in red or alone:
        found = found[:1]
    for kind in found:
        some = edges if len(found) == 1 else [edge for edge in edges if edge.kind == kind]
        yield _Arrow(pair, "cycle" if pair in red else kind, _evidence(pair, some), "declared" in kinds, pair in cuts)


def _evidence(pair: Pair, edges: Sequence[Edge]) -> str:
    lines = [f"{pair[0]} needs {pair[1]}", *(f"{edge.kind}: {edge.evidence}" for edge in edges[:_EVIDENCE])]
    return "\n".join([*lines, *([f"and {len(edges) - _EVIDENCE} more"] if len(edges) > _EVIDENCE else [])])


def _legend(arrows: Sequence[_Arrow], notes: Sequence[str]) -> str:
    """Return a row of what the colours and strokes mean, and a row for each note, as one of Graphviz's HTML-like labels."""
    kinds = dict.fromkeys(_WORDS[arrow.kind] for arrow in arrows)
    colors = {_WORDS[kind]: color for kind, color in _COLORS.items()}
    entries = [f'<FONT COLOR="{colors[word]}">━━</FONT> {word}' for word in kinds]
    if any(not arrow.is_declared for arrow in arrows):
        entries.append("┅┅ not declared itself")
    if any(arrow.is_cut for arrow in arrows):
        entries.append(f'<FONT COLOR="{_COLORS["cycle"]}"><B>━━</B></FONT> to cut')
    lines = ["&#160;&#160;&#160;".join(entries), *(visible_html(note) for note in notes)]
    rows = "".join(f'<TR><TD ALIGN="LEFT">{line}</TD></TR>' for line in lines if line)
    return f'<TABLE BORDER="0" CELLSPACING="0" CELLPADDING="2">{rows}</TABLE>' if rows else " "


def _notes(graph: ModuleGraph, part: _Part, around: str) -> list[str]:
    total = len(graph.names) + len(graph.outside)
    notes = []
    if around:
        notes.append(f"{around} and what depends on it, {len(part.names)} of {count_of(total, 'module')}")
    elif len(part.names) < total:
        notes.append(
            f"{len(part.names)} of {count_of(total, 'module')}: those that findings name and those that most others need"
        )
    if any(part.more.values()):
        notes.append("+n: so many more modules need it")
    if set(graph.outside) & set(part.names):
        notes.append("grey modules are outside of what was read")
    if part.implied:
        notes.append(f"{count_of(part.implied, 'arrow that others imply is', 'arrows that others imply are')} left out")
    return notes


def _label(name: str, more: int) -> str:
    short = name if len(name) <= _LONGEST else f"{name[:_LONGEST]}…"
    return _escape(f"{short}  +{more}" if more else short)


def _escape(text: str) -> str:
    """Return text for a quoted string, in which a backslash would begin one of Graphviz's escapes."""
    return visible(text, keep="\n").replace("\\", "\\\\").replace('"', '\\"').replace("\n", "&#10;")


def _in_words(graph: ModuleGraph, part: _Part) -> str:
    cycles = "; ".join(f"cycle: {' -> '.join(_shortened(component.path))}" for component in graph.components[:5])
    order = f"load order: {', '.join(_shortened(graph.order))}" if graph.order else ""
    return "; ".join(text for text in (cycles, order) if text) or count_of(len(part.names), "module")


def _shortened(names: Sequence[str], most: int = 30) -> list[str]:
    return [*names] if len(names) <= most else [*names[:most], f"… {len(names) - most} more"]
