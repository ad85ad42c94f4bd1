"""A process that has imported the command line once, and forks for each call of it: `tests.command` starts it.

A line of JSON on standard input is a call; the line that answers it is the exit code.
"""

import json
import os
import signal
import sys
from typing import Any

import nbformat  # noqa: F401 - this and the following are what most commands import
import psycopg_pool  # noqa: F401
import pydantic  # noqa: F401
import rich.console
import rich.table  # noqa: F401

import erpkit.cli
import erpkit.events
import erpkit.migrations
import erpkit.tenants

_PATIENCE = 120  # seconds


def main() -> None:
    """Answer calls until standard input ends; in a fork, be the command that was called."""
    for line in sys.stdin:
        if (pid := os.fork()) == 0:
            _become(**json.loads(line))
            erpkit.cli.main()
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        print(code, flush=True)


def _become(arguments: list[str], environ: dict[str, str], folder: str, out: str, err: str) -> None:
    """Have what a process that a shell starts has: arguments, environment, folder, and standard streams of its own."""
    signal.alarm(_PATIENCE)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environ)
    sys.argv = ["erpkit", *arguments]
    sys.stdin = open(os.devnull)  # noqa: SIM115, PTH123
    streams: list[tuple[Any, int]] = [(open(out, "w"), 1), (open(err, "w"), 2)]  # noqa: SIM115, PTH123
    for stream, number in streams:
        os.dup2(stream.fileno(), number)


if __name__ == "__main__":
    main()
