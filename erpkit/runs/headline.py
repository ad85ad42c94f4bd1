"""The top of a report: what is wrong by cause, with the command that helps and the way to its section, and then the figures."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from erpkit.finding import Cause, Finding, count_problems, group_findings
from erpkit.plural import count_of
from erpkit.result import Summary, as_findings
from erpkit.runs.changes import Changes
from erpkit.runs.result import RunResult
from erpkit.runs.sections import Section, find_section
from erpkit.table import format_value
from erpkit.visible import visible_html

_COMMAND = re.compile(r"[\w./-]*erpkit |%|[A-Z]{4,} |[a-z]+ -|pip |export ")  # a command, a magic or a statement
_OPTION = re.compile(r"(?<= )(--?[\w-]+)")  # a line does not end within it, though it has hyphens
_FEW = 3  # pieces of advice; more are folded


def show_headline(result: RunResult, sections: Sequence[Section], left: int = 0) -> str:
    """Return what is wrong: why a run did not come to its end, with `left` cells not run, then the findings by cause."""
    findings = as_findings(result.summary.findings) if result.summary else []
    is_whole = result.outcome in ("ok", "findings")
    rehearsal = result.summary.facts.get("rehearsal", "") if result.summary and is_whole else ""
    verdict = count_problems(findings) or ("No problems found" if result.summary else "Ran to its end")
    if rehearsal:
        verdict = f"Rehearsal on a scratch copy: {rehearsal}. {verdict}"
    elif not is_whole:
        verdict = _ended(result, count_problems(findings), left)
    return draw_headline(verdict, findings, sections, "error" if not is_whole else "rehearsal" if rehearsal else "")


def draw_headline(verdict: str, findings: Sequence[Finding], sections: Sequence[Section] = (), tone: str = "") -> str:
    """Return a verdict, which is coloured as the gravest finding is unless `tone` says how, and the findings; advice comes last."""
    causes = group_findings(findings)
    grave = [cause for cause in causes if cause.severity != "info"]
    advice = [cause for cause in causes if cause.severity == "info"]
    tone = tone or (grave[0].severity if grave else "good")
    lines = f"<ul>{''.join(_line(one, sections) for one in grave)}</ul>" if grave else ""
    return (
        f'<section class="headline {tone}" aria-label="what is wrong"><p class="verdict">{visible_html(verdict)}</p>'
        f"{lines}{_advice(advice, sections)}</section>"
    )


def _ended(result: RunResult, found: str, left: int) -> str:
    """Return why a run did not come to its end, and how far it came."""
    after = [f"{count_of(left, 'cell was', 'cells were')} not run"] if left else []
    told = "; ".join([result.verdict, *([f"{found} before"] if found else []), *after])
    return told[0].upper() + told[1:]


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
    text = _OPTION.sub(r'<span class="word">\1</span>', visible_html(remedy))
    return f"<code>{text}</code>" if _COMMAND.match(remedy) else f'<span class="advice">{text}</span>'


def show_figures(summary: Summary | None, changes: Changes | None) -> str:
    """Return the title and the figures of a summary, each with how it moved since the last run."""
    if summary is None:
        return ""
    moved = {one.name: one.moved for one in changes.facts if one.before != one.now} if changes else {}
    return f'<p class="title">{visible_html(summary.title)}</p>{draw_figures(summary.facts, moved)}'


def draw_figures(facts: Mapping[str, Any], moved: Mapping[str, str] | None = None) -> str:
    """Return facts as figures; `moved` are those that were others before."""
    figures = "".join(
        f"<div{_weight(value)}><dd>{visible_html(format_value(value))}</dd>"
        f"<dt>{visible_html(name)}{_moved((moved or {}).get(name))}</dt></div>"
        for name, value in facts.items()
    )
    return f'<dl class="figures">{figures}</dl>' if figures else ""


def _weight(value: object) -> str:
    """Return how large a figure is shown: a text is not, and nothing stands back behind what there is."""
    if isinstance(value, int | float):
        return "" if value else ' class="zero"'
    return ' class="words"' if value else ' class="words zero"'


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
    return f' class="{severity}"' if severity in ("error", "warning") else ""
