"""An end to the process of a handler that hangs, so that a supervisor may start another."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from erpkit.database import Tenant
from erpkit.events.context import Context
from erpkit.events.message import Message
from erpkit.events.middleware import Handle, Middleware
from erpkit.modules import EventHandler
from erpkit.visible import visible


class Watch:
    """What is told which event a handler has in flight; this one takes no notice."""

    def begin(self, tenant: Tenant, handler: EventHandler, message: Message) -> None:
        """Note that the handler has the event now."""

    def end(self) -> None:
        """Note that no handler has one."""


UNWATCHED = Watch()


class Watchdog(Watch):
    """Ends the process, with exit code 1 and a line on standard error, when one event takes longer than `limit` seconds.

    Nothing milder can stop Python code that does not return. The open transaction is rolled back by the server, and the next
    dispatcher counts the attempt. A handler that declares a `timeout` has at least twice that. Use it in a `with` block.
    """

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self._in_flight: tuple[float, Tenant, EventHandler, Message] | None = None
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
        """Give the handler its time from now on."""
        self._in_flight = (time.monotonic(), tenant, handler, message)

    def end(self) -> None:
        """Let nothing be timed."""
        self._in_flight = None

    def _watch(self) -> None:
        while not self._over.wait(min(1.0, self.limit / 4)):
            if self._in_flight is not None:
                self._check(*self._in_flight)

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
    """Tell `watch` what the handler has in flight, for each attempt anew."""

    def middleware(following: Handle) -> Handle:
        def handle(context: Context) -> Sequence[Message]:
            watch.begin(context.tenant, handler, context.message)
            try:
                return following(context)
            finally:
                watch.end()

        return handle

    return middleware
