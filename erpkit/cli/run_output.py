"""How runs are printed: one, one a tenant, the record of all, and a notebook's parameters."""

from __future__ import annotations

from typing import Any

from erpkit.cli.output import print_json, print_table, say
from erpkit.runs import FleetResult, Notebook, RunResult

__all__ = ["print_fleet", "print_parameters", "print_result"]


def print_parameters(notebook: Notebook) -> None:
    """Print what a notebook can be told: name, type, default and help of each parameter."""
    say(f"{notebook.title} ({notebook.path})")
    say()
    for parameter in notebook.parameters:
        say(f"  {parameter.name}: {parameter.annotation} = {parameter.default!r}")
        if parameter.help:
            say(f"      {parameter.help}")
    if not notebook.parameters:
        say("  It has no parameters.")


def print_result(result: RunResult, as_json: bool) -> None:
    """Print what became of one run; what went wrong beside it goes to standard error."""
    _print_problems(result)
    if as_json:
        print_json(_as_dict(result))
        return
    say(f"{result.notebook}: {result.verdict} in {result.seconds:.1f} s{_attempts(result)}")
    for finding in result.findings:
        say(f"! {finding}")
    say(f"output {result.places[0]}")
    say(f"report {result.places[1]}")


def print_fleet(done: FleetResult, as_json: bool) -> None:
    """Print what became of one run a tenant."""
    for result in done.results.values():
        _print_problems(result)
    if as_json:
        rows: list[dict[str, Any]] = [{"tenant": slug, **_as_dict(result)} for slug, result in done.results.items()]
        rows += [{"tenant": slug, "outcome": "killed", "error": error} for slug, error in done.errors.items()]
        print_json(rows + [{"tenant": slug, "outcome": "interrupted", "error": "not begun"} for slug in done.left])
        return
    table = [(s, r.verdict, f"{r.seconds:.1f}{_attempts(r)}", r.places[1]) for s, r in done.results.items()]
    table += [(slug, error, "", "") for slug, error in done.errors.items()] + [
        (s, "not begun", "", "") for s in done.left
    ]
    print_table(["tenant", "outcome", "seconds", "report"], table)
    for slug, result in done.results.items():
        for finding in result.findings:
            say(f"! {finding}" if finding.startswith(f"{slug}: ") else f"! {slug}: {finding}")


def _print_problems(result: RunResult) -> None:
    for problem in result.problems:
        say(f"note: {problem}", err=True)


def _attempts(result: RunResult) -> str:
    return f", attempt {result.attempt}" if result.attempt > 1 else ""


def _as_dict(result: RunResult) -> dict[str, Any]:
    return {
        "id": result.id, "notebook": result.notebook, "outcome": result.outcome, "exit_code": result.exit_code,
        "seconds": round(result.seconds, 2), "error": result.error, "findings": list(result.findings),
        "attempt": result.attempt, "output": result.places[0], "report": result.places[1],
        "problems": list(result.problems),
    }  # fmt: skip
