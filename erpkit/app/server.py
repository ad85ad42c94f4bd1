"""Serving HTTP with uvicorn, until a signal."""

from __future__ import annotations

import signal
import socket
from typing import Any

import uvicorn

from erpkit.errors import UsageError

__all__ = ["listen", "serve", "url_of"]

_GRACE = 30  # seconds for the requests under way


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens; port 0 takes a free one. Raises UsageError, naming the address, where that fails."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        reason = (error.strerror or str(error)).partition(" (while")[0]  # the address is named already
        raise UsageError(f"cannot listen on {host}, port {port}: {reason}") from None
    # Connections inherit it; without it an answer's head waits 40 ms for the client's acknowledgement before its body leaves.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening


def url_of(listening: socket.socket, host: str) -> str:
    """Return the URL that a listening socket is reached at."""
    return f"http://{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}"


def serve(asgi: Any, listening: socket.socket) -> None:
    """Serve `asgi` until SIGTERM or Ctrl-C; requests under way are answered first."""
    config = uvicorn.Config(
        asgi, log_config=None, access_log=False, timeout_graceful_shutdown=_GRACE, server_header=False
    )
    # uvicorn raises the signal once more when it has stopped; what follows is to be the end of the caller's own blocks.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    uvicorn.Server(config).run(sockets=[listening])
