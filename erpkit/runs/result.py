"""The result of a run: its outcome in one word, its exit code, and where its output is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

from erpkit.errors import UsageError
from erpkit.finding import count_problems
from erpkit.result import SCRAP, Summary, as_findings
from erpkit.runs.changes import Changes

Outcome = Literal["ok", "findings", "failed", "timed out", "killed", "interrupted"]

OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)  # from the best to the worst
EXIT_CODES: Mapping[Outcome, int] = {
    "ok": 0, "findings": 3, "failed": 1, "timed out": 124, "killed": 137, "interrupted": 130,
}  # fmt: skip


@dataclass(frozen=True)
class Ending:
    """How the cells of a notebook ended: `cell` is the index of the one that the run stopped at, None for the end."""

    outcome: Outcome
    error: str | None = None
    cell: int | None = None


@dataclass(frozen=True)
class RunResult:
    """What became of one run: `findings` when it ran and found a problem, `failed` with the error when a cell failed.

    `output` and `report` are local files, and `places` says where they are for good. `problems` are lines about what went
    wrong beside the run itself, such as a record that could not be written. `kernel` is `warm`, or why it was a cold one. `changes` is
    what is different since the last run of the same notebook and parameters, where this one came to its end.
    """

    notebook: str
    outcome: Outcome
    seconds: float
    output: Path
    report: Path
    error: str | None = None
    summary: Summary | None = field(default=None, repr=False)
    tenants: tuple[str, ...] = ()
    parameters: Mapping[str, Any] = field(default_factory=dict)
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    attempt: int = 1
    id: str = ""
    places: tuple[str, str] = ("", "")
    problems: tuple[str, ...] = ()
    kernel: str = ""
    changes: Changes | None = field(default=None, repr=False)

    @property
    def exit_code(self) -> int:
        """0; 1 for a failure, 3 for findings, 124 for a timeout, 130 for an interruption, 137 for a dead kernel.

        2 where a cell refused what was asked of it, as a command that is used wrongly would: a tenant that does not exist, a
        plan id that is stale, or events of an ERP that has no event log.
        """
        return 2 if self.is_refused else EXIT_CODES[self.outcome]

    @property
    def is_refused(self) -> bool:
        """Whether a cell ended with a UsageError of any kind, as for a stale plan id: another attempt would end the same way."""
        kinds: list[type[UsageError]] = [UsageError, *UsageError.__subclasses__()]
        return self.outcome == "failed" and (self.error or "").startswith(tuple(f"{kind.__name__}: " for kind in kinds))

    @property
    def verdict(self) -> str:
        """The outcome in a few words."""
        if self.outcome == "ok":
            return "ok"
        if self.outcome != "findings":
            return f"{self.outcome}: {self.error}"
        return count_problems(as_findings(self.summary.findings)) if self.summary else "findings"

    @property
    def findings(self) -> tuple[str, ...]:
        """The problems that the run found, a line each."""
        return tuple(map(str, self.summary.findings)) if self.summary else ()


def read_summary(node: Any) -> Summary | None:
    """Return the last summary that a notebook showed, with the findings of all that it showed; None if it showed no result.

    Where it showed no summary, that of the last result stands for it. Of a plan and what became of it the last counts.
    """
    outputs = [output for cell in node.cells for output in cell.get("outputs", [])]
    scraps = [scrap for output in outputs if (scrap := output.get("data", {}).get(SCRAP))]
    shown = [(s["name"], Summary.of_scrap(s)) for s in scraps if s.get("name") in ("summary", "findings")]
    if not shown:
        return None
    summaries = [summary for name, summary in shown if name == "summary"]
    last = summaries[-1] if summaries else shown[-1][1]
    counted = {one.facts.get("plan", number): one for number, (_, one) in enumerate(shown)}
    others = (finding for one in counted.values() for finding in one.findings)
    own = last.findings if last in counted.values() else ()
    return replace(last, findings=list(dict.fromkeys([*own, *others])))


def worst_exit_code(outcomes: Iterable[Outcome]) -> int:
    """Return the exit code of the worst of many outcomes; 0 for none."""
    return EXIT_CODES[OUTCOMES[max(map(OUTCOMES.index, outcomes), default=0)]]
