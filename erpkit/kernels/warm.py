"""The warm process: it has imported what kernels and runs need, and forks one for each connection to its socket.

A connection lives as long as its process. Over it go a request with the standard streams; back, the process id or why it is
refused, `ready` once a kernel's sockets are bound, and at last the exit code; from the client, signals to send. When a
connection is closed the process and its group are killed, so that a kernel ends with its driver. When this process dies,
the system kills all that it forked.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import selectors
import signal
import socket
import struct
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

from erpkit.kernels.forked import become, sweep

_LOOK = 30.0  # seconds between two looks at whether it is still wanted
_IDLE = 600.0  # seconds without a process after which it ends
_FRESH = 0.5  # seconds for which a look at the loaded files counts for the first kernel of a driver
_PATIENCE = 5.0  # seconds for a client to take an answer
_LONGEST = 1 << 20  # bytes of a message
_CREDENTIALS = struct.Struct("3i")  # process, user, group
# A thread would not survive a fork, and OpenBLAS and pyarrow's allocator start some when they are imported.
_ONE_THREAD = {
    "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1",
    "JE_ARROW_MALLOC_CONF": "background_thread:false", "PYDEVD_DISABLE_FILE_VALIDATION": "1",
}  # fmt: skip
_KERNEL = (  # the third line is what a kernel imports only when it starts or when its first cell runs
    "ipykernel.kernelapp", "ipykernel.ipkernel", "ipykernel.zmqshell", "ipykernel.debugger", "comm", "pdb", "sqlite3",
    "debugpy", "debugpy.server.api", "faulthandler", "tornado.platform.asyncio", "ipykernel.datapub", "pickleshare",
    "IPython.core.completer", "IPython.core.completerlib", "IPython.core.debugger", "IPython.core.oinspect",
    "IPython.core.logger", "IPython.extensions.storemagic", "jedi",
)  # fmt: skip


def serve(path: str, preload: str, begun: str, lock: str) -> None:
    """Import all, and serve at `path` until it is idle, stopped or out of date; tell `begun`, a pipe, when it serves.

    `preload` is a module to import; its function `rehearse` is called once. `lock` is a descriptor to close then.
    """
    if os.fork():
        os._exit(0)  # so that it is no child of the client, which would have to wait for it
    gc.disable()
    os.environ.update(_ONE_THREAD)
    for name in _KERNEL:
        with suppress(ModuleNotFoundError):  # some are there in some versions alone
            import_module(name)
    import_module(preload).rehearse()
    if len(os.listdir("/proc/self/task")) != 1:  # noqa: PTH208
        sys.exit("the imports started a thread, which a fork would lose")
    files = _stamps()
    gc.freeze()  # what a collection would free is little, and takes a seventh of the start to find
    warm = _Warm(_listen(Path(path)), Path(path), files)
    with suppress(BrokenPipeError):  # the client did not wait
        os.write(int(begun), b"1")
    os.close(int(begun))
    os.close(int(lock))
    warm.run()
    os._exit(0)  # there is nothing to take to pieces


def _listen(path: Path) -> socket.socket:
    """Listen at `path`, in the place of whatever was there, with a socket that no other user may use."""
    beside = path.with_name(f"{path.stem}.{os.getpid()}")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    mask = os.umask(0o177)
    listener.bind(str(beside))
    os.umask(mask)
    listener.listen(128)
    beside.replace(path)
    return listener


def _stamps() -> dict[str, tuple[int, int]]:
    """Return time and size of every file that a module came from."""
    found = {}
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        with suppress(OSError, TypeError):
            status = os.stat(file)  # type: ignore[arg-type]  # noqa: PTH116 - thousands of them
            found[str(file)] = status.st_mtime_ns, status.st_size
    return found


@dataclass(frozen=True)
class _Child:
    """A process that was forked, with the connection of its client."""

    pid: int
    connection: socket.socket
    pidfd: int
    role: str
    argv: list[str]
    started: float


class _RefusedError(Exception):
    """The request cannot be served as a new process would serve it."""


class _Warm:
    def __init__(self, listener: socket.socket, path: Path, files: dict[str, tuple[int, int]]) -> None:
        self._listener, self._path, self._files = listener, path, files
        self._own = os.stat(path).st_ino  # noqa: PTH116
        self._children: dict[int, _Child] = {}
        self._silent: set[socket.socket] = set()  # clients that have not yet asked for anything
        self._selector = selectors.DefaultSelector()
        self._selector.register(listener, selectors.EVENT_READ, self._accept)
        self._retired = False
        self._used = self._began = time.monotonic()
        self._looked = 0.0
        self._new: set[int] = set()  # drivers that have not yet started a kernel
        self._served = 0
        self._idle = float(os.environ.pop("ERPKIT_WARM_IDLE", "") or _IDLE)
        self._modules = {name.partition(".")[0] for name in sys.modules}

    def run(self) -> None:
        """Serve until it is retired and its last process has ended."""
        while not (self._retired and not self._children):
            for key, _ in self._selector.select(min(_LOOK, self._idle)):
                key.data()
            if not self._children and time.monotonic() - self._used > self._idle:
                self._retire()
            if not self._retired and not self._is_wanted():
                self._retire()
        self._close()

    def _is_wanted(self) -> bool:
        """Whether its socket is still there: it goes at logout, or when another process has taken its place."""
        try:
            return os.stat(self._path).st_ino == self._own  # noqa: PTH116
        except OSError:
            return False

    def _is_stale(self, connection: socket.socket) -> bool:
        """Whether what was loaded has changed on the disk; for the first kernel of a driver, that was just looked at."""
        is_first = _peer(connection) in self._new
        self._new.discard(_peer(connection))
        if is_first and time.monotonic() - self._looked < _FRESH:
            return False
        self._looked = time.monotonic()
        for file, stamp in self._files.items():
            try:
                status = os.stat(file)  # noqa: PTH116
            except OSError:
                return True
            if (status.st_mtime_ns, status.st_size) != stamp:
                return True
        return False

    def _retire(self) -> None:
        """Take no more work; what runs goes on, and is listed by `status` under another name as long as it does."""
        if self._retired:
            return
        self._retired = True
        if self._is_wanted():
            self._path.with_suffix(".log").unlink(missing_ok=True)
            self._path = self._path.rename(self._path.with_name(f"{self._path.stem}-{os.getpid()}.sock"))
        else:
            self._close()

    def _close(self) -> None:
        """Listen no more, and take the own socket away."""
        if self._listener.fileno() >= 0:
            self._selector.unregister(self._listener)
            self._listener.close()
        if self._is_wanted():
            self._path.unlink(missing_ok=True)

    def _accept(self) -> None:
        """Let a client in; nothing waits for its request, as the end of a driver must be heard meanwhile."""
        connection, _ = self._listener.accept()
        connection.settimeout(_PATIENCE)
        self._silent.add(connection)
        self._selector.register(connection, selectors.EVENT_READ, lambda: self._serve(connection))

    def _serve(self, connection: socket.socket) -> None:
        self._selector.unregister(connection)
        self._silent.discard(connection)
        streams: list[int] = []
        try:
            data, streams, _, _ = socket.recv_fds(connection, _LONGEST, 3)
            request = json.loads(data or "{}")
            self._answer(request, connection, streams)
        except _RefusedError as reason:
            _tell(connection, refused=str(reason))
            connection.close()
        except (OSError, ValueError, KeyError):  # no client of ours
            connection.close()
        finally:
            for stream in streams:
                os.close(stream)

    def _answer(self, request: dict[str, Any], connection: socket.socket, streams: list[int]) -> None:
        role = request["role"]
        if role == "retire" or self._is_stale(connection):
            self._retire()
        if role in ("kernel", "call"):
            if self._retired:
                raise _RefusedError("its code has changed on the disk since the warm process loaded it")
            self._check(request)
            self._fork(request, connection, streams)
            return
        if role == "ping" and self._retired:
            raise _RefusedError("the code on the disk has changed")
        _tell(connection, **self._status())
        connection.close()
        if role == "stop":
            os._exit(self._leave())

    def _leave(self) -> int:
        """Kill all that runs; the death of this process would do that too, but nothing would be swept then."""
        self._retire()
        for child in list(self._children.values()):
            self._signal(child.pid, signal.SIGKILL)
            os.waitpid(child.pid, 0)
            sweep(child.argv)
        self._close()
        return 0

    def _status(self) -> dict[str, Any]:
        now = time.monotonic()
        running = [
            {"pid": child.pid, "role": child.role, "seconds": round(now - child.started, 1)}
            for child in self._children.values()
        ]
        return {
            "pid": os.getpid(), "seconds": round(now - self._began, 1), "served": self._served, "running": running,
            "retired": self._retired,
        }  # fmt: skip

    def _check(self, request: dict[str, Any]) -> None:
        """Raise _RefusedError where a fork would not be what a new process is."""
        for name, (_, hard) in request["limits"].items():
            own = resource.getrlimit(getattr(resource, name))[1]
            if own != resource.RLIM_INFINITY and (hard == resource.RLIM_INFINITY or hard > own) and os.getuid():
                raise _RefusedError(f"the warm process has a lower {name}")
        if request["nice"] < os.nice(0) and os.getuid():
            raise _RefusedError("the warm process has a lower priority")
        for shadow in _shadows(request["cwd"], self._modules):
            raise _RefusedError(
                f"{request['cwd']} has a module {shadow} of its own, which the warm process has loaded from elsewhere"
            )

    def _fork(self, request: dict[str, Any], connection: socket.socket, streams: list[int]) -> None:
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            _tell(
                connection, pid=os.getpid()
            )  # by itself, as on a busy machine its parent could come after its `ready`
            self._be_forked(request, streams, connection, parent)
        pidfd = os.pidfd_open(pid)
        child = _Child(pid, connection, pidfd, request["role"], request["argv"], time.monotonic())
        self._children[pid] = child
        self._new |= {pid} if child.role == "call" else set()
        self._served += 1
        self._selector.register(pidfd, selectors.EVENT_READ, lambda: self._reap(child))
        self._selector.register(connection, selectors.EVENT_READ, lambda: self._obey(child))

    def _be_forked(
        self, request: dict[str, Any], streams: list[int], connection: socket.socket, parent: int
    ) -> NoReturn:
        """Close what is the parent's: a copy of a connection left open would hide its end. Then become what was asked for."""
        self._selector.close()
        self._listener.close()
        for connection in self._silent:
            connection.close()
        for child in self._children.values():
            child.connection.close()
            os.close(child.pidfd)
        become(request, streams, connection, parent)

    def _obey(self, child: _Child) -> None:
        """Send the signal that a client asks for; kill the process whose client is gone."""
        try:
            data = child.connection.recv(_LONGEST, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self._signal(child.pid, json.loads(data)["signal"])
            return
        self._selector.unregister(child.connection)
        child.connection.close()
        self._signal(child.pid, signal.SIGKILL)

    @staticmethod
    def _signal(pid: int, number: int) -> None:
        for send in (os.killpg, os.kill):  # the group may not be there yet
            with suppress(ProcessLookupError):
                send(pid, number)
                return

    def _reap(self, child: _Child) -> None:
        """Learn how a process ended, end what it left running in its group, and tell its client."""
        self._selector.unregister(child.pidfd)
        os.close(child.pidfd)
        self._signal(child.pid, signal.SIGKILL)  # its id is not free before the wait
        code = os.waitstatus_to_exitcode(os.waitpid(child.pid, 0)[1])
        del self._children[child.pid]
        self._new.discard(child.pid)
        self._used = time.monotonic()
        has_client = child.connection.fileno() >= 0
        if has_client:
            self._selector.unregister(child.connection)
            _tell(child.connection, exit=code)
            child.connection.close()
        else:
            sweep(child.argv)


def _tell(connection: socket.socket, **news: Any) -> None:
    with suppress(OSError):  # a client that is gone is found by its connection's end
        connection.send(json.dumps(news).encode())


def _peer(connection: socket.socket) -> int:
    """Return the process at the other end."""
    return int(_CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))[0])


def _shadows(folder: str, loaded: set[str]) -> Iterator[str]:
    """Yield the modules of a folder that would be imported instead of what is loaded; one that is loaded from there is no other."""
    try:
        entries = list(os.scandir(folder))
    except OSError:
        return
    for entry in entries:
        name, _, rest = entry.name.partition(".")
        is_module = rest == "py" or rest.endswith("so") or (not rest and os.path.isdir(f"{folder}/{name}"))  # noqa: PTH112
        if name in loaded and is_module and name not in sys.stdlib_module_names:
            file = getattr(sys.modules.get(name), "__file__", None) or ""
            has_code = rest or os.path.exists(f"{folder}/{name}/__init__.py")  # noqa: PTH110
            if has_code and not file.startswith(f"{os.path.realpath(folder)}/{name}"):
                yield name
