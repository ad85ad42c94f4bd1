"""Looking at modules, their code, their queries and the database, and checking what is declared against it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from erpkit.config import Settings
from erpkit.couplings.imports import find_packages, import_edges
from erpkit.couplings.queries import query_edges
from erpkit.couplings.tables import TableOwners, has_schema, table_edges
from erpkit.database import TEMPLATE, Database
from erpkit.embedded import EmbeddedServer
from erpkit.errors import DatabaseError, ErpkitError
from erpkit.modules import Layers, ModuleCheck, ModuleLike, check_modules, is_foreign
from erpkit.modules.entries import Source, read_source
from erpkit.modules.wiring import Couplings, Edge
from erpkit.tenants import find_tenants

_ODOO = "Odoo's XML, its models' inheritance and its database were not read: that a dependency is unused cannot be told"


def inspect_modules(
    settings: Settings, *, odoo: Sequence[Path] = (), layers: str = "", use_database: bool = True
) -> ModuleCheck:
    """Read the modules that `settings` name, or Odoo's addons, find their couplings in fact, and check all of it.

    The embedded server is asked where it runs, and not started for it. Raises ErpkitError where there are no modules to
    read, or where a database is configured and does not answer.
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
    """Find imports, foreign keys, views and queries across modules; what cannot be looked at is told in `not_read`.

    Without a schema `_template`, in a database that erpkit did not make, the first tenant's stands for it.
    """
    owners = TableOwners(modules)
    packages = find_packages(modules)
    not_read: list[str] = []
    not_asked = [] if use_database else ["foreign keys and views were not read: the database was not to be asked"]
    edges = [
        *_tried("imports were not read", not_read, lambda: import_edges(packages)),
        *_tried("queries were not read", not_read, lambda: query_edges(modules, owners)),
        *(
            _tried(
                "foreign keys and views were not read", not_read, lambda: _of_tables(database, owners, tenants_query)
            )
            if use_database
            else ()
        ),
    ]
    everyone = frozenset(module.name for module in modules)
    strangers = everyone - set(packages)
    partly = everyone if not_read or not_asked else strangers
    foreign = frozenset(module.name for module in modules if is_foreign(module)) & strangers
    if strangers - foreign:
        names = _listed(sorted(strangers - foreign))
        not_read.append(f"imports of {names} were not read: no Python package of its own was found")
    if foreign:
        not_asked.append(f"imports of {_listed(sorted(foreign))} were not read: they are not written in Python")
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
        return table_edges(connection, schema, owners)


def _listed(names: Sequence[str], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _tried(what: str, not_read: list[str], read: Callable[[], list[Edge]]) -> list[Edge]:
    """Read a source of edges; if it cannot be read, the others still are."""
    try:
        return read()
    except ErpkitError as error:
        not_read.append(f"{what}: {error}")
        return []


@contextmanager
def _opened(settings: Settings, *, use_database: bool) -> Iterator[Database | None]:
    if not use_database or (settings.is_embedded and not EmbeddedServer(settings.home).is_running()):
        yield None
        return
    with Database.open(settings) as database:
        yield database
