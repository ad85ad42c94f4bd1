"""erpkit migrate: what needs no database; show, new and lint."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

import erpkit
from erpkit.cli.helping import Command
from erpkit.cli.output import (
    as_rows,
    as_script,
    is_for_programs,
    note,
    print_findings,
    print_json,
    say,
    say_script,
    show_done,
    tone_of,
)
from erpkit.cli.output import show as show_table
from erpkit.migrations.files import Style
from erpkit.migrations.golang import is_golang_file
from erpkit.migrations.lint import LintFinding
from erpkit.plural import count_of


@click.command(cls=Command)
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--direction", type=click.Choice(["up", "down"]), default="up", help="Which statements.")
@as_script
def show(file: Path, direction: str, as_json: bool) -> None:
    """Print the statements of a migration file, as goose would split it; ENVSUB is filled in from the environment.

    A file of golang-migrate's is one statement, and its direction that of its name.
    """
    parsed = erpkit.open().migrations.show(file)
    whole = is_golang_file(file)
    statements = (*parsed.up, *parsed.down) if whole else parsed.statements("up" if direction == "up" else "down")
    if as_json:
        told = {"use_transaction": parsed.use_transaction, "uses_environment": parsed.uses_environment}
        print_json({"statements": statements, **told})
        return
    # On standard error: what is on standard output can be run.
    if not parsed.use_transaction and not whole:
        say("NO TRANSACTION: each statement runs on its own; if one fails, those before it stay", err=True)
    if parsed.uses_environment:
        say("ENVSUB: the statements hold values from this environment", err=True)
    say_script("\n\n".join(statements))


@click.command(cls=Command)
@click.argument("name")
@click.option("--module", required=True, help="The module to write it for.")
@click.option("--sequential", "style", flag_value="sequential", help="The next number.")
@click.option("--timestamp", "style", flag_value="timestamp", help="The time in UTC, as YYYYMMDDHHMMSS.")
@as_rows
def new(name: str, module: str, style: Style | None, as_json: bool) -> None:
    """Write an empty migration into a module's folder, and print its path; its version is in the style of the others."""
    path = erpkit.open().migrations.new(module, name, style=style)
    if as_json:
        print_json({"path": path})
    else:
        show_done(f"written: {path}", {"path": str(path)})


@click.command(cls=Command)
@click.option("--module", "names", multiple=True, help="Only this module; may be repeated.")
@click.option("--pg-version", metavar="VERSION", help="The server's version, 16 for example.")
@as_rows
def lint(names: tuple[str, ...], pg_version: str | None, as_json: bool) -> int:
    """Name the statements that lock or rewrite tables, or break running code; exit code 3 if there is one."""
    report = erpkit.open().migrations.lint(names, pg_version=pg_version)
    if as_json:
        print_json([asdict(finding) for finding in report.findings])
        return report.summary.exit_code
    if is_for_programs():
        show_table(report.table)
    else:
        _print_lint(report.findings)
    if not report.checked:
        print_findings(report.all_findings)
    note(f"{count_of(report.checked or 0, 'migration')}, {count_of(len(report.findings), 'finding')}")
    return report.summary.exit_code


def _print_lint(findings: tuple[LintFinding, ...]) -> None:
    for finding in findings:
        say(f"{finding.path}:{finding.line}: {finding.level}: {finding.rule}", tone=tone_of(finding.level))
        say(f"    {finding.statement}")
        say(f"  {finding.message} {finding.help}".rstrip(), hang=2)
