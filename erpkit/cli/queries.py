"""erpkit queries: typed code from SQL, and whether it still fits every tenant."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import click

from erpkit.cli.output import as_json, open_database, print_json, print_table, say
from erpkit.config import Settings
from erpkit.modules import ModuleLike, load_modules
from erpkit.queries import (
    BrokenModulesError,
    BrokenQuery,
    GeneratedFile,
    check_queries,
    read_each_module,
    without_generated_code,
)
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
    try:
        files = generate_queries(_modules(), check=check)
    except BrokenModulesError as error:
        _print_files(error.files, check, as_json)
        raise
    _print_files(files, check, as_json)
    return 3 if check and any(file.stale for file in files) else 0


def _print_files(files: Sequence[GeneratedFile], check: bool, as_json: bool) -> None:
    if as_json:
        print_json([{"module": f.module, "path": f.path, "queries": f.queries, "stale": f.stale} for f in files])
    elif files:
        word = "stale" if check else "written"
        rows = [(f.module, f.queries, word if f.stale else "current", f.path) for f in files]
        print_table(["module", "queries", "state", "file"], rows)


@command.command()
@click.option("--tenant", "slugs", multiple=True, metavar="SLUG", help="Only this tenant; may be repeated.")
@as_json
def check(slugs: tuple[str, ...], as_json: bool) -> int:
    """Plan every query in every tenant's schema and under its role, running none; exit code 3 if one is broken."""
    statements, errors = read_each_module(_modules())
    with open_database(quiet=as_json) as database:
        with database.connection() as connection:
            tenants = find_tenants(connection, slugs, Settings.from_env().tenants_query)
        broken = check_queries(database, tenants, statements)
    if as_json:
        found = [{"tenant": b.tenant, "module": b.module, "query": b.query, "error": b.error} for b in broken]
        unread = [str(error) for error in errors]
        print_json({"tenants": len(tenants), "queries": len(statements), "broken": found, "unread": unread})
        return 3 if broken or errors else 0
    say(f"{len(statements)} queries in {len(tenants)} tenants: {len(broken)} broken")
    for line in (*errors, *_lines(broken, len(statements))):
        say(f"! {line}")
    return 3 if broken or errors else 0


def _lines(broken: Sequence[BrokenQuery], queries: int) -> list[str]:
    """Name each broken query; a tenant in which all are, for one reason, is one line."""
    reasons: dict[str, set[str]] = {}
    for one in broken:
        reasons.setdefault(one.tenant, set()).add(one.error)
    counts = Counter(one.tenant for one in broken)
    whole = {slug for slug, found in reasons.items() if counts[slug] == queries > 1 and len(found) == 1}
    lines = [f"{one.tenant}: {one.error}" if one.tenant in whole else str(one) for one in broken]
    return list(dict.fromkeys(lines))


def _modules() -> tuple[ModuleLike, ...]:
    with without_generated_code():
        return load_modules(Settings.from_env()).modules
