"""erpkit modules: list and check."""

from __future__ import annotations

import click

from erpkit.cli.output import as_json, print_json, print_table
from erpkit.config import Settings
from erpkit.modules import check_modules, find_modules, load_modules


@click.group("modules")
def command() -> None:
    """The modules of the ERP, as they are registered; no database is needed."""


@command.command("list")
@as_json
def list_(as_json: bool) -> None:
    """List the modules in load order."""
    modules = load_modules(Settings.from_env()).modules
    if as_json:
        print_json(
            [{"name": m.name, "dependencies": list(m.dependencies), "migrations": m.migrations} for m in modules]
        )
        return
    rows = [(m.name, ", ".join(m.dependencies), len(m.commands), len(m.publishes), len(m.subscribes)) for m in modules]
    print_table(["module", "depends on", "commands", "events", "handlers"], rows)


@command.command()
@as_json
def check(as_json: bool) -> int:
    """Look for cycles, missing dependencies and events nobody handles; exit code 3 if there are findings."""
    result = check_modules(find_modules(Settings.from_env()))
    if as_json:
        findings = [
            {"kind": f.kind, "modules": f.modules, "problem": f.problem, "remedy": f.remedy} for f in result.findings
        ]
        print_json({"order": result.order, "cycle": result.cycle, "findings": findings})
    else:
        click.echo(f"load order: {', '.join(result.order) or 'none, there is a cycle'}")
        for finding in result.findings:
            click.echo(f"! {finding}")
        if not result.findings:
            click.echo("no findings")
    return 3 if result.findings else 0
