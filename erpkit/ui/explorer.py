"""The explorer: pickers of a tenant or all, and of a table or a query; the rows go to a viewer."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg

from erpkit.database import Database, Tenant
from erpkit.erp import Installation
from erpkit.errors import DatabaseError, ErpkitError, UsageError
from erpkit.finding import group_findings, not_read
from erpkit.near import did_you_mean
from erpkit.plural import count_of
from erpkit.table import Table
from erpkit.tenants import Across, across
from erpkit.ui.picker import Picker, alert, labelled
from erpkit.ui.viewer import Viewer
from erpkit.visible import visible_html
from erpkit.watching import is_a_notebook_watched, unseen_widgets

if TYPE_CHECKING:
    import pandas

_Result = TypeVar("_Result")

LIMIT = 10_000  # rows of each tenant
_MOST = 200_000  # rows of all tenants together: more is slow in a browser
_SECONDS = 15.0  # for one reading: a person sits and waits
_STOPPED = ("canceling statement", "not reached in time")
_TABLE, _QUERY = "a table", "a query"
_PLAIN = re.compile(r"[\w.@-]+")  # names that a line of %%tenant takes as they are

# Tables and views that the reading role may read; those of versions come last.
_TABLES = r"""
SELECT relname::text AS name, quote_ident(relname) AS quoted FROM pg_class
WHERE relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = current_schema())
  AND relkind IN ('r', 'p', 'v', 'm', 'f') AND NOT relispartition
  AND has_table_privilege(oid, 'SELECT')
ORDER BY relname LIKE 'goose\_db\_version%' OR relname LIKE 'schema\_migrations%', relname"""


def explore(erp: Installation, tenant: str = "", table: str = "", *, limit: int = LIMIT) -> Explorer:
    """Return a widget over the tenants of an ERP; it can only read, each tenant under its own role.

    It opens on `tenant` and `table`, or on the first ones, and reads at most `limit` rows of each tenant. Without a browser it
    shows that table. Raises UsageError when the tenant is not known or not active, or has no such table.
    """
    chosen = erp.one(tenant) if tenant else None
    if chosen and not chosen.is_active:
        raise UsageError(f"{tenant} is {chosen.status}: only active tenants can be read")
    if limit < 1:
        raise UsageError(f"limit {limit}: read at least one row")
    return Explorer(erp, erp.find(), tenant, table, limit=limit)


def read_again(database: Database, read: Callable[[], _Result]) -> _Result:
    """Return what `read` returns, trying again once if the server has closed the pool's connections.

    A kernel lives for days, and the server may restart meanwhile. Raises DatabaseError when it does not answer.
    """
    try:
        return read()
    except psycopg.OperationalError:
        database.renew()
        return read()


def as_query(query: str, tenant: str, limit: int) -> str:
    """Return a notebook's cell that reads the same rows: a cell of SQL, or Python where a line of SQL cannot name the tenant.

    `tenant` is empty for all of them. Pure.
    """
    if "%(" not in query and (not tenant or _PLAIN.fullmatch(tenant)):
        magic = f"%%tenant {tenant}" if tenant else "%%tenants"
        return f"{magic} --limit {limit}\n{query}"
    whom = f", tenants=[{tenant!r}]" if tenant else ""
    return f"erp.query({query!r}{whom}, limit={limit})"


class Explorer:
    """Pickers of a tenant or all, and of a table or a query of one's own; `frame` is the rows that they show.

    A query runs as all the rest does: checked to only read, under the tenants' reading roles, for at most `seconds`.
    """

    def __init__(
        self, erp: Installation, tenants: Sequence[Tenant], tenant: str = "", table: str = "", *, limit: int = LIMIT
    ) -> None:
        self._erp, self._limit, self.seconds = erp, limit, _SECONDS
        self._tenants = {one.slug: one for one in tenants if one.is_active}
        self._quoted: dict[str, str] = {}  # tables, as SQL writes their names
        self.frame: pandas.DataFrame | None = None
        with unseen_widgets():
            self._make_widgets()
        first = tenant or next(iter(self._tenants), "")
        self.tenant.offer(_labels(self._tenants), first)
        self._wire()
        self._react(self._choose_tenant)
        self._open(first, table)

    def _make_widgets(self) -> None:
        import ipywidgets  # noqa: PLC0415 - slow to import

        self.tenant = Picker("Tenant", "tenant", partial(self._react, self._choose_tenant), "19em")
        self.table = Picker("Table", "table", partial(self._react, self._show), "21em")
        self.kind = ipywidgets.ToggleButtons(
            options=[_TABLE, _QUERY], tooltips=["the rows of a table", "SQL of your own, which can only read"]
        )
        self.kind.style.button_width = "7em"
        self.query = ipywidgets.Textarea(
            rows=8, placeholder="SELECT …", **labelled("query"), layout={"width": "100%", "margin": "0"}
        )
        self.run = ipywidgets.Button(description="Run the query", button_style="primary", icon="play")
        self._problem = ipywidgets.HTML()
        self._query_box = ipywidgets.VBox(
            [ipywidgets.HTML("<b>Query</b>"), self.query, self._problem, self.run],
            layout={"flex": "1 1 26em", "min_width": "20em", "display": "none"},
        )
        self.state, self.cell = ipywidgets.HTML(), ipywidgets.HTML()
        with_room = {"flex_flow": "row wrap", "align_items": "flex-start", "margin": "6px 0"}
        pickers = ipywidgets.HBox([self.tenant.widget, self.table.widget, self._query_box], layout=with_room)
        self.viewer = Viewer()
        self.widget = ipywidgets.VBox([self.kind, pickers, self.state, self.viewer.widget, self.cell])

    def _wire(self) -> None:
        self.kind.observe(lambda _: self._turn(), names="value")
        self.run.on_click(lambda _: self._react(self._show))

    def _open(self, tenant: str, table: str) -> None:
        """Open on a tenant and a table; raise UsageError where it has no such table."""
        if not table:
            return
        if table not in self.table.options:
            hint = did_you_mean(table, self.table.options, none="it has no tables that may be read")
            raise UsageError(f"{tenant} has no table {table}: {hint}")
        self.table.value = table

    def _repr_mimebundle_(self, **options: Any) -> Any:
        """Show the widget, and where there is no browser to draw it, its rows as a table."""
        widget = self.widget._repr_mimebundle_(**options) if is_a_notebook_watched() else {}
        title = f"<p><strong>{visible_html(self._title())}</strong>: {self.state.value}</p>"
        rows = (
            "" if self.frame is None else Table.of_frame(self.frame, "no rows", height="32em", raw=True)._repr_html_()
        )
        return widget | {"text/plain": self._title(), "text/html": title + rows + self.cell.value}

    def _react(self, work: Callable[[], None]) -> None:
        """Do the work for one change; show an error in one line, at the field that it comes from."""
        for tell in (self.tenant.tell, self.table.tell, self._tell_query):
            tell("")
        self.state.value = "<em>reading …</em>"
        try:
            work()
        except (ErpkitError, psycopg.Error) as error:
            tell = self.tenant.tell if work == self._choose_tenant else self._tell
            self._fail(tell, str(error))

    def _fail(self, tell: Callable[[str], None], problem: str) -> None:
        self.frame, self.cell.value = None, ""
        self.viewer.clear()
        self.state.value = alert(problem) if not is_a_notebook_watched() else ""
        tell(problem)

    def _tell(self, problem: str) -> None:
        (self._tell_query if self._is_query else self.table.tell)(problem)

    def _tell_query(self, problem: str) -> None:
        self._problem.value = alert(problem)

    @property
    def _is_query(self) -> bool:
        return bool(self.kind.value == _QUERY)

    def _turn(self) -> None:
        """Show the picker of tables or the query, which begins as that of the table."""
        self.table.widget.layout.display = "none" if self._is_query else None
        self._query_box.layout.display = None if self._is_query else "none"
        if self._is_query and not self.query.value.strip():
            self.query.value = self._sql(_TABLE)
        elif not self._is_query:
            self._react(self._show)

    def _choose_tenant(self) -> None:
        if not self._tenants:
            raise UsageError(f"there are no active tenants to read: {self._erp.no_tenants}")
        found = self._read(_TABLES, None)
        self._note(found)
        self._quoted = dict(zip(found.frame["name"], found.frame["quoted"], strict=True)) if len(found.frame) else {}
        self.table.offer({name: name for name in self._quoted})
        if not self._quoted and not self._is_query:
            raise UsageError(f"{self._whom()} has no tables that may be read")
        try:
            self._show()
        except (ErpkitError, psycopg.Error) as error:
            self._fail(self._tell, str(error))

    def _show(self) -> None:
        query, limit = self._sql(self.kind.value), self._limit_of_each()
        if not query:
            raise UsageError("write a query that reads, such as SELECT 1")
        result = self._read(query, limit)
        self._note(result)
        self.frame = result.frame
        self.viewer.show(result.frame, self._title())
        self.state.value = visible_html(_state(result, self._whom(), limit))
        self.cell.value = _cell(as_query(query, self.tenant.value or "", limit))

    def _sql(self, kind: str) -> str:
        return self.query.value.strip() if kind == _QUERY else f"SELECT * FROM {self._source()}"  # noqa: S608 - quoted

    def _source(self) -> str:
        return self._quoted.get(self.table.value or "", "a_table")

    def _limit_of_each(self) -> int:
        return max(1, min(self._limit, _MOST // len(self._asked())))

    def _asked(self) -> list[Tenant]:
        return [self._tenants[self.tenant.value]] if self.tenant.value else list(self._tenants.values())

    def _whom(self) -> str:
        return self.tenant.value or "all tenants"

    def _title(self) -> str:
        return f"{self._whom()}, {_QUERY if self._is_query else self.table.value or 'no table'}"

    def _note(self, result: Across) -> None:
        """Say at the tenant's field which of them were not read."""
        if result.errors:
            self.tenant.tell("; ".join(_told(result.errors)))

    def _read(self, query: str, limit: int | None) -> Across:
        """Read in what is chosen; raise DatabaseError where no tenant could be read."""
        asked = self._asked()
        result = read_again(
            self._erp.database,
            lambda: across(
                self._erp.database, query, tenants=asked, limit=limit, timeout=self.seconds, named=len(asked) > 1
            ),
        )
        if len(result.errors) < len(asked):
            return result
        reason = next(iter(result.errors.values()))
        if reason.startswith(_STOPPED):
            raise DatabaseError(f"this took longer than {self.seconds:g} s and was stopped: ask for fewer rows")
        raise DatabaseError(reason if len(asked) == 1 else "; ".join(_told(result.errors)))


def _labels(tenants: Mapping[str, Tenant]) -> dict[str, str]:
    """Return what is shown of each tenant by its slug; all of them together are the empty one, which stands first."""
    each = {slug: f"{slug} – {one.name}" if one.name and one.name != slug else slug for slug, one in tenants.items()}
    return ({"": f"all {count_of(len(each), 'tenant')}"} if len(each) > 1 else {}) | each


def _told(errors: Mapping[str, str]) -> list[str]:
    return [str(cause) for cause in group_findings(not_read(errors))]


def _state(result: Across, whom: str, limit: int) -> str:
    """Say how many rows are shown, and of how many tenants there are more."""
    count, cut = count_of(len(result.frame), "row"), len(result.truncated)
    if result.asked == 1:
        return f"the first {count} of {whom}; there are more" if cut else f"{count} of {whom}"
    read = f"{count} of {count_of(result.asked - len(result.errors), 'tenant')}"
    return read + (f"; {count_of(cut, 'tenant')} of them with more than {limit:,}" if cut else "")


def _cell(text: str) -> str:
    """Return the cell as HTML; one click chooses all of it."""
    style = (
        "user-select:all;margin:2px 0;padding:6px 8px;overflow:auto;max-height:12em;white-space:pre-wrap;"
        "background:var(--jp-layout-color2,#8882);border-radius:2px"
    )
    needs = ", below one with <code>%load_ext erpkit</code>" if text.startswith("%%") else ""
    return (
        f'<p style="margin:8px 0 2px"><b>As a query</b> <span style="opacity:.7">paste it into a cell{needs}</span></p>'
        f'<pre class="erpkit-query" style="{style}">{visible_html(text)}</pre>'
    )
