"""The sections of a report: what stands under each heading, and which of them tells more of a finding."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from erpkit.finding import Cause
from erpkit.visible import visible_html

_HEADING = re.compile(r"\A\s*## +(?P<title>[^\n]+?)[ #]*(?:\n|\Z)")
_TITLE = re.compile(r"\A\s*# +[^\n]+(?:\n|\Z)")
_ABOUT = re.compile(r'data-about="([^"]*)"')


@dataclass
class Section:
    """A heading with its anchor, the kinds of findings that its tables are about, and its outputs as HTML."""

    anchor: str
    title: str
    kinds: set[str] = field(default_factory=set)
    text: str = ""

    def add(self, text: str) -> None:
        """Take an output into the section."""
        self.text += text
        self.kinds.update(kind for about in _ABOUT.findall(text) for kind in about.split(", "))


def split_off_purpose(cells: list[Any]) -> str:
    """Take the first cell, which names the notebook and its purpose, from the cells; return the text below its title."""
    if not cells or cells[0].cell_type != "markdown" or not _TITLE.match(cells[0].source):
        return ""
    return _TITLE.sub("", cells.pop(0).source).strip()


def mark_sections(cells: Sequence[Any]) -> list[Section]:
    """Return the sections of a notebook, and put the anchor of each into the cell that begins with its heading."""
    sections: list[Section] = []
    for cell in cells:
        if cell.cell_type == "markdown" and (heading := _HEADING.match(cell.source)):
            title = re.sub(r"[*_`\[\]]|\(.*?\)(?=\s|$)", "", heading["title"])
            sections.append(Section(_anchor(title, [one.anchor for one in sections]), title.strip()))
            cell.source = f'<a class="erpkit-anchor" id="{sections[-1].anchor}"></a>\n\n{cell.source}'
        elif sections:
            for output in cell.get("outputs", []):
                sections[-1].add("".join(output.get("data", {}).get("text/html", "")))
    return sections


def find_section(sections: Sequence[Section], cause: Cause) -> Section | None:
    """Return the section that tells more of a cause: by the kind its tables are about, else the first that names a subject."""
    kind = cause.findings[0].kind
    if found := next((one for one in sections if kind in one.kinds), None):
        return found
    subjects = [visible_html(subject) for subject in cause.subjects if subject]
    return next((one for one in sections if any(f">{subject}<" in one.text for subject in subjects)), None)


def _anchor(title: str, taken: Sequence[str]) -> str:
    """Return a name for a heading that is in no use yet."""
    name = re.sub(r"\W+", "-", title.lower()).strip("-") or "section"
    return next(one for one in _numbered(name) if one not in taken)


def _numbered(name: str) -> Iterator[str]:
    yield name
    n = 2
    while True:
        yield f"{name}-{n}"
        n += 1
