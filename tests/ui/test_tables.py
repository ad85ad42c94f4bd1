"""A table as a person sees it in JupyterLab, and as a run keeps it."""

from __future__ import annotations

import json
import sys
from decimal import Decimal
from typing import Any

import pandas
import pytest

from erpkit.table import Column, Table
from erpkit.ui import show


def frame(rows: int) -> pandas.DataFrame:
    lines = [
        {
            "tenant": f"t{n}",
            "rows": n * 1000,
            "share": Decimal(n) / 2,
            "growth": None if n == 1 else n,
            "why": "w" * 60,
        }
        for n in range(rows)
    ]
    return pandas.DataFrame(lines)


def arguments(table: Table[Any]) -> dict[str, Any]:
    """Return what DataTables is told."""
    grid: Any = table.grid()
    return dict(grid._dt_args)


def test_a_grid_holds_the_text_of_the_table_and_sorts_numbers_as_numbers() -> None:
    told = arguments(show(frame(6)))
    rows = json.loads(told["data_json"])
    assert rows[2][:3] == ["t2", "2,000", "1"]
    assert rows[1][3] == "-"  # what DataTables takes for no number
    kinds = {tuple(one["targets"]): one.get("type") or one["className"] for one in told["columnDefs"]}
    assert kinds == {(1, 2, 3): "html-num-fmt", (0, 4): "dt-left", (4,): "erpkit-long"}


def test_a_grid_of_very_many_rows_holds_the_first_of_them_and_says_so() -> None:
    told = arguments(show(pandas.DataFrame({"n": range(12_000)})))
    assert len(json.loads(told["data_json"])) == 10_000
    assert told["language"]["info"].endswith("only the first 10,000 of 12,000 rows are here")
    assert (told["paging"], told["pageLength"]) == (True, 25)


def test_html_in_a_cell_is_text() -> None:
    told = arguments(show(pandas.DataFrame({"name": ["<script>alert(1)</script>"] * 3})))
    assert "<script>" not in told["data_json"]


def test_in_a_grid_rows_in_trouble_stand_first_and_are_coloured() -> None:
    pending = Column[int]("pending", lambda n: n, tone=lambda n: "warning" if n == 3 else "")
    told = arguments(Table([Column[int]("tenant", lambda n: f"<b>{n}"), pending], [1, 2, 3, 4]))
    rows = json.loads(told["data_json"])
    assert [row[0] for row in rows] == ["&lt;b&gt;3", "&lt;b&gt;1", "&lt;b&gt;2", "&lt;b&gt;4"]
    assert ["background" in row[1] for row in rows] == [True, False, False, False]


@pytest.mark.parametrize("rows", [0, 1, 2])
def test_a_few_rows_are_no_grid(rows: int) -> None:
    assert show(frame(rows)).grid() is None


def test_without_the_extra_a_table_is_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "itables.widget", None)  # as if it were not installed
    assert show(frame(6)).grid() is None


def test_where_nobody_watches_a_table_is_plain_html() -> None:
    table = show(frame(6))
    assert table._repr_mimebundle_() == {}
    assert "<table" in table._repr_html_()
