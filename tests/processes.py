"""Processes for tests to kill: forked from one that has the imports already, so that each is there in a moment."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import psycopg

_HELD = (
    "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND mode = 'ExclusiveLock' AND granted AND pid <> pg_backend_pid() "
    "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)

_context = get_context("forkserver")
_context.set_forkserver_preload(
    ["erpkit.events", "erpkit.tenants", "networkx", "psycopg_pool", "pydantic", "pytest", "tenacity"]
)


def start(function: Callable[..., object], *arguments: object, stderr: Path | None = None) -> ForkServerProcess:
    """Start a process that calls `function`, which has a name in its module; what it says of errors goes to `stderr`."""
    process = _context.Process(target=_run, args=(stderr, function, *arguments), daemon=True)
    process.start()
    return process


def wait_until_released(conninfo: str) -> None:
    """Wait until the server knows that killed processes are gone, and has released the locks by which they had a group."""
    deadline = time.monotonic() + 60
    with psycopg.connect(conninfo, autocommit=True) as connection:
        while connection.execute(_HELD).fetchone():
            assert time.monotonic() < deadline, "a killed process still holds a lock"
            time.sleep(0.002)


def _run(stderr: Path | None, function: Callable[..., object], *arguments: object) -> None:
    if stderr is not None:
        os.dup2(os.open(stderr, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    function(*arguments)
