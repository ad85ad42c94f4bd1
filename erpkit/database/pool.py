"""A database, and its pool of connections for one tenant, for many, or for none."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from copy import copy
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import psycopg
from psycopg import pq
from psycopg.rows import RowFactory, tuple_row

from erpkit.config import Settings
from erpkit.database.rights import describe_excess, name_grant
from erpkit.database.scope import (
    Connection,
    Tenant,
    check_in_transaction,
    commit,
    enter_tenant,
    is_alive,
    leave_unchanged,
    reset,
)
from erpkit.database.target import probe
from erpkit.embedded import EmbeddedServer, reading_url
from erpkit.errors import DatabaseError, UsageError

if TYPE_CHECKING:
    from psycopg_pool import ConnectionPool

# A backend caches every table that it has seen: over 1,000 tenants of three tables it grew from 13 MB to 174 MB.
TENANTS_A_CONNECTION = 500

_MAY_TAKE = """
SELECT r.rolname::text FROM pg_catalog.pg_auth_members m JOIN pg_catalog.pg_roles r ON r.oid = m.roleid
 WHERE m.member IN (to_regrole('erpkit_analyst')::oid, (SELECT oid FROM pg_catalog.pg_roles WHERE rolname = session_user))
"""

_log = logging.getLogger("erpkit")
_WAIT = 30  # seconds for a connection
_LOOK = 1  # seconds of waiting after which to check whether the server answers
# The pool may already have been opening the second connection when the server ended all sessions.
_TRIES = 3
_CLOSED = f"closed {_TRIES} connections in a row, the last ones new"
_WAIT_FOR_MORE = 0.25  # seconds for a further connection: two callers that wait longer could wait for each other


class PooledConnection(psycopg.Connection[tuple[Any, ...]]):
    """A connection of the pool; `visited` holds the schemas that its backend has cached.

    `shared_schemas` follow a tenant's on the search_path, and `pooler` is what the settings say of one in between.
    """

    shared_schemas: tuple[str, ...] = ()
    pooler: str = ""
    registry: str = ""  # erpkit's table of tenants, once it was looked for

    def __init__(self, pgconn: pq.abc.PGconn, row_factory: RowFactory[tuple[Any, ...]] = tuple_row) -> None:
        super().__init__(pgconn, row_factory)
        self.visited: set[str] = set()


class Database:
    """A PostgreSQL database with a pool of connections; open it with `Database.open(settings)`, in a `with` block or not.

    `target` names it for people: `embedded`, or host/database/user. `is_writable` is False for the database of an ERP that
    erpkit only reads. `shared_schemas` follow a tenant's on the search_path, and its role may write to the `writable_schemas` among
    them; `allowed_functions` are what SQL that a person types may call. `pooler` is "session" if one in that mode is in between.

    A connection that died in the pool, as when the server restarted, is replaced before it is lent. Work that has begun on a
    connection is never repeated.
    """

    def __init__(self, conninfo: str, target: str, *, max_connections: int = 8, writable: bool = True) -> None:
        # psycopg warns of each connection that its pool replaces, and of each savepoint that a handler has ended; without a handler of
        # the log Python would print it.
        logging.getLogger("psycopg").addHandler(logging.NullHandler())
        self.target = target
        self.is_writable = writable
        self.conninfo = conninfo
        self.max_connections = max_connections
        self.shared_schemas: tuple[str, ...] = ()
        self.writable_schemas: tuple[str, ...] = ()
        self.allowed_functions: tuple[str, ...] = ()
        self.pooler = ""
        self._wait = _WAIT
        self._pool = self._new_pool()
        self._reading: Self | None = None
        self._lock = threading.Lock()
        self._is_named = self._is_shut = False
        self._may_take: set[str | None] = set()
        self._refused: set[str | None] = set()

    @classmethod
    def open(cls, settings: Settings) -> Self:
        """Open the database that `settings` name, starting the embedded server if it is the one.

        Raises DatabaseError, naming the target, when it does not answer or refuses us.
        """
        database = cls._open(settings)
        database.shared_schemas, database.allowed_functions = settings.shared_schemas, settings.allowed_functions
        database.writable_schemas, database.pooler = settings.writable_schemas, settings.pooler
        return database

    @classmethod
    def _open(cls, settings: Settings) -> Self:
        if settings.database is not None:
            found = probe(settings.database)
            is_foreign = settings.tenants_query is not None
            return cls(settings.database if is_foreign else found.conninfo, found.name, writable=not is_foreign)
        server = EmbeddedServer(settings.home)
        server.start()
        probe(server.url())
        return cls(server.url(), "embedded", writable=settings.tenants_query is None)

    def check_writable(self) -> None:
        """Raise UsageError if the database belongs to an ERP that erpkit only reads."""
        if not self.is_writable:
            raise UsageError(f"ERPKIT_TENANTS_QUERY is set: {self.target} is read-only here; nothing was changed")

    def close(self, *, for_good: bool = False) -> None:
        """Close the pooled connections; a later request opens a new pool, or raises UsageError if this was `for_good`."""
        self._is_shut = for_good
        self._pool.close()
        if self._reading is not None and self._reading is not self:
            self._reading.close(for_good=for_good)

    def apart(self) -> Self:
        """Return the same database with a separate pool."""
        other = copy(self)
        other._pool = other._new_pool()
        other._reading, other._lock = None, threading.Lock()
        return other

    def reading(self, tenants: Sequence[Tenant]) -> Self:
        """Return the same database under the login that may only read, if there is one and it may read all of `tenants`.

        The embedded server has such a login; it may take the tenants' reading roles. Methods that only read call this
        themselves.
        """
        roles = {tenant.reader for tenant in tenants}
        if None in roles:
            return self
        if self._reading is None:
            with self._lock:
                self._reading = self._reading or self._open_reading()
        side = self._reading
        if side is self or side._may_take >= roles:
            return side
        if not roles <= side._may_take | side._refused:
            side._learn_roles(roles)
        return side if side._may_take >= roles else self

    def _learn_roles(self, roles: set[str | None]) -> None:
        """Read all roles that the login may take at once, as every tenant will be asked for."""
        with self.connection() as connection:
            rows = connection.execute(_MAY_TAKE).fetchall()
        self._may_take = {role for (role,) in rows}
        self._refused = self._refused | (roles - self._may_take)

    def _open_reading(self) -> Self:
        url = reading_url(self.conninfo)
        if url is None:
            return self
        reading = copy(self)
        reading.conninfo, reading._may_take, reading._refused = url, set(), set()
        return reading.apart()

    def name_login(self, tenants: Sequence[Tenant]) -> None:
        """Warn once if the login may do more than read; call it before running a user's SQL in `tenants`."""
        side = self.reading(tenants)
        if side._is_named:
            return
        with side.connection() as connection:
            excess = describe_excess(connection)
        side._is_named = True
        if excess is not None:
            _log.warning(excess)

    def renew(self) -> None:
        """Replace the connections that died in the pool, as when the server restarted.

        Lending a connection does so by itself; call this to learn whether the server is back. Raises DatabaseError, naming the
        target, when it does not answer.
        """
        probe(self.conninfo, self.target)
        self._pool.check()
        if self._reading is not None:
            self._reading._pool.check()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Database {self.target}>"

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        """Lend a connection in autocommit mode, outside any tenant; its session is reset afterwards."""
        with self._lend() as connection:
            yield connection

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """Lend a connection inside a transaction outside any tenant; commit at the end, roll back on an error."""
        with self._lend() as connection, connection.transaction():
            yield connection

    def tenant_transaction(
        self, tenant: Tenant, *, write: bool = False, statement_timeout: float | None = 30, active: bool = False
    ) -> AbstractContextManager[Connection]:
        """Lend a connection inside a transaction that sees one tenant's schema, under that tenant's role.

        Without `write` it is read-only, and under the tenant's `reader`, the only role that an analyst's login may take.
        `statement_timeout` is in seconds. With `active` the tenant cannot be suspended, renamed or dropped meanwhile, and
        TenantNotActiveError is raised for one that is not active. It commits at the end and rolls back on an error.

        Raises DatabaseError when the tenant's
        schema does not exist, which PostgreSQL itself would silently accept, and when the transaction was ended or failed before
        the commit.
        """
        side = self if write else self.reading([tenant])
        return _TenantTransaction(side, tenant, write, statement_timeout, active)

    @contextmanager
    def visit(self, tenants: Sequence[Tenant]) -> Iterator[PooledConnection]:
        """Lend a connection in autocommit mode to go through many tenants; the caller scopes each transaction.

        A caller that visits other tenants than these must add their schemas to the connection's `visited`.
        """
        with self._lend() as connection:
            connection.visited.update(tenant.schema for tenant in tenants)
            yield connection

    @contextmanager
    def visit_at_once(
        self, groups: Sequence[Sequence[Tenant]]
    ) -> Iterator[list[tuple[PooledConnection, Sequence[Tenant]]]]:
        """Lend a connection for reading to each of the first groups of tenants: at least one, and as many as the pool has free.

        A group gets the connection that has visited most of it, as a backend takes twice as long for tables that it has not
        cached. An exception inside closes the connections, whose answers may still be arriving.
        """
        side = self.reading([tenant for group in groups for tenant in group])
        with ExitStack() as stack:
            lent = [stack.enter_context(side._lend())]
            while len(lent) < min(len(groups), side._pool.max_size):
                try:
                    lent.append(stack.enter_context(side._lend(_WAIT_FOR_MORE)))
                except DatabaseError:
                    break
            pairs = _by_acquaintance(lent, groups)
            try:
                yield pairs
            except BaseException:
                for connection in lent:
                    if connection.info.transaction_status == pq.TransactionStatus.ACTIVE:  # Ctrl-C: let nothing run on
                        connection.cancel_safe(timeout=1)
                    connection.close()
                raise

    @contextmanager
    def _lend(self, wait: float | None = None) -> Iterator[PooledConnection]:
        connection = self._take_alive(wait)
        try:
            yield connection
        except Exception as error:
            name_grant(connection, error)
            raise
        finally:
            try:
                reset(connection)
            finally:
                self._give_back(connection)

    def _take(self, wait: float | None = None) -> PooledConnection:
        """Take a connection from the pool, where it may have died.

        Raises DatabaseError, naming the target, when the server does not answer, or all connections stay in use.
        """
        if self._is_shut:
            raise UsageError(f"the with block of {self.target} has ended: open it again with erpkit.open()")
        left = wait = self._wait if wait is None else wait
        while left > 0:
            if self._pool.closed:  # a notebook's cell is run again after another one closed it
                self._pool = self._new_pool()
            try:
                return self._pool.getconn(min(left, _LOOK))
            except psycopg.OperationalError:  # raised by the pool: there is none yet
                left -= _LOOK
                if not self._pool.get_stats()["pool_size"]:  # otherwise some are in use, and come back
                    probe(self.conninfo, self.target)
        raise DatabaseError(f"no connection to {self.target} within {wait:.0f} s")

    def _take_alive(self, wait: float | None) -> PooledConnection:
        """Take a connection on which the server answers."""
        for attempt in range(_TRIES):
            connection = self._take_new() if attempt else self._take(wait)
            try:
                if is_alive(connection):
                    return connection
            except BaseException:
                self._give_back(connection)
                raise
            self._give_back(connection)
        raise DatabaseError(f"{self.target} {_CLOSED}")

    def _take_new(self) -> PooledConnection:
        """Take a new connection: when one has died, the pool's others may have died, too."""
        self._pool.drain()
        return self._take()

    def _give_back(self, connection: PooledConnection) -> None:
        """Return a connection; close it first if it has visited many tenants, as its backend caches each table."""
        if len(connection.visited) >= TENANTS_A_CONNECTION:
            connection.close()
        self._pool.putconn(connection)

    def _new_pool(self) -> ConnectionPool[PooledConnection]:
        from psycopg_pool import ConnectionPool  # noqa: PLC0415 - half of the package's import time

        return ConnectionPool(
            self.conninfo,
            connection_class=PooledConnection,
            min_size=0,
            max_size=self.max_connections,
            kwargs={
                "autocommit": True,
                "application_name": "erpkit",
                "prepare_threshold": None,
                "connect_timeout": 10,
                "client_encoding": "UTF8",  # the server's own may lack characters, and SQL_ASCII turns text into bytes
            },
            configure=self._configure,
            open=True,
            timeout=_WAIT,
            reconnect_timeout=0,  # with a timeout the pool backs off, and misses that the server is back
            name="erpkit",
        )

    def _configure(self, connection: PooledConnection) -> None:
        connection.shared_schemas, connection.pooler = self.shared_schemas, self.pooler


class _TenantTransaction(AbstractContextManager[Connection]):
    """One tenant's transaction; a class, as a generator would cost as much as a SET statement."""

    def __init__(
        self, database: Database, tenant: Tenant, write: bool, statement_timeout: float | None, active: bool
    ) -> None:
        self._active = active
        self._database = database
        self._tenant = tenant
        self._write = write
        self._timeout = statement_timeout

    def __enter__(self) -> Connection:
        if self._write:
            self._database.check_writable()
        self._connection = self._database._take()
        for left in reversed(range(_TRIES)):
            try:
                self._enter()
                break
            except DatabaseError as error:  # if the connection is closed, it was lost before the block began
                if not self._connection.closed:
                    raise
                if not left:
                    raise DatabaseError(f"{self._database.target} {_CLOSED}: {error}") from error
                self._connection = self._database._take_new()
        return self._connection

    def _enter(self) -> None:
        try:
            enter_tenant(
                self._connection,
                self._tenant,
                write=self._write,
                statement_timeout=self._timeout,
                active=self._active,
            )
        except BaseException as error:
            name_grant(self._connection, error)
            self._database._give_back(self._connection)
            raise
        self._connection.visited.add(self._tenant.schema)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._end(error)
        finally:
            self._database._give_back(self._connection)

    def _end(self, error: BaseException | None) -> None:
        connection = self._connection
        try:
            if error is None:
                check_in_transaction(connection, self._tenant)
        except DatabaseError:
            reset(connection)
            raise
        if error is not None:
            reset(connection)
        elif self._write:
            commit(connection, self._tenant)
        else:
            leave_unchanged(connection)


def _by_acquaintance(
    connections: Sequence[PooledConnection], groups: Sequence[Sequence[Tenant]]
) -> list[tuple[PooledConnection, Sequence[Tenant]]]:
    """Pair each of the first groups with the connection that has visited most of its tenants, and record the visit."""
    free, pairs = list(connections), []
    for group in groups[: len(connections)]:
        schemas = {tenant.schema for tenant in group}
        best = max(free, key=lambda connection: len(schemas & connection.visited))
        free.remove(best)
        best.visited |= schemas
        pairs.append((best, group))
    return pairs
