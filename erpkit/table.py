"""Tables, whose columns are declared once: for a terminal, as HTML, as a widget, as a DataFrame, as JSON and as CSV."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from decimal import Decimal
from functools import cached_property
from importlib import import_module
from itertools import islice
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from erpkit.cells import HEAD, PLAIN, TONES, Cell, Head, cut, draw
from erpkit.cells import Tone as Tone
from erpkit.fitting import GAP, Room, fit
from erpkit.plural import count_of
from erpkit.visible import visible, visible_html
from erpkit.watching import is_a_notebook_watched

if TYPE_CHECKING:
    import pandas
    from ipywidgets import Widget
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.table import Table as RichTable
    from rich.text import Text

MOST_ROWS = 200  # of a table in HTML, besides those that are in trouble
_MOST_IN_TROUBLE = 5_000  # rows; more would be a page that no browser opens
_TALL, _HEIGHT = 25, "34em"  # rows from which a table scrolls under its head, and how high it is then
_BARE = 3  # rows from which a column of zeros is named below the table
_MOST_TO_SORT = 10_000  # a widget sends all of them to the browser, which draws the page that is shown
_PAGE = 25  # rows of a widget's page
_SORTABLE = 3  # rows; fewer are not worth a widget
_FEW = 5  # rows below which there is nothing to search for
_WRAPS = 48  # characters; longer text may wrap
_BARENESS = ("0 in every row", "Empty in every row", "Not known of any row")
_NONE = ("–", "NULL")  # among numbers DataTables takes `-` for none

_COLOURS: dict[Tone, str] = {"": "", "error": "red", "warning": "yellow", "good": "green", "muted": "dim"}
_GRAVEST: tuple[Tone, ...] = ("error", "warning")
_NOTE = "opacity:.75;font-size:.9em;margin:.2em 0 .8em"

_Row = TypeVar("_Row")


def _plain(_row: Any) -> Tone:
    return ""


@dataclass(frozen=True)
class Column(Generic[_Row]):
    """One column: its head, the value of a row, and how it is shown.

    `unit` is added to the head. `places` are the decimals of a number; `signed` numbers show a plus. `tone` colours a cell. A `bar`
    shows how each number compares with the largest. `right` aligns text to the right, as numbers are. A terminal that is
    too narrow leaves out `minor` columns first. The one that `is_name` holds what the rows are of, if the first one does not.
    """

    name: str
    value: Callable[[_Row], object]
    unit: str = ""
    places: int | None = None
    signed: bool = False
    tone: Callable[[_Row], Tone] = _plain
    bar: bool = False
    right: bool = False
    minor: bool = False
    is_name: bool = False

    @property
    def head(self) -> str:
        """The name with its unit."""
        return f"{self.name}, {self.unit}" if self.unit else self.name

    def text(self, row: _Row) -> str:
        """Return the value as text for people."""
        return format_value(self.value(row), places=self.places, signed=self.signed)


@dataclass(frozen=True)
class Table(Generic[_Row]):
    """Rows of one kind, with their columns; `empty` is the text for a table without rows.

    It shows itself in a notebook and in a terminal; `frame` is a DataFrame for further work. With `raw`, values are shown as SQL
    writes them: numbers are not grouped by thousands. A table that is higher than `height` scrolls under its head.

    On a page rows with an error or a warning stand first, unless the rows are `in_order`, and no limit cuts them off; where each row
    `is_trouble`, none is cut off. Columns of zeros are named below, unless the table `is_whole`. `about` are kinds of findings that
    the rows tell more of: a report leads from them to here.
    """

    columns: Sequence[Column[_Row]]
    rows: Sequence[_Row]
    empty: str = "none"
    title: str = ""
    height: str = ""
    raw: bool = False
    in_order: bool = False
    is_trouble: bool = False
    is_whole: bool = False
    about: Sequence[str] = ()

    @classmethod
    def of_frame(cls, frame: pandas.DataFrame, empty: str = "none", **options: Any) -> Table[tuple[object, ...]]:
        """Return a table of a DataFrame, without its index."""
        columns = [_column_of(frame, n) for n in range(len(frame.columns))]
        table = Table(columns, list(frame.itertuples(index=False, name=None)), empty, is_whole=True, **options)
        table.__dict__["frame"] = frame
        return table

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def frame(self) -> pandas.DataFrame:
        """The values as a DataFrame."""
        import pandas  # noqa: PLC0415 - slow to import

        return pandas.DataFrame(self.records(), columns=[column.head for column in self.columns])

    def records(self) -> list[dict[str, object]]:
        """Return the values by head, a dictionary a row."""
        return [{column.head: column.value(row) for column in self.columns} for row in self.rows]

    def texts(self, most: int | None = None) -> Iterator[list[str]]:
        """Yield the text of each cell, a list a row."""
        for row in islice(self.rows, most):
            yield [self._text(column, row) for column in self.columns]

    def head(self, most: int) -> Table[_Row]:
        """Return the table with its first rows."""
        return replace(self, rows=self.rows[:most])

    def to_json(self) -> str:
        """Return the rows as a JSON array of objects; times and uuids are text."""
        return json.dumps(self.records(), default=str, indent=2)

    def to_csv(self) -> str:
        """Return the rows as CSV with a head: numbers are not grouped, those of `raw` tables are complete, durations are in seconds."""
        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(column.head for column in self.columns)
        writer.writerows([[self._exact(column, row) for column in self.columns] for row in self.rows])
        return file.getvalue()

    def to_lines(self) -> list[str]:
        """Return the rows for a pipe: no head, a tab between two values, which are those of `to_csv`; each row is one line."""
        return ["\t".join(visible(self._exact(column, row)) for column in self.columns) for row in self.rows]

    def names(self) -> list[str]:
        """Return what the rows are of, each once: the values of the column that is their name, or of the first one."""
        first = next((column for column in self.columns if column.is_name), self.columns[0])
        return list(dict.fromkeys(visible(self._exact(first, row)) for row in self.rows))

    def __repr__(self) -> str:
        if not self.rows:
            return self.empty
        lines = [[visible(column.head) for column in self.columns], *self.texts()]
        widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
        aligned = [[*zip(line, widths, self.numeric, strict=True)] for line in lines]
        return "\n".join(
            "  ".join(text.rjust(width) if right else text.ljust(width) for text, width, right in line).rstrip()
            for line in aligned
        )

    def rich(self, width: int | None = None) -> RichTable | Text:
        """Return the table for a terminal, as one of rich's, with the columns that fit into `width`; without it, with all."""
        from rich.box import SIMPLE_HEAD  # noqa: PLC0415 - slow to import
        from rich.table import Table as RichTable  # noqa: PLC0415
        from rich.text import Text  # noqa: PLC0415

        if not self.rows:
            return Text(visible(self.empty))
        title = Text(visible(self.title)) if self.title else None
        table = RichTable(box=SIMPLE_HEAD, pad_edge=False, title=title, title_justify="left")
        table.show_edge, table.collapse_padding = False, True
        lines = list(self.texts())
        widths: Mapping[int, int | None] = dict.fromkeys(range(len(self.columns)))
        if width is not None:
            widths = fitted = fit(self._rooms(lines), width)
            table.width = sum(fitted.values()) + GAP * (
                len(fitted) - 1
            )  # more than there is, if the first column needs it
        for n, wide in widths.items():
            justify: Literal["left", "right"] = "right" if self.numeric[n] else "left"
            table.add_column(
                Text(visible(self.columns[n].head)), justify=justify, overflow="fold", no_wrap=wide is None, width=wide
            )
        for row, texts in zip(self.rows, lines, strict=True):
            table.add_row(*(Text(texts[n], style=_COLOURS[self.columns[n].tone(row)]) for n in widths))
        return table

    def left_out(self, width: int) -> list[str]:
        """Return the names of the columns for which a terminal of this width has no room."""
        shown = fit(self._rooms(list(self.texts())), width) if self.rows else range(len(self.columns))
        return [column.name for n, column in enumerate(self.columns) if n not in shown]

    def _rooms(self, lines: Sequence[Sequence[str]]) -> list[Room]:
        """Return the room that each column needs; times and numbers are never folded, text is between words."""
        from rich.cells import cell_len  # noqa: PLC0415 - slow to import

        rooms = []
        for n, column in enumerate(self.columns):
            head, cells = visible(column.head), [line[n] for line in lines]
            folds = isinstance(_first(column, self.rows), str | list | tuple | set | frozenset | Mapping)
            parts = [word for cell in cells for word in cell.split()] if folds else cells
            word = max(map(cell_len, head.split()), default=1)
            least, widest = (max([word, *map(cell_len, texts)]) for texts in (parts, cells))
            is_in_trouble = any(column.tone(row) in _GRAVEST for row in self.rows)
            rooms.append(Room(least, widest, max(widest, cell_len(head)), column.minor, is_in_trouble))
        return rooms

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield self.rich(options.max_width)
        if missing := self.left_out(options.max_width):
            from rich.text import Text  # noqa: PLC0415 - slow to import

            names = ", ".join(map(visible, missing))
            yield Text(f"No room for: {names}. A wider terminal shows them, or -o wide.", style="dim")

    def _repr_mimebundle_(self, **options: Any) -> Any:
        """Return the widget if a person watches: in the output of a run, no page could draw it."""
        widget = self.grid() if is_a_notebook_watched() else None
        if widget is None:
            return {}
        bundle: Any = widget._repr_mimebundle_(**options)
        data = bundle[0] if isinstance(bundle, tuple) else bundle  # with metadata, which widgets do not need
        return dict(data | {"text/plain": repr(self)})

    def grid(self) -> Widget | None:
        """Return a widget that sorts and filters; None if there is little to sort, or no library for it."""
        first = self.in_trouble_first[:_MOST_TO_SORT]
        rows = [
            ["-" if right and text in _NONE else cut(text) for text, right in zip(texts, self.numeric, strict=True)]
            for texts in replace(self, rows=first).texts()
        ]
        tones = [[column.tone(row) for column in self.columns] for row in first]
        grid = _grid([column.head for column in self.columns], rows, tones, self.numeric, len(self.rows))
        if grid is not None:
            grid.caption = visible_html(self.title)
        return grid

    def _repr_html_(self) -> str:
        title = (
            f'<p class="{PLAIN}" style="{HEAD}margin:.6em 0 .2em">{visible_html(self.title)}</p>' if self.title else ""
        )
        if not self.rows:
            return f'{title}<p class="{PLAIN}"><em>{visible_html(self.empty)}</em></p>'
        shown, bare = self._shown, self._bare
        kept = [n for n in range(len(self.columns)) if n not in bare]
        if kept == [0] and bare and not self._is_any_in_trouble:
            return f"{title}{self._notes(len(self.rows), bare)}"  # a list of names would tell nothing
        heads = [Head(self.columns[n].head, self.numeric[n], self.columns[n].minor) for n in kept]
        most = {n: _largest(self.columns[n], self.rows) if self.columns[n].bar else 0.0 for n in kept}
        cells = [[self._cell(n, row, most[n]) for n in kept] for row in shown]
        height = self.height or (_HEIGHT if len(shown) > _TALL else "")
        label = self.title or f"a table of {count_of(len(self.rows), 'row')}"
        return (
            f"{title}{draw(heads, cells, label=label, height=height, about=self.about)}{self._notes(len(shown), bare)}"
        )

    def _cell(self, n: int, row: _Row, largest: float) -> Cell:
        column = self.columns[n]
        value = column.value(row)
        has_lines = isinstance(value, str) and "\n" in value.strip() and not self.raw  # as SQL and tracebacks do
        text = visible(str(value).strip("\n"), keep="\n\t") if has_lines else self._text(column, row)
        return Cell(text, column.tone(row), _share(value, largest))

    @cached_property
    def in_trouble_first(self) -> Sequence[_Row]:
        """The rows, the gravest first unless their order says something."""
        return self.rows if self.in_order else sorted(self.rows, key=self._gravity)

    @property
    def _shown(self) -> list[_Row]:
        """The rows that a page shows: the first ones, and all that are in trouble."""
        rows = self.in_trouble_first
        shown = [
            row for n, row in enumerate(rows) if n < MOST_ROWS or self.is_trouble or self._gravity(row) < len(_GRAVEST)
        ]
        return shown[:_MOST_IN_TROUBLE]

    @property
    def _is_any_in_trouble(self) -> bool:
        return self.is_trouble or any(self._gravity(row) < len(_GRAVEST) for row in self.rows)

    def _gravity(self, row: _Row) -> int:
        tones = {column.tone(row) for column in self.columns}
        return next((n for n, tone in enumerate(_GRAVEST) if tone in tones), len(_GRAVEST))

    @cached_property
    def _bare(self) -> Mapping[int, str]:
        """Columns in which every row has 0, nothing, or no value that is known: number of the column, and which of these."""
        if self.raw or self.is_whole or len(self.rows) < _BARE:
            return {}
        found = {n: {_bareness(column.value(row)) for row in self.rows} for n, column in enumerate(self.columns) if n}
        return {n: kinds.pop() for n, kinds in found.items() if len(kinds) == 1 and "" not in kinds}

    def _notes(self, shown: int, bare: Mapping[int, str]) -> str:
        """Return what stands below the table: how many rows there are more, and the columns that have nothing to show."""
        more = len(self.rows) - shown
        healthy = "" if self.is_trouble or shown >= _MOST_IN_TROUBLE or not self._has_tones else " without trouble"
        told = [f"… and {more:,} more{healthy}"] if more > 0 else []
        if not more and shown > _TALL and not self.height:
            told = [f"{count_of(shown, 'row')}; scroll to see all"]
        for words in _BARENESS:
            names = [self.columns[n].head for n in sorted(bare) if bare[n] == words]
            told += [f"{words}: {', '.join(names)}"] if names else []
        return "".join(f'<p class="{PLAIN}" style="{_NOTE}">{visible_html(line)}</p>' for line in told)

    @property
    def _has_tones(self) -> bool:
        return any(column.tone is not _plain for column in self.columns)

    @cached_property
    def numeric(self) -> list[bool]:
        """Whether each column is aligned to the right: its first value is a number, or it says so."""
        return [column.right or _is_number(_first(column, self.rows)) for column in self.columns]

    def _text(self, column: Column[_Row], row: _Row) -> str:
        if self.raw:
            value = column.value(row)
            return "NULL" if _is_null(value) else _raw(value)
        return column.text(row)

    def _exact(self, column: Column[_Row], row: _Row) -> str:
        value = column.value(row)
        return str(value) if self.raw and isinstance(value, float | timedelta) else _exact(value)


def format_value(value: object, *, places: int | None = None, signed: bool = False) -> str:
    """Return a value as text for people: grouped numbers, times to the minute, lists with commas, `–` for None."""
    if _is_null(value):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float | Decimal):
        sign = "+" if signed else ""
        if isinstance(value, float) and places is None:
            return f"{value:{sign},.{_places(value)}f}".rstrip("0").rstrip(".")
        decimals = "" if places is None or isinstance(value, int) else f".{places}f"
        return f"{value:{sign},{decimals}}"
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M}"
    if isinstance(value, timedelta):
        return _duration(value.total_seconds())
    if isinstance(value, list | tuple | set | frozenset):
        return ", ".join(map(format_value, value)) or "–"
    if isinstance(value, Mapping):
        return visible(_json(value))
    return visible(str(value))


def _json(value: object) -> str:
    return json.dumps(value, default=str, ensure_ascii=False)


def _places(value: float) -> int:
    """Return how many decimals tell enough of a number: one if it is large, three digits of what is smaller than 1."""
    size = abs(value)
    if size >= 1 or not 0 < size < math.inf:
        return 1 if size >= 100 else 2
    return min(2 - math.floor(math.log10(size)), 9)


def _exact(value: object) -> str:
    """Return a value for a program: whole, numbers not grouped, lists with commas, nothing for None.

    A float or a duration is measured: it has three decimals, or three digits where it is smaller than 1; a duration is in seconds.
    """
    if _is_null(value):
        return ""
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if isinstance(value, float) and math.isfinite(value):
        places = 3 if abs(value) >= 1 or not value else min(2 - math.floor(math.log10(abs(value))), 9)
        text = f"{value:.{places}f}".rstrip("0").rstrip(".")
        return "0" if text == "-0" else text
    if isinstance(value, list | tuple | set | frozenset):
        return ", ".join(map(_exact, value))
    return _json(value) if isinstance(value, Mapping) else str(value)


def _bareness(value: object) -> str:
    """Return what a page says of a column that only has such values; "" for a value that is to be shown."""
    if _is_null(value):
        return "Not known of any row"
    if _is_number(value):
        return "" if value else "0 in every row"
    return "Empty in every row" if isinstance(value, str | list | tuple | set | frozenset) and not value else ""


def _share(value: object, largest: float) -> float | None:
    """Return the length of a bar in percent; None for no bar."""
    return 100 * max(float(value), 0) / largest if largest and _is_number(value) else None  # type: ignore[arg-type]


def _largest(column: Column[_Row], rows: Sequence[_Row]) -> float:
    return max((float(value) for row in rows if _is_number(value := column.value(row))), default=0.0)  # type: ignore[arg-type]


def _first(column: Column[_Row], rows: Sequence[_Row]) -> object:
    return next((value for row in islice(rows, MOST_ROWS) if not _is_null(value := column.value(row))), None)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float | Decimal) and not isinstance(value, bool)


def _is_null(value: object) -> bool:
    """Tell whether a value is None or one of pandas' nulls."""
    return (
        value is None or type(value).__name__ in {"NAType", "NaTType"} or (isinstance(value, float) and value != value)
    )


def _column_of(frame: pandas.DataFrame, number: int) -> Column[tuple[object, ...]]:
    def tone(row: tuple[object, ...]) -> Tone:
        return "muted" if _is_null(row[number]) else ""

    return Column(str(frame.columns[number]), itemgetter(number), tone=tone, right=_is_numeric(frame.iloc[:, number]))


def _is_numeric(column: pandas.Series) -> bool:
    """Tell whether a column of a DataFrame holds numbers; pandas keeps decimals as objects."""
    if column.dtype.kind != "O":
        return column.dtype.kind in "iuf"
    return isinstance(next((value for value in column if value is not None), None), Decimal)


def _raw(value: object) -> str:
    if isinstance(value, dict | list):
        return visible(json.dumps(value, default=str, ensure_ascii=False))
    if isinstance(value, datetime):
        return value.isoformat(" ", "seconds" if not value.microsecond else "milliseconds")
    return value.isoformat() if isinstance(value, date) else visible(str(value))


def _duration(seconds: float) -> str:
    """Return a duration in one unit: `45 s`, `12 min`, `30 h`, `5 d`."""
    for unit, length in (("d", 86_400.0), ("h", 3600.0), ("min", 60.0)):
        if abs(seconds) >= 2 * length:
            return f"{seconds / length:,.0f} {unit}"
    return f"{seconds:.0f} s"


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


def _grid(
    names: Sequence[str],
    rows: Sequence[Sequence[str]],
    tones: Sequence[Sequence[Tone]],
    numeric: Sequence[bool],
    total: int,
) -> Widget | None:
    """Return a DataTables widget of `rows` of text; None if there is little to sort, or itables is not installed.

    What has a tone of trouble is coloured. `total` is the number of rows. `numeric` columns sort as numbers in spite of grouped
    thousands; columns with a text longer than `_WRAPS` characters wrap.
    """
    if total < _SORTABLE:
        return None
    try:
        table = import_module("itables.widget").ITable
    except ImportError:
        return None
    import pandas  # noqa: PLC0415 - slow to import

    few = len(rows) < _FEW
    cut = f"; only the first {len(rows):,} of {count_of(total, 'row')} are here" if total > len(rows) else ""
    return table(
        pandas.DataFrame(
            [[_coloured(*cell) for cell in zip(*line, strict=True)] for line in zip(rows, tones, strict=True)],
            columns=[visible_html(name) for name in names],
            dtype=object,
        ),
        allow_html=True,  # of which all text was escaped
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
        columnDefs=_column_definitions(rows, numeric),
    )


def _coloured(text: str, tone: Tone) -> str:
    shown = visible_html(text)
    return (
        f'<span style="{TONES[tone]}padding:.1em .4em;border-radius:3px">{shown}</span>' if tone in _GRAVEST else shown
    )


def _column_definitions(rows: Sequence[Sequence[str]], numeric: Sequence[bool]) -> list[dict[str, object]]:
    """Tell DataTables which columns hold numbers, and which have texts that wrap."""
    numbers = [n for n, is_number in enumerate(numeric) if is_number]
    others = [n for n, is_number in enumerate(numeric) if not is_number]
    long = [n for n in range(len(numeric)) if any(len(row[n]) > _WRAPS for row in rows)]
    return [
        {"targets": numbers, "type": "html-num-fmt", "className": "dt-right"},
        {"targets": others, "className": "dt-left"},
        {"targets": long, "className": "erpkit-long"},
    ]
