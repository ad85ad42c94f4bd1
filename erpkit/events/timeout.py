"""Limits to the time that a handler may take: one for the handler, which undoes its work, and one for the whole process."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from psycopg import Error

from erpkit.database import Tenant
from erpkit.events.consumer import Context, Watch
from erpkit.events.message import Message
from erpkit.events.middleware import Handle, HandlerError, Middleware
from erpkit.modules import EventHandler
from erpkit.visible import visible

_AGAIN = 0.03  # seconds between two attempts to cancel

_running: set[Running] = set()  # the handlers at work that have a limit, in all threads


class HandlerTimeoutError(HandlerError):
    """A handler took longer than its timeout; its work is rolled back."""


@dataclass(eq=False)
class Running:
    """A running handler that may take `seconds`; `started` is on the clock of `time.monotonic`."""

    handler: str
    tenant: str
    seconds: float
    started: float = field(default_factory=time.monotonic)
    done: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def is_over(self) -> bool:
        """Whether its time is up."""
        return time.monotonic() - self.started >= self.seconds


def overdue(grace: float = 5) -> list[Running]:
    """Return the handlers that still run `grace` seconds after their timeout.

    They hang outside the database, and no thread can be stopped from without in Python: a worker that finds one must end its
    process. The transaction then rolls back, and the message is read again.
    """
    now = time.monotonic()
    return [running for running in list(_running) if now - running.started > running.seconds + grace]


def timeout(seconds: float) -> Middleware:
    """Cancel a handler's current statement after `seconds`, and raise HandlerTimeoutError.

    PostgreSQL refuses each single statement that takes longer (statement_timeout); a guard cancels the one at work when the
    handler's whole time is over. What a handler does outside the database, a loop or a call of a service, goes on to its end
    and is refused only then: see `overdue`. Two round trips and a thread more; needs a `savepoint` around it.
    """

    def middleware(following: Handle) -> Handle:
        def handle(context: Context) -> Sequence[Message]:
            if context.connection is None:
                return following(context)  # on the bus in memory there is nothing to cancel
            usual = _limit_statements(context, f"{max(1, int(seconds * 1000))}ms")
            running = Running(context.handler, context.tenant.slug, seconds)
            try:
                with _Guard(context, running):
                    published = following(context)
            except Exception as error:
                if running.is_over and not context.is_lost:
                    raise _too_long(running) from error
                raise
            if running.is_over:
                raise _too_long(running)
            _limit_statements(context, usual)
            return published

        return handle

    return middleware


class _Guard:
    """Watches one handler from a thread of its own, and cancels its statement when its time is over."""

    def __init__(self, context: Context, running: Running) -> None:
        self._connection = context.connection
        self._running = running
        self._timer = threading.Timer(running.seconds, self._expire)
        self._timer.daemon = True
        self._ended = threading.Event()

    def __enter__(self) -> None:
        _running.add(self._running)
        self._timer.start()

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        self._ended.set()
        with self._running.lock:  # a cancellation that comes later would hit somebody else's statement
            self._running.done = True
        _running.discard(self._running)

    def _expire(self) -> None:
        """Cancel again and again until the handler ends: a cancellation between two statements has no effect."""
        while not self._ended.is_set():
            with self._running.lock:
                if not self._running.done:
                    with suppress(Error):
                        self._connection.cancel_safe(timeout=5)
            self._ended.wait(_AGAIN)


def _limit_statements(context: Context, value: str) -> str:
    """Set the transaction's statement_timeout and return what it was; a savepoint that is rolled back restores it, too."""
    row = context.connection.execute(
        "SELECT current_setting('statement_timeout'), set_config('statement_timeout', %s, true)", [value]
    ).fetchone()
    assert row is not None
    usual: str = row[0]
    return usual


def _too_long(running: Running) -> HandlerTimeoutError:
    return HandlerTimeoutError(f"tenant {running.tenant}: {running.handler} took longer than its {running.seconds:g} s")


class Watchdog(Watch):
    """Ends the process, with exit code 1 and a line on standard error, when one event takes longer than `limit` seconds.

    Nothing milder can stop Python code that does not return. The open transaction is rolled back by the server, and the next
    dispatcher counts the attempt. A handler that declares a `timeout` has at least twice that. Handlers may run in several threads.
    Use it in a `with` block.
    """

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self._in_flight: dict[int, tuple[float, Tenant, EventHandler, Message]] = {}  # by thread
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="erpkit-watchdog", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def begin(self, tenant: Tenant, handler: EventHandler, message: Message) -> None:
        """Start the time of a handler."""
        self._in_flight[threading.get_ident()] = (time.monotonic(), tenant, handler, message)

    def end(self) -> None:
        """Stop timing."""
        self._in_flight.pop(threading.get_ident(), None)

    def _watch(self) -> None:
        while not self._over.wait(min(1.0, self.limit / 4)):
            for one in list(self._in_flight.values()):
                self._check(*one)

    def _check(self, since: float, tenant: Tenant, handler: EventHandler, message: Message) -> None:
        limit = max(self.limit, 2 * (handler.timeout or 0))
        if time.monotonic() - since < limit:
            return
        sys.stderr.write(
            visible(
                f"erpkit: {handler.name} has had the event at offset {message.offset} of tenant {tenant.slug} in flight for more than "
                f"{limit:g} s: this process ends"
            )
            + "\n"
        )
        sys.stderr.flush()
        os._exit(1)


def watched(watch: Watch, handler: EventHandler) -> Middleware:
    """Tell `watch` which event the handler has in flight, anew for each attempt."""

    def middleware(following: Handle) -> Handle:
        def handle(context: Context) -> Sequence[Message]:
            watch.begin(context.tenant, handler, context.message)
            try:
                return following(context)
            finally:
                watch.end()

        return handle

    return middleware
