"""What people look at in the runbooks: who dispatches, and dependencies that nobody declared."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from erpkit.events.dispatchers import Dispatcher, Handled
from erpkit.modules.undeclared import Undeclared
from erpkit.ui.event_health import duration
from erpkit.ui.tables import frame_of

if TYPE_CHECKING:
    import pandas

__all__ = ["dispatchers_table", "handled_table", "undeclared_table"]


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
