"""The picture of the module graph: drawn by Graphviz, and as Mermaid's text for a README or a wiki."""

from __future__ import annotations

import os
import re
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import import_module
from typing import Any, Literal

from erpkit.modules.excerpt import FEW_ARROWS, Excerpt, Node, Pair, choose_part
from erpkit.modules.wiring import Edge, ModuleGraph
from erpkit.plural import count_of
from erpkit.result import Picture
from erpkit.visible import visible, visible_html

# What Mermaid 11 draws unless it is configured otherwise: its settings maxEdges and maxTextSize.
_MERMAID_EDGES, _MERMAID_TEXT = 500, 50_000


def as_mermaid(graph: ModuleGraph, *, around: str = "") -> str:
    """Write a flowchart: arrows lead from a module to those that need it; undeclared ones are dotted, cycles and cuts red.

    A subscription is dotted and ends in a circle. Of a graph that is larger than Mermaid draws, the title says which part it shows.
    """
    whole = len(graph.names) + len(graph.outside)
    if not around and len(graph.pairs) <= _MERMAID_EDGES:
        text = _mermaid(graph, choose_part(graph, most=whole, reduced=False))
        if len(text) < _MERMAID_TEXT:
            return text
    for most in (40, 20, 10, 5):
        part = choose_part(graph, around, most)
        title = _text(f"{'; '.join(part.notes)}")
        text = f'---\ntitle: "{title}"\n---\n{_mermaid(graph, part)}'
        if len(text) < _MERMAID_TEXT and text.count("\n") < _MERMAID_EDGES:
            break
    return text


def _mermaid(graph: ModuleGraph, part: Excerpt) -> str:
    within = {name for names in part.inside.values() for name in names}
    ids = {node.name: f"m{number}" for number, node in enumerate(part.nodes) if node.name not in within}
    lines = [
        "flowchart LR",
        *(
            f'    {ids[node.name]}["{_text(_label(replace(node, title="")))}"]'
            for node in part.nodes
            if node.name in ids
        ),
    ]
    red, number = [], 0
    for pair, edges in part.pairs.items():
        if ids.keys() >= {*pair}:
            lines.append(f"    {ids[pair[1]]} {_link(edges, cut=pair in part.cuts)} {ids[pair[0]]}")
            red += [str(number)] * (pair in part.red | part.cuts)
            number += 1
    if red:
        lines.append(f"    linkStyle {','.join(red)} stroke:#dc2626,stroke-width:3px")
    if outside := [ids[name] for name in graph.outside if name in ids]:
        lines.append(f"    class {','.join(outside)} outside")
        lines.append("    classDef outside stroke-dasharray:4")
    return "\n".join(lines)


def _link(edges: Sequence[Edge], *, cut: bool) -> str:
    kinds = list(dict.fromkeys(edge.kind for edge in edges))
    listens = bool(edges) and all(edge.relation == "listens" for edge in edges)
    line = "-.-o" if listens else "-->" if "declared" in kinds or not edges else "-.->"
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


# Okabe and Ito's colours, which people who see fewer colours can tell apart.
_COLORS = {
    "declared only": "#64748b", "import": "#0072b2", "listens to events": "#d55e00", "in the database": "#009e73",
    "SQL": "#cc79a7", "only a name": "#8a8a8a", "in a cycle": "#dc2626",
}  # fmt: skip
_WORDS = {"declared": "declared only", "import": "import", "route": "import", "command": "import", "query": "SQL", "sql": "SQL",
          "migration": "SQL"}  # fmt: skip
_INK = "#010203"  # stands for the colour of the text around the picture, which Graphviz cannot name
_FONT = 'fontname="sans-serif"'
_EVIDENCE = 8  # lines in a tooltip
_LONGEST = 36  # characters of a line of a name
_MOST_LINES = 4

_drawing = threading.Lock()  # the library is not safe for threads


def draw_modules(graph: ModuleGraph, *, around: str = "", most: int = 40) -> Picture:
    """Draw modules from left to right in load order, an arrow to each one that needs another; evidence is in the tooltips.

    Kinds are colours, subscriptions are dashed, what is not declared is dotted, cycles are red, and the edges to cut are thick. Of more
    modules than `most`, those are drawn that findings are about and that most others need, with how many do, each component as one box.
    With `around`, that module, what it needs and what depends on it. Without the extra `graph` the picture is Mermaid's text.
    """
    if not graph.names:
        return Picture("There are no modules.", "no modules")
    part = choose_part(graph, around, most)
    text = _in_words(graph, part)
    try:
        return Picture(_drawn("\n".join(_dot(graph, part, around))), text)
    except ImportError:
        return _in_mermaid(graph, around, text)


def _in_mermaid(graph: ModuleGraph, around: str, text: str) -> Picture:
    note = "pip install 'erpkit[graph]' draws this graph; until then this is its text for Mermaid"
    return Picture(f"{note}:\n{as_mermaid(graph, around=around)}", text)


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
class _Arrow:
    """An arrow, its colour in words, what the tooltip says, and how it is drawn."""

    pair: Pair
    color: str
    evidence: str
    style: Literal["", "dashed", "dotted"] = ""
    is_cut: bool = False
    is_loose: bool = False  # it has no say in where the boxes stand


def _dot(graph: ModuleGraph, part: Excerpt, around: str) -> Iterator[str]:
    """Yield the lines of the graph in Graphviz's language; arrows are drawn first, so that none hides a label."""
    ids = {node.name: f"m{number}" for number, node in enumerate(part.nodes)}
    arrows = [arrow for pair, edges in part.pairs.items() for arrow in _arrows(part, pair, edges)]
    yield "digraph modules { graph [rankdir=LR bgcolor=transparent nodesep=.18 ranksep=.6 fontsize=10 outputorder=edgesfirst"
    yield f'{_FONT} fontcolor="{_INK}" labeljust=l label=<{_legend(arrows, _notes(graph, part))}>]'
    yield f'node [shape=box style="rounded,filled" height=.3 margin=".12,.04" penwidth=0 {_FONT} fontsize=11 fontcolor=white]'
    yield "edge [arrowsize=.6 penwidth=1.3]"
    framed = {name for whole, names in part.inside.items() for name in (whole, *names)}
    boxes = {node.name: f"{ids[node.name]} {_box(graph, part, node, around)}" for node in part.nodes}
    yield from (box for name, box in boxes.items() if name not in framed)
    for number, (whole, names) in enumerate(part.inside.items()):
        yield f'subgraph cluster_{number} {{ label="" style=rounded color="{_COLORS["in a cycle"]}"'
        yield from (boxes[name] for name in (whole, *names))
        yield "}"
    yield from (_edge(arrow, ids) for arrow in arrows)
    yield "}"


def _edge(arrow: _Arrow, ids: Mapping[str, str]) -> str:
    needs, needed = arrow.pair
    looks = [f'color="{_COLORS[arrow.color]}"', f'tooltip="{_escape(arrow.evidence)}"']
    looks += ["penwidth=3.2"] if arrow.is_cut else ["penwidth=2"] if arrow.color == "in a cycle" else []
    looks += [f"style={arrow.style}"] if arrow.style else []
    looks += ["constraint=false"] if arrow.is_loose or arrow.is_cut else []
    looks += ["arrowhead=vee"] if arrow.style == "dashed" else []
    return f"{ids[needed]} -> {ids[needs]} [{' '.join(looks)}]"


def _box(graph: ModuleGraph, part: Excerpt, node: Node, around: str) -> str:
    is_red = bool(node.members) or any(node.name in pair for pair in part.red)
    color = (
        "#b45309"
        if node.name == around
        else "#dc2626"
        if is_red
        else "#64748b"
        if node.name in graph.outside
        else "#2563eb"
    )
    looks = 'style=dashed penwidth=1 color="#64748b" fontcolor="#64748b"' if node.is_count else f'fillcolor="{color}"'
    return f'[label="{_wrapped(_label(node))}" {looks} tooltip="{_escape(_members(node))}"]'


def _label(node: Node) -> str:
    title = node.title or node.name
    return title if node.needed_by is None else f"{title} ({node.needed_by})"


def _members(node: Node) -> str:
    return ", ".join(_shortened(node.members)) if node.members else node.name


def _arrows(part: Excerpt, pair: Pair, edges: Sequence[Edge]) -> Iterator[_Arrow]:
    """Yield one arrow for each kind; one alone where there are many, or where it is red; and one apart for what only listens."""
    listening = [edge for edge in edges if edge.relation == "listens"]
    required = [edge for edge in edges if edge.relation == "requires"]
    is_alone = len(part.pairs) > FEW_ARROWS
    if pair in part.red or pair in part.cuts:
        yield _Arrow(pair, "in a cycle", _evidence(pair, edges), "", pair in part.cuts)
    elif not edges:
        yield _Arrow(pair, "declared only", f"{pair[0]} needs {pair[1]}")
    elif required:
        yield from _requiring(pair, required, is_alone=is_alone)
    if listening and pair not in part.red and not (is_alone and required):
        yield _Arrow(pair, "listens to events", _evidence(pair, listening), "dashed", is_loose=True)


def _requiring(pair: Pair, edges: Sequence[Edge], *, is_alone: bool) -> Iterator[_Arrow]:
    is_declared = any(edge.kind == "declared" for edge in edges)
    by_color: dict[str, list[Edge]] = {}
    for edge in edges:
        if edge.kind != "declared" or all(one.kind == "declared" for one in edges):
            color = _WORDS.get(edge.kind, "in the database") if edge.certain else "only a name"
            by_color.setdefault(color, []).append(edge)
    for color, some in list(by_color.items())[: 1 if is_alone else None]:
        shown = edges if len(by_color) == 1 or is_alone else some
        style: Literal["", "dotted"] = "" if is_declared else "dotted"
        yield _Arrow(
            pair, color, _evidence(pair, shown), style, is_loose=not (is_declared or any(e.binds for e in some))
        )


def _evidence(pair: Pair, edges: Sequence[Edge]) -> str:
    verb = "listens to" if edges and all(edge.relation == "listens" for edge in edges) else "needs"
    lines = [f"{pair[0]} {verb} {pair[1]}", *(f"{edge.kind}: {edge.evidence}" for edge in edges[:_EVIDENCE])]
    return "\n".join([*lines, *([f"and {len(edges) - _EVIDENCE:,} more"] if len(edges) > _EVIDENCE else [])])


def _legend(arrows: Sequence[_Arrow], notes: Sequence[str]) -> str:
    """Return a row of what the colours and strokes mean, and a row for each note, as one of Graphviz's HTML-like labels."""
    used = {arrow.color for arrow in arrows}
    strokes = {"listens to events": "┅┅", "only a name": "····"}
    entries = [
        f'<FONT COLOR="{color}">{strokes.get(word, "━━")}</FONT> {word}'
        for word, color in _COLORS.items()
        if word in used
    ]
    if any(arrow.style == "dotted" for arrow in arrows):
        entries.append("···· not declared itself")
    if any(arrow.is_cut for arrow in arrows):
        entries.append(f'<FONT COLOR="{_COLORS["in a cycle"]}"><B>━━</B></FONT> to cut')
    lines = ["&#160;&#160;&#160;".join(entries), *(visible_html(note) for note in notes)]
    rows = "".join(f'<TR><TD ALIGN="LEFT">{line}</TD></TR>' for line in lines if line)
    return f'<TABLE BORDER="0" CELLSPACING="0" CELLPADDING="2">{rows}</TABLE>' if rows else " "


def _notes(graph: ModuleGraph, part: Excerpt) -> list[str]:
    outside = {*graph.outside} & {node.name for node in part.nodes}
    return [*part.notes, *["grey modules are outside of what was read"] * bool(outside)]


def _wrapped(name: str) -> str:
    """Return a name for a label, over several lines where it is long; only one that fills four lines is cut off."""
    name, lines = visible(name), list[str]()
    while len(name) > _LONGEST and len(lines) < _MOST_LINES - 1:
        end = max((name.rfind(mark, 10, _LONGEST) + 1 for mark in "_. -,"), default=0) or _LONGEST
        lines.append(name[:end])
        name = name[end:]
    return "\\n".join(_escape(line) for line in [*lines, name if len(name) <= _LONGEST else f"{name[:_LONGEST]}…"])


def _escape(text: str) -> str:
    """Return text for a quoted string, in which a backslash would begin one of Graphviz's escapes."""
    return visible(text, keep="\n").replace("\\", "\\\\").replace('"', '\\"').replace("\n", "&#10;")


def _in_words(graph: ModuleGraph, part: Excerpt) -> str:
    cycles = "; ".join(f"cycle: {' -> '.join(_shortened(component.path))}" for component in graph.components[:5])
    order = f"load order: {', '.join(_shortened(graph.order))}" if graph.order else ""
    return "; ".join(text for text in (cycles, order) if text) or count_of(len(part.nodes), "module")


def _shortened(names: Sequence[str], most: int = 30) -> list[str]:
    return [*names] if len(names) <= most else [*names[:most], f"… {len(names) - most:,} more"]
