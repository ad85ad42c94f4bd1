"""A DataFrame as a plain HTML table that reads well in JupyterLab and in a report."""

from __future__ import annotations

import html
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas

__all__ = ["Table", "show"]

MOST_ROWS = 200
_LONG = 48  # characters; longer text may wrap
_CELL = "padding:.25em .6em;border:0;border-bottom:1px solid #8884;vertical-align:top;"


@dataclass(frozen=True)
class Table:
    """A DataFrame without its index, numbers to the right; `frame` is the data to go on with."""

    frame: pandas.DataFrame
    empty: str = "nothing"

    def __repr__(self) -> str:
        return self.empty if self.frame.empty else str(self.frame.to_string(index=False))

    def _repr_html_(self) -> str:
        if self.frame.empty:
            return f"<p><em>{html.escape(self.empty)}</em></p>"
        written = self.frame.attrs.get("numbers", ())  # columns that hold numbers as text
        numeric = [kind.kind in "iuf" or name in written for name, kind in self.frame.dtypes.items()]
        head = _row([str(name) for name in self.frame.columns], numeric, "th", "font-weight:600;")
        rows = [
            _row(values, numeric, "td", "") for values in self.frame.head(MOST_ROWS).itertuples(index=False, name=None)
        ]
        more = len(self.frame) - MOST_ROWS
        note = f"<p>… and {more:,} more</p>" if more > 0 else ""
        return (
            '<div style="overflow-x:auto"><table style="border-collapse:collapse;border:0;font-variant-numeric:tabular-nums">'
            f"<thead>{head}</thead><tbody>{''.join(rows)}</tbody></table></div>{note}"
        )


def show(frame: pandas.DataFrame, empty: str = "nothing") -> Table:
    """Show at most the first 200 rows of a DataFrame; `empty` is what to say when there are none."""
    return Table(frame, empty)


def _row(values: list[str] | tuple[object, ...], numeric: list[bool], tag: str, style: str) -> str:
    return (
        "<tr>"
        + "".join(_cell(value, number, tag, style) for value, number in zip(values, numeric, strict=True))
        + "</tr>"
    )


def _cell(value: object, number: bool, tag: str, style: str) -> str:
    text = f"{value:,}" if number and isinstance(value, int | float) else str(value)
    wrap = "normal" if len(text) > _LONG else "nowrap"
    return f'<{tag} style="{_CELL}{style}text-align:{"right" if number else "left"};white-space:{wrap}">{html.escape(text)}</{tag}>'
