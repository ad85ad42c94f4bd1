"""`%%tenant` and `%%tenants`: cells of plain SQL that give a DataFrame. `%load_ext erpkit` brings them."""

from __future__ import annotations

import keyword
import re
from typing import TYPE_CHECKING, Any

from IPython.core.magic import Magics, cell_magic, magics_class
from IPython.core.magic_arguments import argument, magic_arguments, parse_argstring

from erpkit.config import Settings
from erpkit.database import Database
from erpkit.errors import DatabaseError, UsageError
from erpkit.finding import name_some
from erpkit.table import Table
from erpkit.tenants import Across, across, find_tenants
from erpkit.ui.progress import progress_bar
from erpkit.ui.reading import read_again, reasons
from erpkit.visible import visible

if TYPE_CHECKING:
    import pandas
    from IPython.core.interactiveshell import InteractiveShell

__all__ = ["TenantMagics", "register"]

_LIMIT = 1_000
_PLACEHOLDER = re.compile(r"%\((\w+)\)s")


@magics_class
class TenantMagics(Magics):
    """SQL cells over one tenant or all; they can only read, each tenant under its own role.

    `%(name)s` in the SQL stands for the value of the notebook's variable `name`; it is sent as a value, whatever is in it.
    """

    def __init__(self, shell: InteractiveShell) -> None:
        super().__init__(shell)
        self._settings = Settings.from_env()
        self._opened: Database | None = None

    @property
    def database(self) -> Database:
        """The configured database, opened when the first cell needs it and kept for the life of the kernel."""
        if self._opened is None:
            self._opened = Database.open(self._settings)
        return self._opened

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
            raise UsageError(f"{slug} is {result.skipped[slug]}: only active tenants are read")
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
        with self.database.connection() as connection:
            tenants = find_tenants(connection, (), self._settings.tenants_query)
        for tenant in tenants:
            if tenant.is_active:
                return tenant.slug
        raise UsageError("there are no active tenants to ask")

    def _query(self, slugs: list[str], cell: str, limit: int, *, named: bool = True) -> Across:
        query, params = bind_names(cell, self.shell.user_ns if self.shell is not None else {})
        if limit < 1:
            raise UsageError(f"--limit {limit}: read at least one row")
        try:
            result = read_again(self.database, lambda: self._ask(slugs, query, params, limit, named))
        except KeyboardInterrupt:
            raise DatabaseError("interrupted: the query was cancelled on the server") from None
        if result.errors and result.frame.empty:
            raise DatabaseError("; ".join(reasons(result.errors)))
        return result

    def _ask(self, slugs: list[str], query: str, params: dict[str, Any] | None, limit: int, named: bool) -> Across:
        with self.database.connection() as connection:
            tenants = find_tenants(connection, slugs, self._settings.tenants_query)
        with progress_bar(sum(tenant.is_active for tenant in tenants), "tenants") as done:
            return across(self.database, query, params, tenants=tenants, limit=limit, progress=done, named=named)

    def _give(self, frame: pandas.DataFrame, result: Across, arguments: Any) -> pandas.DataFrame | None:
        """Return the rows, or put them into a variable; what a reader must know is told above them."""
        for note in _notes(result, arguments.limit):
            print(visible(note))
        if arguments.output is None:
            return frame
        if not arguments.output.isidentifier():
            raise UsageError(f"--output {arguments.output}: this is no name of a variable")
        if keyword.iskeyword(arguments.output):
            raise UsageError(f"--output {arguments.output}: this is a word of Python's own: choose another name")
        if self.shell is not None:
            self.shell.user_ns[arguments.output] = frame
        print(f"{arguments.output}: {len(frame):,} rows of {len(frame.columns)} columns")
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
    notes = reasons(result.errors)
    if result.truncated:
        rows = "row" if limit == 1 else "rows"
        notes.append(f"{name_some(result.truncated, 3)}: only the first {limit:,} {rows}; --limit reads more")
    return notes + [f"{line}, and so skipped" for line in reasons(result.skipped)]


def register(shell: Any) -> None:
    """Make the magics known to a running IPython, and let a person sort and filter the DataFrames that it shows."""
    shell.register_magics(TenantMagics)
    shell.display_formatter.mimebundle_formatter.for_type_by_name("pandas", "DataFrame", _sortable)


def _sortable(frame: pandas.DataFrame) -> dict[str, Any]:
    """Return a DataFrame's widget; nothing for one whose index says something, which the widget would leave out."""
    is_numbered = type(frame.index).__name__ == "RangeIndex" and frame.columns.nlevels == 1
    return dict(Table.of_frame(frame, raw=True)._repr_mimebundle_()) if is_numbered else {}
