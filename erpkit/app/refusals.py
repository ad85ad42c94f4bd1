"""What a request that failed is told: a status and one line, and nothing that is none of its business."""

from __future__ import annotations

import logging

import psycopg

from erpkit.errors import DatabaseError, ErpkitError, UsageError

__all__ = ["RefusedError", "refusal_of"]

_log = logging.getLogger("erpkit.app")

_STATUSES: tuple[tuple[type[Exception], int], ...] = (
    (psycopg.errors.IntegrityError, 409),
    (psycopg.DataError, 422),
    (psycopg.errors.QueryCanceled, 504),
    (psycopg.errors.ReadOnlySqlTransaction, 500),
    (psycopg.errors.InsufficientPrivilege, 500),
    (psycopg.errors.SerializationFailure, 503),
    (psycopg.errors.DeadlockDetected, 503),
    (UsageError, 400),
    (ErpkitError, 422),
)


class RefusedError(Exception):
    """A request that is refused with this status and line."""

    def __init__(self, status: int, line: str) -> None:
        super().__init__(line)
        self.status = status


def refusal_of(error: Exception, name: str) -> RefusedError:
    """Return what to tell of an error: its own line where it is meant for people, and else no more than that there was one.

    What nobody expected goes to the log, with its traceback; so does what is wrong with the database, without one.
    """
    if isinstance(error, RefusedError):
        return error
    if isinstance(error, DatabaseError):  # it names the server
        _log.error("%s: %s", name, _line(error))
        return RefusedError(503, "the database does not answer as it should: try again")
    for kind, status in _STATUSES:
        if isinstance(error, kind):
            return RefusedError(status, _line(error))
    if isinstance(error, psycopg.OperationalError):
        _log.error("%s: %s", name, _line(error))
        return RefusedError(503, "the database does not answer as it should: try again")
    _log.error("%s failed", name, exc_info=error)
    return RefusedError(500, f"{name} failed: see the server's log")


def _line(error: Exception) -> str:
    said = error.diag.message_primary if isinstance(error, psycopg.Error) else None
    return (said or str(error) or type(error).__name__).splitlines()[0]
