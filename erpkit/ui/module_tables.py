"""Modules, their couplings and what is wrong with them, as tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from erpkit.modules import Impact, ModuleCheck, ModuleLike, WhatIf, topic_of
from erpkit.ui.tables import frame_of

if TYPE_CHECKING:
    import pandas

__all__ = ["couplings_table", "findings_table", "impact_table", "modules_table", "topics_table", "what_if_table"]

_SHOWN = 6  # pieces of evidence of one finding


def modules_table(modules: Sequence[ModuleLike]) -> pandas.DataFrame:
    """One line a module: what it depends on and what it declares."""
    return frame_of(
        [
            {
                "module": m.name,
                "depends on": ", ".join(m.dependencies) or "–",
                "migrations": _count_files(m.migrations),
                "commands": len(m.commands),
                "publishes": ", ".join(event.__name__ for event in m.publishes),
                "handlers": len(m.subscribes),
            }
            for m in modules
        ]
    )


def topics_table(modules: Sequence[ModuleLike]) -> pandas.DataFrame:
    """One line an event: its topic and who handles it."""
    handlers = [handler for module in modules for handler in module.subscribes]
    return frame_of(
        [
            {
                "topic": topic_of(module.name, event),
                "handled by": ", ".join(h.name for h in handlers if h.event is event) or "nobody",
                "replayable": ", ".join(h.name for h in handlers if h.event is event and h.replayable) or "–",
            }
            for module in modules
            for event in module.publishes
        ]
    )


def couplings_table(check: ModuleCheck) -> pandas.DataFrame:
    """One line for each two modules of which one needs the other: whether it is declared, and what shows it."""
    lines: list[dict[str, object]] = []
    for (source, target), edges in check.pairs.items():
        found = [edge for edge in edges if edge.kind != "declared"]
        counts = Counter(edge.kind for edge in found)
        lines.append(
            {
                "module": source,
                "needs": target,
                "declared": "yes" if len(found) < len(edges) else "no",
                "found": ", ".join(f"{kind} ({count})" if count > 1 else kind for kind, count in counts.items()) or "–",
                "evidence": _listed([edge.evidence for edge in found]) or "–",
            }
        )
    return frame_of(sorted(lines, key=lambda line: str(line["declared"])))


def findings_table(check: ModuleCheck) -> pandas.DataFrame:
    """One line a finding: its kind, the problem, the remedy and what shows it."""
    return frame_of(
        [
            {"kind": f.kind, "problem": f.problem, "remedy": f.remedy, "evidence": _listed(f.evidence)}
            for f in check.findings
        ]
    )


def impact_table(impact: Impact) -> pandas.DataFrame:
    """One line for each module that depends on one, the direct ones first with what shows it."""
    direct: list[dict[str, object]] = [
        {
            "module": name,
            "depends": "directly",
            "evidence": _listed([f"{edge.kind}: {edge.evidence}" for edge in impact.edges if edge.source == name]),
        }
        for name in impact.direct
    ]
    indirect: list[dict[str, object]] = [
        {"module": name, "depends": "by way of others", "evidence": ""} for name in impact.indirect
    ]
    return frame_of([*direct, *indirect])


def what_if_table(what_if: WhatIf) -> pandas.DataFrame:
    """One line for each place that would have to change, for some edges to be cut."""
    return frame_of(
        [
            {"module": edge.source, "needs": edge.target, "kind": edge.kind, "to change": edge.evidence}
            for edge in what_if.edges
        ]
    )


def _listed(evidence: Sequence[str]) -> str:
    more = f"; and {len(evidence) - _SHOWN} more" if len(evidence) > _SHOWN else ""
    return "; ".join(evidence[:_SHOWN]) + more


def _count_files(folder: Path | None) -> int:
    return len(list(folder.glob("*.sql"))) if folder else 0
