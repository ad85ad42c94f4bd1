"""Read many tenants, each under its own role, pipelined on a few connections; and stream one large result in chunks."""

from __future__ import annotations

import math
import re
import select
import struct
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg
from psycopg import errors, generators, pq, sql

from erpkit.database.pool import TENANTS_A_CONNECTION, Database
from erpkit.database.scope import (
    OUTPUT,
    Connection,
    Tenant,
    is_direct,
    missing_grant,
    no_schema,
    search_path,
    set_output,
    shared_schemas,
)
from erpkit.errors import DatabaseError, first_line

_LATE = "not reached in time"
_GRACE = 1.0  # seconds after the deadline in which what still runs is cancelled, tenant by tenant
_NO_RIGHT, _LOCKED = b"42501", b"55P03"
_NAME = b"erpkit_scope"
_SCOPE = (
    b"SELECT " + OUTPUT.encode() + b", "
    b"pg_catalog.set_config('transaction_read_only', 'on', true), pg_catalog.set_config('lock_timeout', '1s', true), "
    b"pg_catalog.set_config('statement_timeout', $1, true), pg_catalog.set_config('search_path', $2, true), "
    b"pg_catalog.set_config('role', coalesce($3, pg_catalog.current_setting('role')), true), pg_catalog.current_schema()"
)


@dataclass(frozen=True)
class Answer:
    """A tenant's results, one for each statement, or the error."""

    tenant: Tenant
    results: Sequence[pq.abc.PGresult] = ()
    error: str | None = None


def sweep(
    database: Database | Connection,
    statements: Callable[[Tenant], Sequence[bytes]],
    tenants: Sequence[Tenant],
    *,
    deadline: float,
    connections: int = 3,
) -> Iterator[Answer]:
    """Run reading statements in each tenant's schema, under its reader; yield the answers in no particular order.

    Each tenant has a transaction of its own: a failure does not affect the others, and a locked table is waited for at most one
    second. `deadline` is a reading of time.monotonic(). One thread serves all connections: several threads would spend more time
    on waking each other than on the rows. A single connection may be given instead of a database; it must be outside a transaction.
    """
    if isinstance(database, psycopg.Connection):
        yield from _read_all([_Lane(database, tenants, statements, deadline)], deadline)
        return
    groups = deque(_groups(tenants, connections))
    while groups and time.monotonic() < deadline:
        with database.visit_at_once([*groups][:connections]) as pairs:
            lanes = [_Lane(connection, group, statements, deadline) for connection, group in pairs]
            yield from _read_all(lanes, deadline)
        for _ in pairs:
            groups.popleft()
    yield from (Answer(tenant, error=_LATE) for group in groups for tenant in group)


def _groups(tenants: Sequence[Tenant], connections: int) -> Iterator[Sequence[Tenant]]:
    """Split tenants evenly into groups of at most TENANTS_A_CONNECTION."""
    size = connections * TENANTS_A_CONNECTION
    for start in range(0, len(tenants), size):
        some = tenants[start : start + size]
        yield from (some[n::connections] for n in range(min(connections, len(some))))


class _Lane:
    """A connection with the tenants whose answers are still to come."""

    def __init__(
        self,
        connection: Connection,
        tenants: Sequence[Tenant],
        statements: Callable[[Tenant], Sequence[bytes]],
        deadline: float,
    ) -> None:
        self.connection = connection
        self.pgconn = connection.pgconn
        self.owed = deque(tenants)
        self.is_sent = False
        self._answers: list[pq.abc.PGresult] = []
        self._send(statements, math.ceil((deadline - time.monotonic()) * 1000))

    def _send(self, statements: Callable[[Tenant], Sequence[bytes]], timeout: int) -> None:
        """Queue the statements of all tenants, with a sync point after each tenant.

        Between two sync points PostgreSQL runs an implicit transaction, so that an error ends with its tenant (PostgreSQL
        manual, "Pipelining"). The extended protocol takes one statement a message, so that a query cannot end the transaction
        and go on outside it.
        """
        prepared = is_direct(self.connection)
        if prepared:
            self.pgconn.prepare(_NAME, _SCOPE)
        self.pgconn.enter_pipeline_mode()
        shared = shared_schemas(self.connection)
        for tenant in self.owed:
            path = search_path(tenant.schema, shared)
            if prepared:
                self.pgconn.send_query_prepared(_NAME, _scope_values(path, tenant.reader, timeout))
            else:
                self.pgconn.send_query_params(_scope_query(path, tenant.reader, timeout), None)
            for statement in statements(tenant):
                self.pgconn.send_query_params(statement, None)
            self.pgconn.pipeline_sync()

    def receive(self) -> Iterator[Answer]:
        """Send the rest, receive what has arrived, and yield the complete answers; leave pipeline mode after the last one."""
        try:
            self.is_sent = self.pgconn.flush() == 0
            self.pgconn.consume_input()
            while self.owed and not self.pgconn.is_busy():
                answer = self.pgconn.get_result()
                if answer is None:  # the end of one command's answers
                    continue
                if answer.status != pq.ExecStatus.PIPELINE_SYNC:
                    self._answers.append(answer)
                    continue
                yield _answer(self.connection.info.user, self.owed.popleft(), *self._answers)
                self._answers.clear()
        except psycopg.OperationalError as error:
            yield from self.give_up(first_line(error))
        if not self.owed and not self.connection.closed:
            self.pgconn.exit_pipeline_mode()

    def give_up(self, reason: str) -> Iterator[Answer]:
        """Close the connection, and yield an error for each tenant whose answer is still to come."""
        self.connection.close()
        yield from (Answer(tenant, error=reason) for tenant in self.owed)
        self.owed.clear()


def _read_all(lanes: Sequence[_Lane], deadline: float) -> Iterator[Answer]:
    """Serve the connections as their data arrive, until all have answered or the time is up."""
    poll = select.poll()
    busy = {lane.pgconn.socket: lane for lane in lanes}
    for socket in busy:
        poll.register(socket, select.POLLIN | select.POLLOUT)
    try:
        while busy:
            left = deadline - time.monotonic()
            for socket, _ in poll.poll(left * 1000 if left > 0 else 20):
                lane = busy[socket]
                yield from lane.receive()
                if not lane.owed:
                    poll.unregister(socket)
                    del busy[socket]
                elif lane.is_sent:
                    poll.modify(socket, select.POLLIN)
            if left < 0:
                yield from _hurry(busy.values(), left < -_GRACE)
                busy = {socket: lane for socket, lane in busy.items() if lane.owed}
    except KeyboardInterrupt:
        _abandon(list(busy.values()))
        raise


def _abandon(lanes: Sequence[_Lane]) -> None:
    """Cancel tenant after tenant, as the next statements are sent already: nothing may go on running in the server."""
    until = time.monotonic() + 3 * _GRACE
    while (working := [lane for lane in lanes if lane.owed]) and time.monotonic() < until:
        for lane in working:
            lane.connection.cancel_safe(timeout=_GRACE)
            for _ in lane.receive():  # their answers are dropped
                pass


def _hurry(lanes: Iterable[_Lane], at_once: bool) -> Iterator[Answer]:
    """Cancel the statement that runs on each connection; with `at_once`, give the connection up."""
    for lane in lanes:
        lane.connection.cancel_safe(timeout=_GRACE)
        if at_once:
            yield from lane.give_up(_LATE)


def _scope_values(path: str, role: str | None, timeout: int) -> tuple[bytes | None, ...]:
    return str(timeout).encode(), path.encode(), role.encode() if role is not None else None


def _scope_query(path: str, role: str | None, timeout: int) -> bytes:
    """Return the statement with the values in it, replaced in one pass: a schema's name may contain `$3`."""
    values = {f"${number}": value for number, value in enumerate((str(timeout), path, role), 1)}
    return re.sub(r"\$\d", lambda found: sql.Literal(values[found[0]]).as_string(), _SCOPE.decode()).encode()


def _answer(user: str, tenant: Tenant, scope: pq.abc.PGresult, *results: pq.abc.PGresult) -> Answer:
    """Return a tenant's results if it was entered and no statement failed, else the error."""
    if scope.status != pq.ExecStatus.TUPLES_OK:
        return Answer(tenant, error=_reason(scope, tenant, user))
    if scope.get_value(0, scope.nfields - 1) != tenant.schema.encode():
        return Answer(tenant, error=no_schema(tenant))
    failed = next((result for result in results if result.status != pq.ExecStatus.TUPLES_OK), None)
    return (
        Answer(tenant, results)
        if failed is None
        else Answer(tenant, error=_reason(failed, tenant, tenant.reader or user))
    )


def _reason(result: pq.abc.PGresult, tenant: Tenant, who: str) -> str:
    """Return PostgreSQL's message, with the missing GRANT if a privilege is missing."""
    message = pq.error_message(result).strip().splitlines()[0]
    state = result.error_field(pq.DiagnosticField.SQLSTATE)
    if state == _NO_RIGHT and (grant := missing_grant(tenant, who, message)):
        return f"{message}: {grant}"
    return "could not get a lock within 1 s: another transaction has locked a table" if state == _LOCKED else message


_CHUNK = 5_000  # rows


@dataclass(frozen=True)
class Stream:
    """The names and type oids of a query's columns, and its rows in chunks."""

    names: tuple[str, ...]
    types: tuple[int, ...]
    connection: Connection
    query: bytes

    def read(self, expressions: Sequence[str]) -> Iterator[pq.abc.PGresult]:
        """Yield the rows in PostgreSQL's binary format, with `expressions` over `c1`, `c2`, … for the query's columns."""
        names = ", ".join(f"c{number}" for number in range(1, len(self.names) + 1))
        alias = f"q({names})" if names else "q"
        head, tail = f"SELECT {', '.join(expressions)} FROM (\n", f"\n) {alias}"  # noqa: S608 - the caller's own
        pgconn = self.connection.pgconn
        pgconn.send_query_params(head.encode() + self.query + tail.encode(), None, result_format=pq.Format.BINARY)
        pgconn.set_chunked_rows_mode(_CHUNK)
        failed = None
        while (result := self.connection.wait(generators.fetch(pgconn))) is not None:
            if result.status == pq.ExecStatus.FATAL_ERROR:
                failed = result  # only the end of the answer follows
            elif failed is None:
                yield result
        if failed is not None:
            _check(failed)

    def write(self, oid: int, values: Sequence[bytes]) -> list[bytes | None]:
        """Return PostgreSQL's text of values of one type, which are given in binary."""
        if not values:
            return []
        pgconn = self.connection.pgconn
        array = struct.pack("!iiIii", 1, 0, oid, len(values), 1)
        array += b"".join(struct.pack("!i", len(value)) + value for value in values)
        types = self.connection.adapters.types
        result = _run(
            self.connection,
            lambda: pgconn.send_query_params(
                b"SELECT pg_catalog.concat(value) FROM pg_catalog.unnest($1) WITH ORDINALITY AS given (value, number) ORDER BY number",
                [array],
                [types[oid].array_oid],
                [pq.Format.BINARY],
            ),
        )
        return [result.get_value(row, 0) for row in range(result.ntuples)]


def can_stream() -> bool:
    """Tell whether libpq returns results in chunks, as it does from version 17 on."""
    return pq.version() >= 170000


@contextmanager
def open_stream(database: Database, tenant: Tenant, query: bytes, *, deadline: float) -> Iterator[Stream]:
    """Prepare a query that returns rows, in a transaction of the tenant's reader, and lend a Stream to read them.

    `deadline` is a reading of time.monotonic(); the server enforces it. Raises DatabaseError when the tenant cannot be entered,
    or when a privilege is missing, with its GRANT, and psycopg's errors for anything else.
    """
    left = max(math.ceil((deadline - time.monotonic()) * 10), 1) / 10
    with database.tenant_transaction(tenant, statement_timeout=left) as connection:
        set_output(connection)
        pgconn = connection.pgconn
        try:
            _run(connection, lambda: pgconn.send_prepare(b"", query))
            shape = _run(connection, lambda: pgconn.send_describe_prepared(b""))
            yield Stream(*column_names_and_types(shape), connection, query)
        except errors.InsufficientPrivilege as error:
            message = error.diag.message_primary or str(error)
            grant = missing_grant(tenant, tenant.reader or connection.info.user, message)
            raise DatabaseError(f"{message}: {grant}" if grant else message) from error
        except BaseException:
            _cancel(connection)
            raise


def column_names_and_types(result: pq.abc.PGresult) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Return the names of a result's columns, and the oids of their types."""
    numbers = range(result.nfields)
    names = tuple((result.fname(number) or b"").decode(errors="backslashreplace") for number in numbers)
    return names, tuple(map(result.ftype, numbers))


def _cancel(connection: Connection) -> None:
    """Cancel a query that is still sending, so that the connection can be used again."""
    if connection.pgconn.transaction_status != pq.TransactionStatus.ACTIVE:
        return
    connection.cancel_safe(timeout=_GRACE)
    while connection.wait(generators.fetch(connection.pgconn)) is not None:
        pass


def _run(connection: Connection, send: Callable[[], None]) -> pq.abc.PGresult:
    send()
    result: pq.abc.PGresult = connection.wait(generators.execute(connection.pgconn))[-1]
    _check(result)
    return result


def _check(result: pq.abc.PGresult) -> None:
    if result.status == pq.ExecStatus.FATAL_ERROR:
        raise errors.error_from_result(result)
