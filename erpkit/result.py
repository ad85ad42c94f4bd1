"""How results show themselves: a title with facts, findings and tables, and pictures."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from erpkit.finding import Finding, group_findings
from erpkit.table import TONES, Table, format_value

__all__ = ["Picture", "to_html"]

_HEAD = "font-weight:600;"


@dataclass(frozen=True)
class Picture:
    """An SVG picture that shows itself in a notebook; `text` says the same in words, and `note` is shown below it.

    `svg` is a sentence instead where there is nothing to draw.
    """

    svg: str
    text: str
    note: str = ""

    def _repr_html_(self) -> str:
        if "<svg" not in self.svg:
            line, _, rest = self.svg.partition("\n")
            more = f'<pre style="overflow-x:auto">{html.escape(rest)}</pre>' if rest else ""
            return f"<p><em>{html.escape(line)}</em></p>{more}"
        style = "margin:.4em 0 .8em;width:fit-content;max-width:100%;overflow-x:auto"
        note = (
            f'<p style="opacity:.75;font-size:.9em;margin:.2em 0 .8em">{html.escape(self.note)}</p>'
            if self.note
            else ""
        )
        return f'<div role="img" aria-label="{html.escape(self.text)}" style="{style}">{self.svg}</div>{note}'

    def __repr__(self) -> str:
        return self.text


def to_html(
    title: str,
    *,
    findings: Sequence[Finding] = (),
    tables: Sequence[Table[Any]] = (),
    facts: Mapping[str, object] | None = None,
) -> str:
    """Return what a record is as HTML: a line, its facts, its findings by cause, and its tables."""
    parts = [f'<p style="{_HEAD}">{html.escape(title)}</p>']
    if facts:
        parts.append(_facts(facts))
    if findings:
        parts.append(_findings(findings))
    return "".join([*parts, *(table._repr_html_() for table in tables)])


def _facts(facts: Mapping[str, object]) -> str:
    figures = "".join(
        f'<div style="min-width:6em"><div style="font-size:1.5em;font-weight:600">{html.escape(format_value(value))}</div>'
        f'<div style="opacity:.7">{html.escape(name)}</div></div>'
        for name, value in facts.items()
    )
    return f'<div style="display:flex;flex-wrap:wrap;gap:.5em 2em;margin:.6em 0">{figures}</div>'


def _findings(findings: Sequence[Finding]) -> str:
    lines = []
    for cause in group_findings(findings):
        remedy = f'<br><code style="opacity:.8">{html.escape(cause.remedy)}</code>' if cause.remedy else ""
        tone = TONES["muted" if cause.severity == "info" else cause.severity]
        label = f'<span style="{tone}padding:0 .4em;border-radius:3px">{cause.severity}</span>'
        lines.append(f'<li style="margin:.25em 0">{label} {html.escape(str(cause))}{remedy}</li>')
    return f'<ul style="margin:.3em 0;padding-left:0;list-style:none">{"".join(lines)}</ul>'
