"""Records as tables: DataFrames that notebooks show and analysts go on with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from erpkit.events import DeadLetter, ReplayPlan, ReplayRun

if TYPE_CHECKING:
    import pandas

__all__ = ["dead_letters_table", "frame_of", "replay_failures_table", "replay_plan_table"]


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


def frame_of(lines: Sequence[dict[str, object]], numbers: Sequence[str] = ()) -> pandas.DataFrame:
    """Make a DataFrame; `numbers` are columns of text to be shown as numbers are."""
    import pandas  # noqa: PLC0415 - slow to import

    frame = pandas.DataFrame(lines)
    frame.attrs["numbers"] = list(numbers)
    return frame
