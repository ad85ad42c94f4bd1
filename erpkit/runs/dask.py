"""A fleet on a Dask cluster: its workers do the runs, its scheduler begins the runs of a lost worker again on another one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from uuid import uuid4

from erpkit.errors import RunError, UsageError, first_line
from erpkit.runs.fleet import Done, FleetResult, gather
from erpkit.runs.job import Job, read_result, result_to_json
from erpkit.runs.notebook import open_notebook
from erpkit.runs.parameters import may_write
from erpkit.runs.result import RunResult
from erpkit.runs.workers import Workers
from erpkit.signals import stop_at_signals

_REACH = 10  # seconds for the scheduler to answer, or what Dask is configured to wait, where that is less
_LOOK = 0.5  # seconds between two looks at whether the fleet is to stop

_workers: Workers | None = None
_lock = threading.Lock()


def run_on_dask(
    address: str, jobs: Mapping[str, Job], progress: Callable[[str, RunResult | RunError], object]
) -> FleetResult:
    """Run the jobs on the cluster whose scheduler is at `address`; its workers need erpkit, the notebook's path and the database.

    A run whose worker was lost is done again, unless it may write: that one has no result. Ctrl-C and SIGTERM begin no other
    run, and let those that are under way end. Raises UsageError where the scheduler does not answer.
    """
    try:
        from dask import config  # noqa: PLC0415 - an extra
        from dask.utils import parse_timedelta  # noqa: PLC0415
        from distributed import Client  # noqa: PLC0415
    except ModuleNotFoundError:
        raise UsageError("--dask needs Dask: pip install 'erpkit[dask]'") from None
    reach = min(_REACH, parse_timedelta(config.get("distributed.comm.timeouts.connect")))
    try:
        client = Client(address, timeout=reach)
    except (OSError, ValueError) as error:
        raise UsageError(f"the Dask scheduler at {address} does not answer: {first_line(error)}") from None
    with client, stop_at_signals() as stop:
        return gather(jobs, _on_cluster(client, jobs, stop), progress)


def _on_cluster(client: Any, jobs: Mapping[str, Job], stop: threading.Event) -> Iterator[Done]:
    from distributed import as_completed  # noqa: PLC0415

    if not client.scheduler_info()["workers"]:
        raise UsageError("the Dask cluster has no workers")
    names = {f"erpkit-{uuid4().hex}": name for name in jobs}
    futures = [
        client.submit(
            do, jobs[name].to_json(), key if _may_write(jobs[name]) else None, key=key, pure=False, priority=-number
        )
        for number, (key, name) in enumerate(names.items())
    ]
    over = threading.Event()
    canceller = threading.Thread(target=_cancel_at, args=(stop, over, client, futures))
    canceller.start()
    try:
        for future in as_completed(futures):
            yield names[future.key], _outcome(future)
            future.release()  # its result is not kept twice
    finally:
        over.set()
        canceller.join()


def _cancel_at(stop: threading.Event, over: threading.Event, client: Any, futures: list[Any]) -> None:
    """Cancel what was not begun when the fleet is to stop."""
    while not over.wait(_LOOK):
        if stop.is_set():
            running = {key for keys in client.processing().values() for key in keys}
            client.cancel([future for future in futures if future.status == "pending" and future.key not in running])
            return


def _may_write(job: Job) -> bool:
    return may_write(open_notebook(job.notebook).parameters, job.parameters)


def _outcome(future: Any) -> RunResult | RunError | None:
    if future.status == "cancelled":
        return None
    error = future.exception()
    if error is not None:
        return (
            error if isinstance(error, RunError) else RunError(f"the worker of the run was lost: {first_line(error)}")
        )
    return read_result(future.result())


def do(job: str, once: str | None) -> str:
    """Do a job on a worker of the cluster, in a process of its own. `once` names a run that is not begun a second time."""
    from distributed import Event, get_client  # noqa: PLC0415
    from pydantic import TypeAdapter  # noqa: PLC0415

    if once is not None:
        begun = Event(once, client=get_client())
        if begun.is_set():
            raise RunError("its worker was lost; it was not started again, because it may write")
        begun.set()
    result = _own_workers().run(TypeAdapter(Job).validate_json(job))
    if result is None:
        raise RunError("the worker was stopped")
    return result_to_json(result)


def _own_workers() -> Workers:
    """Return the processes of this worker; they end with it, as their input ends."""
    global _workers
    with _lock:
        _workers = _workers or Workers()
        return _workers
