"""jupyter_client's way to start a kernel, over the warm process: a kernelspec names it, and every client then has it.

The kernel `erpkit` names it (`papermill -k erpkit`, `pytest --nbval-kernel-name=erpkit`, JupyterLab's launcher);
`erpkit run` uses it for any notebook whose kernel is that of its own Python.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from contextlib import suppress
from typing import Any, cast

from jupyter_client.provisioning.local_provisioner import LocalProvisioner
from traitlets import Bool, Unicode

from erpkit.kernels import link
from erpkit.kernels.place import NotRunningError, NoWarmKernelError, find_socket

NAME = "erpkit-warm"
_START = 60.0  # seconds for a kernel's sockets to be bound
_END = 1.0  # seconds for a kernel that was killed to end


class WarmProvisioner(LocalProvisioner):
    """Forks the kernel from the warm process of this user; starts it the usual way where none serves.

    `cold` then says why, and `state` is `warm`, `cold: reason`, or `cold (reason)` where that is as expected. Where no warm
    process runs, one is started in the background for the next kernel, unless `starts` says no.
    """

    starts = Bool(True, config=True)
    cold = Unicode("")
    state = Unicode("")

    async def launch_kernel(self, cmd: list[str], **options: Any) -> Any:
        """Start the kernel and return how to connect to it; of a forked one, when its sockets are bound."""
        self.cold, self.state = "", "warm"
        try:
            forked = _fork(cmd, options)
        except NoWarmKernelError as reason:
            self.cold = str(reason)
            self.state = f"cold ({reason})" if reason.is_expected else f"cold: {reason}"
            self.log.log(logging.DEBUG if reason.is_expected else logging.WARNING, "a cold kernel: %s", reason)
            if reason.is_expected and self.starts:
                self._start_next(options)
            return await super().launch_kernel(cmd, **options)
        self.process = cast("Any", forked)  # as a Popen is used
        self.pid = forked.pid
        self.pgid = None  # signals go by way of its parent
        self.cwd = options.get("cwd") or os.getcwd()  # noqa: PTH109
        with suppress(TimeoutError):  # the client finds out why it does not answer
            await asyncio.wait_for(_ready(forked), _START)
        return self.connection_info

    async def wait(self) -> int | None:
        """Return the exit code as soon as there is one."""
        process: Any = self.process
        if not isinstance(process, link.Link):
            return await super().wait()
        await self.ended()
        self.process = None
        return process.returncode

    async def kill(self, restart: bool = False) -> None:
        """Kill the kernel; of a forked one wait for the end, which is near: jupyter_client would look again only after 100 ms."""
        await super().kill(restart)
        if isinstance(cast("Any", self.process), link.Link):
            with suppress(TimeoutError):
                await asyncio.wait_for(self.ended(), _END)

    async def ended(self) -> None:
        """Wait for the end of the kernel, without forgetting it."""
        process: Any = self.process
        while isinstance(process, link.Link) and process.poll() is None:
            await _readable(process)
        if process is not None and not isinstance(process, link.Link):
            while process.poll() is None:
                await asyncio.sleep(0.05)

    def send_now(self, number: int) -> bool:
        """Signal a forked kernel from any thread; tell whether it is one."""
        process: Any = self.process
        if not isinstance(process, link.Link):
            return False
        process.send_signal(number)
        return True

    def _start_next(self, options: dict[str, Any]) -> None:
        try:
            link.start(options.get("env"), wait=False)
        except NoWarmKernelError as reason:
            self.log.warning("no warm process for the next kernel: %s", reason)


def _fork(cmd: list[str], options: dict[str, Any]) -> link.Link:
    if cmd[:3] != [sys.executable, "-m", "ipykernel_launcher"]:
        raise NotRunningError("it is another Python's kernel")
    streams, opened = _streams(options)
    try:
        env = options.get("env") or os.environ
        return link.Link(find_socket(env), "kernel", cmd[3:], env=env, cwd=options.get("cwd"), streams=streams)
    finally:
        for stream in opened:
            os.close(stream)


def _streams(options: dict[str, Any]) -> tuple[list[int], list[int]]:
    """Return the descriptors of the kernel's standard streams, and which of them were opened for that."""
    null = os.open(os.devnull, os.O_RDWR)
    given = [options.get("stdout"), options.get("stderr")]
    found = [
        number if one is None else one if isinstance(one, int) else one.fileno() for number, one in enumerate(given, 1)
    ]
    return [null, *(one if one >= 0 else null for one in found)], [null]


async def _ready(process: link.Link) -> None:
    while process.poll() is None and not process.ready:
        await _readable(process)


async def _readable(process: link.Link) -> None:
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    try:
        number = os.dup(process.fileno())  # the loop knows one reader of a descriptor
    except (OSError, ValueError):  # another thread heard of its end
        return
    loop.add_reader(number, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(number)
        os.close(number)
