"""One object from which everything else is reached by tab completion."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from erpkit.config import Settings
from erpkit.erp.installation import Installation
from erpkit.erp.modules import Modules
from erpkit.erp.runs import Runs

__all__ = ["Erp", "open"]


class Erp(Installation):
    """An ERP, ready to be looked at and operated. Opening it costs nothing until a part of it is used."""

    @cached_property
    def modules(self) -> Modules:
        """The modules, and the check of what they declare."""
        return Modules(self)

    @cached_property
    def runs(self) -> Runs:
        """The runs of notebooks that were recorded."""
        return Runs(self)


def open(
    database: str | None = None,
    *,
    modules: str | None = None,
    tenants_query: str | None = None,
    broker: str | None = None,
    home: Path | str | None = None,
    settings: Settings | None = None,
) -> Erp:
    """Open the ERP that the environment names, with what is given here in its place.

    `database` is a libpq connection string, or `env:NAME` for the one that a variable holds; "" is the configured one. Raises
    UsageError for a setting that cannot be meant; the database is reached when it is first used.
    """
    found = (settings or Settings.from_env()).with_database(database or "")
    given = {"modules": modules, "tenants_query": tenants_query, "broker": broker}
    return Erp(found.replaced(**given, home=Path(home).expanduser().absolute() if home else None))
