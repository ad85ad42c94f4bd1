"""One worker's connection: kept from tenant to tenant while its session is as new, and given back otherwise."""

from __future__ import annotations

from contextlib import ExitStack
from types import TracebackType
from typing import Self

from erpkit.database import Database, PooledConnection, Tenant

__all__ = ["Lane"]

# Then the pool may replace the connection: its backend keeps what it learnt of each tenant's tables.
_TENANTS = 50


class Lane:
    """A connection for one tenant after the other; to borrow and reset one for each takes a round trip and a third of a message."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._stack = ExitStack()
        self._connection: PooledConnection | None = None
        self._visits = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.give_back()

    def take(self, tenant: Tenant) -> PooledConnection:
        """Return the connection, for `tenant`; raises DatabaseError where none is to be had."""
        self._visits += 1
        if self._connection is None:
            self._connection = self._stack.enter_context(self._database.visit([tenant]))
        self._connection.visited.add(tenant.schema)
        return self._connection

    def leave(self, *, is_clean: bool) -> None:
        """End with a tenant; without `is_clean` its session may have settings or a transaction that the next one must not see."""
        if not is_clean or self._visits >= _TENANTS:
            self.give_back()

    def give_back(self) -> None:
        """Give the connection back to the pool, which resets it."""
        self._connection, self._visits = None, 0
        self._stack.close()
