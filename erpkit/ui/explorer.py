"""A widget to look around in: tenant, table, filter and chart."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING, Any

from erpkit.config import Settings
from erpkit.database import Database, Tenant
from erpkit.errors import ErpkitError
from erpkit.tenants import across, find_tenants
from erpkit.ui.plots import plot_counts
from erpkit.ui.show import Table

if TYPE_CHECKING:
    import pandas

__all__ = ["Explorer", "explore"]

_NO_CHART = "no chart"
_LIMIT = 200
_TABLES = "SELECT tablename FROM pg_tables WHERE schemaname = current_schema() ORDER BY 1"


def explore(database: Database) -> Explorer:
    """Return a widget over the tenants of `database`; it can only read, each tenant under its own role."""
    with database.connection() as connection:
        return Explorer(database, find_tenants(connection, (), Settings.from_env().tenants_query))


class Explorer:
    """Pickers of a tenant, a table, a column and a text that it holds, and a column to count by; `frame` is what they show."""

    def __init__(self, database: Database, tenants: list[Tenant]) -> None:
        import ipywidgets  # noqa: PLC0415 - slow to import

        self._database = database
        self._tenants = {tenant.slug: tenant for tenant in tenants if tenant.is_active}
        self.frame: pandas.DataFrame | None = None
        self.tenant = ipywidgets.Dropdown(options=list(self._tenants), description="Tenant")
        self.table = ipywidgets.Dropdown(description="Table")
        self.column = ipywidgets.Dropdown(description="Filter")
        self.text = ipywidgets.Text(placeholder="holds this text", continuous_update=False)
        self.chart = ipywidgets.Dropdown(description="Chart", options=[_NO_CHART])
        self.view = ipywidgets.HTML()
        rows = [ipywidgets.HBox([self.tenant, self.table]), ipywidgets.HBox([self.column, self.text, self.chart])]
        self.widget = ipywidgets.VBox([*rows, self.view])
        self.tenant.observe(lambda _: self._list_tables(), names="value")
        self.table.observe(lambda _: self._open_table(), names="value")
        for picker in (self.column, self.text, self.chart):
            picker.observe(lambda _: self._show(), names="value")
        self._list_tables()

    def _ipython_display_(self) -> None:
        from IPython.display import display  # noqa: PLC0415

        display(self.widget)

    def _list_tables(self) -> None:
        tables = list(self._read(_TABLES, [])["tablename"]) if self._tenants else []
        if self.table.options == tuple(tables):
            self._show()  # the same tables: keep the one chosen
        else:
            self.table.options = tables

    def _open_table(self) -> None:
        columns = list(self._read(self._select("LIMIT 0"), []).columns) if self.table.value else []
        self.column.options = columns
        self.chart.options = [_NO_CHART, *columns]
        self._show()

    def _show(self) -> None:
        if self.table.value is None:
            return
        try:
            self.frame = self._filtered()
        except ErpkitError as error:
            self.view.value = html.escape(str(error))
            return
        table = Table(self.frame, "no rows")._repr_html_()
        self.view.value = self._picture() + f"<p>{len(self.frame):,} rows, at most {_LIMIT}</p>" + table

    def _filtered(self) -> pandas.DataFrame:
        if not self.text.value or self.column.value is None:
            return self._read(self._select(), [])
        return self._read(self._select(f"WHERE {_quote(self.column.value)}::text ILIKE %s"), [f"%{self.text.value}%"])

    def _picture(self) -> str:
        if self.chart.value in (None, _NO_CHART) or self.frame is None or self.chart.value not in self.frame:
            return ""
        counts = self.frame[self.chart.value].astype(str).value_counts().head(12)
        return plot_counts(list(counts.index), [int(count) for count in counts], self.chart.value)._repr_html_()

    def _select(self, rest: str = "") -> str:
        return f"SELECT * FROM {_quote(self.table.value)} {rest}"  # noqa: S608 - quoted, and read from the catalog

    def _read(self, query: str, params: list[Any]) -> pandas.DataFrame:
        result = across(self._database, query, params, tenants=[self._tenants[self.tenant.value]], limit=_LIMIT)
        if result.errors:
            raise ErpkitError("; ".join(result.notes))
        return result.frame.drop(columns="tenant")


def _quote(name: str) -> str:
    """Quote a name for SQL that also carries placeholders: a percent sign is doubled."""
    return '"' + name.replace('"', '""').replace("%", "%%") + '"'
