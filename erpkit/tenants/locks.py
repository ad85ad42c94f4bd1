"""Tables that another process has locked exclusively, and how to read the others without waiting for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Self, TypeVar

import psycopg
from psycopg import pq
from psycopg.abc import Params, Query

from erpkit.database import Connection, Tenant
from erpkit.errors import DatabaseError
from erpkit.migrations.failures import describe_holders
from erpkit.migrations.files import VERSION_TABLES

PATIENCE = 1.0  # seconds that a statement waits for a lock
_MOMENT = 0.2  # seconds: shorter locks are ignored, as a migration holds most of its locks for less
_TRIES = 5

WAIT = "10s"  # for a lock that is needed to write; later sessions queue behind it for as long
_REGISTRY = ("public.tenants", "public.erpkit_tenants")

_OWN = ("erpkit_", *VERSION_TABLES)  # prefixes of the tables that hold a tenant's versions, events and dead letters

# Planning a query opens a table's indexes and partitions, so a lock on one of them counts as a lock on the table. A session that
# waits for an exclusive lock keeps later readers out, too.
_LOCKS = """
SELECT DISTINCT ON (t.oid) n.nspname, t.oid, t.relname, coalesce(l.pid, 0),
       concat_ws(', ', nullif(a.usename, ''), nullif(a.application_name, ''), a.state), l.granted
  FROM pg_locks l JOIN pg_class c ON c.oid = l.relation LEFT JOIN pg_index x ON x.indexrelid = c.oid
 CROSS JOIN LATERAL (SELECT coalesce(x.indrelid, c.oid) UNION
                     SELECT relid FROM pg_partition_ancestors(coalesce(x.indrelid, c.oid))) o (oid)
  JOIN pg_class t ON t.oid = o.oid AND t.relkind IN ('r', 'p', 'm') JOIN pg_namespace n ON n.oid = t.relnamespace
  LEFT JOIN pg_stat_activity a ON a.pid = l.pid
 WHERE l.mode = 'AccessExclusiveLock' AND l.pid IS DISTINCT FROM pg_backend_pid() AND n.nspname = ANY(%s)
   AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
 ORDER BY t.oid, l.granted DESC, l.pid
"""

_T = TypeVar("_T")


@dataclass(frozen=True)
class TableLock:
    """A table that nobody else can read, as process `pid` holds it in ACCESS EXCLUSIVE mode or waits for that.

    `pid` is 0 for a prepared transaction.
    """

    oid: int
    table: str
    pid: int
    session: str = field(compare=False)  # user, application and state, which changes while the lock stays
    is_held: bool

    @property
    def holder(self) -> str:
        """The session that holds it or waits for it, in words."""
        return f"process {self.pid} ({self.session})" if self.pid else "a prepared transaction"


def read_locks(connection: Connection, schemas: Sequence[str]) -> dict[str, str]:
    """Return, for each of `schemas` in which another session has locked a table exclusively, a clause that names both."""
    found: dict[str, str] = {}
    for schema, *facts in connection.execute(_LOCKS, [list(schemas)]):
        lock = TableLock(*facts)
        found.setdefault(schema, f"table {lock.table} is locked by {lock.holder}")
    return found


class Locks:
    """The locked tables of some schemas; it looks again whenever a statement waited too long."""

    def __init__(self, connection: Connection, schemas: Sequence[str]) -> None:
        self._connection = connection
        self._schemas = list(schemas)
        self._locks: dict[str, dict[str, TableLock]] = {}
        self._look()

    @property
    def oids(self) -> list[int]:
        """The locked tables."""
        return [lock.oid for tables in self._locks.values() for lock in tables.values()]

    def of(self, schema: str) -> tuple[TableLock, ...]:
        """Return the locks in one schema, by table."""
        return tuple(lock for _, lock in sorted(self._locks.get(schema, {}).items()))

    def holds(self, schema: str, table: str) -> bool:
        """Tell whether a table is locked."""
        return table in self._locks.get(schema, {})

    def holds_own(self, schema: str) -> bool:
        """Tell whether one of the tables with a tenant's versions, events and dead letters is locked."""
        return any(table.startswith(_OWN) for table in self._locks.get(schema, {}))

    def readable(self, tenants: Sequence[Tenant]) -> list[Tenant]:
        """Return the tenants whose versions, events and dead letters can be read."""
        return [tenant for tenant in tenants if not self.holds_own(tenant.schema)]

    def read(self, reading: Callable[[], _T]) -> _T:
        """Call `reading` with statements that wait at most a second for a lock, and return its result.

        If one waits too long, the locks are read anew and `reading`, which leaves out the locked tables, is called again. Raises
        DatabaseError if that does not help.
        """
        with short_waits(self._connection):
            return self.retry(reading)

    def retry(self, reading: Callable[[], _T]) -> _T:
        """Do as `read`, for a `reading` that sets its own lock timeout."""
        for _ in range(_TRIES):
            try:
                return reading()
            except psycopg.errors.LockNotAvailable:
                self._look()
        raise DatabaseError("tables were locked again and again while others were read: try again later")

    def _look(self) -> None:
        """Add the locks that are held for more than a moment; this waits for no lock."""
        seen = self._read()
        if not seen:
            return
        self._connection.execute("SELECT pg_sleep(%s)", [_MOMENT])
        for schema, lock in (found for found in self._read() if found in seen):
            self._locks.setdefault(schema, {})[lock.table] = lock

    def _read(self) -> set[tuple[str, TableLock]]:
        rows = self._connection.execute(_LOCKS, [self._schemas])
        return {(schema, TableLock(*facts)) for schema, *facts in rows}


class _Impatient(psycopg.Cursor[tuple[Any, ...]]):
    """Runs each statement in a transaction of its own that waits at most a second for a lock, in one round trip.

    A setting of the session would be left to other clients behind PgBouncer.
    """

    def execute(self, query: Query, params: Params | None = None, **options: Any) -> Self:
        text = psycopg.ClientCursor(self.connection).mogrify(query, params)
        is_idle = self.connection.info.transaction_status == pq.TransactionStatus.IDLE
        begin, end = (
            ("BEGIN READ ONLY", "ROLLBACK") if is_idle else ("SAVEPOINT look", "ROLLBACK TO look; RELEASE look")
        )
        try:
            super().execute(
                f"{begin}; SET LOCAL lock_timeout TO {int(PATIENCE * 1000)}; {text}; {end}".encode(), **options
            )
        except psycopg.Error:
            super().execute(end.encode())
            raise
        self.set_result(2)  # the first two results are those of BEGIN and SET
        return self


@contextmanager
def name_holders(connection: Connection, tenant: Tenant, outcome: str) -> Iterator[None]:
    """Raise DatabaseError, which names the lock's holder and the `outcome`, if the block cannot get a lock in time.

    Put it around the transaction: the holder is read after it has ended.
    """
    try:
        yield
    except psycopg.errors.LockNotAvailable as error:
        holders = describe_holders(connection, tenant, _REGISTRY)
        raise DatabaseError(
            f"tenant {tenant.slug} is in use: could not get a lock in time{holders}; {outcome}: "
            "wait for that transaction or end it (pg_terminate_backend), and try again"
        ) from error


@contextmanager
def short_waits(connection: Connection) -> Iterator[None]:
    """Let each statement wait at most a second for a lock; then it raises LockNotAvailable."""
    usual = connection.cursor_factory
    connection.cursor_factory = type("Impatient", (_Impatient, usual), {})
    try:
        yield
    finally:
        connection.cursor_factory = usual
