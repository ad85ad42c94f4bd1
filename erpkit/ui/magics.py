"""`%%tenant` and `%%tenants`: cells of plain SQL that give a DataFrame. `%load_ext erpkit` brings them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from IPython.core.magic import Magics, cell_magic, magics_class
from IPython.core.magic_arguments import argument, magic_arguments, parse_argstring

from erpkit.config import Settings
from erpkit.database import Database
from erpkit.tenants import Across, across, find_tenants
from erpkit.ui.progress import progress_bar

if TYPE_CHECKING:
    import pandas
    from IPython.core.interactiveshell import InteractiveShell

__all__ = ["TenantMagics", "register"]

_LIMIT = 1_000


@magics_class
class TenantMagics(Magics):
    """SQL cells over one tenant or all; they can only read, each tenant under its own role."""

    def __init__(self, shell: InteractiveShell) -> None:
        super().__init__(shell)
        self._settings = Settings.from_env()
        self._opened: Database | None = None

    @property
    def database(self) -> Database:
        """The configured database, opened when the first cell needs it."""
        if self._opened is None:
            self._opened = Database.open(self._settings)
        return self._opened

    @magic_arguments()
    @argument("slug", help="the tenant")
    @argument("--limit", type=int, default=_LIMIT, help="the most rows to read")
    @argument("-o", "--output", help="name of a variable for the DataFrame")
    @cell_magic
    def tenant(self, line: str, cell: str) -> pandas.DataFrame | None:
        """Run the cell's SQL in one tenant: `%%tenant acme --limit 100`."""
        arguments = parse_argstring(self.tenant, line)
        result = self._query([arguments.slug], cell, arguments.limit)
        return self._give(result.frame.drop(columns="tenant"), result, arguments.output)

    @magic_arguments()
    @argument("slugs", nargs="*", help="tenants; none: all of them")
    @argument("--limit", type=int, default=_LIMIT, help="the most rows to read of each tenant")
    @argument("-o", "--output", help="name of a variable for the DataFrame")
    @cell_magic
    def tenants(self, line: str, cell: str) -> pandas.DataFrame | None:
        """Run the cell's SQL in all tenants, or in those named: `%%tenants acme bluebird`."""
        arguments = parse_argstring(self.tenants, line)
        result = self._query(arguments.slugs, cell, arguments.limit)
        return self._give(result.frame, result, arguments.output)

    def _query(self, slugs: list[str], cell: str, limit: int) -> Across:
        with self.database.connection() as connection:
            tenants = find_tenants(connection, slugs, self._settings.tenants_query)
        with progress_bar(sum(tenant.is_active for tenant in tenants), "tenants") as done:
            return across(self.database, cell, tenants=tenants, limit=limit, progress=done)

    def _give(self, frame: pandas.DataFrame, result: Across, output: str | None) -> pandas.DataFrame | None:
        """Return the rows, or put them into a variable; what a reader must know is told above them."""
        for note in result.notes:
            print(note)
        if output is None:
            return frame
        if self.shell is not None:
            self.shell.user_ns[output] = frame
        return None


def register(shell: Any) -> None:
    """Make the magics known to a running IPython."""
    shell.register_magics(TenantMagics)
