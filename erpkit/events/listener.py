"""Waiting for events without asking for them: LISTEN on a connection of its own, and a bell to stop the wait."""

from __future__ import annotations

import os
import select
from collections.abc import Container
from types import TracebackType
from typing import Self

import psycopg

from erpkit.events.awake import Awake
from erpkit.events.log import CHANNEL

__all__ = ["Bell", "Listener"]


class Bell:
    """Ends a wait from outside: from a signal's handler, say, where a lock could be held already."""

    def __init__(self) -> None:
        self._ear, self._clapper = os.pipe()
        self.has_rung = False

    def ring(self) -> None:
        """End the present wait and every later one."""
        self.has_rung = True
        os.write(self._clapper, b"!")

    def wait(self, seconds: float, *files: int) -> None:
        """Wait until it rings, one of `files` has something to read, or the time is over."""
        select.select([self._ear, *files], [], [], max(0.0, seconds))

    def close(self) -> None:
        """Close its pipe."""
        os.close(self._ear)
        os.close(self._clapper)


class Listener:
    """A connection that hears of appends; use it in a `with` block. It raises psycopg.OperationalError once it is lost.

    It does not hear of those to the tenants in `awake`, which are to be looked at when they are due.
    """

    def __init__(self, conninfo: str, bell: Bell) -> None:
        self._bell = bell
        self._connection = psycopg.connect(
            conninfo, autocommit=True, application_name="erpkit dispatch", connect_timeout=10
        )
        self._connection.execute(f"LISTEN {CHANNEL}")
        self.awake = Awake(self._connection)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()

    def schemas(self, seconds: float, served: Container[str]) -> set[str]:
        """Wait until something was appended to one of those that are `served`, or one is due; at most this long.

        Return those that are to be looked at now.
        """
        heard = self._heard()
        if not heard and seconds > 0:
            self._bell.wait(min(seconds, self.awake.pause()), self._connection.fileno())
            heard = self._heard()
        heard = {schema for schema in heard if schema in served}
        self.awake.stay(heard)
        return heard | self.awake.due()

    def _heard(self) -> set[str]:
        return {notify.payload for notify in self._connection.notifies(timeout=0)}
