"""erpkit queries: typed code from SQL, and whether it still fits every tenant."""

from __future__ import annotations

import click

from erpkit.cli.output import as_json, open_database, print_json, print_table, say
from erpkit.config import Settings
from erpkit.modules import ModuleLike, load_modules
from erpkit.queries import check_queries, read_statements, without_generated_code
from erpkit.queries import generate as generate_queries
from erpkit.tenants import find_tenants


@click.group("queries")
def command() -> None:
    """The queries of each module, and the Python generated from them."""


@command.command()
@click.option("--check", is_flag=True, help="Write nothing; exit code 3 if the committed code is stale.")
@as_json
def generate(check: bool, as_json: bool) -> int:
    """Write typed functions for each module's queries/*.sql; no database is needed."""
    files = generate_queries(_modules(), check=check)
    if as_json:
        print_json([{"module": f.module, "path": f.path, "queries": f.queries, "stale": f.stale} for f in files])
    else:
        word = "stale" if check else "written"
        rows = [(f.module, f.queries, word if f.stale else "current", f.path) for f in files]
        print_table(["module", "queries", "state", "file"], rows)
    return 3 if check and any(file.stale for file in files) else 0


@command.command()
@click.option("--tenant", "slugs", multiple=True, metavar="SLUG", help="Only this tenant; may be repeated.")
@as_json
def check(slugs: tuple[str, ...], as_json: bool) -> int:
    """Plan every query in every tenant's schema and under its role, running none; exit code 3 if one is broken."""
    statements = read_statements(_modules())
    with open_database(quiet=as_json) as database:
        with database.connection() as connection:
            tenants = find_tenants(connection, slugs, Settings.from_env().tenants_query)
        broken = check_queries(database, tenants, statements)
    if as_json:
        found = [{"tenant": b.tenant, "module": b.module, "query": b.query, "error": b.error} for b in broken]
        print_json({"tenants": len(tenants), "queries": len(statements), "broken": found})
        return 3 if broken else 0
    say(f"{len(statements)} queries in {len(tenants)} tenants: {len(broken)} broken")
    for query in broken:
        say(f"! {query}")
    return 3 if broken else 0


def _modules() -> tuple[ModuleLike, ...]:
    with without_generated_code():
        return load_modules(Settings.from_env()).modules
