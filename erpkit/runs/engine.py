"""papermill's engine for erpkit: it records the true status of each cell, and a run can be stopped."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import tempfile
from dataclasses import replace
from importlib import import_module
from queue import Empty
from typing import Any

from jupyter_client.manager import AsyncKernelManager
from jupyter_core.utils import run_sync
from nbclient.exceptions import CellExecutionError, DeadKernelError
from papermill.engines import NotebookExecutionManager, papermill_engines

from erpkit.errors import first_line
from erpkit.kernels.provisioner import NAME, WarmProvisioner
from erpkit.runs.cell_output import OutputKeeper, describe_cut
from erpkit.runs.notebook import write_notebook
from erpkit.runs.order import Order
from erpkit.runs.result import Ending
from erpkit.runs.secrets import Mask
from erpkit.runs.stopper import RUN, Stopper
from erpkit.runs.text import escape_surrogates

ENGINE = "erpkit"

_START = 60  # seconds for a kernel to answer
_LONGEST = 10_000  # characters of an error's line
_OUTPUT = 60  # seconds for what a cell printed to arrive after its end
_log = logging.getLogger("erpkit.runs.engine")
_log.propagate = False  # the outcome says it
_log.addHandler(logging.NullHandler())


class Attempt:
    """One execution of a notebook: what stops it, what masks its outputs, and, afterwards, its notebook and its ending."""

    def __init__(self, stopper: Stopper, mask: Mask, order: Order) -> None:
        self.stopper = stopper
        self.mask = mask
        self.order = order
        self.cut: list[str] = []  # of which cells the output was cut
        self.node: Any = None
        self.ending = Ending("ok")
        self.kernel = ""  # warm, or why it was a cold one
        self.said = tempfile.TemporaryFile()  # noqa: SIM115 - the kernel's own standard output and error; it goes with this

    def last_words(self) -> str:
        """Return the last line that the kernel's process wrote itself, after a colon; "" for none."""
        self.said.seek(max(0, self.said.seek(0, os.SEEK_END) - 10_000))
        lines = self.said.read().decode(errors="replace").split("\n")
        return next((f": {line.strip()}" for line in reversed(lines) if line.strip()), "")


class _Manager(NotebookExecutionManager):  # type: ignore[misc]
    """Leaves a cell that was not run `pending`; papermill would call it `completed` after a timeout or a kernel's death.

    Before it saves it masks what a secret in several outputs has left: each message was masked on its own.
    """

    def __init__(self, nb: Any, mask: Mask, order: Order) -> None:
        super().__init__(nb, output_path=None, progress_bar=False)
        self._mask = mask
        self._order = order
        self._cells: list[Any] = []

    def cell_start(self, cell: Any, cell_index: int | None = None, **_: Any) -> None:
        self._cells = [cell]
        self._order.progress(cell_index or 0, self.nb.cells)
        super().cell_start(cell, cell_index)

    def save(self, **_: Any) -> None:
        self._mask.streams(output for cell in self._cells for output in cell.get("outputs", ()))
        write_notebook(self.nb, self._order.output)
        self.last_save_time = self.now()

    def notebook_complete(self, **_: Any) -> None:
        self.end_time = self.now()
        self.nb.metadata.papermill["end_time"] = self.end_time.isoformat()
        self.nb.metadata.papermill["duration"] = (self.end_time - self.start_time).total_seconds()
        self._cells = list(self.nb.cells)
        self.save()


class _KernelManager(AsyncKernelManager):
    """Learns of its kernel's end at once; jupyter_client's own looks ten times a second."""

    async def _async_wait(self, pollinterval: float = 0.1) -> None:
        if isinstance(self.provisioner, WarmProvisioner):
            await self.provisioner.ended()
        else:
            await super()._async_wait(pollinterval)


class _Client(OutputKeeper):
    """Runs the cells until one of them ends the run."""

    def __init__(self, manager: _Manager, attempt: Attempt, **options: Any) -> None:
        super().__init__(manager, **options)
        self.attempt = attempt
        self.cell_index: int | None = None
        self.is_done = False

    def start_new_kernel(self, **options: Any) -> None:
        if self.km.ipykernel:
            self.set_trait("extra_arguments", ["--IPKernelApp.log_level=CRITICAL"])  # an interrupt need not be reported
        spec = self.km.kernel_spec
        if "kernel_provisioner" not in spec.metadata:  # a kernel that another program has to start is left to it
            own = {"provisioner_name": NAME, "config": {"starts": False}}
            spec.metadata = {**spec.metadata, "kernel_provisioner": own}
        # What a process of the kernel writes past Jupyter is not masked, and would stand among the answers of `--json`.
        super().start_new_kernel(stdout=self.attempt.said, stderr=self.attempt.said, **options)
        self.attempt.stopper.provisioner = self.km.provisioner
        self.attempt.kernel = getattr(self.km.provisioner, "state", "cold (another program starts it)")
        import_module("nbconvert.exporters.html")  # the report needs it, and a cold kernel takes as long to start

    async def async_start_new_kernel_client(self) -> Any:
        """Connect, and return as soon as the kernel answers on both channels; nbclient's own way waits for silence after that."""
        self.kc = self.km.client()
        self.kc.start_channels(hb=False)
        try:
            await asyncio.wait_for(self._answered(), self.startup_timeout)
        except TimeoutError:
            await self._async_cleanup_kernel()
            raise RuntimeError(f"Kernel didn't respond in {self.startup_timeout} seconds") from None
        except BaseException:
            await self._async_cleanup_kernel()
            raise
        self.kc.allow_stdin = False
        return self.kc

    start_new_kernel_client = run_sync(async_start_new_kernel_client)

    async def _answered(self) -> None:
        while True:
            asked = self.kc.kernel_info()
            try:
                while not _is_of(await self.kc.get_shell_msg(timeout=1), asked):
                    pass
                while not _is_of(await self.kc.get_iopub_msg(timeout=0.2), asked, "idle"):
                    pass
                return
            except Empty:  # iopub was not connected when it answered: ask again
                if not await self.km.is_alive():
                    raise RuntimeError("Kernel died before replying to kernel_info") from None

    def papermill_execute_cells(self) -> None:
        self.prepare_kernel()
        for index, cell in enumerate(self.nb.cells):
            self.cell_index = index
            if self.attempt.stopper.is_over():
                raise _StoppedError
            self.nb_man.cell_start(cell, index)
            with self.attempt.stopper.cell():
                self.execute_cell(cell, index)
            self.nb_man.cell_complete(cell, index)
        self.is_done = True

    def process_message(self, message: Any, *rest: Any) -> Any:
        message["content"] = self.attempt.mask.all(message["content"])
        return super().process_message(message, *rest)


def _is_of(message: Any, asked: str, state: str | None = None) -> bool:
    """Whether a message answers the request `asked`, with this state of the kernel if one is given."""
    return (message["parent_header"].get("msg_id"), message["content"].get("execution_state")) == (asked, state)


class _StoppedError(Exception):
    """The run had to stop between two cells."""


class _Engine:
    """What papermill calls to run a notebook."""

    @classmethod
    def execute_notebook(cls, nb: Any, kernel_name: str, attempt: Attempt, config: Any, **_: Any) -> Any:
        """Run the cells; the ending is told by `attempt`, not by an exception."""
        attempt.node = nb
        attempt.order.describe(nb)
        manager = _Manager(nb, attempt.mask, attempt.order)
        manager.notebook_start()
        start = math.ceil(min(_START, attempt.stopper.left() or _START))
        client = _Client(
            manager, attempt, kernel_name=kernel_name, startup_timeout=start, iopub_timeout=_OUTPUT, timeout=None,
            config=config, log=_log, kernel_manager_class=_KernelManager, output_limit=attempt.stopper.limits.output,
        )  # fmt: skip
        try:
            client.execute(env=dict(os.environ, **{RUN: attempt.order.run}))
        except (CellExecutionError, DeadKernelError, RuntimeError, TimeoutError, _StoppedError) as error:
            ending = _ending(client, error, attempt.stopper)
            said = ending.error and escape_surrogates(attempt.mask.text(ending.error))[:_LONGEST]
            attempt.ending = replace(ending, error=said)
        finally:
            attempt.cut = describe_cut(client.cut, client.output_limit)
            nb.metadata.setdefault("erpkit", {})["kernel"] = attempt.kernel
            manager.notebook_complete()
        return nb

    @classmethod
    def nb_kernel_name(cls, nb: Any, name: str | None = None) -> str:
        """Return the kernel that was asked for, else the notebook's."""
        return str(name or nb.metadata.kernelspec.name)

    @classmethod
    def nb_language(cls, nb: Any, language: str | None = None) -> str:  # noqa: ARG003 - papermill's signature
        """Return Python: what erpkit declares parameters in."""
        return language or "python"


def _ending(client: _Client, error: Exception, stopper: Stopper) -> Ending:
    if client.is_done:  # whatever became of its kernel then
        return Ending("ok")
    if stopper.is_over() and stopper.reason is not None:
        outcome, why = stopper.reason
        return Ending(outcome, why, client.cell_index if client.cell_index is not None else 0)
    if isinstance(error, CellExecutionError):
        if error.ename == "SystemExit" and error.evalue in ("", "0", "None"):
            return Ending("ok", None, client.cell_index)
        # The whole is masked before it is cut: half of a secret of several lines is one, too.
        return Ending(
            "failed",
            (client.attempt.mask.text(f"{error.ename}: {error.evalue}").splitlines() or [""])[0],
            client.cell_index,
        )
    if isinstance(error, DeadKernelError):
        return Ending("killed", f"the kernel died{_status(client)}", client.cell_index or 0)
    if client.cell_index is None:
        return Ending("failed", f"the kernel did not start: {first_line(error)}{client.attempt.last_words()}", 0)
    return Ending("failed", first_line(error), client.cell_index)


def _status(client: _Client) -> str:
    process = getattr(client.attempt.stopper.provisioner, "process", None)
    code = getattr(process, "returncode", None)
    if code is None:
        return ""
    return " of SIGKILL (out of memory?)" if code == -9 else f", exit status {code}"


papermill_engines.register(ENGINE, _Engine)
logging.getLogger("papermill").addHandler(logging.NullHandler())  # without one Python would print its warnings
