"""Replays and rebuilt projections as tables, and how their notebooks end."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from erpkit.events import ReplayPlan, ReplayRecord, ShadowDiff, WatermillTopic
from erpkit.runs import Summary
from erpkit.ui.tables import frame_of

if TYPE_CHECKING:
    import pandas

__all__ = [
    "replay_audit_table", "replay_handlers_table", "replay_results_table", "shadow_examples_table", "shadow_table",
    "summarize_rebuild", "watermill_table",
]  # fmt: skip


def replay_handlers_table(plan: ReplayPlan) -> pandas.DataFrame:
    """One line a handler: what it does, whether it has side effects, how many events it would see; or why it is left out."""
    whom = "target" if plan.target else "handler"
    events: dict[str, int] = {}
    for step in plan.steps:
        events[step.handler] = events.get(step.handler, 0) + step.events
    lines: list[dict[str, object]] = [
        {
            whom: name,
            "what it does": does,
            "side effects": "yes, asked for by name" if name in plan.side_effects else "none",
            "events": f"{events[name]:,}",
        }
        for name, does in plan.handlers.items()
    ]
    lines += [
        {
            whom: name,
            "what it does": f"left out: {why}",
            "side effects": "none" if plan.target else "yes",
            "events": "–",
        }
        for name, why in plan.left_out.items()
    ]
    return frame_of(lines, numbers=("events",))


def replay_audit_table(records: Sequence[ReplayRecord]) -> pandas.DataFrame:
    """One line a replay and tenant: who asked for it, and how it ended."""
    return frame_of(
        [
            {
                "tenant": r.tenant,
                "replay": str(r.replay_id),
                "to": str(r.target or "handlers"),
                "state": r.state,
                "planned": r.planned,
                "done": r.handled,
                "failed": r.failed,
                "by": r.requested_by,
                "started": f"{r.started_at:%Y-%m-%d %H:%M}",
                "error": r.error or "",
            }
            for r in records
        ]
    )


def replay_results_table(counts: Mapping[tuple[str, str], Mapping[str, int]]) -> pandas.DataFrame:
    """One line a tenant and handler, or target: how many events it handled in a replay, and how many it failed on.

    For a broker it is how many were sent, and how many it knew already and dropped.
    """
    lines: list[dict[str, object]] = []
    for (tenant, handler), n in counts.items():
        states = ("handled", "failed") if n.keys() & {"handled", "failed"} else ("sent", "known")
        lines.append({"tenant": tenant, "to": handler, **{state: n.get(state, 0) for state in states}})
    return frame_of(lines)


def watermill_table(topics: Sequence[WatermillTopic]) -> pandas.DataFrame:
    """One line a topic in Watermill's tables: how many events, since when, and how far each consumer group is behind."""
    return frame_of(
        [
            {
                "tenant": t.tenant,
                "topic": t.topic,
                "events": t.events,
                "held back": t.held_back,
                "first": f"{t.first_time:%Y-%m-%d %H:%M}" if t.first_time else "–",
                "last": f"{t.last_time:%Y-%m-%d %H:%M}" if t.last_time else "–",
                "waiting, by group": ", ".join(f"{group.name}: {group.lag:,}" for group in t.groups) or "no group",
            }
            for t in topics
        ]
    )


def shadow_table(diff: ShadowDiff) -> pandas.DataFrame:
    """One line a table: its rows live and in the shadow, and how many differ."""
    return frame_of(
        [
            {
                "table": t.table,
                "live rows": t.live_rows,
                "shadow rows": t.shadow_rows,
                "only live": t.only_live,
                "only in the shadow": t.only_shadow,
                "different": t.differing,
            }
            for t in diff.tables
        ]
    )


def shadow_examples_table(diff: ShadowDiff) -> pandas.DataFrame:
    """The first rows of each table that are not the same, with the columns in which they differ."""
    lines: list[dict[str, object]] = []
    for table in diff.tables:
        for example in table.examples:
            live, shadow = example.live or {}, example.shadow or {}
            changed = [c for c in {**live, **shadow} if c not in example.key and live.get(c) != shadow.get(c)]
            lines.append(
                {
                    "table": table.table,
                    "key": _text(example.key, list(example.key)),
                    "live": "no such row" if example.live is None else _text(live, changed),
                    "rebuilt": "no such row" if example.shadow is None else _text(shadow, changed),
                }
            )
    return frame_of(lines)


def summarize_rebuild(target: str, diff: ShadowDiff, swapped: ShadowDiff | None) -> Summary:
    """Sum up a rebuilt projection, or a dry run where `swapped` is None: rows that differ are findings until then."""
    facts = {
        "swap": diff.id,
        "tenant": diff.shadow.tenant.slug,
        "tables": ", ".join(table.table for table in diff.tables),
        "events": diff.shadow.events,
        "failed": diff.shadow.failed,
        "different rows": diff.count,
        "written": swapped.count if swapped else 0,
    }
    findings = [
        f"{t.table}: {t.count} row(s) differ from what the events say" for t in diff.tables if t.count and not swapped
    ]
    if diff.shadow.failed:
        findings.append(f"handlers failed on {diff.shadow.failed} events")
    return Summary(f"{'Swapped' if swapped else 'Dry run'}: {diff.id} on {target}", facts, findings)


def _text(row: Mapping[str, object], columns: Sequence[str]) -> str:
    return ", ".join(f"{column} {json.dumps(row.get(column))}" for column in columns)
