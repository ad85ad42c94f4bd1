"""What became of a replay, for people: its figures, what failed, and the dead letters that remain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from erpkit.events.causes import cause_of, group_letters, letter_findings
from erpkit.events.dead_letters import DeadLetter
from erpkit.events.replay.plan import ReplayPlan
from erpkit.events.replay.run import ReplayFailure, ReplayRun
from erpkit.finding import Finding, not_read
from erpkit.table import Column, Table


@dataclass(frozen=True)
class ReplayReport:
    """The result of carrying out a plan, with the dead letters that are open now.

    `counts` are events by tenant and handler (or target), and by state; empty where no result per event was kept.
    """

    plan: ReplayPlan
    run: ReplayRun
    letters: Sequence[DeadLetter] = ()
    counts: Mapping[tuple[str, str], Mapping[str, int]] = field(default_factory=dict)

    @property
    def facts(self) -> dict[str, object]:
        """How many events were handled or sent, how many failed, and how many dead letters remain."""
        done = "sent" if self.plan.target else "handled"
        return {done: self.run.handled, "failed": self.run.failed, "dead letters": len(self.letters)}

    @property
    def go_on(self) -> str:
        """The command that does what a replay that was stopped has left; empty where there is none."""
        if self.run.state != "cancelled" or not self.run.plan_id.startswith("replay-"):
            return ""
        return f"erpkit events replay --resume {self.run.replay_id} --confirm {self.run.plan_id}"

    @property
    def findings(self) -> list[Finding]:
        """What failed, by tenant, handler and cause; what a broker dropped; what was not read; and dead letters that remain."""
        stopped = Finding(
            "stopped", str(self.run.replay_id), "was stopped before its end", remedy=self.go_on, of="replay"
        )
        known = f"the broker had {self.run.known:,} event(s) already, and dropped them"
        letters = () if self.plan.target else self.letters
        return [
            *([stopped] if self.run.state == "cancelled" else ()),
            *([Finding("known", "", known, remedy=_AGAIN)] if self.run.known else ()),
            *self._failures(),
            *not_read(self.plan.errors),
            *letter_findings(group_letters(letters), "info"),
        ]

    def _failures(self) -> list[Finding]:
        groups: dict[tuple[str, str, str], list[str]] = {}
        for one in self.run.failures:
            groups.setdefault((one.tenant, one.handler, cause_of(one.error)), []).append(str(one.offset))
        return [
            Finding("failed", tenant, f"{handler} failed: {cause}", evidence=(f"offsets {', '.join(offsets)}",))
            for (tenant, handler, cause), offsets in groups.items()
        ]

    @property
    def failures(self) -> Table[ReplayFailure]:
        """One line an event that a handler failed on again; the first thousand."""
        return Table(_FAILURES, self.run.failures, "No event failed.")

    @property
    def results(self) -> Table[_Count]:
        """One line a tenant and handler, or target: how many events it handled, and how many it failed on.

        For a broker it is how many were sent, and how many it knew already and dropped.
        """
        columns = _TO_BROKER if self.plan.target else _TO_HANDLERS
        return Table(columns, list(self.counts.items()), "No result per event was kept.")

    @property
    def tables(self) -> tuple[Table[Any], ...]:
        """The handlers, the events of each, and the failures."""
        return self.plan.handler_table, self.results, self.failures

    def __str__(self) -> str:
        run = self.run
        if self.plan.target is None:
            counts = f"{run.handled} handled, {run.failed} failed, {run.resolved} dead letters resolved"
        else:
            counts = f"{run.handled} sent to {self.plan.target.broker}, {run.known} that it had already and dropped"
        return f"replay {run.replay_id} {run.state}: {counts}"


_Count = tuple[tuple[str, str], Mapping[str, int]]  # tenant and handler; events by state
_AGAIN = "plan it with --again (again = True): it sends those all the same, under other message ids"

_WHO = (Column[_Count]("tenant", lambda row: row[0][0]), Column[_Count]("to", lambda row: row[0][1]))
_TO_HANDLERS = (
    *_WHO,
    Column[_Count]("handled", lambda row: row[1].get("handled", 0), bar=True),
    Column[_Count](
        "failed", lambda row: row[1].get("failed", 0), tone=lambda row: "error" if row[1].get("failed") else ""
    ),
)
_TO_BROKER = (
    *_WHO,
    Column[_Count]("sent", lambda row: row[1].get("sent", 0), bar=True),
    Column[_Count](
        "known", lambda row: row[1].get("known", 0), tone=lambda row: "warning" if row[1].get("known") else ""
    ),
)
_FAILURES = (
    Column[ReplayFailure]("tenant", lambda one: one.tenant),
    Column[ReplayFailure]("offset", lambda one: one.offset),
    Column[ReplayFailure]("handler", lambda one: one.handler),
    Column[ReplayFailure]("error", lambda one: one.error),
)
