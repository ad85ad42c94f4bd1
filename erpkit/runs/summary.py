"""How a notebook ends: figures for people, findings for the exit code, and both recorded in the output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from erpkit.visible import visible, visible_html

__all__ = ["SCRAP", "Summary", "read_summary"]

# The MIME type by which a value is recorded in a notebook; scrapbook reads it as well.
SCRAP = "application/scrapbook.scrap.json+json"


@dataclass(frozen=True)
class Summary:
    """The result of a notebook: `facts` by name, and `findings`, the problems that a person should look at.

    As the last line of a notebook it shows itself. A run with findings ends with exit code 3.
    """

    title: str
    facts: Mapping[str, Any]
    findings: Sequence[str] = ()

    def _repr_mimebundle_(self, **_: object) -> dict[str, Any]:
        data = {"title": self.title, "facts": list(self.facts.items()), "findings": list(self.findings)}
        scrap = {"name": "summary", "data": data, "encoder": "json", "version": 1}
        return {"text/plain": str(self), "text/html": self.html(), SCRAP: scrap}

    def __str__(self) -> str:
        lines = [self.title, *(f"  {name}: {value}" for name, value in self.facts.items())]
        return "\n".join(map(visible, [*lines, *(f"  ! {finding}" for finding in self.findings)]))

    def html(self) -> str:
        """Return the summary as a piece of HTML with its styles in it."""
        color = "#b45309" if self.findings else "#15803d"
        facts = "".join(
            f'<div style="min-width:6em"><div style="font-size:1.5em;font-weight:600">{visible_html(str(value))}</div>'
            f'<div style="opacity:.7">{visible_html(name)}</div></div>'
            for name, value in self.facts.items()
        )
        findings = "".join(f"<li>{visible_html(finding)}</li>" for finding in self.findings)
        return (
            f'<div style="border-left:4px solid {color};padding:.3em 1em;margin:.5em 0">'
            f'<div style="font-weight:600">{visible_html(self.title)}</div>'
            f'<div style="display:flex;flex-wrap:wrap;gap:.5em 2em;margin:.6em 0">{facts}</div>'
            + (f'<ul style="margin:.3em 0;padding-left:1.2em">{findings}</ul>' if findings else "")
            + "</div>"
        )


def read_summary(node: Any) -> Summary | None:
    """Return the summary that a run recorded in its notebook, if it came to that."""
    for cell in reversed(node.cells):
        for output in cell.get("outputs", []):
            scrap = output.get("data", {}).get(SCRAP)
            if scrap and scrap.get("name") == "summary":
                data = scrap["data"]
                return Summary(data["title"], dict(data["facts"]), data["findings"])
    return None
