"""A client's side of the warm process: fork a kernel or a command there, signal it, and learn how it ended.

It imports little, as a command that is forked is over sooner than most imports.
"""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from erpkit.kernels.place import NotRunningError, NoWarmKernelError, find_socket, fixed

_PATIENCE = 30.0  # seconds for the warm process to answer
_START = 120.0  # seconds for it to import all
_LOOK = 0.05  # seconds between two looks at whether another client has started it
_LONGEST = 1 << 20  # bytes of a message
_KEPT = ("PATH", "USER", "LOGNAME", "XDG_RUNTIME_DIR", "TMPDIR", "ERPKIT_WARM_IDLE")
PRELOAD = "erpkit.runs.preload"  # what imports, beside a kernel's own, what runs and notebooks use
_BOOT = "import sys; del sys.path[0]; from erpkit.kernels.warm import serve; serve(*sys.argv[1:])"


class Link:
    """A process that was forked from the warm one: like `subprocess.Popen`, with `fileno()` that is readable at news.

    While the connection is open the process lives; when its client dies, the warm process kills it with all its group.
    Raises NoWarmKernelError when none could be forked.
    """

    stdin = stdout = stderr = None  # as of a Popen without pipes

    def __init__(
        self, path: Path, role: str, argv: Sequence[str], *, env: Mapping[str, str] | None = None,
        cwd: str | os.PathLike[str] | None = None, streams: Sequence[int] = (0, 1, 2),
    ) -> None:  # fmt: skip
        self.returncode: int | None = None
        self.ready = False
        self.lost = False  # whether the warm process died
        request = {
            "role": role, "argv": list(argv), "env": dict(os.environ if env is None else env), "cwd": str(cwd or os.getcwd()),  # noqa: PTH109
            "umask": _umask(), "limits": _limits(), "ignored": _ignored(), "nice": os.nice(0),
            "processors": sorted(os.sched_getaffinity(0)),
        }  # fmt: skip
        self._socket = _connect(path)
        try:
            answer = _ask(self._socket, request, streams)
            if "exit" in answer:
                raise NoWarmKernelError("the forked process ended at once")
        except NoWarmKernelError:
            self._socket.close()
            raise
        self.pid = int(answer["pid"])

    def fileno(self) -> int:
        """Return a file descriptor that can be read when the process is ready or has ended."""
        return self._socket.fileno()

    def poll(self) -> int | None:
        """Return the exit code, minus the signal that killed it; None while it runs."""
        while self.returncode is None and select.select([self._socket], [], [], 0)[0]:
            self._hear()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end and return the exit code; raises TimeoutError after `timeout` seconds."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while self.returncode is None:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not select.select([self._socket], [], [], left)[0]:
                raise TimeoutError(f"process {self.pid} still runs")
            self._hear()
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Signal the group of the process, by way of its parent: its id may be another's by now. Any thread may call this."""
        if self.returncode is None:
            with suppress(OSError):
                self._socket.send(json.dumps({"signal": number}).encode())

    def kill(self) -> None:
        """Kill the group of the process."""
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        """Ask the group of the process to end."""
        self.send_signal(signal.SIGTERM)

    def _hear(self) -> None:
        try:
            news = json.loads(self._socket.recv(_LONGEST, socket.MSG_DONTWAIT) or "{}")
        except BlockingIOError:  # another thread heard it
            return
        except OSError:
            news = {}
        if "ready" in news:
            self.ready = True
            return
        self.lost = "exit" not in news
        self.returncode = int(news.get("exit", -signal.SIGKILL))  # its parent died, and it with it
        self._socket.close()


def ask(role: str, path: Path) -> dict[str, Any]:
    """Return the answer of the warm process at `path` to `ping`, `status`, `retire` or `stop`."""
    with _connect(path) as connection:
        return _ask(connection, {"role": role}, ())


def start(environ: Mapping[str, str] | None = None, *, wait: bool = True, preload: str = PRELOAD) -> Path:
    """Return the socket of a warm process that serves, and start one, which imports `preload`, where there is none.

    Without `wait` it is started in the background. Raises NoWarmKernelError where it does not start.
    """
    env = os.environ if environ is None else environ
    path = find_socket(env)
    with path.with_name("start.lock").open("w") as lock:  # of several that want one, one starts it
        deadline = time.monotonic() + (_START if wait else 0)
        while not _locked(lock):
            if not wait:
                return path
            if time.monotonic() > deadline:
                raise NoWarmKernelError("the warm process that was started does not serve yet")
            time.sleep(_LOOK)
        try:
            ask("ping", path)
        except NoWarmKernelError:
            _start(path, env, lock.fileno(), preload, wait)
    return path


def call(main: str, argv: Sequence[str]) -> int:
    """Run the function `main` (`package.module:function`) with these arguments in a fork; pass signals on to it.

    Its standard streams, folder and environment are this process's own. Raises NoWarmKernelError before anything ran.
    """
    link = Link(find_socket(os.environ), "call", [main, *argv])
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # nohup ignores it
            signal.signal(number, lambda number, _: link.send_signal(number))
    code = link.wait()
    if code < 0:
        why = "the warm process that it was forked from ended" if link.lost else signal.Signals(-code).name
        print(f"erpkit: killed: {why}", file=sys.stderr)
    return 128 - code if code < 0 else code


def _start(path: Path, environ: Mapping[str, str], lock: int, preload: str, wait: bool) -> None:
    import subprocess  # noqa: PLC0415 - slow to import for a client that only calls

    log = path.with_suffix(".log")
    out, begun = os.pipe()
    with os.fdopen(out, "rb", buffering=0) as news, log.open("wb") as errors:
        # The lock is held by whoever holds its descriptor, the warm process too until it serves.
        command = [sys.executable, *_flags(subprocess), "-c", _BOOT, str(path), preload, str(begun), str(lock)]
        kept = {name: environ[name] for name in _KEPT if name in environ}
        subprocess.run(  # it returns at once: what serves is a fork of it
            command, stdin=subprocess.DEVNULL, stdout=errors, stderr=errors, start_new_session=True, cwd="/",
            env=fixed(environ) | kept, pass_fds=[begun, lock], check=False,
        )  # fmt: skip
        os.close(begun)
        if wait and not (select.select([news], [], [], _START)[0] and news.read(1)):
            said = log.read_text(errors="replace").strip().splitlines()
            raise NoWarmKernelError(f"the warm process did not start{f': {said[-1]}' if said else ''}")


def _locked(file: IO[str]) -> bool:
    import fcntl  # noqa: PLC0415 - where it is needed the system has it

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _flags(subprocess: Any) -> list[str]:
    """Return the options of this interpreter, as `multiprocessing` repeats them."""
    return list(subprocess._args_from_interpreter_flags())


def _connect(path: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection.settimeout(_PATIENCE)
    try:
        connection.connect(str(path))
    except OSError:
        connection.close()
        raise NotRunningError("no warm process runs") from None
    return connection


def _ask(connection: socket.socket, request: Mapping[str, Any], streams: Sequence[int]) -> dict[str, Any]:
    try:
        socket.send_fds(connection, [json.dumps(request).encode()], list(streams))
        answer = json.loads(connection.recv(_LONGEST) or "{}")
    except OSError as error:  # an environment of more than 200 KB does not fit into a message
        raise NoWarmKernelError(f"the warm process did not answer: {error}") from None
    if not answer:
        raise NoWarmKernelError("the warm process ended while it was asked")
    if "refused" in answer:
        raise NoWarmKernelError(str(answer["refused"]))
    return dict(answer)


def _umask() -> int:
    """Return the umask without setting it, as other threads may make files meanwhile."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1], 8) for line in lines if line.startswith("Umask:"))


def _ignored() -> list[int]:
    """Return the signals that this process ignores."""
    return [int(number) for number in signal.valid_signals() if signal.getsignal(number) == signal.SIG_IGN]


def _limits() -> dict[str, tuple[int, int]]:
    names = [name for name in dir(resource) if name.startswith("RLIMIT_")]
    return {name: resource.getrlimit(getattr(resource, name)) for name in names}
