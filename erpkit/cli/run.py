"""erpkit run: a notebook, headlessly, once or once for each tenant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import click

import erpkit
from erpkit.cli.output import as_json, print_json, print_table, print_target, say, say_text
from erpkit.erp import Erp
from erpkit.errors import UsageError
from erpkit.runs import (
    FleetResult,
    Notebook,
    Retry,
    RunResult,
    TimeLimits,
    open_notebook,
    run_notebook,
    validate_parameters,
)
from erpkit.runs.fleet import Job, run_fleet, tenant_parameter
from erpkit.runs.output import read_tenants
from erpkit.runs.parameters import may_write
from erpkit.runs.record import Recorder

_SECONDS = click.FloatRange(min=0, min_open=True)


@click.command("run", context_settings={"help_option_names": []})
@click.argument("notebook", required=False)
@click.option(
    "-p", "--parameter", "given", nargs=2, multiple=True, metavar="NAME VALUE", help="Set a parameter; may be repeated."
)
@click.option("--tenant", "tenants", multiple=True, metavar="SLUG", help="Short for -p tenants SLUG; may be repeated.")
@click.option("--each-tenant", is_flag=True, help="One run for each tenant: those of --tenant, else all active ones.")
@click.option("--jobs", type=click.IntRange(1), default=2, show_default=True, help="How many of these at a time.")
@click.option("--timeout", type=_SECONDS, metavar="S", help="Seconds that a run may take, retries included.")
@click.option("--cell-timeout", type=_SECONDS, metavar="S", help="Seconds that a cell may take.")
@click.option("--retries", type=click.IntRange(0), default=0, help="Try again what failed, timed out or was killed.")
@click.option("--retry-writes", is_flag=True, help="Try again even a run that may write.")
@click.option("--kernel", metavar="NAME", help="The kernel to use; by default the notebook's own.")
@click.option(
    "--output", default="runs", show_default=True, help="Folder, or s3:// gs:// abs:// URL, for output and report."
)
@click.option("-h", "--help", "wants_help", is_flag=True, help="Show this message, or a notebook's parameters.")
@as_json
@click.pass_context
def command(
    context: click.Context, notebook: str | None, given: tuple[tuple[str, str], ...], tenants: tuple[str, ...], each_tenant: bool,
    jobs: int, timeout: float | None, cell_timeout: float | None, retries: int, retry_writes: bool, kernel: str | None,
    output: str, wants_help: bool, as_json: bool,
) -> int:  # fmt: skip
    """Run NOTEBOOK, one of erpkit's by name or any by path, and write its output and an HTML report.

    Parameters are checked before a kernel starts. Exit code 0: fine; 1: a cell failed; 2: bad parameters, nothing was started, or a
    cell refused them; 3: it ran and found a problem; 124: timed out; 130: interrupted; 137: its kernel died. With --each-tenant it
    is the worst of them. `erpkit run NOTEBOOK --help` shows its parameters.
    """
    if notebook is None:
        say_text(context.get_help())
        if wants_help:
            return 0
        raise click.UsageError("name a notebook")
    opened = open_notebook(notebook)
    if wants_help:
        _print_parameters(opened)
        return 0
    values = _parameters(opened, given, () if each_tenant else tenants)
    job = Job(str(opened.path), values, output, TimeLimits(timeout, cell_timeout), Retry(retries, retry_writes), kernel)
    if each_tenant and {"tenant", "tenants"} & set(values):
        raise UsageError("with --each-tenant, name tenants by --tenant")
    with erpkit.open() as erp:
        if each_tenant:
            return _run_each(erp, opened, job, tenants, jobs, as_json)
        recorder = erp.runs.recorder()
        check_target(erp, recorder, read_tenants(values), quiet=as_json)
        result = run_notebook(
            opened, values, output, limits=job.limits, retry=job.retry, kernel=kernel, recorder=recorder
        )
    print_result(result, as_json)
    return result.exit_code


def _parameters(opened: Notebook, given: Sequence[tuple[str, str]], tenants: Sequence[str]) -> dict[str, Any]:
    names = [name for name, _ in given]
    values: dict[str, Any] = dict(given)
    if tenants:
        short = tenant_parameter(opened, tenants)
        names += short
        values |= short
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"parameter {name} is given twice")
    return validate_parameters(opened.parameters, values)


def check_target(erp: Erp, recorder: Recorder, slugs: Sequence[str], *, quiet: bool) -> None:
    """Name the target, and refuse a tenant that it does not have; if the database does not answer, the run is only not recorded."""
    if recorder.problem:
        if slugs:
            raise UsageError(f"tenants cannot be checked, and nothing was started: {recorder.problem}")
        print_target("not reached", quiet=quiet)
        return
    erp.find(slugs)
    print_target(erp.target, quiet=quiet)


def _run_each(erp: Erp, opened: Notebook, job: Job, slugs: Sequence[str], workers: int, as_json: bool) -> int:
    print_target(erp.target, quiet=as_json)
    found = erp.find(slugs)
    erp.close()  # the runs have connections of their own
    fleet = [tenant for tenant in found if slugs or tenant.is_active]
    for tenant in found:
        if tenant not in fleet:
            say(f"skipped {tenant.slug}: {tenant.status}", err=as_json)
    if job.retry.times and not job.retry.writes and may_write(opened.parameters, job.parameters):
        raise UsageError(f"these runs of {opened.path.stem} may write: --retries needs --retry-writes")
    jobs = {t.slug: replace(job, parameters=_with_tenant(opened, job.parameters, t.slug)) for t in fleet}
    if not jobs:
        raise UsageError("no tenant is active: there is nothing to run")
    done = run_fleet(jobs, workers, lambda slug, result: say(f"{slug}: {result.verdict}", err=as_json))
    _print_fleet(done, as_json)
    return done.exit_code


def _with_tenant(opened: Notebook, values: Mapping[str, Any], slug: str) -> dict[str, Any]:
    return {**values, **tenant_parameter(opened, [slug])}


def _print_parameters(notebook: Notebook) -> None:
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
    """Print the result of one run; other problems go to standard error."""
    _print_problems(result)
    if as_json:
        print_json(_as_dict(result))
        return
    say(f"{result.notebook}: {result.verdict} in {result.seconds:.1f} s{_attempts(result)}")
    for line in result.summary.lines if result.summary else ():
        say(line)
    for line in result.changes.news if result.changes else ():
        say(line)
    say(f"output {result.places[0]}")
    say(f"report {result.places[1]}")


def _print_fleet(done: FleetResult, as_json: bool) -> None:
    """Print the results of one run per tenant."""
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
        for line in result.summary.lines if result.summary else ():
            say(line if line[2:].startswith(f"{slug}: ") else f"{line[:2]}{slug}: {line[2:]}")


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
        "problems": list(result.problems), "changes": result.changes.document() if result.changes else None,
    }  # fmt: skip
