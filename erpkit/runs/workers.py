"""The processes that do a fleet's runs, one after another each: forked from the warm process, or started where there is none."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue
from typing import IO, Any

from erpkit.errors import AbortedRunError, ErpkitError, RunError
from erpkit.kernels import link
from erpkit.kernels.place import NoWarmKernelError
from erpkit.runs.job import Job, JobRunner, read_result
from erpkit.runs.result import RunResult
from erpkit.runs.secrets import Mask
from erpkit.signals import caught_signals

_MOST_RUNS = 100  # of one process; the next one begins with the memory that it began with


class Workers:
    """Lends a process for each run; those that are idle are used again. Signals are passed on to those that run."""

    def __init__(self) -> None:
        self._idle: SimpleQueue[_Worker] = SimpleQueue()
        self._running: set[_Worker] = set()
        self._stopped = False
        self._warm = True
        self.cold = ""

    def run(self, job: Job) -> RunResult | None:
        """Run one job to its end; None when the fleet was stopped before it began.

        Raises AbortedRunError for a run without a result, and RunError for a process that died.
        """
        if self._stopped:
            return None
        worker = self._take()
        self._running.add(worker)
        try:
            if self._stopped:
                worker.terminate()
            result = worker.run(job)
        except AbortedRunError:
            self._idle.put(worker)
            raise
        except RunError:
            code = worker.close()
            if self._stopped and code == -signal.SIGTERM:
                return None  # it was not yet so far that it could record anything
            raise
        finally:
            self._running.discard(worker)
        self._give_back(worker, result)
        return result

    def close(self) -> None:
        """End the processes."""
        with suppress(Empty):
            while True:
                self._idle.get_nowait().close()

    @contextmanager
    def signals(self) -> Iterator[None]:
        """Pass Ctrl-C, SIGTERM and a closed terminal on."""
        with caught_signals(self._stop, signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            yield

    def _stop(self, _: int) -> None:
        self._stopped = True
        for worker in list(self._running):
            worker.terminate()

    def _take(self) -> _Worker:
        try:
            return self._idle.get_nowait()
        except Empty:
            return self._start()

    def _give_back(self, worker: _Worker, result: RunResult) -> None:
        """Keep a process for the next run, unless it is used up or its code has been replaced meanwhile."""
        if worker.runs >= _MOST_RUNS or (worker.is_warm and result.kernel != "warm"):
            worker.close()
        else:
            self._idle.put(worker)

    def _start(self) -> _Worker:
        if self._warm:
            try:
                return _Worker(warm=True)
            except NoWarmKernelError as reason:
                self._warm, self.cold = False, "" if reason.is_expected else str(reason)
        return _Worker(warm=False)


class _Worker:
    """A process that takes jobs on its standard input and answers on its standard output, a line each."""

    def __init__(self, *, warm: bool) -> None:
        self.runs, self.is_warm = 0, warm
        # Errors go to a file: a pipe would stay open as long as anything that a notebook left running.
        self._errors: IO[str] = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 - closed with the process
        jobs, self._jobs_end = os.pipe()
        self._answers_end, answers = os.pipe()
        try:
            self._process = (
                _fork(jobs, answers, self._errors.fileno()) if warm else _launch(jobs, answers, self._errors)
            )
        except BaseException:
            os.close(self._jobs_end)
            os.close(self._answers_end)
            self._errors.close()
            raise
        finally:
            os.close(jobs)
            os.close(answers)
        self._answers = os.fdopen(self._answers_end, encoding="utf-8")

    def run(self, job: Job) -> RunResult:
        """Do a job; raises RunError with the reason when the process ends instead, or refuses."""
        self.runs += 1
        try:
            os.write(self._jobs_end, f"{job.to_json()}\n".encode())
        except BrokenPipeError:
            raise RunError(self._why(job)) from None
        line = self._answers.readline()
        if not line.endswith("\n"):
            raise RunError(self._why(job))
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise AbortedRunError(answer["error"])
        return read_result(answer["result"])

    def terminate(self) -> None:
        """Ask the run to end."""
        with suppress(ProcessLookupError):
            self._process.terminate()

    def close(self) -> int:
        """Let the process end, and return its exit code."""
        if not self._answers.closed:
            os.close(self._jobs_end)
            self._process.wait()
            self._answers.close()
            self._errors.close()
        return int(self._process.returncode or 0)

    def _why(self, job: Job) -> str:
        code = self._process.wait()
        if code < 0:
            return f"the process of the run was killed by {signal.Signals(-code).name}"
        self._errors.seek(0)
        said = Mask(job.parameters).text(self._errors.read()).strip().splitlines()
        return (said or [f"the process of the run ended with exit code {code}"])[-1].removeprefix("erpkit: ")


def _fork(jobs: int, answers: int, errors: int) -> link.Link:
    return link.Link(link.start(), "call", ["erpkit.runs.workers:work"], streams=(jobs, answers, errors))


def _launch(jobs: int, answers: int, errors: IO[str]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "erpkit.runs"]
    return subprocess.Popen(command, stdin=jobs, stdout=answers, stderr=errors, start_new_session=True)


def work() -> None:
    """Do the jobs that come on standard input, a line of JSON each, and answer each with a line."""
    # The kernels inherit standard input and output; what they or their children do with them must not disturb the answers.
    jobs, answers = os.fdopen(os.dup(0), encoding="utf-8"), os.fdopen(os.dup(1), "w", encoding="utf-8")
    with open(os.devnull, "rb") as null:  # noqa: PTH123
        os.dup2(null.fileno(), 0)
    os.dup2(2, 1)
    runner = JobRunner()
    for line in jobs:
        try:
            answer = {"result": runner.do(line)}
        except ErpkitError as error:
            answer = {"error": str(error)}
        answers.write(f"{json.dumps(answer)}\n")
        answers.flush()
    runner.close()
