"""Thresholds on the facts of runs, by declaration: what is over one is a finding."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from erpkit.errors import UsageError
from erpkit.finding import Finding
from erpkit.runs.changes import is_number
from erpkit.table import format_value

_EXAMPLE = "ERPKIT_THRESHOLDS='dead letters <= 10, inspect_tenants: MiB <= +20%'"
_FORM = re.compile(
    r"(?:(?P<notebook>[\w./-]+):)?\s*(?P<fact>[^<>=]+?)\s*(?P<sign><=|>=|<|>)\s*(?P<number>[+-]?\d+(?:\.\d+)?)\s*(?P<percent>%?)"
)
_SIGNS: Mapping[str, Callable[[float, float], bool]] = {
    "<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt,
}  # fmt: skip


@dataclass(frozen=True)
class Threshold:
    """What has to hold for a fact: its value, or with `is_change` how far it moved since the last run, in `percent` or not.

    Without `notebook` it is for every notebook that shows the fact.
    """

    fact: str
    sign: str
    limit: float
    notebook: str = ""
    is_change: bool = False
    percent: bool = False

    def __str__(self) -> str:
        number = f"{self.limit:{'+' if self.is_change else ''},.12g}"
        return f"{self.sign} {number}{' %' if self.percent else ''}"


def read_thresholds(texts: Iterable[str]) -> list[Threshold]:
    """Read thresholds, such as `dead letters <= 10`; a number with a sign, as in `MiB <= +20%`, limits the change since the last run.

    Raises UsageError for a text that is none.
    """
    found = []
    for text in texts:
        match = _FORM.fullmatch(text.strip())
        is_change = bool(match) and match["number"][0] in "+-"  # type: ignore[index]
        if match is None or (match["percent"] and not is_change):
            raise UsageError(f"the threshold {text!r} cannot be understood: write it as {_EXAMPLE}")
        found.append(
            Threshold(
                match["fact"], match["sign"], float(match["number"]), match["notebook"] or "", is_change, bool(match["percent"])
            )
        )  # fmt: skip
    return found


def find_over(
    thresholds: Sequence[Threshold], notebook: str, facts: Mapping[str, Any], before: Mapping[str, Any] | None = None
) -> list[Finding]:
    """Return a finding for each threshold that a run's facts do not keep; `before` are those of the last run, None for the first.

    So is a fact that is no number, or that the notebook was to show and did not: what was not read is not fine.
    """
    asked = [one for one in thresholds if one.notebook in ("", notebook)]
    return [
        Finding("threshold", one.fact, problem, of="fact")
        for one in asked
        if (problem := _problem(one, facts, before)) is not None
    ]


def _problem(one: Threshold, facts: Mapping[str, Any], before: Mapping[str, Any] | None) -> str | None:
    if one.fact not in facts:
        return f"was not shown, and its threshold is {one}" if one.notebook else None
    value, earlier = facts[one.fact], (before or {}).get(one.fact)
    if not is_number(value):
        return f"is {format_value(value)}, which is no number, and its threshold is {one}"
    if not one.is_change:
        return None if _SIGNS[one.sign](value, one.limit) else f"is {format_value(value)}, and its threshold is {one}"
    if not is_number(earlier):
        return None  # at the first run there is nothing to compare with
    moved = value - earlier
    compared = 100 * moved / earlier if one.percent and earlier else float("inf") if one.percent and moved else moved
    if _SIGNS[one.sign](compared, one.limit):
        return None
    return f"went from {format_value(earlier)} to {format_value(value)}, and the threshold of the change is {one}"
