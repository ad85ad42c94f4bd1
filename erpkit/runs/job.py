"""A run to be done by another process: its arguments as plain values, and doing it there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from erpkit.config import Settings
from erpkit.database import Database
from erpkit.runs.notebook import open_notebook
from erpkit.runs.record import Recorder
from erpkit.runs.result import RunResult
from erpkit.runs.run import Retry, run_notebook
from erpkit.runs.stopper import TimeLimits


@dataclass(frozen=True)
class Job:
    """A run to be done: the arguments of `run_notebook`, as plain values."""

    notebook: str
    parameters: Mapping[str, Any]
    place: str
    limits: TimeLimits
    retry: Retry
    kernel: str | None = None
    cwd: str | None = None
    stem: str | None = None

    def to_json(self) -> str:
        """Return the job as one line; nothing of it is on a command line, which every user of the machine can read."""
        from pydantic import TypeAdapter  # noqa: PLC0415 - slow to import

        return TypeAdapter(Job).dump_json(self).decode()


def result_to_json(result: RunResult) -> str:
    """Return a result as one line of JSON."""
    from pydantic import TypeAdapter  # noqa: PLC0415

    return TypeAdapter(RunResult).dump_json(result).decode()


def read_result(text: str | bytes) -> RunResult:
    """Return the result that `result_to_json` wrote."""
    from pydantic import TypeAdapter  # noqa: PLC0415

    return TypeAdapter(RunResult).validate_json(text)


@contextmanager
def open_recorder(settings: Settings) -> Iterator[Recorder]:
    """Yield the recorder for the configured database; where that does not answer, the recorder has the reason in `problem`."""
    with ExitStack() as stack:
        yield Recorder.opening(lambda: stack.enter_context(Database.open(settings)), settings.home)


class JobRunner:
    """Does jobs in this process, one after another, and keeps what records them."""

    def __init__(self) -> None:
        self._kept = ExitStack()
        self._recorder: Recorder | None = None

    def do(self, text: str) -> str:
        """Run a job given as JSON; return its result as JSON. The index of its folder is left to the fleet."""
        from pydantic import TypeAdapter  # noqa: PLC0415

        job = TypeAdapter(Job).validate_json(text)
        result = run_notebook(
            open_notebook(job.notebook), job.parameters, job.place, job.stem,
            limits=job.limits, retry=job.retry, kernel=job.kernel, recorder=self._open(), index=None, cwd=job.cwd,
        )  # fmt: skip
        return result_to_json(result)

    def close(self) -> None:
        """Close the connections."""
        if self._recorder is not None:
            self._recorder.settle()
        self._kept.close()

    def _open(self) -> Recorder:
        """Return the recorder, which records first what the database could not take before; one without a database is opened anew."""
        if self._recorder is not None:
            self._recorder.settle()
        if self._recorder is None or self._recorder.is_off:
            self._kept.close()
            self._recorder = self._kept.enter_context(open_recorder(Settings.from_env()))
        return self._recorder
