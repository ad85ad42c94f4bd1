"""What a schema consists of, read from the catalogs for many schemas at once, in a form that can be compared."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg

from erpkit.database import Connection
from erpkit.errors import DatabaseError
from erpkit.tenants.definitions import OBJECTS
from erpkit.tenants.fingerprints import fingerprint_query
from erpkit.tenants.locks import read_locks

__all__ = ["SCHEMA", "Fingerprint", "SchemaObject", "deparsing", "read_fingerprints", "read_objects"]

SCHEMA = "\x01"  # stands in definitions for the name of the schema itself, so that equal things compare equal

_ATTEMPTS = 4  # somebody may lock a table in between


@dataclass(frozen=True)
class Fingerprint:
    """The number and a hash of a schema's objects: if equal, the schemas are. `lock` says why it could not be read."""

    count: int
    digest: str
    lock: str | None = None


@dataclass(frozen=True)
class SchemaObject:
    """A table, column, index, …; `table` is what it belongs to, `definition` is PostgreSQL's own, with SCHEMA in it.

    A column's definition has three lines: type, `not null` or nothing, default or nothing. All names are as SQL writes them:
    quoted where they must be.
    """

    kind: str
    table: str
    name: str
    definition: str


@contextmanager
def deparsing(connection: Connection) -> Iterator[None]:
    """Read with an empty search_path, so that definitions name the schema of everything that is not PostgreSQL's own.

    Some definitions wait for whoever has locked their table exclusively: one second at most, then LockNotAvailable is raised.
    """
    with connection.transaction():
        connection.execute(
            "SET LOCAL search_path TO pg_catalog; SET LOCAL jit TO off; SET LOCAL work_mem TO '64MB'; SET LOCAL lock_timeout TO '1s'"
        )
        yield


def read_objects(
    connection: Connection, schemas: Sequence[str]
) -> tuple[dict[str, list[SchemaObject]], dict[str, str]]:
    """Return all that each of `schemas` consists of, in one query, and which could not be read because of whose lock."""
    rows, locks = _read(connection, f"WITH {OBJECTS} SELECT * FROM objects", schemas)  # noqa: S608
    found: dict[str, list[SchemaObject]] = {schema: [] for schema in schemas if schema not in locks}
    for schema, *parts in rows:
        found[schema].append(SchemaObject(*parts))
    return found, locks


def read_fingerprints(connection: Connection, schemas: Sequence[str]) -> dict[str, Fingerprint]:
    """Return a fingerprint of each of `schemas` that has objects: far quicker to read than the objects themselves.

    Equal fingerprints mean equal schemas; different ones only that the objects must be looked at.
    """
    rows, locks = _read(connection, fingerprint_query(connection.info.server_version), schemas)
    return {schema: Fingerprint(int(count), digest) for schema, count, digest in rows} | {
        schema: Fingerprint(0, "", lock) for schema, lock in locks.items()
    }


def _read(connection: Connection, query: str, schemas: Sequence[str]) -> tuple[list[tuple[Any, ...]], dict[str, str]]:
    """Run a query over `schemas`, without those that somebody has locked; raises DatabaseError when it cannot go round a lock."""
    locks: dict[str, str] = {}
    for _ in range(_ATTEMPTS):
        left = [schema for schema in schemas if schema not in locks]
        try:
            with deparsing(connection):
                return connection.execute(query.encode(), [left]).fetchall(), locks
        except psycopg.errors.LockNotAvailable:
            locks |= read_locks(connection, left)
    raise DatabaseError(
        "schemas cannot be compared: something that they refer to is locked by another transaction; try again when it has ended"
    )
