"""The tenants that a worker looks at of its own accord for a while, so that nobody has to wake it."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

from erpkit.database import Connection

__all__ = ["Awake", "append_lock", "awake_lock"]

_FIRST, _LONGEST = 0.01, 0.1  # seconds between two looks at a tenant
_LINGER = 0.5  # seconds for which a tenant is looked at after something was found
_MOST = 500  # tenants at a time, a lock each

# An append that could take the lock before its commit notifies; while one is under way the tenant stays on the list.
_LET_GO = "SELECT s FROM unnest(%s::text[]) s WHERE CASE WHEN pg_try_advisory_xact_lock({}) THEN pg_advisory_unlock_shared({}) END"


def append_lock(schema: str) -> str:
    """Return the SQL expression of the key of the lock that an append holds until its commit; `schema` is an expression."""
    return f"hashtextextended('erpkit.append.' || {schema}, 0)"


def awake_lock(schema: str) -> str:
    """Return the SQL expression of the key of the lock that a worker shares while it looks at a tenant anyway."""
    return f"hashtextextended('erpkit.awake.' || {schema}, 0)"


@dataclass
class _Turn:
    """When a tenant is looked at next, how long after the last time, and when that ends unless something is found."""

    next: float
    pause: float
    end: float


class Awake:
    """The schemas that a worker looks at again and again, each for half a second after something was found in it.

    For each it shares an advisory lock: an append that meets it says nothing. NOTIFY lets PostgreSQL commit one transaction
    at a time, with the wait for the disk, so that appends of all tenants would queue up; as it is, a tenant's appends
    notify twice a second at the most. `connection` is the worker's own, in autocommit mode, and stays open; its end frees the locks.
    Behind a pooler a session's locks would stay with somebody else: there it does nothing, and each append notifies.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._turns: dict[str, _Turn] = {}
        row = connection.execute("SELECT pg_backend_pid()").fetchone()
        self._may_lock = row == (connection.info.backend_pid,)

    def stay(self, schemas: Iterable[str]) -> None:
        """Look at these for a while: something was found there, or announced. Call it before the next look."""
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
        for schema in self._let_go([schema for schema in due if self._turns[schema].end <= now]):
            del self._turns[schema]
        for schema in due & self._turns.keys():
            turn = self._turns[schema]
            turn.pause = min(2 * turn.pause, _LONGEST)
            turn.next = now + turn.pause
        return due

    def pause(self) -> float:
        """How many seconds it is until something is due."""
        return max(0.0, min((turn.next for turn in self._turns.values()), default=float("inf")) - time.monotonic())

    def _lock(self, schemas: list[str]) -> list[str]:
        """Share the locks of these; leave out one whose append is about to notify."""
        schemas = schemas[: _MOST - len(self._turns)]
        if not (schemas and self._may_lock):
            return []
        query = f"SELECT s FROM unnest(%s::text[]) s WHERE pg_try_advisory_lock_shared({awake_lock('s')})"  # noqa: S608
        return [schema for (schema,) in self._connection.execute(query.encode(), [schemas])]

    def _let_go(self, schemas: list[str]) -> list[str]:
        if not schemas:
            return []
        query = _LET_GO.format(append_lock("s"), awake_lock("s"))
        return [schema for (schema,) in self._connection.execute(query.encode(), [schemas])]
