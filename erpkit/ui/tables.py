"""Records as tables: DataFrames that notebooks show and analysts go on with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from erpkit.events import DeadLetter, ReplayPlan, ReplayRun
from erpkit.modules import ModuleCheck, ModuleLike, topic_of
from erpkit.tenants import DropPlan, Growth, ProvisionPlan, TenantInspection

if TYPE_CHECKING:
    import pandas

__all__ = [
    "blockers_table",
    "dead_letters_table",
    "drift_table",
    "drop_plan_table",
    "findings_table",
    "growth_table",
    "health_table",
    "indexes_table",
    "modules_table",
    "provision_plan_table",
    "replay_failures_table",
    "replay_plan_table",
    "rows_table",
    "tenants_table",
    "topics_table",
]


def tenants_table(inspections: Sequence[TenantInspection]) -> pandas.DataFrame:
    """One line a tenant: status, size in MiB, rows, events and what is not as it should be."""
    return frame_of(
        [
            {
                "tenant": i.tenant.slug,
                "schema": i.tenant.schema,
                "status": i.tenant.status,
                "size MiB": round(i.size / 2**20, 2),
                "rows": sum(i.rows.values()),
                "events": i.event_count,
                "last event": f"{i.last_event:%Y-%m-%d %H:%M}" if i.last_event else "",
                "pending": i.pending,
                "dead letters": len(i.dead_letters),
                "drift": len(i.drift),
            }
            for i in inspections
        ]
    )


def health_table(inspections: Sequence[TenantInspection]) -> pandas.DataFrame:
    """One line a tenant: what waits, what grows, what a vacuum would clear away, and who is in the way."""
    return frame_of(
        [
            {
                "tenant": i.tenant.slug,
                "events in 7 days": "–" if i.week_events is None else f"{i.week_events:,}",
                "backlog": sum(i.backlog.values()),
                "dead rows": i.dead_rows,
                "unused indexes": len(i.unused_indexes),
                "missing indexes": len(i.missing_indexes),
                "long or waiting transactions": len(i.blockers),
                "locked tables": len(i.locked),
            }
            for i in inspections
        ],
        numbers=["events in 7 days"],
    )


def growth_table(growth: Mapping[str, Growth]) -> pandas.DataFrame:
    """One line a tenant, those that grew most first: how much, from what, and the table that grew most.

    A tenant that is not in the earlier inspection comes last; `~` marks estimates.
    """
    return frame_of(
        [
            {
                "tenant": one.name,
                "MiB before": f"{one.before.size / 2**20:,.2f}" if one.before else "–",
                "+MiB": "–" if one.size is None else f"{'~' * (not one.is_exact)}{one.size / 2**20:+,.2f}",
                "+%": f"{100 * (one.size or 0) / one.before.size:+,.1f}" if one.before and one.before.size else "–",
                "rows before": f"{one.before.rows:,}" if one.before else "–",
                "+rows": "–" if one.rows is None else f"{'~' * (not one.is_exact)}{one.rows:+,}",
                "grew most": _grew_most(one),
            }
            for one in sorted(growth.values(), key=lambda one: (one.size is None, -(one.size or 0), -(one.rows or 0)))
        ],
        numbers=["MiB before", "+MiB", "+%", "rows before", "+rows"],
    )


def _grew_most(growth: Growth) -> str:
    most = max(growth.tables, key=lambda table: table.size or 0, default=None)
    return f"{most.name} ({most.size / 2**20:+,.2f} MiB)" if most and most.size and most.size > 0 else "–"


def blockers_table(inspections: Sequence[TenantInspection]) -> pandas.DataFrame:
    """One line a tenant and transaction that has been open for long or waits for a lock."""
    return frame_of(
        [
            {
                "tenant": i.tenant.slug,
                "process": b.pid,
                "user": b.user,
                "seconds": round(b.seconds, 1),
                "state": f"waits for {', '.join(map(str, b.blocked_by))}" if b.is_waiting else b.state,
                "tables": ", ".join(b.tables),
            }
            for i in inspections
            for b in i.blockers
        ]
    )


def indexes_table(inspections: Sequence[TenantInspection]) -> pandas.DataFrame:
    """One line a finding on indexes, with how many tenants have it: they have the same schema, and so the same findings."""
    findings: dict[tuple[str, str], list[int]] = {}
    for i in inspections:
        for unused in i.unused_indexes:
            findings.setdefault((f"{unused.table}: {unused.name}", "never used"), []).append(unused.size)
        for missing in i.missing_indexes:
            where = f"{missing.table} ({missing.columns})" if missing.columns else missing.table
            findings.setdefault((where, missing.reason), []).append(0)
    return frame_of(
        [
            {"index": where, "finding": why, "tenants": len(sizes), "KiB": round(sum(sizes) / 1024)}
            for (where, why), sizes in sorted(findings.items(), key=lambda finding: (finding[0][1], finding[0][0]))
        ]
    )


def drift_table(inspections: Sequence[TenantInspection]) -> pandas.DataFrame:
    """One line a difference from _template, in words and as the DDL that would undo it."""
    return frame_of(
        [{"tenant": i.tenant.slug, "difference": str(one), "ddl": one.ddl} for i in inspections for one in i.drift]
    )


def rows_table(inspections: Sequence[TenantInspection]) -> pandas.DataFrame:
    """One line a table: how many tenants have it, its rows over all of them, and who has the most."""
    tables = sorted({table for i in inspections for table in i.rows})
    lines = []
    for table in tables:
        counts = {i.tenant.slug: i.rows[table] for i in inspections if table in i.rows}
        largest = max(counts, key=lambda slug: counts[slug])
        total = sum(counts.values())
        lines.append(
            {
                "table": table,
                "tenants": len(counts),
                "rows": total,
                "most": counts[largest],
                "largest": largest if total else "–",
            }
        )
    return frame_of(lines)


def modules_table(modules: Sequence[ModuleLike]) -> pandas.DataFrame:
    """One line a module: what it depends on and what it declares."""
    return frame_of(
        [
            {
                "module": m.name,
                "depends on": ", ".join(m.dependencies) or "–",
                "migrations": len(list(m.migrations.glob("*.sql"))) if m.migrations else 0,
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


def findings_table(check: ModuleCheck) -> pandas.DataFrame:
    """One line a finding: its kind, the problem and the remedy."""
    return frame_of([{"kind": f.kind, "problem": f.problem, "remedy": f.remedy} for f in check.findings])


def dead_letters_table(letters: Sequence[DeadLetter]) -> pandas.DataFrame:
    """One line a dead letter; payloads are not shown."""
    return frame_of(
        [
            {
                "tenant": letter.tenant,
                "offset": letter.offset,
                "topic": letter.topic,
                "handler": letter.handler,
                "error": letter.error,
                "failed": f"{letter.failed_at:%Y-%m-%d %H:%M}",
            }
            for letter in letters
        ]
    )


def replay_plan_table(plan: ReplayPlan) -> pandas.DataFrame:
    """One line a tenant, topic and handler: how many events it would see again, and which."""
    return frame_of(
        [
            {
                "tenant": s.tenant,
                "topic": s.topic,
                "target" if plan.target else "handler": s.handler,
                "events": s.events,
                "offsets": f"{s.first_offset}–{s.last_offset}",
                "recorded": f"{s.first_time:%Y-%m-%d %H:%M} – {s.last_time:%Y-%m-%d %H:%M}",
            }
            for s in plan.steps
        ]
    )


def replay_failures_table(run: ReplayRun) -> pandas.DataFrame:
    """One line an event that failed again."""
    return frame_of(
        [{"tenant": f.tenant, "offset": f.offset, "handler": f.handler, "error": f.error} for f in run.failures]
    )


def provision_plan_table(plan: ProvisionPlan) -> pandas.DataFrame:
    """One line a migration that the new tenant would get, in order."""
    return frame_of([{"migration": m.name, "statements": len(m.content.up)} for m in plan.migrations])


def drop_plan_table(plan: DropPlan) -> pandas.DataFrame:
    """One line a table that would be dropped, with its rows."""
    return frame_of([{"table": table, "rows": rows} for table, rows in plan.rows.items()])


def frame_of(lines: Sequence[dict[str, object]], numbers: Sequence[str] = ()) -> pandas.DataFrame:
    """Make a DataFrame; `numbers` are columns of text to be shown as numbers are."""
    import pandas  # noqa: PLC0415 - slow to import

    frame = pandas.DataFrame(lines)
    frame.attrs["numbers"] = list(numbers)
    return frame
