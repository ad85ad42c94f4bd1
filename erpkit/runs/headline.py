"""The top of a report: what is wrong by cause, with the command that helps and the way to its section, and then the figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from erpkit.finding import Cause, Severity, group_findings
from erpkit.plural import count_of
from erpkit.result import Summary, as_findings
from erpkit.runs.changes import Changes
from erpkit.runs.result import RunResult
from erpkit.runs.sections import Section, find_section
from erpkit.table import format_value
from erpkit.visible import visible_html

_NOUNS: dict[Severity, str] = {"error": "error", "warning": "warning"}
_FEW = 3  # pieces of advice; more are folded


def show_headline(result: RunResult, sections: Sequence[Section]) -> str:
    """Return what is wrong: why a run did not come to its end, then the findings by cause, the gravest first; advice comes last."""
    causes = group_findings(as_findings(result.summary.findings)) if result.summary else []
    grave = [cause for cause in causes if cause.severity != "info"]
    advice = [cause for cause in causes if cause.severity == "info"]
    tone = "error" if result.outcome not in ("ok", "findings") else grave[0].severity if grave else "good"
    lines = f"<ul>{''.join(_line(one, sections) for one in grave)}</ul>" if grave else ""
    return (
        f'<section class="headline {tone}" aria-label="what is wrong"><p class="verdict">{visible_html(_verdict(result, grave))}</p>'
        f"{lines}{_advice(advice, sections)}</section>"
    )


def _verdict(result: RunResult, grave: Sequence[Cause]) -> str:
    """Return the outcome in words: the number of problems, not of the tenants that have them."""
    told = [
        count_of(number, noun)
        for severity, noun in _NOUNS.items()
        if (number := sum(cause.severity == severity for cause in grave))
    ]
    found = " and ".join(told)
    if result.outcome not in ("ok", "findings"):
        return f"{result.verdict}{f'; {found} before' if found else ''}"
    return found or ("Nothing needs a look" if result.summary else "Ran to its end")


def _advice(advice: Sequence[Cause], sections: Sequence[Section]) -> str:
    lines = "".join(_line(one, sections) for one in advice)
    if len(advice) <= _FEW:
        return f"<ul>{lines}</ul>" if lines else ""
    return f"<details><summary>{count_of(len(advice), 'note')}</summary><ul>{lines}</ul></details>"


def _line(cause: Cause, sections: Sequence[Section]) -> str:
    section = find_section(sections, cause)
    text = visible_html(str(cause))
    problem = f'<a href="#{section.anchor}" title="to {visible_html(section.title)}">{text}</a>' if section else text
    age = f' <span class="age">{visible_html(cause.age)}</span>' if cause.age else ""
    severity = "note" if cause.severity == "info" else cause.severity
    return f'<li><span class="severity {cause.severity}">{severity}</span> <span>{problem}{age}{_remedy(cause.remedy)}</span></li>'


def _remedy(remedy: str) -> str:
    """Return a command as one to paste, and a sentence as such."""
    if not remedy:
        return ""
    text = visible_html(remedy)
    return f'<span class="advice">{text}</span>' if remedy.endswith(".") else f"<code>{text}</code>"


def show_figures(summary: Summary | None, changes: Changes | None) -> str:
    """Return the title and the figures of a summary, each with how it moved since the last run."""
    if summary is None:
        return ""
    moved = {one.name: one.moved for one in changes.facts if one.before != one.now} if changes else {}
    figures = "".join(
        f"<div><dd>{visible_html(format_value(value))}</dd><dt>{visible_html(name)}{_moved(moved.get(name))}</dt></div>"
        for name, value in summary.facts.items()
    )
    figures = f'<dl class="figures">{figures}</dl>' if figures else ""
    return f'<p class="title">{visible_html(summary.title)}</p>{figures}'


def _moved(moved: str | None) -> str:
    return f" <b>{visible_html(moved)}</b>" if moved else ""


def show_facts(facts: Mapping[str, Any]) -> str:
    """Return facts about the run in one line."""
    rows = "".join(
        f"<div><dt>{visible_html(name)}</dt><dd>{visible_html(str(value))}</dd></div>" for name, value in facts.items()
    )
    return f'<dl class="run">{rows}</dl>'


def show_contents(sections: Sequence[Section], result: RunResult) -> str:
    """Return the contents: a link to each section, those that a finding leads to marked."""
    if len(sections) < 2:
        return ""
    causes = group_findings(as_findings(result.summary.findings)) if result.summary else []
    marks: dict[str, str] = {}
    for cause in causes:
        if section := find_section(sections, cause):
            marks.setdefault(section.anchor, cause.severity)
    links = "".join(
        f'<li><a href="#{one.anchor}"{_mark(marks.get(one.anchor, ""))}>{visible_html(one.title)}</a></li>'
        for one in sections
    )
    return f'<nav class="contents" aria-label="contents"><ul>{links}</ul></nav>'


def _mark(severity: str) -> str:
    return f' class="{severity}"' if severity in _NOUNS else ""
