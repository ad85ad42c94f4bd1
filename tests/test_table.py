"""Columns that are declared once, and how they are shown."""

from __future__ import annotations

import io
import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from rich.console import Console

from erpkit.finding import Finding
from erpkit.result import to_html
from erpkit.table import Column, Table, format_value


@dataclass(frozen=True)
class Disk:
    name: str
    size: int
    share: float
    seen: datetime | None = None


COLUMNS = (
    Column[Disk]("disk", lambda d: d.name),
    Column[Disk]("size", lambda d: d.size, unit="MiB", bar=True, tone=lambda d: "error" if d.size > 2000 else ""),
    Column[Disk]("share", lambda d: d.share, places=2, signed=True),
    Column[Disk]("seen", lambda d: d.seen),
)
DISKS = [Disk("a", 1000, 0.5, datetime(2026, 1, 2, 3, 4, tzinfo=UTC)), Disk("b", 3000, -1.25)]
TABLE = Table(COLUMNS, DISKS)


def test_as_text_numbers_stand_on_the_right_under_a_head_with_their_unit() -> None:
    assert repr(TABLE).splitlines() == [
        "disk  size, MiB  share  seen",
        "a         1,000  +0.50  2026-01-02 03:04",
        "b         3,000  -1.25  –",
    ]


def test_as_csv_and_json_values_are_written_in_full() -> None:
    assert TABLE.to_csv().splitlines()[1] == "a,1000,0.5,2026-01-02 03:04:00+00:00"
    assert json.loads(TABLE.to_json())[1] == {"disk": "b", "size, MiB": 3000, "share": -1.25, "seen": None}


def test_as_html_a_cell_has_its_colour_and_a_bar_its_share_of_the_largest() -> None:
    shown = TABLE._repr_html_()
    assert shown.count("background:#dc2626") == 1
    assert "width:33.3%" in shown
    assert "width:100.0%" in shown


def test_in_a_terminal_the_same_values_are_drawn() -> None:
    file = io.StringIO()
    Console(file=file, width=80).print(TABLE)
    assert "3,000" in file.getvalue()


def test_in_a_narrow_terminal_names_and_numbers_are_whole_and_other_text_is_folded() -> None:
    names = Column[Disk]("disk", lambda d: d.name * 12), Column[Disk]("state", lambda _: "suspended")
    sizes = [Column[Disk](f"size {n} of all", lambda d: d.size) for n in range(6)]
    file = io.StringIO()
    Console(file=file, width=80).print(Table((*names, *sizes), DISKS))
    lines = [line.split() for line in file.getvalue().splitlines() if "a" * 12 in line or "b" * 12 in line]
    assert [(line[0], line[2:]) for line in lines] == [("a" * 12, ["1,000"] * 6), ("b" * 12, ["3,000"] * 6)]
    assert "…" not in file.getvalue()


def test_a_table_of_nothing_says_so_everywhere() -> None:
    empty = Table(COLUMNS, [], "no disk was found")
    file = io.StringIO()
    Console(file=file, width=80).print(empty)
    assert [repr(empty), file.getvalue().strip()] == ["no disk was found"] * 2
    assert "no disk was found" in empty._repr_html_()
    assert list(empty.frame.columns) == ["disk", "size, MiB", "share", "seen"]


def test_html_and_control_characters_in_a_value_are_text() -> None:
    hostile = Table(COLUMNS, [Disk("<script>\x1b[2J\n", 1, 1.0)])
    assert "&lt;script&gt;\\x1b[2J\\n" in hostile._repr_html_()
    assert "\x1b" not in repr(hostile)
    script = Table(COLUMNS, [Disk("SELECT 1\nFROM \x1bx\n", 1, 1.0)])
    assert ">SELECT 1\nFROM \\x1bx<" in script._repr_html_()  # lines of SQL stay lines on a page
    assert "SELECT 1\\nFROM" in repr(script)


def test_text_between_two_dollars_is_no_formula_in_jupyterlab() -> None:
    """MathJax passes over what is in this class; SQL quotes with dollars."""
    table = Table([Column[str]("statement", str)], ["AS $body$ BEGIN END $body$"])
    html = table._repr_html_() + to_html("a $title$", facts={"a": "$fact$"}, findings=[Finding("drift", "", "$body$")])
    assert html.count("$") == 10
    ignored = re.compile(r'<(p|ul|div) class="[^"]*mathjax_ignore.*?</\1>(?:</div></div>)*', re.DOTALL)
    assert "$" not in ignored.sub("", html)


def test_a_long_page_shows_all_rows_in_trouble_first_and_says_how_many_others_there_are() -> None:
    page = Table(COLUMNS, DISKS * 1000)._repr_html_()
    assert re.findall(r"<tr><td[^>]*>(.)<", page) == ["b"] * 1000
    assert "… and 1,000 more without trouble" in page
    few = Table(COLUMNS, [*DISKS[:1] * 500, *DISKS])._repr_html_()
    assert re.findall(r"<tr><td[^>]*>(.)<", few) == ["b", *"a" * 199]


def test_rows_whose_order_says_something_stay_in_it_and_none_in_trouble_is_cut_off() -> None:
    page = Table(COLUMNS, [*DISKS[:1] * 500, *DISKS], in_order=True)._repr_html_()
    assert re.findall(r"<tr><td[^>]*>(.)<", page) == [*"a" * 200, "b"]


def test_of_a_table_of_troubles_no_row_is_cut_off() -> None:
    page = Table(COLUMNS[:1], DISKS * 300, is_trouble=True)._repr_html_()
    assert (page.count("<tr><td"), "more" in page) == (600, False)


def test_a_column_of_zeros_is_named_below_and_one_that_was_not_read_is_none_of_them() -> None:
    columns = (
        COLUMNS[0],
        Column[Disk]("faults", lambda _: 0),
        Column[Disk]("read errors", lambda _: None),
        Column[Disk]("note", lambda _: ""),
        Column[Disk]("partly read", lambda d: 0 if d.name == "a" else None),
    )
    page = Table(columns, DISKS * 2)._repr_html_()
    assert re.findall(r"<th scope[^>]*>([^<]*)<", page) == ["disk", "partly read"]
    assert "0 in every row: faults" in page
    assert "Not known of any row: read errors" in page
    assert "Empty in every row: note" in page
    assert "<table" not in Table(columns[:3], DISKS * 2)._repr_html_()  # names alone would tell nothing
    assert "faults</th>" in Table(columns, DISKS * 2, is_whole=True)._repr_html_()
    assert "faults</th>" in Table(columns, DISKS)._repr_html_()  # of two rows a zero says something


def test_a_high_table_scrolls_under_its_head_and_a_small_one_does_not() -> None:
    assert "max-height:34em" in Table(COLUMNS, DISKS * 20)._repr_html_()
    assert "max-height:none" in Table(COLUMNS, DISKS)._repr_html_()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1234567, "1,234,567"), (Decimal("1234.50"), "1,234.50"), (True, "yes"), (None, "–"), (float("nan"), "–"),
        (1234.5678, "1,234.6"),
        (12.3456, "12.35"), (0.0123456, "0.0123"), (7.0, "7"),
        (timedelta(seconds=45), "45 s"), (timedelta(hours=30), "30 h"), (["a", 2], "a, 2"), ((), "–"),
    ],
)  # fmt: skip
def test_a_value_is_written_for_people(value: object, text: str) -> None:
    assert format_value(value) == text
