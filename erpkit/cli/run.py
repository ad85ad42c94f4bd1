"""erpkit run: one notebook, headlessly."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from erpkit.cli.output import as_json, print_json, print_target
from erpkit.config import Settings
from erpkit.runs import Notebook, open_notebook, run_notebook, validate_parameters


@click.command("run", context_settings={"help_option_names": []})
@click.argument("notebook", required=False)
@click.option(
    "-p", "--parameter", "given", nargs=2, multiple=True, metavar="NAME VALUE", help="Set a parameter; may be repeated."
)
@click.option("--tenant", "tenants", multiple=True, metavar="SLUG", help="Short for -p tenants SLUG; may be repeated.")
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    default=Path("runs"),
    show_default=True,
    help="Folder for output and report.",
)
@click.option("-h", "--help", "wants_help", is_flag=True, help="Show this message, or a notebook's parameters.")
@as_json
@click.pass_context
def command(
    context: click.Context, notebook: str | None, given: tuple[tuple[str, str], ...], tenants: tuple[str, ...], output: Path,
    wants_help: bool, as_json: bool,
) -> int:  # fmt: skip
    """Run NOTEBOOK, one of erpkit's by name or any by path, and write its output and an HTML report.

    Parameters are checked before a kernel starts. Exit code 0: fine; 1: a cell failed; 2: bad parameters, nothing was started;
    3: it ran and found a problem. `erpkit run NOTEBOOK --help` shows its parameters.
    """
    if notebook is None:
        click.echo(context.get_help())
        if wants_help:
            return 0
        raise click.UsageError("name a notebook")
    opened = open_notebook(notebook)
    if wants_help:
        _print_parameters(opened)
        return 0
    values = validate_parameters(opened.parameters, {**dict(given), **({"tenants": list(tenants)} if tenants else {})})
    print_target(_check_target(values), quiet=as_json)
    result = run_notebook(opened, values, output)
    if as_json:
        findings = list(result.summary.findings) if result.summary else []
        print_json(
            {"notebook": result.notebook, "outcome": result.outcome, "seconds": round(result.seconds, 2), "error": result.error,
             "findings": findings, "output": result.output, "report": result.report}
        )  # fmt: skip
    else:
        click.echo(f"{result.notebook}: {result.verdict} in {result.seconds:.1f} s")
        for finding in result.summary.findings if result.summary else ():
            click.echo(f"! {finding}")
        click.echo(f"output {result.output}\nreport {result.report}")
    return result.exit_code


def _check_target(values: Mapping[str, Any]) -> str:
    """Open the database once, so that one that cannot be reached, or a tenant that it has not, is told at once."""
    from erpkit.database import Database  # noqa: PLC0415 - not needed for --help
    from erpkit.tenants import find_tenants  # noqa: PLC0415

    named: list[str] | str = values.get("tenants") or values.get("tenant") or []
    slugs = [named] if isinstance(named, str) else named
    with Database.open(Settings.from_env()) as database, database.connection() as connection:
        find_tenants(connection, slugs, Settings.from_env().tenants_query)
        return database.target


def _print_parameters(notebook: Notebook) -> None:
    click.echo(f"{notebook.title} ({notebook.path})\n")
    for parameter in notebook.parameters:
        click.echo(
            f"  {parameter.name}: {parameter.annotation or 'str'} = {parameter.default!r}\n      {parameter.help}"
        )
