"""Reading for people who wait for it: over connections that may have died, and stopped after a while."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

import psycopg

from erpkit.database import Database
from erpkit.finding import name_some

_Result = TypeVar("_Result")


def read_again(database: Database, read: Callable[[], _Result]) -> _Result:
    """Return what `read` returns, with a second try where the server closed connections that the pool still held.

    A kernel lives for days, and the server may restart meanwhile. Raises DatabaseError when it does not answer.
    """
    try:
        return read()
    except psycopg.OperationalError:
        database.renew()
        return read()


def reasons(errors: Mapping[str, str]) -> list[str]:
    """Say why tenants failed, in a line for each reason: a mistake in a query fails in all of them alike."""
    tenants: dict[str, list[str]] = {}
    for slug, reason in errors.items():
        tenants.setdefault(reason, []).append(slug)
    return [f"{name_some(slugs, 3)}: {reason}" for reason, slugs in tenants.items()]
