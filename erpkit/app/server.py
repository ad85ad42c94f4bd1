"""Serving HTTP with uvicorn, until a signal."""

from __future__ import annotations

import os
import signal
import socket
from typing import Any

import uvicorn

from erpkit.errors import UsageError

__all__ = ["listen", "serve"]

_GRACE = 30  # seconds for the requests in hand


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens; port 0 takes a free one. Raises UsageError, naming the address, where that fails."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise UsageError(f"cannot listen on {host}, port {port}: {os.strerror(error.errno or 0)}") from None


def serve(asgi: Any, listening: socket.socket) -> None:
    """Serve `asgi` until SIGTERM or Ctrl-C; requests in hand are answered first."""
    config = uvicorn.Config(
        asgi, log_config=None, access_log=False, timeout_graceful_shutdown=_GRACE, server_header=False
    )
    # uvicorn raises the signal once more when it has stopped; what follows is to be the end of the caller's own blocks.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    uvicorn.Server(config).run(sockets=[listening])
