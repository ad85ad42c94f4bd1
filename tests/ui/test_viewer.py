"""Rows as Perspective takes them, without pyarrow."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from typing import Any

import pandas
import pytest

from erpkit.ui.viewer import columns_of

NOON = pandas.Timestamp("2026-01-02 12:00", tz="UTC")


@pytest.mark.parametrize(
    ("values", "kind", "shown"),
    [
        ([1, None], "integer", [1, None]),
        ([3_000_000_000, 1], "float", [3e9, 1.0]),
        ([2**60, 1], "string", [str(2**60), "1"]),
        ([Decimal("1.50"), None], "float", [1.5, None]),
        ([Decimal("0.1234567890123456789")], "string", ["0.1234567890123456789"]),
        ([1.5, float("inf")], "float", [1.5, None]),
        ([True, None], "boolean", [True, None]),
        ([date(2026, 1, 2), None], "date", ["2026-01-02", None]),
        ([NOON, None], "datetime", [NOON.timestamp() * 1000, None]),
        ([{"a": [1]}, [2], "x"], "string", ['{"a": [1]}', "[2]", "x"]),
        ([None, None], "string", [None, None]),
    ],
)
def test_a_column_keeps_its_values_or_becomes_text(values: list[Any], kind: str, shown: list[Any]) -> None:
    schema, columns = columns_of(pandas.DataFrame({"c": pandas.Series(values, dtype=object)}))
    assert (schema["c"], columns["c"]) == (kind, shown)


def test_perspective_takes_what_is_given_to_it() -> None:
    perspective = pytest.importorskip("perspective", reason="there is no perspective: pip install perspective-python")
    frame = pandas.DataFrame({"n": [1, 2], "at": [NOON, pandas.NaT], "why": ["a", None]})
    schema, columns = columns_of(frame)
    table = perspective.table(schema)
    table.update(columns)
    assert table.view().to_columns() == {"n": [1, 2], "at": [NOON.timestamp() * 1000, None], "why": ["a", None]}
