"""The module graph as a Mermaid flowchart, for a README or a wiki."""

from __future__ import annotations

from collections.abc import Iterable

from erpkit.modules.edges import Edge
from erpkit.modules.graph import ModuleGraph
from erpkit.visible import visible

__all__ = ["as_mermaid"]


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
