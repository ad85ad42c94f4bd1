"""The HTML of a table, from texts, tones and bars: its styles are in it, so that it looks the same in JupyterLab and in a report."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from erpkit.visible import visible_html

Tone = Literal["", "error", "warning", "good", "muted"]

# What is good has no colour, so that what is not stands out. Muted text keeps a contrast of 4.5 to 1, light and dark.
TONES: dict[Tone, str] = {
    "": "", "error": "background:#dc262633;font-weight:600;", "warning": "background:#d9770633;font-weight:600;", "good": "",
    "muted": "opacity:.75;",
}  # fmt: skip

HEAD = "font-weight:600;"
PLAIN = "mathjax_ignore"  # the class of text in which JupyterLab sees no formula between two $, as SQL has them
_SCROLL = "margin:0 0 .7em;overflow:auto;width:fit-content;max-width:100%;"
_TABLE = '<table style="border-collapse:collapse;border:0;line-height:1.4;font-variant-numeric:tabular-nums">'
_CELL = "padding:.25em .6em;border:0;border-bottom:1px solid #8884;vertical-align:top;"
_STICKY = "position:sticky;top:0;background:var(--jp-layout-color0,Canvas);"
_BAR = "height:.22em;background:#3b82f6bb;border-radius:1px;margin-left:auto;"
_LONG = "min-width:20em;overflow-wrap:anywhere"
_CODE = "font-family:var(--jp-code-font-family,monospace);font-size:.95em;"
_ROOM = "min-width:6em;"  # of a cell with a bar: in a narrow column bars cannot be told apart
_WRAPS = 48  # characters; longer text may wrap
_WRAPS_ON_A_PHONE = 34  # characters; a time is shorter and does not wrap
_NAME_WRAPS = 20  # characters of the name in the first column
_UNIT = re.compile(r", (\S{1,2})$")  # a short unit that would stand alone in the second line of a head
_LONGEST = 300  # characters; of longer text the beginning is shown


@dataclass(frozen=True)
class Head:
    """The head of a column: a `minor` one is left out on a phone."""

    name: str
    right: bool = False
    minor: bool = False

    @property
    def mark(self) -> str:
        """The class by which a page leaves it out where there is no room."""
        return ' class="erpkit-minor"' if self.minor else ""

    @property
    def align(self) -> str:
        """How its cells are aligned."""
        return "right" if self.right else "left"

    def html(self, *, sticky: bool) -> str:
        """Return it as a cell, which stays in sight with `sticky` when the table is scrolled; it may wrap between words."""
        style = f"{_CELL}{HEAD}{_STICKY if sticky else ''}text-align:{self.align};vertical-align:bottom"
        name = _UNIT.sub(",&nbsp;\\1", visible_html(self.name))
        return f'<th scope="col"{self.mark} style="{style}">{name}</th>'


@dataclass(frozen=True)
class Cell:
    """The text of a cell, its tone, and the share of the largest value that its bar shows, in percent; line ends are kept."""

    text: str
    tone: Tone = ""
    share: float | None = None

    def html(self, head: Head) -> str:
        """Return it as HTML below its head."""
        wrap = "white-space:nowrap"
        if "\n" in self.text:
            wrap = f"white-space:pre-wrap;{_CODE}{_LONG}"
        elif len(self.text) > _WRAPS:
            wrap = f"white-space:normal;{_LONG}"
        room = _ROOM if self.share is not None else ""
        style = f"{_CELL}{TONES[self.tone]}text-align:{head.align};{room}{wrap}"
        bar = f'<div style="{_BAR}width:{self.share:.1f}%"></div>' if self.share is not None else ""
        return f'<td{self._marks(head)} style="{style}">{visible_html(cut(self.text))}{bar}</td>'

    def _marks(self, head: Head) -> str:
        """The classes by which a page leaves it out, or lets it wrap, where there is little room."""
        size = len(self.text)
        names = {"erpkit-minor": head.minor, "erpkit-long": size > _WRAPS_ON_A_PHONE, "erpkit-name": size > _NAME_WRAPS}
        marked = " ".join(name for name, is_so in names.items() if is_so)
        return f' class="{marked}"' if marked else ""


def draw(
    heads: Sequence[Head], rows: Sequence[Sequence[Cell]], *, label: str, height: str = "", about: Sequence[str] = ()
) -> str:
    """Return a table that scrolls in its own box: sideways where it is too wide, under its head where it is higher than `height`.

    The box takes the focus, so that the keys scroll it; `label` names it to a screen reader, and `about` are the kinds of findings
    that it tells more of.
    """
    head = "".join(one.html(sticky=bool(height)) for one in heads)
    body = "".join(
        f"<tr>{''.join(cell.html(one) for cell, one in zip(cells, heads, strict=True))}</tr>" for cells in rows
    )
    kinds = f' data-about="{visible_html(", ".join(about))}"' if about else ""
    box = f'class="erpkit-scroll {PLAIN}" tabindex="0" role="group" aria-label="{visible_html(label)}"{kinds}'
    frame = f'<div {box} style="{_SCROLL}max-height:{height or "none"}">'
    return f"{frame}{_TABLE}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"


def cut(text: str) -> str:
    """Return the beginning of a text that is too long for a cell."""
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
