"""The queries of the modules: the Python that is generated from them, and whether they fit every tenant."""

from __future__ import annotations

from collections.abc import Sequence

from erpkit.erp.installation import Installation
from erpkit.errors import NoModulesError
from erpkit.modules import ModuleLike, load_modules
from erpkit.queries import (
    GeneratedFile,
    QueryCheck,
    check_queries,
    generate,
    read_each_module,
    without_generated_code,
)

__all__ = ["Queries"]


class Queries:
    """The `queries/*.sql` of the modules."""

    def __init__(self, installation: Installation) -> None:
        self._installation = installation

    def check(self, names: Sequence[str] = ()) -> QueryCheck:
        """Let PostgreSQL plan each query in each tenant's schema and under its role; none is run.

        `names` are tenants or patterns, all without one.
        """
        modules = self._modules()
        statements, errors = read_each_module(modules)
        tenants = self._installation.find(names)
        broken = check_queries(self._installation.database, tenants, statements)
        unread = tuple(map(str, errors))
        return QueryCheck(self._installation.target, len(modules), len(tenants), len(statements), tuple(broken), unread)

    def generate(self, *, check: bool = False) -> list[GeneratedFile]:
        """Write typed functions beside each module's queries; with `check`, write nothing and tell what is stale.

        No database is needed. Raises BrokenModulesError, naming each broken query, when all others are written.
        """
        return generate(self._modules(), check=check)

    def _modules(self) -> tuple[ModuleLike, ...]:
        try:
            with without_generated_code():
                return load_modules(self._installation.settings).modules
        except NoModulesError:
            return ()
