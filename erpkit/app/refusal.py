"""What a client is told of a request that failed: a line that is safe to send, and an id by which the log tells the rest."""

from __future__ import annotations

import logging
import re
from uuid import uuid4

import psycopg

from erpkit.database import Tenant
from erpkit.errors import CommitUnknownError, DatabaseError, ErpkitError, UsageError, first_line

_log = logging.getLogger("erpkit.app")

_STATUSES: tuple[tuple[type[psycopg.Error], int], ...] = (
    (psycopg.errors.IntegrityError, 409),
    (psycopg.DataError, 422),
    (psycopg.errors.QueryCanceled, 504),
    (psycopg.errors.ReadOnlySqlTransaction, 500),
    (psycopg.errors.SerializationFailure, 503),
    (psycopg.errors.DeadlockDetected, 503),
)
_QUOTED = re.compile(r'"[^"]*"')
_QUALIFIED = re.compile(r"([A-Za-z_][\w$]*)\.[A-Za-z_]")


class RefusedError(Exception):
    """A request that is refused with this status and line."""

    def __init__(self, status: int, line: str) -> None:
        super().__init__(line)
        self.status = status


def refusal_of(error: Exception, name: str, tenant: Tenant | None = None, *, write: bool = False) -> RefusedError:
    """Return what to tell a client of an error: its own line where it is meant for people, and else an id to look up in the log.

    An unexpected error goes to the log with its traceback; so does what is wrong with the database, without one. PostgreSQL's
    own words are told only as far as they concern the schema of `tenant`. With `write` the request had begun to write: no
    answer then asks for another try.
    """
    if isinstance(error, RefusedError):
        return error
    if isinstance(error, CommitUnknownError):
        return _logged(error, name, 500, "the connection was lost during the commit: check whether it was written")
    if isinstance(error, ErpkitError) and not isinstance(error, DatabaseError) and not _is_forbidden(error):
        return RefusedError(400 if isinstance(error, UsageError) else 422, first_line(error))
    if isinstance(error, psycopg.Error) and (status := _status_of(error)):
        said = _own_words(error, tenant)
        return RefusedError(status, said) if said else _logged(error, name, status, f"{name}: a value is refused")
    if _is_forbidden(error):
        return _logged(error, name, 500, f"{name} is not allowed to use what it asks the database for")
    if isinstance(error, DatabaseError | psycopg.OperationalError):
        again = "" if write else ": try again"
        return _logged(error, name, 503, f"the database returned an error{again}")
    return _logged(error, name, 500, f"{name} failed", trace=True)


def _status_of(error: psycopg.Error) -> int | None:
    return next((status for kind, status in _STATUSES if isinstance(error, kind)), None)


def _is_forbidden(error: Exception) -> bool:
    """Tell whether a privilege was missing: PostgreSQL names the object, and an ErpkitError then names the GRANT as well."""
    return isinstance(error, psycopg.errors.InsufficientPrivilege) or getattr(error, "is_mended", False)


def _own_words(error: psycopg.Error, tenant: Tenant | None) -> str | None:
    """Return PostgreSQL's message unless it may name what lies outside the tenant's schema."""
    said = error.diag.message_primary or ""
    schema = tenant.schema if tenant is not None else None
    if isinstance(error, psycopg.errors.IntegrityError) and error.diag.schema_name != schema:
        return None
    outside = any(found != schema for found in _QUALIFIED.findall(_QUOTED.sub("", said)))
    return None if outside or not said else said.splitlines()[0]


def _logged(error: Exception, name: str, status: int, line: str, *, trace: bool = False) -> RefusedError:
    """Write an error to the log under a new id, and return the refusal that names the id."""
    found = uuid4().hex[:12]
    _log.error("error %s: %s: %s", found, name, first_line(error), exc_info=error if trace else None)
    return RefusedError(status, f"{line} (error {found} in the server's log)")
