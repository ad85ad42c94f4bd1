"""The lock on a tenant: shared by its transactions, exclusive while it is suspended, renamed or dropped."""

from __future__ import annotations

import time

from erpkit.database.scope import Connection, Tenant, leave_lock, use_lock

_EVERY = 0.2  # seconds between two looks of a batch


class Leaving:
    """Tells a batch, between two of its events, that a session waits for the tenant; it asks the server five times a second.

    `connection` is in a transaction that has entered the tenant as `active`.
    """

    def __init__(self, connection: Connection, tenant: Tenant) -> None:
        self._connection = connection
        self._lock = leave_lock(f"'{tenant.schema}'")
        self._next = time.monotonic() + _EVERY

    def is_due(self) -> bool:
        """Tell whether the batch must end now."""
        if time.monotonic() < self._next:
            return False
        self._next = time.monotonic() + _EVERY
        query = f"SELECT pg_try_advisory_lock_shared({self._lock}) AND pg_advisory_unlock_shared({self._lock})"
        return self._connection.execute(query.encode()).fetchone() != (True,)


def hold_alone(connection: Connection, tenant: Tenant) -> None:
    """Wait for the active transactions of the tenant to end, and keep others out until this one ends.

    Batches in flight end with the event that is being handled. The transaction's lock_timeout limits the wait.
    """
    for lock in (leave_lock("%s"), use_lock("%s")):
        connection.execute(f"SELECT pg_advisory_xact_lock({lock})".encode(), [tenant.schema])
