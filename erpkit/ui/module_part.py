"""What of a module graph is drawn: all of a small one, the interesting modules of a large one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from erpkit.modules import Edge, ModuleCheck
from erpkit.ui.module_layout import without_implied

__all__ = ["FEW_ARROWS", "Part", "choose_part"]

Pair = tuple[str, str]

FEW_ARROWS = 40  # so many may be drawn one by one and kind by kind


@dataclass(frozen=True)
class Part:
    """What of a graph is drawn: some modules, the arrows between them, and how many others need each."""

    names: tuple[str, ...]
    pairs: Mapping[Pair, tuple[Edge, ...]]
    more: Mapping[str, int]
    implied: int


def choose_part(check: ModuleCheck, around: str, most: int) -> Part:
    """Choose modules to draw, and of many arrows between them those that others do not imply."""
    return _part_of(check, _chosen(check, around, most))


def _chosen(check: ModuleCheck, around: str, most: int) -> list[str]:
    """Choose modules to draw, in the order of how interesting they are."""
    known = [*check.names, *(check.outside if len(check.names) + len(check.outside) <= most else ())]
    needed_by: dict[str, set[str]] = {}
    for source, target in check.pairs:
        needed_by.setdefault(target, set()).add(source)
    if around:
        return _around(around, needed_by)[:most]
    if len(known) <= most:
        return known
    cuts = [name for knot in check.knots for pair in knot.cut.edges[: most // 4] for name in pair]
    in_cycles = [*cuts, *(name for knot in check.knots for name in knot.path)]
    at_fault = [name for finding in check.findings if "cycle" not in finding.kind for name in finding.modules]
    needs = Counter(source for source, _ in check.pairs)
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


def _part_of(check: ModuleCheck, names: Sequence[str]) -> Part:
    shown = set(names)
    pairs = {pair: edges for pair, edges in check.pairs.items() if shown.issuperset(pair) and pair[0] != pair[1]}
    more = Counter(target for source, target in check.pairs if target in shown and source not in shown)
    if len(pairs) <= FEW_ARROWS:
        return Part(tuple(names), pairs, more, 0)
    cuts = {pair for knot in check.knots for pair in knot.cut.edges}
    special = {pair for knot in check.knots for pair in pairwise(knot.path)} | _at_fault(check)
    kept = {*without_implied([pair for pair in pairs if pair not in cuts], special), *cuts}
    few = {pair: edges for pair, edges in pairs.items() if pair in kept}
    return Part(tuple(names), few, more, len(pairs) - len(few))


def _at_fault(check: ModuleCheck) -> set[Pair]:
    """The pairs of which one uses the other without having declared it."""
    return {(f.modules[0], f.modules[1]) for f in check.findings if f.kind == "undeclared dependency"}
