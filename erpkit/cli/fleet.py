"""What `erpkit run` does with many runs: one for each tenant or set of parameters, shown while they run and afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from erpkit.cli.output import (
    note,
    print_findings,
    print_json,
    print_table,
    print_target,
    say,
    shown_as,
)
from erpkit.erp import Erp
from erpkit.errors import RunError, UsageError
from erpkit.finding import name_some
from erpkit.plural import count_of
from erpkit.runs.fleet import FleetResult, Row, in_words, outcome_of, run_fleet, tenant_parameter
from erpkit.runs.fleet_file import FleetFile
from erpkit.runs.index import write_index
from erpkit.runs.job import Job
from erpkit.runs.notebook import Notebook
from erpkit.runs.parameter_sets import name_sets, read_sets
from erpkit.runs.parameters import may_write
from erpkit.runs.result import RunResult

_PER_RUN = 3  # connections: two of the notebook, as most use, and the record's
_FREE = """
SELECT least(current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
             - (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'),
             nullif((SELECT rolconnlimit FROM pg_roles WHERE rolname = current_user), -1),
             nullif((SELECT datconnlimit FROM pg_database WHERE datname = current_database()), -1))
"""


@dataclass(frozen=True)
class FleetOptions:
    """What makes several runs of one: a run for each tenant, for each set of a file, or both."""

    each_tenant: bool
    sets: Path | None
    tenants: Sequence[str]
    jobs: int
    resume: bool
    dask: str | None


def run_many(erp: Erp, opened: Notebook, job: Job, options: FleetOptions, as_json: bool) -> int:
    """Run a fleet and show it; return the exit code of the worst run."""
    print_target(erp.target)
    jobs = _plan(erp, opened, job, options)
    workers = options.jobs if options.dask else _bounded(erp, min(options.jobs, len(jobs)))
    erp.close()  # the runs have connections of their own
    file = (
        FleetFile.last(job.place, opened.path.stem) if options.resume else FleetFile.begin(job.place, opened.path.stem)
    )
    done, todo = file.split(jobs) if options.resume else ({}, jobs)
    problems: list[str] = []  # of the fleet's own files
    if done:
        note(f"{count_of(len(done), 'run')} of {len(jobs):,} done before")
    with _progress(len(todo)) as tell:

        def ended(name: str, outcome: RunResult | RunError) -> None:
            try:
                file.add(name, outcome)
            except OSError as error:
                problems.append(
                    f"{file.path} cannot be written: {error.strerror}; --resume does again what it does not hold"
                )
            tell(name, outcome)

        if options.dask:
            from erpkit.runs.dask import run_on_dask  # noqa: PLC0415 - an extra

            fleet = run_on_dask(options.dask, todo, ended)
        else:
            fleet = run_fleet(todo, workers, ended)
    if done:
        found = done | dict(fleet.results)
        fleet = replace(fleet, results={name: found[name] for name in jobs if name in found})
    page = ""
    try:
        page = file.write_page(opened.title, fleet, job.place)
        if "://" not in job.place:
            write_index(Path(job.place).absolute())
    except OSError as error:
        problems.append(f"the page and the index of the fleet cannot be written: {error.strerror}")
    _show(fleet, options, page, problems, as_json)
    return fleet.exit_code


def _plan(erp: Erp, opened: Notebook, job: Job, options: FleetOptions) -> dict[str, Job]:
    """Return the jobs by name; all that is wrong with them is said before one begins."""
    given = dict(job.parameters)
    if options.each_tenant and {"tenant", "tenants"} & set(given):
        raise UsageError("with --each-tenant, name tenants by --tenant")
    if not options.each_tenant and options.tenants:
        given |= tenant_parameter(opened, options.tenants)
    known = [parameter.name for parameter in opened.parameters]
    sets = name_sets(opened, given, read_sets(options.sets, known), options.sets) if options.sets else {"": given}
    named = dict(_with_tenants(erp, opened, sets, options)) if options.each_tenant else sets
    if not named:
        raise UsageError("no tenant is active: there is nothing to run")
    for name, values in named.items():
        if job.retry.times and not job.retry.writes and may_write(opened.parameters, values):
            raise UsageError(f"the run {name} of {opened.path.stem} may write: --retries needs --retry-writes")
    place = job.place if "://" in job.place else str(Path(job.place).absolute())
    return {name: replace(job, parameters=values, place=place) for name, values in named.items()}


def _with_tenants(
    erp: Erp, opened: Notebook, sets: Mapping[str, Mapping[str, Any]], options: FleetOptions
) -> Iterator[tuple[str, dict[str, Any]]]:
    found = erp.find(options.tenants)
    for tenant in found:
        if not options.tenants and not tenant.is_active:
            note(f"skipped {tenant.slug}: {tenant.status}")
            continue
        for name, values in sets.items():
            own = tenant_parameter(opened, [tenant.slug])
            if own.keys() & values.keys():
                raise UsageError(f"{options.sets} sets {', '.join(own)}, and so does --each-tenant")
            yield f"{tenant.slug} {name}".strip(), {**values, **own}


def _bounded(erp: Erp, wanted: int) -> int:
    """Return how many runs at a time the server has connections for; it is reached, as the tenants were read from it."""
    with erp.database.connection() as connection:
        (free,) = connection.execute(_FREE).fetchone() or (None,)
    most = max(1, wanted if free is None else int(free) // _PER_RUN)
    if most < wanted:
        say(f"note: {most} at a time instead of {wanted}: the server has {count_of(free, 'connection')} left", err=True)
    return min(wanted, most)


@contextmanager
def _progress(total: int) -> Iterator[Callable[[str, RunResult | RunError], None]]:
    """Show how far the fleet is: on a terminal a bar below the runs that did not end well, elsewhere a line for each run."""
    import sys  # noqa: PLC0415

    if not sys.stderr.isatty() or shown_as() == "json":
        yield lambda name, outcome: say(f"{name}: {_verdict(outcome)}", err=True)
        return
    from rich.console import Console  # noqa: PLC0415 - slow to import
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    text = TextColumn("{task.description}", markup=False)
    with Progress(text, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=Console(stderr=True)) as bar:
        task, counts = bar.add_task("running", total=total), dict[str, int]()

        def tell(name: str, outcome: RunResult | RunError) -> None:
            kind = outcome_of(outcome)
            counts[kind] = counts.get(kind, 0) + 1
            if kind not in ("ok", "findings"):
                say(f"{name}: {_verdict(outcome)}", err=True)
            bar.update(
                task,
                advance=1,
                description=", ".join(f"{number:,} {in_words(word)}" for word, number in counts.items()),
            )

        yield tell


def _verdict(outcome: RunResult | RunError) -> str:
    return outcome.verdict if isinstance(outcome, RunResult) else str(outcome)


def _show(fleet: FleetResult, options: FleetOptions, page: str, problems: Sequence[str], as_json: bool) -> None:
    what = "tenant" if options.each_tenant and not options.sets else "run"
    for problem in dict.fromkeys([*problems, *(one for result in fleet.results.values() for one in result.problems)]):
        say(f"note: {problem}", err=True)
    if as_json:
        print_json(as_rows(fleet, what))
    else:
        rows = [(row.name, row.verdict, _seconds(fleet, row), row.report) for row in fleet.rows]
        print_table([what, "outcome", "seconds", "report"], rows, right=["seconds"])
        print_findings([one for one in fleet.findings if not one.kind.startswith("run ")])
        note(f"{fleet}; {page}" if page else fleet)
    missing = [row.name for row in fleet.rows if row.outcome not in ("ok", "findings")]
    if missing:
        say(f"left: {name_some(missing, 10)}; the same command with --resume runs these alone", err=True)


def _seconds(fleet: FleetResult, row: Row) -> str:
    if row.seconds is None:
        return ""
    attempt = fleet.results[row.name].attempt
    return f"{row.seconds:.1f}" + (f", attempt {attempt}" if attempt > 1 else "")


def as_rows(fleet: FleetResult, what: str) -> list[dict[str, Any]]:
    """Return the document that `--json` prints: a row for each run."""
    rows: list[dict[str, Any]] = [{what: name, **as_dict(result)} for name, result in fleet.results.items()]
    rows += [{what: name, "outcome": outcome_of(error), "error": str(error)} for name, error in fleet.errors.items()]
    return rows + [{what: name, "outcome": "interrupted", "error": "not begun"} for name in fleet.left]


def as_dict(result: RunResult) -> dict[str, Any]:
    """Return one run as `--json` prints it."""
    return {
        "id": result.id, "notebook": result.notebook, "outcome": result.outcome, "exit_code": result.exit_code,
        "seconds": round(result.seconds, 2), "error": result.error, "findings": list(result.findings),
        "attempt": result.attempt, "output": result.places[0], "report": result.places[1],
        "problems": list(result.problems), "changes": result.changes.document() if result.changes else None,
    }  # fmt: skip
