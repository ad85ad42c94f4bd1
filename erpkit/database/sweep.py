"""Reading many tenants, each under its own role, pipelined on a few connections by one thread."""

from __future__ import annotations

import math
import re
import select
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import psycopg
from psycopg import pq, sql

from erpkit.database.pool import TENANTS_A_CONNECTION, Database
from erpkit.database.scope import (
    OUTPUT,
    Connection,
    is_direct,
    missing_grant,
    no_schema,
    search_path,
    shared_schemas,
)  # fmt: skip
from erpkit.database.tenant import Tenant
from erpkit.errors import first_line

__all__ = ["Answer", "sweep"]

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
    """What one tenant gave: a result for each statement, or the reason why there is none."""

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
    """Run reading statements in each tenant's schema, under its reader; yield what each gave, in no special order.

    Each tenant has a transaction of its own: one that fails costs no other, and a locked table is waited for one second.
    `deadline` is a reading of time.monotonic(). One thread serves all the connections: several in turn would spend more time on
    waking each other than on the rows. With a connection, which must be outside a transaction, that one does it alone.
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
    """Split tenants evenly, and so that no connection gets more than it may see."""
    size = connections * TENANTS_A_CONNECTION
    for start in range(0, len(tenants), size):
        some = tenants[start : start + size]
        yield from (some[n::connections] for n in range(min(connections, len(some))))


class _Lane:
    """A connection with the tenants whose answers it still owes."""

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

        Between two sync points PostgreSQL runs an implicit transaction, so that a fault ends with its tenant (PostgreSQL
        manual, "Pipelining"), and the extended protocol takes one statement only: a query cannot end the transaction and
        go on.
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
        """Send what is left, take what has arrived, and yield the answer of each tenant that is complete; then tidy up."""
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
        """Close the connection, and yield an error for each tenant that it still owes."""
        self.connection.close()
        yield from (Answer(tenant, error=reason) for tenant in self.owed)
        self.owed.clear()


def _read_all(lanes: Sequence[_Lane], deadline: float) -> Iterator[Answer]:
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


def _hurry(lanes: Iterable[_Lane], at_once: bool) -> Iterator[Answer]:
    """Cancel what runs on each connection; in the end, leave it."""
    for lane in lanes:
        lane.connection.cancel_safe(timeout=_GRACE)
        if at_once:
            yield from lane.give_up(_LATE)


def _scope_values(path: str, role: str | None, timeout: int) -> tuple[bytes | None, ...]:
    return str(timeout).encode(), path.encode(), role.encode() if role is not None else None


def _scope_query(path: str, role: str | None, timeout: int) -> bytes:
    """Return the statement with the values written into it, all at once: a schema's name may hold a `$3`."""
    values = {f"${number}": value for number, value in enumerate((str(timeout), path, role), 1)}
    return re.sub(r"\$\d", lambda found: sql.Literal(values[found[0]]).as_string(), _SCOPE.decode()).encode()


def _answer(user: str, tenant: Tenant, scope: pq.abc.PGresult, *results: pq.abc.PGresult) -> Answer:
    """Return a tenant's results, if its scope was the right one and no statement failed."""
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
    """Return PostgreSQL's message, with what would mend it where a right is missing, or who waited where a table is locked."""
    message = pq.error_message(result).strip().splitlines()[0]
    state = result.error_field(pq.DiagnosticField.SQLSTATE)
    if state == _NO_RIGHT and (grant := missing_grant(tenant, who, message)):
        return f"{message}: {grant}"
    return "could not get a lock within 1 s: another transaction has locked a table" if state == _LOCKED else message
