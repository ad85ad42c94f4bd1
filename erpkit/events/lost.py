"""Telling a lost connection from a handler's fault."""

from __future__ import annotations

from erpkit.database import Connection
from erpkit.errors import DatabaseError

__all__ = ["raise_if_lost"]


def raise_if_lost(connection: Connection | None, error: Exception, what: str = "") -> None:
    """Raise DatabaseError if the connection on which `error` came up is gone: no fault of the event in hand.

    `what` was being done; it begins the message. The event is to be read again once there is a connection.
    """
    if connection is not None and connection.closed:  # the bus in memory may have none
        raise DatabaseError(
            f"{what or 'events'}: the connection was lost ({type(error).__name__}: {error})".strip()
        ) from error
