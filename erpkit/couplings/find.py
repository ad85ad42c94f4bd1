"""Find what modules use of each other in code, queries and the database, and check their declarations against it."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from erpkit.config import Settings
from erpkit.couplings.catalog import catalog_edges
from erpkit.couplings.tables import TableOwners, query_edges
from erpkit.database import TEMPLATE, Database, has_schema, shared_schemas
from erpkit.embedded import EmbeddedServer
from erpkit.errors import DatabaseError, ErpkitError, ModuleError
from erpkit.finding import name_some
from erpkit.modules import Layers, ModuleCheck, ModuleLike, check_modules, is_foreign
from erpkit.modules.registry import Source, read_source
from erpkit.modules.wiring import Couplings, Edge, Unread, place_of
from erpkit.tenants import find_tenants

if TYPE_CHECKING:
    from grimp import ImportGraph

_ODOO = "Odoo's XML, its models' inheritance and its database were not read: so unused dependencies cannot be found"


def inspect_modules(
    settings: Settings, *, odoo: Sequence[Path] = (), layers: str = "", use_database: bool = True
) -> ModuleCheck:
    """Read the modules that `settings` name, or Odoo's addons, find their actual couplings, and check them.

    The embedded server is used if it runs, and is not started. Raises ErpkitError if there are no modules, or if a configured
    database does not answer.
    """
    declared_layers = Layers.parse(layers)
    source = read_source(settings, odoo)
    with _opened(settings, use_database=use_database and source.imports is None) as database:
        couplings = _couplings(source, settings, database, use_database=use_database)
        where = f"{source.name}, {database.target if database else 'no database'}"
    return check_modules(
        source.candidates,
        couplings,
        layers=declared_layers,
        findings=source.findings,
        outside=source.outside,
        indirect=source.indirect,
        target=where if source.imports is None else source.name,
    )


def find_couplings(
    modules: Sequence[ModuleLike],
    database: Database | None,
    tenants_query: str | None = None,
    *,
    use_database: bool = True,
) -> Couplings:
    """Find imports, foreign keys, views and queries across modules; `not_read` lists what could not be read.

    Without a schema `_template`, in a database that erpkit did not make, it reads the first tenant's schema.
    """
    owners = TableOwners(modules)
    packages = find_packages(modules)
    not_read: list[Unread] = []
    not_asked = [] if use_database else ["foreign keys and views were not read, as the database was not to be used"]
    edges = _tried("imports were not read", not_read, lambda: import_edges(packages))
    edges += _tried("queries were not read", not_read, lambda: query_edges(modules, owners))
    if use_database:
        what = "foreign keys and views were not read"
        edges += _tried(what, not_read, lambda: _of_tables(database, owners, tenants_query))
    everyone = frozenset(module.name for module in modules)
    strangers = everyone - set(packages)
    partly = everyone if not_read or not_asked else strangers
    foreign = frozenset(module.name for module in modules if is_foreign(module)) & strangers
    if strangers - foreign:
        names = name_some(sorted(strangers - foreign), 5)
        problem = f"imports of {names} were not read: no Python package of its own was found"
        not_read.append(Unread(problem, modules=tuple(sorted(strangers - foreign))))
    if foreign:
        not_asked.append(f"imports of {name_some(sorted(foreign), 5)} were not read: they are not written in Python")
    return Couplings(tuple(edges), tuple(not_read), partly, tuple(not_asked))


def _couplings(source: Source, settings: Settings, database: Database | None, *, use_database: bool) -> Couplings:
    if source.imports is not None:
        everyone = frozenset(module.name for module in source.candidates if isinstance(module, ModuleLike))
        return Couplings(source.imports, (), everyone, (_ODOO,))
    modules = [candidate for candidate in source.candidates if isinstance(candidate, ModuleLike)]
    return find_couplings(modules, database, settings.tenants_query, use_database=use_database)


def _of_tables(database: Database | None, owners: TableOwners, tenants_query: str | None) -> list[Edge]:
    if database is None:
        raise DatabaseError("no database")
    with database.connection() as connection:
        schema = TEMPLATE.schema
        if not has_schema(connection, schema):
            tenants = find_tenants(connection, (), tenants_query)
            if not tenants:
                raise DatabaseError(f"{database.target} has no schema {schema} and no tenant")
            schema = tenants[0].schema
        return catalog_edges(connection, schema, shared_schemas(connection), owners.find)


def _tried(what: str, not_read: list[Unread], read: Callable[[], list[Edge]]) -> list[Edge]:
    """Read a source of edges; if that fails, add the reason to `not_read`."""
    try:
        return read()
    except ErpkitError as error:
        not_read.append(Unread(f"{what}: {error}"))
        return []


@contextmanager
def _opened(settings: Settings, *, use_database: bool) -> Iterator[Database | None]:
    if not use_database or (settings.is_embedded and not EmbeddedServer(settings.home).is_running()):
        yield None
        return
    with Database.open(settings) as database:
        yield database


def find_packages(modules: Sequence[ModuleLike]) -> dict[str, str]:
    """Return the package of each module by its name: its attribute `package`, or else the package that holds its record.

    Modules without a package, for example in another language, are left out, and so are modules that share a package, as an
    import cannot be attributed to one of them.
    """
    homes = _homes(modules)
    found = {
        m.name: package for m in modules if (package := getattr(m, "package", None) or _home(homes.get(id(m), [])))
    }
    shared = {package for package, count in Counter(found.values()).items() if count > 1}
    return {name: package for name, package in found.items() if package not in shared}


def _homes(modules: Sequence[ModuleLike]) -> dict[int, list[ModuleType]]:
    """Return the loaded Python modules that hold each record."""
    wanted: dict[int, list[ModuleType]] = {id(module): [] for module in modules}
    for loaded in list(sys.modules.values()):
        for value in list(getattr(loaded, "__dict__", {}).values()):
            if id(value) in wanted and loaded not in wanted[id(value)]:
                wanted[id(value)].append(loaded)
    return wanted


def _home(holders: Sequence[ModuleType]) -> str | None:
    """Return the deepest package, as those above only re-export the record; None for a script."""
    packages = sorted(_packages(holders), key=lambda name: (-name.count("."), name))
    return packages[0] if packages else None


def _packages(holders: Sequence[ModuleType]) -> Iterator[str]:
    for holder in holders:
        name = holder.__name__ if hasattr(holder, "__path__") else holder.__name__.rpartition(".")[0]
        if name:
            yield name


def import_edges(packages: Mapping[str, str]) -> list[Edge]:
    """Return an edge for each import from one module's package in another's; `packages` are by module name.

    Raises ModuleError if grimp is missing or cannot read the code.
    """
    if len(packages) < 2:
        return []
    graph = _read(sorted({package.partition(".")[0] for package in packages.values()}))
    owners = {package: name for name, package in packages.items()}
    owner_of = {module: owner for module in graph.modules if (owner := _owner(module, owners)) is not None}
    return [
        Edge(source, target, "import", _place(graph, importer, imported))
        for importer, source in sorted(owner_of.items())
        for imported in sorted(graph.find_modules_directly_imported_by(importer))
        if (target := owner_of.get(imported)) not in (None, source)
    ]  # fmt: skip


def _read(roots: list[str]) -> ImportGraph:
    try:
        import grimp  # noqa: PLC0415 - optional
    except ImportError:
        raise ModuleError("grimp is not installed: pip install 'erpkit[graph]'") from None
    try:
        return grimp.build_graph(*roots, cache_dir=None)
    except Exception as error:  # of many classes: a missing package, or a file that is not Python
        reason = next(iter(str(error).splitlines()), "")
        raise ModuleError(f"{', '.join(roots)}: {type(error).__name__}: {reason}") from error


def _owner(module: str, owners: Mapping[str, str]) -> str | None:
    """Return the owner of a Python module: that of the nearest package above it."""
    while module:
        if module in owners:
            return owners[module]
        module = module.rpartition(".")[0]
    return None


def _place(graph: ImportGraph, importer: str, imported: str) -> str:
    details = graph.get_import_details(importer=importer, imported=imported)
    line = min((detail["line_number"] for detail in details), default=1)
    is_package = any(True for _ in graph.find_children(importer))
    return f"{place_of(importer, line, is_package=is_package)} imports {imported}"
