"""The modules of an installation: which there are, and whether what they declare is true."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from erpkit.couplings import find_couplings, inspect_modules
from erpkit.erp.installation import Installation
from erpkit.erp.part import Part
from erpkit.errors import NoModulesError
from erpkit.modules import Layers, ModuleCheck, ModuleLike, Rules, find_modules, load_modules, read_rules
from erpkit.modules.baseline import read_baseline
from erpkit.modules.check import module_table
from erpkit.modules.impact import Declarations, plan_declarations
from erpkit.queries import (
    GeneratedFile,
    QueryCheck,
    check_queries,
    generate,
    read_each_module,
    without_generated_code,
)
from erpkit.table import Table


class Modules(Part):
    """The modules in load order. It shows itself as a table."""

    def __init__(self, installation: Installation) -> None:
        self._installation = installation

    def __iter__(self) -> Iterator[ModuleLike]:
        return iter(self._all)

    def __len__(self) -> int:
        return len(self._all)

    @cached_property
    def _all(self) -> tuple[ModuleLike, ...]:
        try:
            return self._installation.registry.modules
        except NoModulesError:
            return ()

    @property
    def table(self) -> Table[ModuleLike]:
        """One row per module: what it depends on and what it declares."""
        return module_table(tuple(self))

    def check(
        self,
        source: str = "",
        *,
        layers: str = "",
        odoo: Sequence[Path] = (),
        database: bool = True,
        strict: bool = False,
        baseline: bool = True,
    ) -> ModuleCheck:
        """Check what modules declare against their code, their queries and the database.

        `source` is an entry-point group, a `modules.toml` or a folder of Odoo's addons in place of the configured modules.
        It goes by the rules in `[tool.erpkit.modules]`; `layers` such as `billing > sales, inventory > catalog`, the highest first,
        replace theirs, and `strict` makes what was not read an error. Without `database`, foreign keys and views are left out;
        without `baseline`, what that file has is told, too. Raises ErpkitError where there is nothing to read.
        """
        settings = self._installation.settings
        settings = replace(settings, modules=source or settings.modules)
        rules = self.rules(source)
        if layers:
            rules = replace(rules, layers=Layers.parse(layers))
        rules = replace(rules, strict=strict or rules.strict)
        known = read_baseline(rules.baseline) if baseline else None
        return inspect_modules(settings, odoo=odoo, rules=rules, baseline=known, use_database=database)

    def rules(self, source: str = "") -> Rules:
        """Return the rules that `check` goes by: those of the `modules.toml`, or of the nearest `pyproject.toml`."""
        named = source or self._installation.settings.modules or ""
        return read_rules(Path(named).expanduser() if named.endswith(".toml") else None)

    def undeclared(self, source: str = "") -> Declarations:
        """Find what modules use without declaring it, and check them as they would be if they declared it.

        `source` is as in `check`. Raises ErpkitError where there is nothing to read.
        """
        erp = self._installation
        settings = replace(erp.settings, modules=source or erp.settings.modules)
        candidates = erp.candidates if not source else find_modules(settings)
        modules = [one for one in candidates if isinstance(one, ModuleLike)]
        couplings = find_couplings(modules, erp.database, settings.tenants_query)
        return plan_declarations(candidates, couplings, self.rules(source))

    def __str__(self) -> str:
        return repr(self.table)

    def _repr_html_(self) -> str:
        return self.table._repr_html_()


class Queries(Part):
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
