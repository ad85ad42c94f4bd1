"""What people look at when a message is poisoned: causes, one letter, a plan and what became of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from erpkit.events import DeadLetterCount, DeadLetterDetail, LetterPlan, LetterRun, Parked, sum_counts
from erpkit.ui.plots import Picture, plot_counts
from erpkit.ui.tables import frame_of

if TYPE_CHECKING:
    import pandas

__all__ = [
    "dead_letter_table",
    "letter_counts_table",
    "letter_plan_table",
    "letter_results_table",
    "parked_table",
    "plot_causes",
]


def plot_causes(counts: Sequence[DeadLetterCount], most: int = 15) -> Picture:
    """Draw how many open dead letters each cause has over all tenants, the most first."""
    causes = dict(list(sum_counts(counts, "cause").items())[:most])
    if not causes:
        return Picture("There are no dead letters.", "no dead letters")
    return plot_counts(list(causes), list(causes.values()), "open dead letters by cause")


def letter_counts_table(counts: Sequence[DeadLetterCount]) -> pandas.DataFrame:
    """One line a cause, topic, handler and tenant, the most first."""
    return frame_of(
        [
            {
                "letters": c.letters,
                "cause": c.cause,
                "topic": c.topic,
                "handler": c.handler,
                "tenant": c.tenant,
                "first": f"{c.first_failed_at:%Y-%m-%d %H:%M}",
                "last": f"{c.last_failed_at:%Y-%m-%d %H:%M}",
            }
            for c in counts
        ]
    )


def dead_letter_table(detail: DeadLetterDetail) -> pandas.DataFrame:
    """One line a fact of a dead letter; its payload is there only if it was read."""
    letter = detail.letter
    facts = {
        "event": f"{letter.topic} at offset {letter.offset} of {letter.tenant}",
        "uuid": letter.uuid,
        "recorded": f"{detail.recorded_at:%Y-%m-%d %H:%M:%S}" if detail.recorded_at else "not in the log any more",
        **(detail.metadata or {}),
        "handler": letter.handler,
        "error": letter.error,
        "attempts": f"{letter.attempts}, the last at {letter.failed_at:%Y-%m-%d %H:%M:%S}",
        "status": detail.status,
        "closed": f"{detail.resolved_at:%Y-%m-%d %H:%M} by {detail.resolved_by}: {detail.reason}"
        if detail.resolved_at
        else "",
        "holds back": f"{detail.parked} events of {detail.aggregate}" if detail.aggregate else "",
        **{f"payload: {name}": value for name, value in (detail.payload or {}).items()},
    }
    return frame_of([{"what": name, "value": str(value)} for name, value in facts.items() if value != ""])


def letter_plan_table(plan: LetterPlan) -> pandas.DataFrame:
    """One line a tenant, handler and cause: how many letters would be retried or discarded; then what is left out."""
    lines = [{"letters": c.letters, "tenant": c.tenant, "handler": c.handler, "cause": c.cause} for c in plan.counts()]
    left = [
        {"letters": 0, "tenant": name, "handler": "", "cause": f"left out: {why}"}
        for name, why in plan.left_out.items()
    ]
    return frame_of([*lines, *left])


def letter_results_table(run: LetterRun) -> pandas.DataFrame:
    """One line an event, those that failed first; an event that had been parked is marked."""
    return frame_of(
        [
            {
                "tenant": r.tenant,
                "offset": r.offset,
                "topic": r.topic,
                "handler": r.handler,
                "state": f"{r.state}, was parked" if r.was_parked else r.state,
                "detail": r.detail,
            }
            for r in sorted(run.results, key=lambda result: result.state != "failed")
        ]
    )


def parked_table(parked: Sequence[Parked]) -> pandas.DataFrame:
    """One line an aggregate whose events wait behind a dead letter."""
    return frame_of(
        [
            {
                "tenant": p.tenant,
                "handler": p.handler,
                "aggregate": p.aggregate,
                "events": p.events,
                "first offset": p.first_offset,
            }
            for p in parked
        ]
    )
