"""The module graph as a Mermaid flowchart, for a README or a wiki."""

from __future__ import annotations

from collections.abc import Iterable

from erpkit.modules.check import ModuleCheck
from erpkit.modules.edges import Edge
from erpkit.visible import visible

__all__ = ["as_mermaid"]


def as_mermaid(check: ModuleCheck) -> str:
    """Write a flowchart: arrows lead from a module to those that need it; undeclared ones are dotted, cycles and cuts red."""
    ids = {name: f"m{number}" for number, name in enumerate([*check.names, *check.outside])}
    in_cycle = {pair for knot in check.knots for pair in zip(knot.path, knot.path[1:], strict=False)}
    to_cut = {pair for knot in check.knots for pair in knot.cut.edges}
    lines = ["flowchart LR", *(f'    {ids[name]}["{_text(name)}"]' for name in ids)]
    red = []
    for number, (pair, edges) in enumerate(check.pairs.items()):
        lines.append(f"    {ids[pair[1]]} {_arrow(edges, cut=pair in to_cut)} {ids[pair[0]]}")
        if pair in in_cycle | to_cut:
            red.append(str(number))
    if red:
        lines.append(f"    linkStyle {','.join(red)} stroke:#dc2626,stroke-width:3px")
    if check.outside:
        lines.append(f"    class {','.join(ids[name] for name in check.outside)} outside")
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
