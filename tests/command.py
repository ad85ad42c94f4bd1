"""Calling the command line, each time in a process of its own."""

from __future__ import annotations

import atexit
import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

__all__ = ["erpkit", "on_a_terminal", "refused", "rows_of", "start_on_a_terminal"]

_WAITING = re.compile(r"(\r[^\r\n]* working for \d+ s)+\r\x1b\[K")  # gone before anything else is printed


def erpkit(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run `erpkit` with these arguments and variables; a fork has the imports already, which are most of a call."""
    with TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        call = {
            "arguments": arguments,
            "environ": dict(os.environ | environ),
            "folder": str(Path.cwd()),
            "out": str(out),
            "err": str(err),
        }
        code = _call(json.dumps(call))
        return subprocess.CompletedProcess(["erpkit", *arguments], code, out.read_text(), err.read_text())


def on_a_terminal(*arguments: str, columns: int = 200, styles: bool = False, **environ: str) -> str:
    """Return what a command sends to a terminal of this width, without the `styles` that erpkit itself gives to it."""
    main, process = start_on_a_terminal(*arguments, columns=columns, **environ)
    sent = b""
    try:
        while part := os.read(main, 65536):
            sent += part
    except OSError:  # Linux's way to say that the other end is closed
        pass
    process.wait(60)
    os.close(main)
    shown = _WAITING.sub("", sent.decode())
    return (shown if styles else re.sub(r"\x1b\[[0-9;]*m", "", shown)).replace("\r\n", "\n")


def start_on_a_terminal(*arguments: str, columns: int = 200, **environ: str) -> tuple[int, subprocess.Popen[bytes]]:
    """Start a command on a terminal of this width; return the terminal's other end, and the process."""
    main, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    command = [sys.executable, "-c", "from erpkit.cli import main; main()", *arguments]
    given = os.environ | {"TERM": "xterm-256color"} | environ
    env = {name: value for name, value in given.items() if name not in ("COLUMNS", "LINES")}
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=terminal, stderr=terminal, env=env)
    os.close(terminal)
    return main, process


def refused(done: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    """Assert that a command failed with one clear line."""
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line and not line.startswith(("Usage:", "Try ", "target: "))]
    assert len(lines) == 1, done.stderr
    for word in words:
        assert word in lines[0]
    assert done.returncode == code


def rows_of(done: subprocess.CompletedProcess[str]) -> list[list[str]]:
    """Return what a command printed into a pipe as rows, after asserting that it is nothing but rows."""
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    assert len({len(row) for row in rows}) <= 1, done.stdout
    assert not re.search(r"\x1b|…|target:|dry run", done.stdout)
    return rows


def _call(line: str) -> int:
    process = _server()
    assert process.stdin
    assert process.stdout
    process.stdin.write(line + "\n")
    process.stdin.flush()
    return int(process.stdout.readline())


@cache
def _server() -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("forked.py"))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    atexit.register(_end, process)
    return process


def _end(process: subprocess.Popen[str]) -> None:
    with process:
        pass  # its input ends, and so does it
