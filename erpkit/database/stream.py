"""One tenant's large result, in binary and in chunks of rows."""

from __future__ import annotations

import math
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from psycopg import errors, generators, pq

from erpkit.database.pool import Database
from erpkit.database.scope import Connection, missing_grant, set_output
from erpkit.database.tenant import Tenant
from erpkit.errors import DatabaseError

_CHUNK = 5_000
_GRACE = 1.0  # seconds in which the server is to take a cancellation


@dataclass(frozen=True)
class Stream:
    """The names and type oids of a query's columns, and its rows a chunk at a time."""

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
                failed = result  # nothing but the end of this answer follows
            elif failed is None:
                yield result
        if failed is not None:
            _check(failed)

    def write(self, oid: int, values: Sequence[bytes]) -> list[bytes | None]:
        """Return PostgreSQL's text of values that came in binary, of one type."""
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
    """Tell whether libpq gives a result in chunks, which it does from version 17 on."""
    return pq.version() >= 170000


@contextmanager
def open_stream(database: Database, tenant: Tenant, query: bytes, *, deadline: float) -> Iterator[Stream]:
    """Describe a query that gives rows, in a transaction of the tenant's reader, to read them next.

    `deadline` is a reading of time.monotonic(); the server holds it. Raises DatabaseError when the tenant cannot be entered,
    or a right is missing, with the GRANT that gives it, and psycopg's errors for what else the query does.
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
    """Return what a result calls its columns, and the oids of their types."""
    numbers = range(result.nfields)
    names = tuple((result.fname(number) or b"").decode(errors="backslashreplace") for number in numbers)
    return names, tuple(map(result.ftype, numbers))


def _cancel(connection: Connection) -> None:
    """Have the server end what it still sends, so that nothing runs on and the connection can be used again."""
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
