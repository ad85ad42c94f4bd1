"""A process that has imported the command line once, and forks for each call of it: `tests.command` starts it.

A line of JSON on standard input is a call; the line that answers it is the exit code.
"""

import atexit
import gc
import json
import os
import signal
import sys
import threading
import traceback
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

import psycopg_pool  # noqa: F401 - most commands import this and the following when they are called
import pydantic  # noqa: F401
import rich.console
import rich.table  # noqa: F401

import erpkit.cli
import erpkit.sample

_PATIENCE = 120  # seconds
_LATE = {  # what a command imports when it is called
    "demo": ("erpkit.runs.engine", "ipykernel.kernelspec", "IPython", "nbconvert.exporters.html", "pandas"),
    "mcp": ("erpkit.app.tools",),
    "modules": ("grimp", "networkx", "sqlglot"),
    "queries": ("sqlglot",),
    "run": ("erpkit.runs.engine", "ipykernel.kernelspec", "IPython", "nbconvert.exporters.html"),
}


def main() -> None:
    """Answer calls until standard input ends; in a fork, be the command that was called."""
    for package in (erpkit.cli, erpkit.sample):
        for module in iter_modules(package.__path__, f"{package.__name__}."):
            import_module(module.name)
    for line in sys.stdin:
        call = json.loads(line)
        for name in _LATE.get(next(iter(call["arguments"]), ""), ()):
            import_module(name)
        gc.freeze()  # a fork need not copy the pages of what is there for good
        if (pid := os.fork()) == 0:
            _become(**call)
            _end(_run())
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        print(code, flush=True)


def _become(arguments: list[str], environ: dict[str, str], folder: str, out: str, err: str) -> None:
    """Have what a process that a shell starts has: arguments, environment, folder, and standard streams of its own."""
    signal.alarm(_PATIENCE)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environ)
    sys.argv = ["erpkit", *arguments]
    sys.path[:0] = filter(None, environ.get("PYTHONPATH", "").split(os.pathsep))
    sys.stdin = open(os.devnull)  # noqa: SIM115, PTH123
    streams: list[tuple[Any, int]] = [(open(out, "w"), 1), (open(err, "w"), 2)]  # noqa: SIM115, PTH123
    for stream, number in streams:
        os.dup2(stream.fileno(), number)


def _run() -> int:
    try:
        erpkit.cli.main()
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        print(end.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    return 1


def _end(code: int) -> None:
    """End as the interpreter does, but for taking all modules to pieces, which takes longer than most commands."""
    threading._shutdown()  # type: ignore[attr-defined] # waits for the threads
    atexit._run_exitfuncs()
    gc.collect()  # what is left open complains now
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
