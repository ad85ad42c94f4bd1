"""`%%tenant` and `%%tenants`: cells of plain SQL that return a DataFrame. `%load_ext erpkit` loads them."""

from __future__ import annotations

import keyword
import re
from typing import TYPE_CHECKING, Any

from IPython.core.magic import Magics, cell_magic, magics_class
from IPython.core.magic_arguments import argument, magic_arguments, parse_argstring
from IPython.display import display

from erpkit.config import Settings
from erpkit.erp import Installation
from erpkit.errors import DatabaseError, UsageError
from erpkit.finding import Finding, exit_code, group_findings, not_read
from erpkit.plural import count_of
from erpkit.result import SCRAP
from erpkit.table import Table
from erpkit.tenants import Across, across
from erpkit.ui.explorer import read_again
from erpkit.ui.progress import progress_bar
from erpkit.visible import visible

if TYPE_CHECKING:
    import pandas
    from IPython.core.interactiveshell import InteractiveShell

_LIMIT = 1_000
_PLACEHOLDER = re.compile(r"%\((\w+)\)s")


@magics_class
class TenantMagics(Magics):
    """SQL cells over one tenant or all; they can only read, each tenant under its own role.

    `%(name)s` in the SQL stands for the value of the notebook's variable `name`; it is sent as a value, whatever is in it.
    """

    def __init__(self, shell: InteractiveShell) -> None:
        super().__init__(shell)
        self._erp = Installation(Settings.from_env())  # opened when the first cell needs it, and kept

    @magic_arguments()
    @argument("slug", nargs="?", default="", help="the tenant; none: the first that is active")
    @argument("--limit", type=int, default=_LIMIT, help=f"the most rows to read ({_LIMIT:,})")
    @argument("-o", "--output", help="name of a variable for the DataFrame, which is then not shown")
    @cell_magic
    def tenant(self, line: str, cell: str) -> pandas.DataFrame | None:
        """Run the cell's SQL in one tenant: `%%tenant acme --limit 100`."""
        arguments = parse_argstring(self.tenant, line)
        slug = arguments.slug or self._first()
        result = self._query([slug], cell, arguments.limit, named=False)
        if result.skipped:
            raise UsageError(f"{slug} is {result.skipped[slug]}: only active tenants can be read")
        return self._give(result.frame, result, arguments)

    @magic_arguments()
    @argument("slugs", nargs="*", help="tenants; none: all of them")
    @argument("--limit", type=int, default=_LIMIT, help=f"the most rows to read of each tenant ({_LIMIT:,})")
    @argument("-o", "--output", help="name of a variable for the DataFrame, which is then not shown")
    @cell_magic
    def tenants(self, line: str, cell: str) -> pandas.DataFrame | None:
        """Run the cell's SQL in all tenants, or in those named: `%%tenants acme bluebird`."""
        arguments = parse_argstring(self.tenants, line)
        result = self._query(arguments.slugs, cell, arguments.limit)
        return self._give(result.frame, result, arguments)

    def _first(self) -> str:
        for tenant in self._erp.find(active=True):
            return tenant.slug
        raise UsageError("there are no active tenants to ask")

    def _query(self, slugs: list[str], cell: str, limit: int, *, named: bool = True) -> Across:
        query, params = bind_names(cell, self.shell.user_ns if self.shell is not None else {})
        if limit < 1:
            raise UsageError(f"--limit {limit}: read at least one row")
        try:
            result = read_again(self._erp.database, lambda: self._ask(slugs, query, params, limit, named))
        except KeyboardInterrupt:
            raise DatabaseError("interrupted: the query was cancelled on the server") from None
        if result.errors and result.frame.empty:
            raise DatabaseError("; ".join(map(str, group_findings(not_read(result.errors)))))
        return result

    def _ask(self, slugs: list[str], query: str, params: dict[str, Any] | None, limit: int, named: bool) -> Across:
        tenants = self._erp.find(slugs)
        with progress_bar(sum(tenant.is_active for tenant in tenants), "tenants") as done:
            return across(self._erp.database, query, params, tenants=tenants, limit=limit, progress=done, named=named)

    def _give(self, frame: pandas.DataFrame, result: Across, arguments: Any) -> pandas.DataFrame | None:
        """Return the rows, or put them into a variable; print notes on them first."""
        for note in _notes(result, arguments.limit):
            print(visible(note))
        if exit_code(result.findings):  # the rows alone would not count for the outcome of a run
            display({SCRAP: result.summary.scrap("findings")}, raw=True)
        if arguments.output is None:
            return frame
        if not arguments.output.isidentifier():
            raise UsageError(f"--output {arguments.output}: this is not a variable name")
        if keyword.iskeyword(arguments.output):
            raise UsageError(f"--output {arguments.output}: this is a Python keyword: choose another name")
        if self.shell is not None:
            self.shell.user_ns[arguments.output] = frame
        print(f"{arguments.output}: {count_of(len(frame), 'row')} of {count_of(len(frame.columns), 'column')}")
        return None


def bind_names(query: str, names: dict[str, Any]) -> tuple[str, dict[str, Any] | None]:
    """Return the query and the values of its `%(name)s` by name; any other percent sign is left as it is.

    Raises UsageError for a name that is not known.
    """
    found = set(_PLACEHOLDER.findall(query))
    if not found:
        return query, None
    if unknown := sorted(found - set(names)):
        raise UsageError(f"%({unknown[0]})s: there is no variable {unknown[0]}: set it in a cell above")
    text = "".join(
        part if _PLACEHOLDER.fullmatch(part) else part.replace("%", "%%") for part in re.split(r"(%\(\w+\)s)", query)
    )
    return text, {name: names[name] for name in found}


def _notes(result: Across, limit: int) -> list[str]:
    """Return what a reader must know of the rows: a line for each reason, as a mistake in a query fails in all tenants alike."""
    more = f"only the first {count_of(limit, 'row')}; --limit reads more"
    findings = [
        *not_read(result.errors),
        *(Finding("truncated", slug, more) for slug in result.truncated),
        *(Finding("skipped", slug, f"{status}, and so skipped") for slug, status in result.skipped.items()),
    ]
    return [str(cause) for cause in group_findings(findings)]


def register(shell: Any) -> None:
    """Make the magics known to a running IPython, and let a person sort and filter the DataFrames that it shows."""
    shell.register_magics(TenantMagics)
    shell.display_formatter.mimebundle_formatter.for_type_by_name("pandas", "DataFrame", _sortable)


def _sortable(frame: pandas.DataFrame) -> dict[str, Any]:
    """Return a DataFrame's widget; nothing for one with a meaningful index, which the widget would not show.

    Where pandas shows it, MathJax is told to leave the data alone: what stands between dollar signs is no formula.
    """
    import pandas  # noqa: PLC0415 - slow to import, and here by now

    pandas.set_option("display.html.use_mathjax", False)
    is_numbered = type(frame.index).__name__ == "RangeIndex" and frame.columns.nlevels == 1
    return dict(Table.of_frame(frame, raw=True)._repr_mimebundle_()) if is_numbered else {}
