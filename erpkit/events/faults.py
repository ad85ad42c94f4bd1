"""Telling what is no fault of an event: a connection that is gone, and a log that is not migrated yet."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from erpkit.database import Connection, Tenant
from erpkit.errors import DatabaseError, ErpkitError

__all__ = ["name_log_behind", "raise_if_lost"]


def raise_if_lost(connection: Connection | None, error: Exception, what: str) -> None:
    """Raise DatabaseError if the connection on which `error` came up is gone: the event in hand is to be read again later.

    `what` was being done; it begins the message.
    """
    if connection is not None and connection.closed:  # the bus in memory may have none
        raise DatabaseError(f"{what}: the connection was lost ({type(error).__name__}: {error})") from error


@contextmanager
def name_log_behind(tenant: Tenant) -> Iterator[None]:
    """Name the tenant, and what to do, where its event log lacks a table or a column, or cannot be read."""
    try:
        yield
    except (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn) as error:
        raise ErpkitError(
            f"tenant {tenant.slug}: its event log is behind: `erpkit migrate up` first ({error.diag.message_primary})"
        ) from error
    except (psycopg.errors.InsufficientPrivilege, psycopg.errors.LockNotAvailable) as error:
        raise DatabaseError(
            f"tenant {tenant.slug}: its event log cannot be read: {error.diag.message_primary}"
        ) from error
