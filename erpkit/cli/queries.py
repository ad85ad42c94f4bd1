"""erpkit queries: typed code from SQL, and whether it still fits every tenant."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from operator import attrgetter

import click

import erpkit
from erpkit.cli.helping import Group
from erpkit.cli.output import as_rows, note, print_json, print_target, show, show_findings, tenants_option
from erpkit.finding import exit_code
from erpkit.queries import BrokenModulesError, GeneratedFile, QueryCheck
from erpkit.table import Column, Table


@click.group("queries", cls=Group)
def command() -> None:
    """Generate Python from the SQL of each module, and check it in each tenant."""


@command.command()
@click.option("--check", is_flag=True, help="Write nothing; exit code 3 if the committed code is stale.")
@as_rows
def generate(check: bool, as_json: bool) -> int:
    """Write typed functions for each module's queries/*.sql; no database is needed."""
    try:
        files = erpkit.open().queries.generate(check=check)
    except BrokenModulesError as error:
        if error.files or as_json:
            _print_files(error.files, check, as_json)
        raise
    _print_files(files, check, as_json)
    return 3 if check and any(file.stale for file in files) else 0


def _print_files(files: Sequence[GeneratedFile], check: bool, as_json: bool) -> None:
    if as_json:
        print_json([{"module": f.module, "path": f.path, "queries": f.queries, "stale": f.stale} for f in files])
        return
    word = "stale" if check else "written"
    columns = (
        Column[GeneratedFile]("module", attrgetter("module")),
        Column[GeneratedFile]("queries", attrgetter("queries")),
        Column[GeneratedFile]("state", lambda file: word if file.stale else "current"),
        Column[GeneratedFile]("file", attrgetter("path")),
    )
    show(Table(columns, files, "No module has a folder of queries: there is nothing to generate."))


@command.command()
@tenants_option()
@as_rows
def check(slugs: tuple[str, ...], as_json: bool) -> int:
    """Plan every query in every tenant's schema and under its role, running none; exit code 3 if one is broken.

    Without tenants or modules nothing is checked, and the exit code is 3 as well.
    """
    with erpkit.open() as erp:
        print_target(erp.target, quiet=as_json)
        result = erp.queries.check(slugs)
    if as_json:
        print_json(_document(result))
    else:
        note(result)
        show_findings(result.findings)
    return exit_code(result.findings)


def _document(result: QueryCheck) -> dict[str, object]:
    return {
        "tenants": result.tenants, "queries": result.queries, "broken": [asdict(one) for one in result.broken],
        "unread": result.unread, "findings": [asdict(finding) for finding in result.findings],
    }  # fmt: skip
