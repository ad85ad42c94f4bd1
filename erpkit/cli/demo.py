"""erpkit demo: the whole kit on sample data."""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Sequence
from contextlib import closing, suppress
from pathlib import Path

import click

import erpkit
from erpkit.cli.helping import Command
from erpkit.cli.output import (
    COMMAND,
    as_table,
    is_for_programs,
    leave_gap,
    note,
    print_table,
    print_target,
    say,
    tone_of,
)
from erpkit.cli.say import end_waiting
from erpkit.config import Settings
from erpkit.database import Database
from erpkit.embedded import EmbeddedServer
from erpkit.errors import StoppedError
from erpkit.finding import Finding, marked
from erpkit.kernels import link
from erpkit.kernels.place import NoWarmKernelError
from erpkit.modules import Registry
from erpkit.modules.registry import SAMPLE_GROUP
from erpkit.runs import RunResult
from erpkit.runs.index import write_index
from erpkit.runs.sample import NOTEBOOKS, demo_job, plant_sample, renew_database, unhurried_disk
from erpkit.runs.workers import Workers

_MENDERS = {"pending": "run_migrations", "dead letters": "replay_events"}  # kind of finding: the notebook that mends it


@click.command("demo", cls=Command)
@click.option(
    "--tenants",
    type=click.IntRange(1, 1000),
    default=12,
    show_default=True,
    help="How many tenants to make: a dozen takes less than a minute, 250 take some.",
)
@click.option(
    "--output", type=click.Path(path_type=Path), default=Path("runs"), show_default=True, help="Folder for the reports."
)
@as_table
def command(tenants: int, output: Path) -> int:
    """Start the embedded server, make an ERP with a dozen tenants in it, and run the four notebooks on it.

    A few troubles are planted, so that the notebooks have something to find. It always uses the embedded server, whatever
    database is configured, and replaces the sample data of an earlier demo, but none of your own data.
    """
    started = time.perf_counter()
    settings = Settings(home=erpkit.open().settings.home, modules=SAMPLE_GROUP)
    print_target("embedded")
    with suppress(NoWarmKernelError):  # the notebooks run in processes of their own then
        link.start(wait=False)  # it imports what the notebooks use while the tenants are made
    server = EmbeddedServer(settings.home)
    server.start()
    renew_database(server)
    _set_environment(settings)
    with unhurried_disk(server), erpkit.open(settings=settings) as erp:
        results = _work(erp.database, erp.registry, tenants, output)
        found = erp.tenants.inspect(keep=False).findings
    _print_results(results, found, time.perf_counter() - started)
    return 1 if any(result.outcome == "failed" for result in results) else 0


def _set_environment(settings: Settings) -> None:
    """Make the environment, which the kernels read, name what the demo works on and nothing else."""
    for name in [name for name in os.environ if name.startswith("PG") or name == "ERPKIT_DATABASE"]:
        del os.environ[name]
    os.environ.update(ERPKIT_HOME=str(settings.home), ERPKIT_MODULES=SAMPLE_GROUP)


def _work(database: Database, registry: Registry, tenants: int, output: Path) -> list[RunResult]:
    from rich.console import Console  # noqa: PLC0415 - slow to import
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn  # noqa: PLC0415

    results = []
    columns = (
        TextColumn("{task.description:<28}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    end_waiting()
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("making tenants", total=tenants)
        plant_sample(
            database, registry, tenants, lambda slug: bar.update(task, advance=1, description=f"making tenants: {slug}")
        )
        bar.update(task, description="tenants made")
        task = bar.add_task("running notebooks", total=len(NOTEBOOKS))
        workers = Workers()
        with workers.signals(), closing(workers):
            for name in NOTEBOOKS:
                bar.update(task, description=f"running {name}")
                result = workers.run(demo_job(database, registry, name, output))
                if result is None:
                    raise StoppedError("the demo was stopped")
                results.append(result)
                bar.advance(task)
        bar.update(task, description="notebooks run")
    write_index(output.absolute())
    return results


def _print_results(results: Sequence[RunResult], left: Collection[Finding], seconds: float) -> None:
    """Print how each notebook ended and what it found; of what is no longer `left`, say which one fixed it."""
    rows = [(r.notebook, r.verdict, f"{r.seconds:.1f}", os.path.relpath(r.report)) for r in results]
    print_table(["notebook", "outcome", "seconds", "report"], rows, right=["seconds"])
    keys = {finding.key for finding in left}
    told: set[str] = set()
    for result in results:
        for finding in [one for cause in result.summary.causes for one in cause.findings] if result.summary else ():
            if finding.key not in told:
                told.add(finding.key)
                _print_finding(result.notebook, finding, "" if finding.key in keys else _MENDERS.get(finding.kind, ""))
    leave_gap()
    note(f"{seconds:.0f} s in all. What is left to do, with the commands that do it:")
    note("    erpkit tenants inspect", tone=COMMAND)
    note("Or open a report in a browser, or go on in JupyterLab:")
    note("    erpkit lab", tone=COMMAND)


def _print_finding(notebook: str, finding: Finding, mender: str) -> None:
    line = marked(finding)
    mended = f" ({mender} fixed it)" if mender else ""
    tone = tone_of("info" if mender else finding.severity)
    say(f"{line[:2]}{notebook}: {line[2:]}{mended}", err=is_for_programs(), tone=tone, hang=2)
