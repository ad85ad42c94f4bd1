"""Waiting for events without polling all tenants: LISTEN, polling only where something was found just now, and a way to stop."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Container, Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import psycopg

from erpkit.database import Connection
from erpkit.events.log import CHANNEL, append_lock, polled_lock

_FIRST, _LONGEST = 0.01, 0.1  # seconds between two looks at a tenant
_LINGER = 0.5  # seconds for which a tenant is looked at after something was found
_MOST = 500  # tenants at a time, a lock each

# An append that could take the lock before its commit notifies; while one is under way the tenant is polled on.
_RELEASE = "SELECT s FROM unnest(%s::text[]) s WHERE CASE WHEN pg_try_advisory_xact_lock({}) THEN pg_advisory_unlock_shared({}) END"


class StopSignal:
    """Ends a wait from outside: from a signal's handler, say, where a lock could be held already."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        self.is_set = False

    def set(self) -> None:
        """End the present wait and every later one."""
        self.is_set = True
        os.write(self._write, b"!")

    def wait(self, seconds: float, *files: int) -> None:
        """Wait until it is set, one of `files` has something to read, or the time is over."""
        select.select([self._read, *files], [], [], max(0.0, seconds))

    def close(self) -> None:
        """Close its pipe."""
        os.close(self._read)
        os.close(self._write)


class Listener:
    """A connection that hears of appends; use it in a `with` block. It raises psycopg.OperationalError once it is lost.

    It does not hear of those to the tenants in `polled`, which are to be looked at when they are due.
    """

    def __init__(self, conninfo: str, stop: StopSignal) -> None:
        self._stop = stop
        self._connection = psycopg.connect(
            conninfo, autocommit=True, application_name="erpkit dispatch", connect_timeout=10
        )
        self._connection.execute(f"LISTEN {CHANNEL}")
        self.polled = PolledTenants(self._connection)

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
            self._stop.wait(min(seconds, self.polled.wait_time()), self._connection.fileno())
            heard = self._heard()
        heard = {schema for schema in heard if schema in served}
        self.polled.add(heard)
        return heard | self.polled.due()

    def _heard(self) -> set[str]:
        return {notify.payload for notify in self._connection.notifies(timeout=0)}


@dataclass
class _Turn:
    """When a tenant is looked at next, how long after the last time, and when that ends unless something is found."""

    next: float
    pause: float
    end: float


class PolledTenants:
    """The schemas that a worker polls, each for half a second after something was found in it.

    For each it shares an advisory lock: an append that meets it does not notify. NOTIFY lets PostgreSQL commit one transaction
    at a time, with the wait for the disk, so that appends of all tenants would queue up; so a tenant's appends
    notify twice a second at most. `connection` is the worker's own, in autocommit mode, and stays open; its end frees the locks.
    Behind a pooler a session's locks would stay with another client: there it polls nothing, and each append notifies.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._turns: dict[str, _Turn] = {}
        row = connection.execute("SELECT pg_backend_pid()").fetchone()
        self._may_lock = row == (connection.info.backend_pid,)

    def add(self, schemas: Iterable[str]) -> None:
        """Poll these for a while: something was found there, or announced. Call it before the next look."""
        now = time.monotonic()
        fresh = [schema for schema in schemas if schema not in self._turns]
        for schema in self._lock(fresh):
            self._turns[schema] = _Turn(0, 0, 0)
        for schema in schemas:
            if schema in self._turns:
                self._turns[schema] = _Turn(now + _FIRST, _FIRST, now + _LINGER)

    def due(self) -> set[str]:
        """Return what is to be looked at now, one last time where nothing was found for long: appends there notify again."""
        now = time.monotonic()
        due = {schema for schema, turn in self._turns.items() if turn.next <= now}
        for schema in self._release([schema for schema in due if self._turns[schema].end <= now]):
            del self._turns[schema]
        for schema in due & self._turns.keys():
            turn = self._turns[schema]
            turn.pause = min(2 * turn.pause, _LONGEST)
            turn.next = now + turn.pause
        return due

    def wait_time(self) -> float:
        """Return the seconds until a tenant is due."""
        return max(0.0, min((turn.next for turn in self._turns.values()), default=float("inf")) - time.monotonic())

    def _lock(self, schemas: list[str]) -> list[str]:
        """Share the locks of these; leave out one whose append is about to notify."""
        schemas = schemas[: _MOST - len(self._turns)]
        if not (schemas and self._may_lock):
            return []
        query = f"SELECT s FROM unnest(%s::text[]) s WHERE pg_try_advisory_lock_shared({polled_lock('s')})"  # noqa: S608
        return [schema for (schema,) in self._connection.execute(query.encode(), [schemas])]

    def _release(self, schemas: list[str]) -> list[str]:
        if not schemas:
            return []
        query = _RELEASE.format(append_lock("s"), polled_lock("s"))
        return [schema for (schema,) in self._connection.execute(query.encode(), [schemas])]
