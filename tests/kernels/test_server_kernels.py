"""What JupyterLab's server does with a kernel works with a forked one: restart it, interrupt it, and start one that died anew."""

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest
from jupyter_server.services.kernels.kernelmanager import AsyncMappingKernelManager

from erpkit.kernels import link
from tests.kernels.conftest import PATIENCE, is_alive


async def _said(manager: Any, code: str) -> str:
    """Return what a cell prints, or the name of its error."""
    client = manager.client()
    client.start_channels(hb=False)
    try:
        await client.wait_for_ready(timeout=PATIENCE)
        printed: list[str] = []

        def hear(message: Any) -> None:
            printed.append(message["content"].get("text", "") + message["content"].get("ename", ""))

        await client._async_execute_interactive(code, timeout=PATIENCE, output_hook=hear)
        return "".join(printed).strip()
    finally:
        client.stop_channels()


async def _use(folder: Path, warm_pid: int) -> None:
    kernels: Any = AsyncMappingKernelManager(root_dir=str(folder), connection_dir=str(folder))  # type: ignore[no-untyped-call]
    name = await kernels.start_kernel(kernel_name="erpkit")
    manager: Any = kernels.get_kernel(name)
    shows = "import os; print(os.getpid(), os.getppid())"
    try:
        pids = [(await _said(manager, shows)).split()]
        mark = folder / "mark"
        waits = asyncio.ensure_future(_said(manager, f"import time; open({str(mark)!r}, 'w').close(); time.sleep(600)"))
        while not mark.exists():
            await asyncio.sleep(0.05)
        await kernels.interrupt_kernel(name)
        assert await waits == "KeyboardInterrupt"
        await kernels.restart_kernel(name)
        pids.append((await _said(manager, shows)).split())
        os.kill(int(pids[1][0]), 9)  # as the system does that has no memory left
        while manager.provisioner.pid == int(pids[1][0]) or not await manager.is_alive():
            await asyncio.sleep(0.05)
        pids.append((await _said(manager, shows)).split())
        assert len({own for own, _ in pids}) == 3
        assert {int(parent) for _, parent in pids} == {warm_pid}
    finally:
        await kernels.shutdown_kernel(name, now=True)
    assert not any(is_alive(int(own)) for own, _ in pids)


@pytest.mark.filterwarnings("ignore")  # jupyter_server's own, about its configuration
def test_a_server_restarts_interrupts_and_revives_a_forked_kernel(warm: Path, warm_pid: int, tmp_path: Path) -> None:
    asyncio.run(asyncio.wait_for(_use(tmp_path, warm_pid), 3 * PATIENCE))
    assert link.ask("status", warm)["running"] == []
