"""A DataFrame as a table: plain HTML that reads well in a report, one to sort and filter where a person sits in JupyterLab."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from erpkit.grid import LONG, grid_of
from erpkit.grid import MOST_ROWS as MOST_ROWS_TO_SORT
from erpkit.table import MOST_ROWS, cut, is_null, is_numeric, sortable_bundle
from erpkit.visible import visible, visible_html

if TYPE_CHECKING:
    import pandas
    from ipywidgets import Widget

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
        return sortable_bundle(self, options)

    def grid(self) -> Widget | None:
        """Return a widget that sorts and filters; None where there is little to sort, or nothing to do it with."""
        numeric = self._numeric()
        rows = [
            [_sortable(value, number, self.raw) for value, number in zip(values, numeric, strict=True)]
            for values in self.frame.head(MOST_ROWS_TO_SORT).itertuples(index=False, name=None)
        ]
        return grid_of([visible(name) for name in self.frame.columns], rows, numeric, len(self.frame))

    def _numeric(self) -> list[bool]:
        return [
            name in self.frame.attrs.get("numbers", ())
            or is_numeric(self.frame.iloc[:, n])  # some hold numbers as text
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
    shown = visible_html(cut(text))
    if is_null(value):
        shown = f'<span style="opacity:.45">{shown}</span>'
    wrap = "white-space:normal;min-width:20em;overflow-wrap:anywhere" if len(text) > LONG else "white-space:nowrap"
    return f'<{tag} style="{_CELL}{style}text-align:{"right" if number else "left"};{wrap}">{shown}</{tag}>'


def _sortable(value: object, numeric: bool, raw: bool) -> str:
    """Return the text of a cell that a browser sorts; among numbers it takes `-` for none."""
    text = cut(visible(_text(value, numeric and not raw), keep="\n\t"))
    return "-" if numeric and (is_null(value) or text == "–") else text


def _text(value: object, grouped: bool) -> str:
    if is_null(value):
        return "NULL"
    if grouped and isinstance(value, int | float | Decimal):
        return f"{value:,}"
    if isinstance(value, dict | list):
        return json.dumps(value, default=str, ensure_ascii=False)
    if isinstance(value, datetime):
        return value.isoformat(" ", "seconds" if not value.microsecond else "milliseconds")
    return str(value)
