"""What people look at before, during and after a migration run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from erpkit.migrations import HistoryEntry, LintFinding, MigrationPlan, MigrationRun, MigrationStatus
from erpkit.ui.plots import AMBER, BLUE, GREEN, GREY, RED, Picture, figure_of, legend, picture_of, rectangle
from erpkit.ui.tables import frame_of

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes

__all__ = [
    "lint_table",
    "migration_history_table",
    "migration_plan_table",
    "migration_results_table",
    "migration_scripts_table",
    "migration_status_table",
    "plot_migrations",
]

_STATES = {
    "current": GREEN, "pending": AMBER, "out of order": "#b45309", "edited": BLUE, "unknown": GREY, "dirty": RED,
}  # fmt: skip


def plot_migrations(statuses: Sequence[MigrationStatus], most: int = 40) -> Picture:
    """Draw the matrix tenant by module, coloured by state; the number is the version, `+1` says that one is pending.

    With more than `most` tenants those that are current in all modules are one line, and the worst of the others are drawn.
    """
    by_tenant: dict[str, list[MigrationStatus]] = {}
    for status in statuses:
        by_tenant.setdefault(status.tenant, []).append(status)
    shown = list(by_tenant)
    if len(by_tenant) > most:
        shown = sorted(filter(lambda t: not _is_current(by_tenant[t]), by_tenant), key=lambda t: -_rank(by_tenant[t]))
        shown = shown[:most]
    modules = list(dict.fromkeys(s.module for s in statuses))
    rest = len(by_tenant) - len(shown)
    figure, axes = figure_of(1, 1, width=2.2 + 1.0 * len(modules), height=1.2 + 0.26 * (len(shown) + bool(rest)))
    for y, tenant in enumerate(shown):
        for status in by_tenant[tenant]:
            _cell(axes, modules.index(status.module), y, _STATES[status.state], _label(status))
    others = [tenant for tenant in by_tenant if tenant not in set(shown)]
    for x in range(len(modules) if rest else 0):
        worst = max((_state_rank(by_tenant[t][x].state) for t in others), default=0)
        _cell(axes, x, len(shown), list(_STATES.values())[worst], "")
    axes.set_xlim(-0.5, len(modules) - 0.5)
    axes.set_ylim(len(shown) + bool(rest) - 0.5, -0.5)
    axes.set_xticks(range(len(modules)), modules)
    axes.set_yticks(range(len(shown) + bool(rest)), [*shown, *([f"{rest:,} others"] if rest else [])])
    axes.tick_params(length=0)
    axes.xaxis.tick_top()
    axes.spines[:].set_visible(False)
    counts = Counter(status.state for status in statuses)
    legend(figure, {f"{state} ({counts[state]:,})": color for state, color in _STATES.items() if counts[state]})
    return picture_of(figure, "migration status of each tenant and module: " + _words(counts))


def migration_status_table(statuses: Sequence[MigrationStatus]) -> pandas.DataFrame:
    """The version of each module a tenant: one line a tenant, `4` if current, `3 (+1)` with one migration pending."""
    lines: dict[str, dict[str, object]] = {}
    for s in statuses:
        line = lines.setdefault(s.tenant, {"tenant": s.tenant})
        marks = [f"+{len(s.pending)}"] if s.pending else []
        marks += [s.state] if s.state not in ("current", "pending") else []
        line[s.module] = f"{s.version}" + (f" ({', '.join(marks)})" if marks else "")
    return frame_of(list(lines.values()))


def migration_plan_table(plan: MigrationPlan) -> pandas.DataFrame:
    """One line a tenant and migration, in the order in which they would run, and the tenants that are left alone."""
    lines = [
        {
            "tenant": p.tenant.slug,
            "wave": wave.name,
            "migration": m.name,
            "direction": direction,
            "statements": len(m.content.statements(direction)),
            "note": "",
        }
        for wave in plan.waves
        for p in wave.tenants
        for m, direction in p.steps
    ]
    others = {**{slug: f"skipped: {why}" for slug, why in plan.skipped.items()}, **plan.refused}
    left = [
        {"tenant": slug, "wave": "", "migration": "", "direction": "", "statements": 0, "note": note}
        for slug, note in others.items()
    ]
    return frame_of([*lines, *left])


def migration_scripts_table(plan: MigrationPlan) -> pandas.DataFrame:
    """The SQL that would run: one line a statement, once for all tenants that get it."""
    tenants = Counter(step for p in plan.tenants for step in p.steps)
    return frame_of(
        [
            {
                "migration": m.name,
                "direction": direction,
                "tenants": tenants[m, direction],
                "in a transaction": "yes" if m.content.use_transaction else "no",
                "statement": statement,
            }
            for m, direction, statements in plan.scripts()
            for statement in statements
        ]
    )


def lint_table(findings: Sequence[LintFinding]) -> pandas.DataFrame:
    """One line a statement that locks, rewrites or breaks running code."""
    return frame_of(
        [
            {
                "where": f"{f.migration}:{f.line}",
                "statement": f.statement,
                "level": f.level,
                "why": f"{f.rule}: {f.message} {f.help}".rstrip(),
            }
            for f in findings
        ]
    )


def migration_results_table(run: MigrationRun) -> pandas.DataFrame:
    """One line a tenant: what was done, how long it took, and what failed; those that were not started come last."""
    lines = [
        {"tenant": r.tenant, "done": r.done_briefly, "ms": round(r.seconds * 1000, 1), "error": r.error or ""}
        for r in sorted(run.results, key=lambda result: result.error is None)
    ]
    left = [
        {"tenant": slug, "done": "", "ms": 0.0, "error": f"not started: {why}"} for slug, why in run.not_started.items()
    ]
    return frame_of([*lines, *left])


def migration_history_table(entries: Sequence[HistoryEntry]) -> pandas.DataFrame:
    """One line a migration of a tenant, the newest first: who, when, which plan, how long, and what failed."""
    return frame_of(
        [
            {"at": f"{e.at:%Y-%m-%d %H:%M:%S}", "tenant": e.tenant, "migration": f"{e.module} {e.version} {e.direction}",
             "state": e.state, "ms": round(e.milliseconds, 1), "who": e.who, "plan": e.plan_id, "error": e.error or ""}
            for e in entries
        ]
    )  # fmt: skip


def _is_current(statuses: Sequence[MigrationStatus]) -> bool:
    return all(status.state == "current" for status in statuses)


def _rank(statuses: Sequence[MigrationStatus]) -> int:
    return max(_state_rank(status.state) for status in statuses)


def _state_rank(state: str) -> int:
    return list(_STATES).index(state)


def _cell(axes: Axes, x: int, y: int, color: str, label: str) -> None:
    axes.add_patch(rectangle(x, y, color))
    axes.text(x, y, label, ha="center", va="center", color="white", fontsize=9)


def _label(status: MigrationStatus) -> str:
    return f"{status.version}" + (f" +{len(status.pending)}" if status.pending else "")


def _words(counts: Counter[str]) -> str:
    return ", ".join(f"{count:,} {state}" for state, count in counts.items())
