"""What a fork of the warm process becomes: a kernel or a command that sees nothing but what its client has."""

from __future__ import annotations

import atexit
import ctypes
import gc
import io
import json
import os
import resource
import shutil
import signal
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn, TextIO, cast

_DEATH_SIGNAL, _NAME = 1, 15  # PR_SET_PDEATHSIG, PR_SET_NAME
_STREAMS = 2.0  # seconds for a kernel's control thread to end
_libc = ctypes.CDLL(None)


def become(request: dict[str, Any], streams: list[int], connection: socket.socket, parent: int) -> NoReturn:
    """Be the process that `request` describes, and end with its exit code."""
    code = 1
    try:
        _libc.prctl(_DEATH_SIGNAL, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
        os.setsid()
        _libc.prctl(_NAME, f"erpkit-{request['role']}".encode())
        _take_surroundings(request)
        _take_streams(streams)
        _begin_anew()
        code = _ROLES[request["role"]](request["argv"], connection)
    except SystemExit as end:
        code = _exit_code(end)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        _leave(code)


def sweep(argv: Sequence[str]) -> None:
    """Remove the connection file and the sockets of a kernel whose client was killed: nothing else would."""
    if "-f" not in argv[:-1]:
        return
    file = Path(argv[argv.index("-f") + 1])
    with suppress(OSError, ValueError, KeyError):
        facts = json.loads(file.read_text())
        file.unlink()
        if facts["transport"] == "ipc":
            prefix = Path(facts["ip"])
            for socket_file in prefix.parent.glob(f"{prefix.name}-*"):
                socket_file.unlink()
            if prefix.parent.name.startswith("erpkit-"):
                shutil.rmtree(prefix.parent, ignore_errors=True)


def _take_streams(streams: list[int]) -> None:
    """Put the client's streams in the place of the standard ones, encoded as a new process would encode them."""
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    streams.clear()
    system: Any = sys  # its streams are files of any kind
    system.stdin = system.__stdin__ = _open(0, "r", sys.stdin)
    system.stdout = system.__stdout__ = _open(1, "w", sys.stdout)
    system.stderr = system.__stderr__ = _open(2, "w", sys.stderr)


def _open(number: int, mode: str, like: TextIO) -> TextIO:
    by_line = 1 if number == 2 or os.isatty(number) or os.environ.get("PYTHONUNBUFFERED") else -1
    return cast("TextIO", open(number, mode, by_line, like.encoding, like.errors, closefd=False))


def _take_surroundings(request: dict[str, Any]) -> None:
    os.umask(request["umask"])
    for name, limit in request["limits"].items():
        with suppress(ValueError, OSError):
            resource.setrlimit(getattr(resource, name), limit)
    os.setpriority(os.PRIO_PROCESS, 0, request["nice"])
    with suppress(OSError):  # of a machine whose processors changed meanwhile
        os.sched_setaffinity(0, request["processors"])
    _take_ignored(set(request["ignored"]))
    os.environ.clear()
    os.environ.update(request["env"])
    os.environ.pop("JPY_PARENT_PID", None)  # of another kernel, which may have started all this
    time.tzset()
    os.chdir(request["cwd"])


def _take_ignored(ignored: set[int]) -> None:
    """Ignore the signals that the client ignores, and no others but those that Python itself ignores."""
    own = {signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ, signal.SIGKILL, signal.SIGSTOP}
    for number in signal.valid_signals() - own:
        if (number in ignored) != (signal.getsignal(number) == signal.SIG_IGN):
            signal.signal(number, signal.SIG_IGN if number in ignored else signal.SIG_DFL)


def _begin_anew() -> None:
    """Forget what the warm process has in memory and a new one has not; Python's own `random` does so itself."""
    gc.enable()
    atexit.unregister(
        shutil.rmtree
    )  # of folders that are the warm process's own, such as matplotlib's where HOME has none
    sys.dont_write_bytecode = bool(os.environ.get("PYTHONDONTWRITEBYTECODE"))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    loaded: Mapping[str, Any] = sys.modules
    if "numpy" in loaded:
        loaded["numpy"].random.seed()
    if "tempfile" in loaded:
        loaded["tempfile"].tempdir = None
    if "multiprocessing.process" in loaded:
        loaded["multiprocessing.process"].current_process().authkey = os.urandom(32)


def _kernel(argv: list[str], connection: socket.socket) -> int:
    from ipykernel.kernelapp import IPKernelApp  # noqa: PLC0415 - the client's side has no need of it

    sys.argv = ["ipykernel_launcher.py", *argv]
    app: Any = IPKernelApp.instance()
    app.initialize([*argv, "--IPKernelApp.parent_handle=1"])  # its parent's death ends it: it need not look for that
    if "ipywidgets" in sys.modules:  # it registers with the kernel when it is imported
        sys.modules["ipywidgets"].register_comm_target()
    connection.send(b'{"ready": true}')  # a client that connects to sockets not yet bound tries again only after 100 ms
    connection.close()
    app.start()
    with suppress(AttributeError):
        app.control_thread.join(_STREAMS)  # else its last flush may wait for a thread that the exit handlers stop
    return 0


def _call(argv: list[str], connection: socket.socket) -> int:
    connection.close()
    module, _, function = argv[0].partition(":")
    sys.argv = [module.partition(".")[0], *argv[1:]]
    code = getattr(import_module(module), function)()
    return code if isinstance(code, int) else 0


_ROLES = {"kernel": _kernel, "call": _call}


def _exit_code(end: SystemExit) -> int:
    if end.code is None or isinstance(end.code, int):
        return (end.code or 0) & 0xFF
    print(end.code, file=sys.stderr)
    return 1


def _leave(code: int) -> NoReturn:
    """End as the interpreter does, but for taking all modules to pieces, which takes longer than a small run."""
    try:
        import threading  # noqa: PLC0415

        threading._shutdown()  # type: ignore[attr-defined] # waits for the threads
        atexit._run_exitfuncs()
        _write_out()
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(code)


def _write_out() -> None:
    """Write out what is left in open files, as their objects would when they go."""
    for one in gc.get_objects():
        if isinstance(one, (io.TextIOWrapper, io.BufferedWriter)):
            with suppress(ValueError, OSError):
                one.flush()
    sys.stdout.flush()
    sys.stderr.flush()
