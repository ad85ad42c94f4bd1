"""The explorer: a widget to look at a tenant's tables, with a filter and a chart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg

from erpkit.database import Database, Tenant
from erpkit.database.scope import quote_name
from erpkit.erp import Installation
from erpkit.errors import DatabaseError, ErpkitError, UsageError
from erpkit.plural import count_of
from erpkit.table import Column, Table
from erpkit.tenants import Across, across
from erpkit.visible import visible_html
from erpkit.watching import is_a_notebook_watched, unseen_widgets

if TYPE_CHECKING:
    import pandas

_Result = TypeVar("_Result")

_LIMIT = 200
_BARS = 15
_SECONDS = 15.0  # for one query: somebody sits and waits
_NO_CHART = ("none", "")  # what is shown and its value: a column may be named none
_CHART = (
    Column[tuple[str, int]]("value", lambda row: row[0]),
    Column[tuple[str, int]]("rows", lambda row: row[1], bar=True),
)
_STOPPED = ("canceling statement", "not reached in time")
_EXAMPLE = "a condition in SQL, such as name ILIKE 'a%' AND amount > 100"

# Tables and views that the reading role may read; those of versions come last.
_TABLES = r"""
SELECT relname::text AS name FROM pg_class
WHERE relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = current_schema())
  AND relkind IN ('r', 'p', 'v', 'm', 'f') AND NOT relispartition
  AND has_table_privilege(oid, 'SELECT')
ORDER BY relname LIKE 'goose\_db\_version%' OR relname LIKE 'schema\_migrations%', relname"""
_COLUMNS = """
SELECT attname::text AS name, atttypid IN ('date'::regtype, 'timestamp'::regtype, 'timestamptz'::regtype) AS is_time
FROM pg_attribute
WHERE attrelid = (SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                   WHERE n.nspname = current_schema() AND c.relname = %(table)s)
  AND attnum > 0 AND NOT attisdropped ORDER BY attnum"""


def explore(erp: Installation, tenant: str = "", table: str = "") -> Explorer:
    """Return a widget over the tenants of an ERP; it can only read, each tenant under its own role.

    It opens on `tenant` and `table`, or on the first ones. Without a browser it shows that table. Raises UsageError when
    the tenant is not known or not active, or has no such table.
    """
    tenants, chosen = erp.find(), erp.find([tenant]) if tenant else []
    if chosen and not chosen[0].is_active:
        raise UsageError(f"{tenant} is {chosen[0].status}: only active tenants can be read")
    explorer = Explorer(erp.database, [one for one in tenants if one.is_active])
    if tenant:
        explorer.tenant.value = tenant
    if table and table not in explorer.table.options:
        raise UsageError(f"{explorer.tenant.value} has no table {table}: it has {', '.join(explorer.table.options)}")
    if table:
        explorer.table.value = table
    return explorer


def read_again(database: Database, read: Callable[[], _Result]) -> _Result:
    """Return what `read` returns, trying again once if the server has closed the pool's connections.

    A kernel lives for days, and the server may restart meanwhile. Raises DatabaseError when it does not answer.
    """
    try:
        return read()
    except psycopg.OperationalError:
        database.renew()
        return read()


@dataclass(frozen=True)
class _Column:
    name: str
    is_time: bool


class Explorer:
    """Pickers of a tenant, a table, a filter and a column to count by; `frame` is the rows that they show.

    The filter is a condition in SQL. It runs as all the rest does: read-only, under the tenant's reading role, for at most
    `seconds` and 200 rows.
    """

    def __init__(self, database: Database, tenants: Sequence[Tenant], seconds: float = _SECONDS) -> None:
        import ipywidgets  # noqa: PLC0415 - slow to import

        self._database, self._seconds = database, seconds
        self._tenants = {tenant.slug: tenant for tenant in tenants}
        self._columns: list[_Column] = []
        self._is_busy = False
        self.frame: pandas.DataFrame | None = None
        style, narrow = {"description_width": "4.6em"}, {"width": "20em"}
        with unseen_widgets():
            self.tenant = ipywidgets.Dropdown(
                description="Tenant", options=list(self._tenants), layout=narrow, style=style
            )
            self.table = ipywidgets.Dropdown(description="Table", layout={"width": "24em"}, style=style)
            self.chart = ipywidgets.Dropdown(description="Chart by", options=[_NO_CHART], layout=narrow, style=style)
            self.filter = ipywidgets.Text(
                description="Filter",
                placeholder=_EXAMPLE,
                continuous_update=False,
                layout={"width": "44.3em"},
                style=style,
            )
            self.state, self.picture = ipywidgets.HTML(layout={"margin": "0 0 0 5.2em"}), ipywidgets.HTML()
            self.view = ipywidgets.HTML()
            rows = [ipywidgets.HBox([self.tenant, self.table]), ipywidgets.HBox([self.filter, self.chart])]
            for row in rows:
                row.layout.flex_flow = "row wrap"
            self.widget = ipywidgets.VBox([*rows, self.state, self.picture, self.view])
        for picker, work in (
            (self.tenant, self._choose_tenant), (self.table, self._choose_table), (self.filter, self._show), (self.chart, self._show),
        ):  # fmt: skip
            picker.observe(partial(self._react, work), names="value")
        self._react(self._choose_tenant)

    def _repr_mimebundle_(self, **options: Any) -> Any:
        """Show the widget, and where there is no browser to draw it, its table."""
        title = f"<p><strong>{visible_html(self._title())}</strong>: {self.state.value}</p>"
        widget = self.widget._repr_mimebundle_(**options) if is_a_notebook_watched() else {}
        return widget | {
            "text/plain": self._title(),
            "text/html": title + self.picture.value + self.view.value,
        }

    def _react(self, work: Callable[[], None], _change: object = None) -> None:
        """Do the work for one change, ignore the changes that the work makes itself, and show an error in one line."""
        if self._is_busy:
            return
        self._is_busy = True
        self.state.value = "<em>reading …</em>"
        try:
            work()
        except (ErpkitError, psycopg.Error) as error:
            self.frame, self.picture.value, self.view.value = None, "", ""
            self.state.value = f'<span role="alert" style="color:#dc2626">{visible_html(str(error))}</span>'
        finally:
            self._is_busy = False

    def _choose_tenant(self) -> None:
        if not self._tenants:
            raise UsageError("there are no active tenants")
        tables = list(self._read(_TABLES).frame["name"])
        kept = self.table.value if self.table.value in tables else None
        self.table.options = tables
        self.table.value = kept or next(iter(tables), None)
        if kept is None:
            self.filter.value = ""
        self._open_table()

    def _choose_table(self) -> None:
        self.filter.value = ""
        self._open_table()

    def _open_table(self) -> None:
        self._list_columns()
        self._show()

    def _list_columns(self) -> None:
        if self.table.value is None:
            raise UsageError(f"{self.tenant.value} has no tables")
        found = self._read(_COLUMNS, {"table": self.table.value}).frame
        self._columns = [_Column(*row) for row in found[["name", "is_time"]].itertuples(index=False, name=None)]
        kept, names = self.chart.value, [column.name for column in self._columns]
        self.chart.options = [_NO_CHART, *((name, name) for name in names)]
        self.chart.value = kept if kept in names else ""

    def _show(self) -> None:
        names = ", ".join(quote_name(column.name) for column in self._columns)
        result = self._read(f"SELECT {names} FROM {self._source()}")  # noqa: S608 - quoted, and read from the catalog
        self.frame = result.frame
        self.view.value = Table.of_frame(self.frame, "no rows", height="32em", raw=True)._repr_html_()
        self.picture.value = self._picture()
        count = count_of(len(self.frame), "row")
        self.state.value = f"the first {count}; there are more" if result.truncated else count

    def _picture(self) -> str:
        """Count all rows by the column chosen, not only those shown: by month where it is a time, else the commonest values."""
        column = next((column for column in self._columns if column.name == self.chart.value), None)
        if column is None:
            return ""
        name = quote_name(column.name)
        value, order = (
            (f"to_char({name}, 'YYYY-MM')", "value DESC NULLS LAST")
            if column.is_time
            else (f"{name}::text", "n DESC, value")
        )
        query = f"SELECT {value} AS value, count(*) AS n, count(*) OVER () AS distinct_values FROM {self._source()} GROUP BY 1 ORDER BY {order}"  # noqa: S608, E501
        counts = self._read(query, limit=_BARS).frame
        if counts.empty:
            return ""
        if column.is_time:
            counts = counts.iloc[::-1]
        values = ["NULL" if value is None or value != value else str(value) for value in counts["value"]]
        rows = list(zip(values, map(int, counts["n"]), strict=True))
        return Table(_CHART, rows, title=self._chart_title(column, counts))._repr_html_()

    def _chart_title(self, column: _Column, counts: pandas.DataFrame) -> str:
        by = f"month of {column.name}" if column.is_time else column.name
        most = int(counts["distinct_values"].iloc[0])
        which = "latest" if column.is_time else "commonest"
        return f"{self._title()}: rows by {by}" + (f", the {_BARS} {which} of {most:,}" if most > _BARS else "")

    def _title(self) -> str:
        return f"{self.tenant.value}, {self.table.value}"

    def _source(self) -> str:
        condition = self.filter.value.strip()
        return quote_name(self.table.value) + (f" WHERE (\n{condition}\n)" if condition else "")

    def _read(self, query: str, params: dict[str, Any] | None = None, limit: int = _LIMIT) -> Across:
        tenants = [self._tenants[self.tenant.value]]
        result = read_again(
            self._database,
            lambda: across(
                self._database, query, params, tenants=tenants, limit=limit, timeout=self._seconds, named=False
            ),
        )
        for reason in result.errors.values():
            late = f"this took longer than {self._seconds:g} s and was stopped: filter for fewer rows"
            raise DatabaseError(late if reason.startswith(_STOPPED) else reason)
        return result
