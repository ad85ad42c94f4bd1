"""One statement in many tenants, pipelined on a few connections by one thread."""

from __future__ import annotations

import math
import select
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence

import psycopg
import psycopg.abc
import psycopg.adapt
from psycopg import pq, sql

from erpkit.database import TENANTS_A_CONNECTION, Database, PooledConnection, Tenant, no_schema, search_path
from erpkit.tenants.frames import Part

__all__ = ["sweep"]

_LATE = "not reached in time"
_GRACE = 1.0  # seconds after the deadline in which what still runs is cancelled, tenant by tenant
_NAME = b"erpkit_scope"
_SCOPE = (
    b"SELECT pg_catalog.set_config('transaction_read_only', 'on', true), "
    b"pg_catalog.set_config('statement_timeout', $1, true), pg_catalog.set_config('search_path', $2, true), "
    b"pg_catalog.set_config('role', coalesce($3, pg_catalog.current_setting('role')), true), pg_catalog.current_schema()"
)


def sweep(
    database: Database,
    statement: bytes,
    tenants: Sequence[Tenant],
    *,
    deadline: float,
    connections: int,
    progress: Callable[[int], object],
) -> list[Part]:
    """Run one reading statement in each tenant's schema, under its reader; return what each gave, in no special order.

    Each tenant has a transaction of its own. `deadline` is a reading of time.monotonic(). One thread serves all the
    connections: several in turn would spend more time on waking each other than on the rows.
    """
    groups = deque(_groups(tenants, connections))
    parts: list[Part] = []
    while groups and time.monotonic() < deadline:
        with database.visit_at_once([*groups][:connections]) as pairs:
            lanes = [_Lane(connection, group, statement, deadline) for connection, group in pairs]
            for part in _read_all(lanes, deadline):
                parts.append(part)
                progress(1)
        for _ in pairs:
            groups.popleft()
    return parts + [Part(tenant.slug, error=_LATE) for group in groups for tenant in group]


def _groups(tenants: Sequence[Tenant], connections: int) -> Iterator[Sequence[Tenant]]:
    """Split tenants evenly, and so that no connection gets more than it may see."""
    size = connections * TENANTS_A_CONNECTION
    for start in range(0, len(tenants), size):
        some = tenants[start : start + size]
        yield from (some[n::connections] for n in range(min(connections, len(some))))


class _Lane:
    """A connection with the tenants whose answers it still owes."""

    def __init__(
        self, connection: PooledConnection, tenants: Sequence[Tenant], statement: bytes, deadline: float
    ) -> None:
        self.connection = connection
        self.pgconn = connection.pgconn
        self.owed = deque(tenants)
        self.is_sent = False
        self._transformer = psycopg.adapt.Transformer(connection)
        self._answers: list[pq.abc.PGresult] = []
        self._send(statement, math.ceil((deadline - time.monotonic()) * 1000))

    def _send(self, statement: bytes, timeout: int) -> None:
        """Queue the statements of all tenants, with a sync point after each tenant.

        Between two sync points PostgreSQL runs an implicit transaction, so that a fault ends with its tenant (PostgreSQL
        manual, "Pipelining"), and the extended protocol takes one statement only: a query cannot end the transaction and
        go on.
        """
        prepared = _is_direct(self.connection)
        if prepared:
            self.pgconn.prepare(_NAME, _SCOPE)
        self.pgconn.enter_pipeline_mode()
        for tenant in self.owed:
            if prepared:
                self.pgconn.send_query_prepared(_NAME, _scope_values(tenant.schema, tenant.reader, timeout))
            else:
                self.pgconn.send_query_params(_scope_query(tenant.schema, tenant.reader, timeout), None)
            self.pgconn.send_query_params(statement, None)
            self.pgconn.pipeline_sync()

    def receive(self) -> Iterator[Part]:
        """Send what is left, take what has arrived, and yield the part of each tenant that is complete; after the last one, tidy up."""
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
                yield _part(self._transformer, self.owed.popleft(), *self._answers)
                self._answers.clear()
        except psycopg.OperationalError as error:
            yield from self.give_up(str(error).strip().splitlines()[0])
        if not self.owed and not self.connection.closed:
            self.pgconn.exit_pipeline_mode()

    def give_up(self, reason: str) -> Iterator[Part]:
        """Close the connection, and yield an error for each tenant that it still owes."""
        self.connection.close()
        yield from (Part(tenant.slug, error=reason) for tenant in self.owed)
        self.owed.clear()


def _read_all(lanes: Sequence[_Lane], deadline: float) -> Iterator[Part]:
    """Serve whichever connection has something to say until all have answered, or the time is up."""
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
    """Cancel tenant after tenant, as the next one's statement is under way already: nothing is to run on in the server."""
    until = time.monotonic() + 3 * _GRACE
    while (working := [lane for lane in lanes if lane.owed]) and time.monotonic() < until:
        for lane in working:
            lane.connection.cancel_safe(timeout=_GRACE)
            for _ in lane.receive():  # what they answer does not matter any more
                pass


def _hurry(lanes: Iterable[_Lane], at_once: bool) -> Iterator[Part]:
    """Cancel what runs on each connection; in the end, leave it."""
    for lane in lanes:
        lane.connection.cancel_safe(timeout=_GRACE)
        if at_once:
            yield from lane.give_up(_LATE)


def _is_direct(connection: PooledConnection) -> bool:
    """Tell whether PostgreSQL itself is at the other end: a pooler such as PgBouncer makes up the process id.

    Only then will the next transaction still find a statement that was prepared.
    """
    row = connection.execute("SELECT pg_backend_pid()").fetchone()
    return row == (connection.info.backend_pid,)


def _scope_values(schema: str, role: str | None, timeout: int) -> tuple[bytes | None, ...]:
    return str(timeout).encode(), search_path(schema).encode(), role.encode() if role is not None else None


def _scope_query(schema: str, role: str | None, timeout: int) -> bytes:
    """Return the statement with the values written into it."""
    text = _SCOPE.decode()
    for number, value in enumerate((str(timeout), search_path(schema), role), 1):
        text = text.replace(f"${number}", sql.Literal(value).as_string())
    return text.encode()


def _part(transformer: psycopg.abc.Transformer, tenant: Tenant, scope: pq.abc.PGresult, rows: pq.abc.PGresult) -> Part:
    """Return a tenant's rows, if its scope was the right one."""
    if scope.status != pq.ExecStatus.TUPLES_OK:
        return Part(tenant.slug, error=_reason(scope))
    if scope.get_value(0, scope.nfields - 1) != tenant.schema.encode():
        return Part(tenant.slug, error=no_schema(tenant))
    if rows.status != pq.ExecStatus.TUPLES_OK:
        return Part(tenant.slug, error=_reason(rows))
    transformer.set_pgresult(rows)
    names = tuple((rows.fname(n) or b"").decode() for n in range(rows.nfields))
    try:
        loaded = transformer.load_rows(0, rows.ntuples, tuple)
    except psycopg.DataError as error:  # a date beyond what Python can hold
        return Part(tenant.slug, error=str(error))
    return Part(tenant.slug, names, tuple(rows.ftype(n) for n in range(rows.nfields)), loaded)


def _reason(result: pq.abc.PGresult) -> str:
    return pq.error_message(result).strip().splitlines()[0]
