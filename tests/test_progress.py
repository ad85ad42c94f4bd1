"""The bar: seen by whoever watches, and nowhere else."""

import os
import pty
import subprocess
import sys
import termios
from collections.abc import Iterator

import pytest
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import start_new_kernel

WORK = """
import time
from erpkit.ui.progress import progress_bar
with progress_bar(3, "tenants", after={after}) as done:
    for _ in range(3):
        time.sleep(0.15)
        done(1)
"""


def _in_a_terminal(work: str) -> bytes:
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    process = subprocess.Popen([sys.executable, "-c", work], stderr=theirs)
    os.close(theirs)
    seen = b""
    try:
        while chunk := os.read(ours, 4096):
            seen += chunk
    except OSError:  # Linux tells so that the other side is closed
        pass
    os.close(ours)
    assert process.wait(60) == 0
    return seen


def test_a_terminal_shows_a_bar_that_is_wiped_at_the_end() -> None:
    seen = _in_a_terminal(WORK.format(after=0))
    assert b"tenants:  67%" in seen
    assert not seen.split(b"\r")[-2].strip()


def test_what_is_done_soon_draws_nothing() -> None:
    assert b"%" not in _in_a_terminal(WORK.format(after=60))


def test_a_pipe_or_a_log_gets_nothing() -> None:
    done = subprocess.run([sys.executable, "-c", WORK.format(after=0)], capture_output=True, check=True)
    assert (done.stdout, done.stderr) == (b"", b"")


@pytest.fixture(scope="module")
def kernel() -> Iterator[BlockingKernelClient]:
    manager, client = start_new_kernel()
    yield client
    client.stop_channels()
    manager.shutdown_kernel(now=True)


def _outputs(kernel: BlockingKernelClient, allow_stdin: bool) -> list[str]:
    """Return the kinds of what a cell leaves in its output."""
    kinds = []

    def hook(message: dict[str, dict[str, str]]) -> None:
        kinds.append(message["header"]["msg_type"])

    reply = kernel.execute_interactive(WORK.format(after=0), allow_stdin=allow_stdin, output_hook=hook, timeout=60)
    assert reply["content"]["status"] == "ok"
    return [kind for kind in kinds if kind in ("stream", "display_data", "execute_result", "error")]


def test_a_headless_notebook_gets_nothing(kernel: BlockingKernelClient) -> None:
    assert _outputs(kernel, allow_stdin=False) == []


def test_a_notebook_that_a_person_runs_shows_a_bar(kernel: BlockingKernelClient) -> None:
    assert "display_data" in _outputs(kernel, allow_stdin=True)
