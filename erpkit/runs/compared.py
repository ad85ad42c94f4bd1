"""A run compared with the last one of the same notebook and parameters, and with the thresholds that are declared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from erpkit.config import Settings
from erpkit.errors import DatabaseError
from erpkit.finding import with_ages
from erpkit.result import Summary, as_findings
from erpkit.runs.changes import Look, compare
from erpkit.runs.record import Recorder, RunStart
from erpkit.runs.result import RunResult
from erpkit.runs.thresholds import Threshold, find_over, read_thresholds


def read_declared() -> list[Threshold]:
    """Return the thresholds of the settings; raises UsageError for one that cannot be understood."""
    return read_thresholds(Settings.from_env().thresholds)


def compared(result: RunResult, start: RunStart, recorder: Recorder) -> RunResult:
    """Add what changed since the last such run, and the facts that are over a threshold; a run that stopped says neither.

    A record that cannot be read is no first run: then nothing is said of changes, and why.
    """
    if result.outcome not in ("ok", "findings"):
        return result
    try:
        return compare_result(result, recorder.previous_look(start), read_declared())
    except DatabaseError as error:
        unknown = f"changes since the last run are unknown: {error}"
        alone = replace(compare_result(result, None, read_declared()), changes=None)
        return alone if recorder.problem or recorder.is_off else replace(alone, problems=(*alone.problems, unknown))


def compare_result(result: RunResult, last: Look | None, thresholds: Sequence[Threshold] = ()) -> RunResult:
    """Return a result with its changes since the `last` look, the age of each finding, and a finding for each fact over a threshold."""
    summary = result.summary or Summary(result.notebook, {})
    over = find_over(thresholds, result.notebook, summary.facts, last.facts if last else None)
    findings = [*as_findings(summary.findings), *over]
    changes = compare(last, result.started_at, summary.facts, findings)
    if not result.summary and not over:
        return replace(result, changes=changes)
    summary = replace(summary, findings=with_ages(findings, changes.ages))
    return replace(
        result, summary=summary, changes=changes, outcome="findings" if summary.exit_code else result.outcome
    )
