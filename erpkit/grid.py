"""A table that a person can sort and filter, by DataTables, which the extra `interactive` brings; offline."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ipywidgets import Widget

MOST_ROWS = 10_000  # all of it is sent to the browser, which draws the page that is shown
LONG = 48  # characters; longer text may wrap
_PAGE = 25
_SORTABLE = 3  # rows; fewer are not worth a widget
_FEW = 5  # rows below which there is nothing to search for

_STYLE = """
.dt-container { font-size: var(--jp-ui-font-size1, 13px); line-height: 1.4; margin: 0; width: fit-content; max-width: 100%; }
.dt-container, .itables_anywidget { background: transparent !important; }
.dt-container .dt-layout-row { margin: .3em 0; }
.dt-container .dt-layout-table > div { overflow-x: auto; }
table.dataTable { margin: 0 !important; font-variant-numeric: tabular-nums; border: 0; }
table.dataTable > thead > tr > th, table.dataTable > tbody > tr > td { padding: .25em .6em; vertical-align: top; white-space: nowrap; }
table.dataTable > thead > tr > th { font-weight: 600; padding-right: 1.9em; }
table.dataTable > tbody > tr > td.erpkit-long { white-space: normal; min-width: min(36em, 60vw); overflow-wrap: anywhere; }
"""


def grid_of(names: Sequence[str], rows: Sequence[Sequence[str]], numeric: Sequence[bool], total: int) -> Widget | None:
    """Return a widget that shows `rows` of text; None where there is little to sort, or the library is not installed.

    `total` is how many rows there are. Columns that are `numeric` sort as numbers, whatever groups their thousands; those with
    a text longer than `LONG` characters wrap.
    """
    if total < _SORTABLE:
        return None
    try:
        table = import_module("itables.widget").ITable
    except ImportError:
        return None
    import pandas  # noqa: PLC0415 - slow to import

    few = len(rows) < _FEW
    cut = f"; only the first {len(rows):,} of {total:,} rows are here" if total > len(rows) else ""
    return table(
        pandas.DataFrame(rows, columns=list(names), dtype=object),
        showIndex=False,
        classes="compact order-column",
        style="width:auto;margin:0",
        css=_STYLE,
        maxBytes=0,
        maxRows=0,
        maxColumns=0,
        paging=len(rows) > _PAGE,
        pageLength=_PAGE,
        lengthMenu=[10, 25, 100, 1000],
        layout={
            "topStart": None if few else "search",
            "topEnd": "pageLength" if len(rows) > _PAGE else None,
            "bottomStart": None if few else "info",
            "bottomEnd": "paging" if len(rows) > _PAGE else None,
        },
        language={
            "search": "",
            "searchPlaceholder": "filter",
            "info": f"_START_–_END_ of _TOTAL_{cut}",
            "infoFiltered": "(of _MAX_)",
        },
        columnDefs=[
            {
                "targets": [n for n, is_number in enumerate(numeric) if is_number],
                "type": "num-fmt",
                "className": "dt-right",
            },
            {"targets": [n for n, is_number in enumerate(numeric) if not is_number], "className": "dt-left"},
            {
                "targets": [n for n in range(len(names)) if any(len(row[n]) > LONG for row in rows)],
                "className": "erpkit-long",
            },
        ],
    )
