"""What people look at in the runbooks: repairs, restores, who dispatches, and dependencies that nobody declared."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from erpkit.events.dispatchers import Dispatcher, Handled
from erpkit.modules.undeclared import Undeclared
from erpkit.tenants import RepairPlan, RestorePlan
from erpkit.ui.event_health import duration
from erpkit.ui.tables import frame_of

if TYPE_CHECKING:
    import pandas

__all__ = ["dispatchers_table", "handled_table", "repair_plan_table", "restore_plan_table", "undeclared_table"]

_RISKS = {"none": "", "fails": "may fail", "loses": "loses values", "by hand": "by hand"}


def repair_plan_table(plan: RepairPlan) -> pandas.DataFrame:
    """One line a statement, in their order; then those that are left out."""
    steps = [("yes", step) for step in plan.steps] + [("no", step) for step in plan.left]
    return frame_of(
        [
            {
                "runs": f"{runs}, {_RISKS[step.risk]}".rstrip(", "),
                "difference": step.difference,
                "statement": step.statement,
            }
            for runs, step in steps
        ]
    )


def restore_plan_table(plan: RestorePlan) -> pandas.DataFrame:
    """One line a table that has another number of rows now than in the export."""
    return frame_of(
        [{"table": table, "rows now": _count(now), "rows then": _count(then)} for table, (now, then) in plan.changes.items()],
        ["rows now", "rows then"],
    )  # fmt: skip


def _count(rows: int | None) -> str:
    return "no table" if rows is None else f"{rows:,}"


def dispatchers_table(dispatchers: Sequence[Dispatcher], now: datetime) -> pandas.DataFrame:
    """One line a worker that is connected."""
    return frame_of(
        [
            {"process": str(one.pid), "user": one.user, "host": one.host, "since": f"{one.since:%Y-%m-%d %H:%M:%S}",
             "for": duration((now - one.since).total_seconds())}
            for one in dispatchers
        ],
        ["process", "for"],
    )  # fmt: skip


def handled_table(audit: Sequence[Handled]) -> pandas.DataFrame:
    """One line a handler, over all tenants: the events up to its checkpoints, and what became of them."""
    handlers: dict[str, list[Handled]] = {}
    for one in audit:
        handlers.setdefault(one.handler, []).append(one)
    return frame_of(
        [
            {
                "handler": name,
                "tenants": len(some),
                "events": sum(one.events for one in some),
                "handled once": sum(one.handled for one in some),
                "put aside": sum(one.aside for one in some),
                "missing": sum(one.missing for one in some),
            }
            for name, some in handlers.items()
        ]
    )


def undeclared_table(undeclared: Sequence[Undeclared]) -> pandas.DataFrame:
    """One line a piece of evidence that a module needs another one."""
    return frame_of(
        [
            {"module": one.module, "needs": one.needs, "evidence": evidence}
            for one in undeclared
            for evidence in one.evidence
        ]
    )
