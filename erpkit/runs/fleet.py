"""Fleets: one run per tenant, several at a time, each in its own process, as papermill changes directory and a run may be killed."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from erpkit.config import Settings
from erpkit.database import Database
from erpkit.errors import RunError, UsageError
from erpkit.runs.notebook import Notebook, open_notebook
from erpkit.runs.record import Recorder
from erpkit.runs.result import Outcome, RunResult, worst_exit_code
from erpkit.runs.run import Retry, run_notebook
from erpkit.runs.secrets import Mask
from erpkit.runs.stopper import TimeLimits
from erpkit.signals import caught_signals


@dataclass(frozen=True)
class Job:
    """A run to be done: the arguments of `run_notebook`, as plain values."""

    notebook: str
    parameters: Mapping[str, Any]
    place: str
    limits: TimeLimits
    retry: Retry
    kernel: str | None = None

    def to_json(self) -> str:
        """Return the job as text; nothing of it is on a command line, which every user of the machine can read."""
        from pydantic import TypeAdapter  # noqa: PLC0415 - slow to import

        return TypeAdapter(Job).dump_json(self).decode()

    def read_result(self, text: str) -> RunResult:
        """Return the result that the job's process wrote."""
        from pydantic import TypeAdapter  # noqa: PLC0415

        return TypeAdapter(RunResult).validate_json(text)


@contextmanager
def open_recorder(settings: Settings) -> Iterator[Recorder]:
    """Yield the recorder for the configured database; where that does not answer, the recorder has the reason in `problem`."""
    with ExitStack() as stack:
        yield Recorder.opening(lambda: stack.enter_context(Database.open(settings)), settings.home)


def do_job(text: str) -> str:
    """Run a job given as JSON; return its result as JSON."""
    from pydantic import TypeAdapter  # noqa: PLC0415

    job = TypeAdapter(Job).validate_json(text)
    with open_recorder(Settings.from_env()) as recorder:
        result = run_notebook(
            open_notebook(job.notebook), job.parameters, job.place,
            limits=job.limits, retry=job.retry, kernel=job.kernel, recorder=recorder,
        )  # fmt: skip
    return TypeAdapter(RunResult).dump_json(result).decode()


@dataclass(frozen=True)
class FleetResult:
    """The result of a fleet: a result per tenant, why others have none, and which were not started."""

    results: Mapping[str, RunResult]
    errors: Mapping[str, str]
    left: tuple[str, ...] = ()

    @property
    def exit_code(self) -> int:
        """That of the worst run; one without a result counts as killed, one that was not started as interrupted."""
        outcomes: list[Outcome] = [result.outcome for result in self.results.values()]
        outcomes.extend("killed" for _ in self.errors)
        outcomes.extend("interrupted" for _ in self.left)
        return worst_exit_code(outcomes)


def tenant_parameter(notebook: Notebook, slugs: Sequence[str]) -> dict[str, Any]:
    """Return the parameter of `notebook` that takes these tenants; raises UsageError where there is none."""
    names = {parameter.name for parameter in notebook.parameters}
    if "tenants" in names:
        return {"tenants": list(slugs)}
    if "tenant" in names and len(slugs) == 1:
        return {"tenant": slugs[0]}
    wants = "takes one tenant: use --each-tenant" if "tenant" in names else "has no parameter for tenants"
    raise UsageError(f"{notebook.path.name} {wants}")


def run_fleet(
    jobs: Mapping[str, Job], workers: int, progress: Callable[[str, RunResult], object] = lambda *_: None
) -> FleetResult:
    """Run the job of each tenant, `workers` of them at a time; `progress` is called as each ends.

    Ctrl-C and SIGTERM are passed on to the runs that are under way, and no other is begun.
    """
    processes = _Processes()
    results: dict[str, RunResult] = {}
    errors: dict[str, str] = {}
    with processes.signals(), ThreadPoolExecutor(workers) as pool:
        futures = {pool.submit(processes.run, job): tenant for tenant, job in jobs.items()}
        for future in as_completed(futures):
            tenant, error = futures[future], future.exception()
            if isinstance(error, RunError):
                errors[tenant] = str(error)
            elif error is not None:
                raise error
            elif (result := future.result()) is not None:
                results[tenant] = result
            if tenant in results:
                progress(tenant, results[tenant])
    left = tuple(tenant for tenant in jobs if tenant not in results and tenant not in errors)
    return FleetResult({tenant: results[tenant] for tenant in jobs if tenant in results}, errors, left)


class _Processes:
    """The processes under way; they are in sessions of their own, so that a terminal's Ctrl-C reaches them once."""

    def __init__(self) -> None:
        self._running: set[subprocess.Popen[str]] = set()
        self._stopped = False

    def run(self, job: Job) -> RunResult | None:
        """Run one job to its end; None when the fleet was stopped before it began."""
        if self._stopped:
            return None
        command = [sys.executable, "-m", "erpkit.runs"]
        # Errors go to a file: a pipe would stay open as long as anything that a notebook left running.
        with tempfile.TemporaryFile("w+") as errors:
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, start_new_session=True
            )
            out = self._watch(process, job)
            errors.seek(0)
            err = errors.read()
        if self._stopped and process.returncode == -signal.SIGTERM:
            return None  # it was not yet so far that it could record anything
        if process.returncode != 0:
            raise RunError(_why(process.returncode, Mask(job.parameters).text(err)))
        return job.read_result(out)

    def _watch(self, process: subprocess.Popen[str], job: Job) -> str:
        self._running.add(process)
        try:
            if self._stopped:
                process.terminate()
            return process.communicate(job.to_json())[0]
        finally:
            self._running.discard(process)

    @contextmanager
    def signals(self) -> Iterator[None]:
        """Pass Ctrl-C, SIGTERM and a closed terminal on."""
        with caught_signals(self._stop, signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            yield

    def _stop(self, _: int) -> None:
        self._stopped = True
        for process in list(self._running):
            with suppress(ProcessLookupError):
                process.terminate()


def _why(code: int, err: str) -> str:
    if code < 0:
        return f"the process of the run was killed by {signal.Signals(-code).name}"
    return (err.strip().splitlines() or [f"the process of the run ended with exit code {code}"])[-1].removeprefix(
        "erpkit: "
    )
