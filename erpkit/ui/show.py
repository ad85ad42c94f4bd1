"""A DataFrame as a table: plain HTML that reads well in a report, one to sort and filter where a person sits in JupyterLab."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from erpkit.grid import MOST_ROWS as MOST_ROWS_TO_SORT
from erpkit.grid import grid_of
from erpkit.visible import visible, visible_html
from erpkit.watching import is_a_notebook_watched

if TYPE_CHECKING:
    import pandas
    from ipywidgets import Widget

__all__ = ["Table", "show"]

MOST_ROWS = 200
_FEW = 3  # rows; fewer are not worth a widget
_LONG = 48  # characters; longer text may wrap
_LONGEST = 300  # characters; of longer text the beginning is shown
_BOLD = "font-weight:600;"
_HEAD = f"{_BOLD}position:sticky;top:0;background:var(--jp-layout-color0,Canvas);"
_CELL = "padding:.25em .6em;border:0;border-bottom:1px solid #8884;vertical-align:top;"


@dataclass(frozen=True)
class Table:
    """A DataFrame without its index, numbers to the right; `frame` is the data to go on with.

    Where a person watches a notebook, and the extra `interactive` is installed, it sorts and filters; a run has the plain one.
    A table that is higher than `height` (in CSS's units) scrolls under its head. Numbers are grouped by thousands unless
    `raw`, which shows values as a filter would name them.
    """

    frame: pandas.DataFrame
    empty: str = "nothing"
    height: str = ""
    raw: bool = False

    def __repr__(self) -> str:
        return visible(self.empty if self.frame.empty else self.frame.to_string(index=False), keep="\n")

    def _repr_mimebundle_(self, **options: Any) -> Any:
        """Add the widget to what a front end can choose from; nothing is added where it would be debris."""
        grid = self.grid() if is_a_notebook_watched() else None
        if grid is None:
            return {}
        bundle = grid._repr_mimebundle_(**options)
        data = bundle[0] if isinstance(bundle, tuple) else bundle  # with metadata, which widgets do not need
        return data | {"text/plain": repr(self)}

    def grid(self) -> Widget | None:
        """Return a widget that sorts and filters; None where there is little to sort, or nothing to do it with."""
        if len(self.frame) < _FEW:
            return None
        numeric = self._numeric()
        rows = [
            [_sortable(value, number, self.raw) for value, number in zip(values, numeric, strict=True)]
            for values in self.frame.head(MOST_ROWS_TO_SORT).itertuples(index=False, name=None)
        ]
        long = [any(len(row[n]) > _LONG for row in rows) for n in range(len(numeric))]
        return grid_of([visible(name) for name in self.frame.columns], rows, numeric, long, len(self.frame))

    def _numeric(self) -> list[bool]:
        return [
            name in self.frame.attrs.get("numbers", ())
            or _is_numeric(self.frame.iloc[:, n])  # some hold numbers as text
            for n, name in enumerate(self.frame.columns)
        ]

    def _repr_html_(self) -> str:
        if self.frame.empty:
            return f"<p><em>{visible_html(self.empty)}</em></p>"
        numeric = self._numeric()
        head = _row([str(name) for name in self.frame.columns], numeric, "th", _HEAD if self.height else _BOLD)
        rows = [
            _row(values, numeric, "td", "", self.raw)
            for values in self.frame.head(MOST_ROWS).itertuples(index=False, name=None)
        ]
        more = len(self.frame) - MOST_ROWS
        note = f"<p>… and {more:,} more</p>" if more > 0 else ""
        return (
            f'<div class="erpkit-scroll" style="overflow:auto;max-height:{self.height or "none"};width:fit-content;max-width:100%">'
            '<table style="border-collapse:collapse;border:0;line-height:1.4;font-variant-numeric:tabular-nums">'
            f"<thead>{head}</thead><tbody>{''.join(rows)}</tbody></table></div>{note}"
        )


def show(frame: pandas.DataFrame, empty: str = "nothing") -> Table:
    """Show at most the first 200 rows of a DataFrame; `empty` is what to say when there are none."""
    return Table(frame, empty)


def _row(values: list[str] | tuple[object, ...], numeric: list[bool], tag: str, style: str, raw: bool = False) -> str:
    cells = (_cell(value, number, tag, style, raw) for value, number in zip(values, numeric, strict=True))
    return f"<tr>{''.join(cells)}</tr>"


def _cell(value: object, number: bool, tag: str, style: str, raw: bool) -> str:
    text = _text(value, number and not raw)
    shown = visible_html(_cut(text))
    if _is_null(value):
        shown = f'<span style="opacity:.45">{shown}</span>'
    wrap = "white-space:normal;min-width:20em;overflow-wrap:anywhere" if len(text) > _LONG else "white-space:nowrap"
    return f'<{tag} style="{_CELL}{style}text-align:{"right" if number else "left"};{wrap}">{shown}</{tag}>'


def _sortable(value: object, numeric: bool, raw: bool) -> str:
    """Return the text of a cell that a browser sorts; among numbers it takes `-` for none."""
    text = _cut(visible(_text(value, numeric and not raw), keep="\n\t"))
    return "-" if numeric and (_is_null(value) or text == "–") else text


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def _text(value: object, grouped: bool) -> str:
    if _is_null(value):
        return "NULL"
    if grouped and isinstance(value, int | float | Decimal):
        return f"{value:,}"
    if isinstance(value, dict | list):
        return json.dumps(value, default=str, ensure_ascii=False)
    if isinstance(value, datetime):
        return value.isoformat(" ", "seconds" if not value.microsecond else "milliseconds")
    return str(value)


def _is_null(value: object) -> bool:
    """Tell whether this is None or one of pandas' kinds of it, which alone are not equal to themselves."""
    return (
        value is None or type(value).__name__ in {"NAType", "NaTType"} or (isinstance(value, float) and value != value)
    )


def _is_numeric(column: pandas.Series) -> bool:
    """Tell whether a column holds numbers; exact decimals are objects to pandas."""
    if column.dtype.kind != "O":
        return column.dtype.kind in "iuf"
    first = next((value for value in column if value is not None), None)
    return isinstance(first, Decimal)
