"""erpkit run: a notebook, headlessly, once or once for each tenant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

import erpkit
from erpkit.cli.fleet import FleetOptions, as_dict, run_many
from erpkit.cli.helping import Command
from erpkit.cli.output import as_rows, note, print_findings, print_json, print_target, say, say_text, show_done
from erpkit.cli.run_options import ProgressLine, yaml_options
from erpkit.erp import Erp
from erpkit.errors import UsageError
from erpkit.result import as_findings
from erpkit.runs import (
    Notebook,
    Retry,
    RunResult,
    TimeLimits,
    open_notebook,
    run_notebook,
    validate_parameters,
)
from erpkit.runs.fleet import tenant_parameter
from erpkit.runs.job import Job
from erpkit.runs.output import read_tenants
from erpkit.runs.record import Recorder
from erpkit.runs.stopper import MEGABYTE

_SECONDS = click.FloatRange(min=0, min_open=True)


@click.command("run", cls=Command, context_settings={"help_option_names": []})
@click.argument("notebook", required=False)
@click.option(
    "-p", "--parameter", "given", nargs=2, multiple=True, metavar="NAME VALUE", help="Set a parameter; may be repeated."
)
@yaml_options
@click.option("--tenant", "tenants", multiple=True, metavar="SLUG", help="Short for -p tenants SLUG; may be repeated.")
@click.option("--each-tenant", is_flag=True, help="One run for each tenant: those of --tenant, else all active ones.")
@click.option(
    "--each",
    "sets",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="One run for each row of a .csv file, each set of a .yaml list, or all combinations of a .yaml mapping to lists.",
)
@click.option(
    "--resume", is_flag=True, help="Of the last such fleet run only what failed, was killed or was not begun."
)
@click.option("--dask", metavar="URL", help="Do these runs on a Dask cluster, such as tcp://scheduler:8786.")
@click.option("--jobs", type=click.IntRange(1), default=2, show_default=True, help="How many of these at a time.")
@click.option("--timeout", type=_SECONDS, metavar="S", help="Seconds that a run may take, retries included.")
@click.option("--cell-timeout", type=_SECONDS, metavar="S", help="Seconds that a cell may take.")
@click.option(
    "--output-limit",
    type=click.FloatRange(min=0, min_open=True),
    default=20,
    show_default=True,
    metavar="MB",
    help="Output to keep of each cell; a note tells what was cut.",
)
@click.option("--cwd", metavar="FOLDER", help="Where the kernel works; by default here.")
@click.option("--retries", type=click.IntRange(0), default=0, help="Try again what failed, timed out or was killed.")
@click.option("--retry-writes", is_flag=True, help="Try again even a run that may write.")
@click.option("--kernel", metavar="NAME", help="The kernel to use; by default the notebook's own.")
@click.option(
    "--output", default="runs", show_default=True, help="Folder, or s3:// gs:// abs:// URL, for output and report."
)
@click.option("-h", "--help", "wants_help", is_flag=True, help="Show this message, or a notebook's parameters.")
@as_rows
@click.pass_context
def command(
    context: click.Context, notebook: str | None, given: tuple[tuple[str, str], ...], tenants: tuple[str, ...], each_tenant: bool,
    sets: Path | None, resume: bool, dask: str | None, jobs: int, timeout: float | None, cell_timeout: float | None,
    retries: int, retry_writes: bool, kernel: str | None, output: str, wants_help: bool, as_json: bool, base: dict[str, Any],
    output_limit: float, cwd: str | None,
) -> int:  # fmt: skip
    """Run NOTEBOOK, one of erpkit's by name or any by path, and write its output and an HTML report.

    Parameters are checked before a kernel starts. Exit code 0: fine; 1: a cell failed; 2: bad parameters, nothing was started, or a
    cell refused them; 3: it ran and found a problem; 124: timed out; 130: interrupted; 137: its kernel died. Of several runs it
    is the worst. `erpkit run NOTEBOOK --help` shows its parameters.
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
    is_fleet = each_tenant or sets is not None
    for option, is_set in (("--resume", resume), ("--dask", dask)):
        if is_set and not is_fleet:
            raise UsageError(f"{option} goes with --each-tenant or --each")
    values = _parameters(opened, base, given, () if is_fleet else tenants)
    limits = TimeLimits(timeout, cell_timeout, output=int(output_limit * MEGABYTE))
    job = Job(str(opened.path), values, output, limits, Retry(retries, retry_writes), kernel, cwd)
    with erpkit.open() as erp:
        if is_fleet:
            return run_many(erp, opened, job, FleetOptions(each_tenant, sets, tenants, jobs, resume, dask), as_json)
        recorder = erp.runs.recorder()
        check_target(erp, recorder, read_tenants(values), quiet=as_json)
        progress = ProgressLine(opened.path.stem)
        try:
            result = run_notebook(
                opened, values, output, limits=job.limits, retry=job.retry, kernel=kernel, recorder=recorder, cwd=cwd,
                progress=progress,
            )  # fmt: skip
        finally:
            progress.end()
    print_result(result, as_json)
    return result.exit_code


def _parameters(
    opened: Notebook, base: Mapping[str, Any], given: Sequence[tuple[str, str]], tenants: Sequence[str]
) -> dict[str, Any]:
    names = [name for name, _ in given]
    values: dict[str, Any] = {**base, **dict(given)}
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


def _print_parameters(notebook: Notebook) -> None:
    """Print what a notebook can be told: name, type, default and help of each parameter."""
    say(f"{notebook.title} ({notebook.path})")
    say()
    for parameter in notebook.parameters:
        say(f"  {parameter.shown}")
        if parameter.help:
            say(f"      {parameter.help}")
    if not notebook.parameters:
        say("  It has no parameters.")


def print_result(result: RunResult, as_json: bool) -> None:
    """Print the result of one run; other problems go to standard error."""
    _print_problems(result)
    if as_json:
        print_json(as_dict(result))
        return
    show_done(f"{result.notebook}: {result.verdict} in {result.seconds:.1f} s{_attempts(result)}", _row(result))
    print_findings(as_findings(result.summary.findings) if result.summary else ())
    for line in result.changes.news if result.changes else ():
        note(line)
    note(f"output {result.places[0]}")
    note(f"report {result.places[1]}")


def _row(result: RunResult) -> dict[str, object]:
    output, report = result.places
    return {
        "run": result.id, "notebook": result.notebook, "outcome": result.verdict, "seconds": result.seconds,
        "output": output, "report": report,
    }  # fmt: skip


def _print_problems(result: RunResult) -> None:
    for problem in result.problems:
        say(f"note: {problem}", err=True)


def _attempts(result: RunResult) -> str:
    return f", attempt {result.attempt}" if result.attempt > 1 else ""
