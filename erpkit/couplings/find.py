"""Find what modules use of each other in code, queries and the database, and check their declarations against it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from erpkit.config import Settings
from erpkit.couplings.beside import find_beside
from erpkit.couplings.catalog import catalog_edges
from erpkit.couplings.hidden import Chains, find_reached, hidden_edges
from erpkit.couplings.imports import import_edges
from erpkit.couplings.source import Code, find_packages
from erpkit.couplings.sql import sql_uses
from erpkit.couplings.tables import SqlFiles, TableOwners, read_sql_files
from erpkit.database import TEMPLATE, Database, has_schema, shared_schemas
from erpkit.embedded import EmbeddedServer
from erpkit.errors import DatabaseError, ErpkitError, MigrationError
from erpkit.finding import name_some
from erpkit.migrations import collect_migrations
from erpkit.modules import ModuleCheck, ModuleLike, Rules, check_modules, is_foreign
from erpkit.modules.baseline import Baseline
from erpkit.modules.faults import select_modules
from erpkit.modules.registry import Source, read_source
from erpkit.modules.wiring import Couplings, Edge, ModuleFinding, Unread, shorten_path
from erpkit.tenants import find_tenants

_ODOO = "Odoo's XML, its models' inheritance and its database were not read: so unused dependencies cannot be found"


def inspect_modules(
    settings: Settings,
    *,
    odoo: Sequence[Path] = (),
    rules: Rules | None = None,
    baseline: Baseline | None = None,
    use_database: bool = True,
) -> ModuleCheck:
    """Read the modules that `settings` name, or Odoo's addons, find their actual couplings, and check them.

    It goes by `rules`, and what the `baseline` has is no finding. The embedded server is used if it runs, and is not started.
    Raises ErpkitError if there are no modules, or if a configured database does not answer.
    """
    source = read_source(settings, odoo)
    with _opened(settings, use_database=use_database and source.imports is None) as database:
        couplings = _couplings(source, settings, database, use_database=use_database)
        where = f"{source.name}, {database.target if database else 'no database'}"
    return check_modules(
        source.candidates,
        couplings,
        rules=rules or Rules(),
        baseline=baseline or Baseline(),
        findings=(*source.findings, *_migration_faults(source)),
        outside=source.outside,
        indirect=source.indirect,
        starts=source.imports is None,
        target=where if source.imports is None else source.name,
    )


def find_couplings(
    modules: Sequence[ModuleLike],
    database: Database | None,
    tenants_query: str | None = None,
    *,
    use_database: bool = True,
) -> Couplings:
    """Find what modules use of each other in code, SQL and the database; `not_read` lists what could not be read.

    Without a schema `_template`, in a database that erpkit did not make, it reads the first tenant's schema.
    """
    owners = TableOwners(modules)
    packages = find_packages(modules)
    not_read: list[Unread] = []
    not_asked = [] if use_database else ["the database was not read, as asked for"]
    code, sql = Code(packages, roots=_roots(modules)), read_sql_files(modules, owners)
    events = {module.name: frozenset(event.__name__ for event in module.publishes) for module in modules}
    edges = [*_code_edges(code, owners, sql, events), *(use.edge for use in sql.uses)]
    not_read += (*code.unread, *sql.unread, *find_beside(modules, packages, code))
    if use_database:
        what = "the database was not read"
        edges += _tried(what, not_read, lambda: _of_tables(database, owners, tenants_query))
    everyone = frozenset(module.name for module in modules)
    strangers = everyone - set(packages)
    partly = strangers.union(*(one.modules or everyone for one in not_read), everyone if not_asked else ())
    foreign = frozenset(module.name for module in modules if is_foreign(module)) & strangers
    if strangers - foreign:
        names = name_some(sorted(strangers - foreign), 5)
        problem = f"imports of {names} were not read: no Python package of its own was found"
        not_read.append(Unread(problem, modules=tuple(sorted(strangers - foreign))))
    if foreign:
        problem = f"imports of {name_some(sorted(foreign), 5)} were not read: they are not written in Python"
        not_read.append(Unread(problem, modules=tuple(sorted(foreign)), severity="info"))
    homes = {name: shorten_path(files[0]) for name, package in packages.items() if (files := code.paths(package))}
    return Couplings(tuple(edges), tuple(not_read), partly, tuple(not_asked), homes)


def _migration_faults(source: Source) -> Iterator[ModuleFinding]:
    """Yield what start-up says of the migrations of modules that it starts, where their folder is there."""
    for module in select_modules(source.candidates) if source.imports is None else ():
        if not is_foreign(module) and module.migrations is not None and module.migrations.is_dir():
            try:
                collect_migrations(module)
            except MigrationError as error:
                yield ModuleFinding("bad migrations", (module.name,), str(error), "correct the file")
            except OSError:
                pass  # it is told as not read


def _roots(modules: Sequence[ModuleLike]) -> list[Path]:
    """Return where to look for packages that a modules.toml names: beside it, and in `src` there."""
    roots = dict.fromkeys(root for module in modules if (root := getattr(module, "root", None)))
    return [folder for root in roots for folder in (root, root / "src")]


def _code_edges(
    code: Code, owners: TableOwners, sql: SqlFiles, events: Mapping[str, Collection[str]]
) -> Iterator[Edge]:
    """Yield what Python code uses; a table that a module's queries name is not told again for the code generated from them."""
    chains = Chains(code, lambda file: sql_uses(file, owners, sql.made))
    told = {(use.edge.source, use.table) for use in sql.uses if use.edge.kind == "query"}
    for file in code.files():
        reached = find_reached(code, file)
        yield from import_edges(code, file, events)
        yield from hidden_edges(code, file, reached)
        chains.note(file, reached)
        yield from (use.edge for use in sql_uses(file, owners, sql.made) if (file.module, use.table) not in told)
    yield from chains.edges()


def _couplings(source: Source, settings: Settings, database: Database | None, *, use_database: bool) -> Couplings:
    if source.imports is not None:
        everyone = frozenset(module.name for module in select_modules(source.candidates))
        return Couplings(source.imports, source.not_read, everyone, (_ODOO,))
    return find_couplings(
        select_modules(source.candidates), database, settings.tenants_query, use_database=use_database
    )


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
