"""Show results: a summary of facts and findings, tables below a title, and pictures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

from erpkit.cells import PLAIN, TONES
from erpkit.finding import Cause, Finding, exit_code, group_findings, marked
from erpkit.table import Table, format_value
from erpkit.visible import visible, visible_html
from erpkit.watching import is_a_notebook_watched

# The MIME type that records a value in a notebook; scrapbook reads it, too.
SCRAP = "application/scrapbook.scrap.json+json"

_HEAD = "font-weight:600;"
_RUNBOOKS = {
    "dead letters": "poisoned_message", "dirty": "failed_migration", "drift": "drifted_tenant", "lag": "stopped_dispatcher",
    "no dispatcher": "stopped_dispatcher", "pending": "tenant_behind", "undeclared dependency": "undeclared_dependency",
    "waiting": "stopped_dispatcher",
}  # fmt: skip # by the kind of a finding


@dataclass(frozen=True)
class Summary:
    """The summary of a result: `facts` by name, and `findings`, of which a text counts as a warning.

    Shown in a notebook, it is recorded as well. A run in which an error or a warning was shown ends with exit code 3.
    """

    title: str
    facts: Mapping[str, Any]
    findings: Sequence[Finding | str] = ()

    @property
    def causes(self) -> list[Cause]:
        """The findings by cause, the most severe first."""
        return group_findings(self._findings)

    @property
    def lines(self) -> list[str]:
        """Each finding as a line, with the mark of its severity."""
        return [marked(finding) for finding in self._findings]

    @property
    def exit_code(self) -> int:
        """3 if a finding is an error or a warning, else 0."""
        return exit_code(self._findings)

    @property
    def _findings(self) -> list[Finding]:
        return as_findings(self.findings)

    def scrap(self, name: str = "summary") -> dict[str, Any]:
        """Return what an output notebook keeps of it."""
        data = {
            "title": self.title,
            "facts": list(self.facts.items()),
            "findings": [str(finding) for finding in self.findings],
            "details": [asdict(finding) for finding in self._findings],
        }
        return {"name": name, "data": json.loads(json.dumps(data, default=str)), "encoder": "json", "version": 1}

    @classmethod
    def of_scrap(cls, scrap: Mapping[str, Any]) -> Self:
        """Return the summary that an output notebook keeps."""
        data = scrap["data"]
        details = [Finding(**one | {"evidence": tuple(one["evidence"])}) for one in data.get("details", ())]
        return cls(data["title"], dict(data["facts"]), details or data["findings"])

    def _repr_mimebundle_(self, **_: object) -> dict[str, Any]:
        return {"text/plain": str(self), "text/html": self.html(), SCRAP: self.scrap()}

    def __str__(self) -> str:
        lines = [self.title, *(f"  {name}: {format_value(value)}" for name, value in self.facts.items())]
        return "\n".join(map(visible, [*lines, *(f"  {marked(cause)}" for cause in self.causes)]))

    def html(self) -> str:
        """Return the summary as a piece of HTML with its styles in it."""
        color = {"error": "#dc2626", "warning": "#b45309"}.get(
            self.causes[0].severity if self.findings else "", "#15803d"
        )
        body = to_html(self.title, findings=self._findings, facts=self.facts)
        return f'<div class="{PLAIN}" style="border-left:4px solid {color};padding:.3em 1em;margin:.5em 0">{body}</div>'


class Result:
    """What all records with `findings` have in common: shown in a notebook, they count for the outcome of its run.

    A record has `findings`, and may have `facts` and `tables`; `str()` is its title.
    """

    @property
    def summary(self) -> Summary:
        """Its figures, and what a person should look at."""
        record: Any = self
        return Summary(str(self), getattr(record, "facts", {}), record.findings)

    def _repr_html_(self) -> str:
        record: Any = self
        return to_html(str(self), findings=record.findings, tables=getattr(record, "tables", ()))

    def _repr_mimebundle_(self, **_: object) -> dict[str, Any]:
        return {"text/plain": repr(self), "text/html": self._repr_html_(), SCRAP: self._counted().scrap("findings")}

    def _counted(self) -> Summary:
        """Return the summary, with the id of the plan that was applied: what its result finds replaces what the plan found."""
        summary, record = self.summary, self
        applied = getattr(record, "plan_id", None) or getattr(getattr(record, "plan", None), "id", None)
        return replace(summary, facts={"plan": applied, **summary.facts}) if applied else summary


class TableResult(Result):
    """A result that shows itself as its `table`; its dataclass is made with `repr=False`."""

    @property
    def table(self) -> Table[Any]:
        """Its rows."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return repr(self.table)

    def _repr_html_(self) -> str:
        return self.table._repr_html_()


class SummaryResult(TableResult):
    """A result that shows itself as its summary, on a page with the `table` below."""

    def __repr__(self) -> str:
        return str(self.summary)

    def _repr_html_(self) -> str:
        return self.summary.html() + self.table._repr_html_()


@dataclass(frozen=True)
class Picture:
    """An SVG picture that shows itself in a notebook; `text` is its alternative text, and `note` is shown below it.

    `svg` is a sentence if there is nothing to draw.
    """

    svg: str
    text: str
    note: str = ""

    def _repr_html_(self) -> str:
        if "<svg" not in self.svg:
            line, _, rest = self.svg.partition("\n")
            more = f'<pre style="overflow-x:auto">{visible_html(rest)}</pre>' if rest else ""
            return f'<p class="{PLAIN}"><em>{visible_html(line)}</em></p>{more}'
        style = "margin:.4em 0 .8em;width:fit-content;max-width:100%;overflow-x:auto"
        note = (
            f'<p class="{PLAIN}" style="opacity:.75;font-size:.9em;margin:.2em 0 .8em">{visible_html(self.note)}</p>'
            if self.note
            else ""
        )
        box = f'class="{PLAIN}" role="img" tabindex="0" aria-label="{visible_html(self.text)}" style="{style}"'
        return f"<div {box}>{self.svg}</div>{note}"

    def __repr__(self) -> str:
        return self.text


def to_html(
    title: str,
    *,
    findings: Sequence[Finding] = (),
    tables: Sequence[Table[Any]] = (),
    facts: Mapping[str, object] | None = None,
) -> str:
    """Return a record as HTML: a title, its facts, its findings by cause, and its tables."""
    parts = [f'<p class="{PLAIN}" style="{_HEAD}">{visible_html(title)}</p>'] if title else []
    if facts:
        parts.append(_facts(facts))
    if findings:
        parts.append(findings_html(findings))
    return "".join([*parts, *(table._repr_html_() for table in tables)])


def as_findings(findings: Sequence[Finding | str]) -> list[Finding]:
    """Return findings as such: a text counts as a warning."""
    return [Finding("finding", "", one) if isinstance(one, str) else one for one in findings]


def _facts(facts: Mapping[str, object]) -> str:
    figures = "".join(
        f'<div style="min-width:6em"><div style="{_size(value)}">{visible_html(format_value(value))}</div>'
        f'<div style="opacity:.75">{visible_html(name)}</div></div>'
        for name, value in facts.items()
    )
    return f'<div class="{PLAIN}" style="display:flex;flex-wrap:wrap;align-items:flex-end;gap:.5em 2em;margin:.6em 0">{figures}</div>'


def _runbook(cause: Cause) -> str:
    """Return a link to the runbook for a cause, for a person at a notebook that has the runbooks beside it."""
    kind = cause.findings[0].kind
    # A replay's dead letters are no fault of the replay, and still there to be mended.
    name = _RUNBOOKS.get(kind, "") if cause.severity != "info" or kind == "dead letters" else ""
    path = Path("runbooks", f"{name}.ipynb")
    if not name or not is_a_notebook_watched() or not path.is_file():
        return ""
    return f' <a style="text-decoration:underline" href="{path.as_posix()}" target="_blank">runbook {name}</a>'


def _size(value: object) -> str:
    """Return how a figure is set: large, but for a text, and light where it is 0, so that what there is stands out."""
    if not isinstance(value, int | float):
        return "font-weight:600;max-width:50em"
    return "font-size:1.5em;font-weight:600" if value else "font-size:1.5em;opacity:.75"


def findings_html(findings: Sequence[Finding | str]) -> str:
    """Return findings as an HTML list, by cause."""
    lines = []
    for cause in group_findings(as_findings(findings)):
        remedy = f'<br><code style="opacity:.8">{visible_html(cause.remedy)}</code>' if cause.remedy else ""
        tone = TONES["muted" if cause.severity == "info" else cause.severity]
        label = f'<span style="{tone}padding:0 .4em;border-radius:3px;flex:none">{cause.severity}</span>'
        age = f' <span style="opacity:.8">{visible_html(cause.age)}</span>' if cause.age else ""
        text = f'<span style="min-width:0;overflow-wrap:anywhere">{visible_html(str(cause))}{age}{remedy}{_runbook(cause)}</span>'
        lines.append(f'<li style="display:flex;align-items:baseline;gap:.6em;margin:.25em 0">{label} {text}</li>')
    return f'<ul class="{PLAIN}" style="margin:.3em 0;padding-left:0;list-style:none">{"".join(lines)}</ul>'
