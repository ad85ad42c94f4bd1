"""One query over many tenants, as one DataFrame."""

from __future__ import annotations

import html
import math
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

import psycopg
import psycopg.abc
import psycopg.adapt
from psycopg import pq, sql
from psycopg.generators import fetch_many, pipeline_communicate
from psycopg.waiting import wait

from erpkit.database import Connection, Database, Tenant, no_schema, search_path
from erpkit.errors import UsageError
from erpkit.tenants.frames import Part, combine

if TYPE_CHECKING:
    import pandas

__all__ = ["Across", "across", "check_read_only"]

_BATCH = 100  # tenants whose statements are under way at once on one connection
_READS = re.compile(r"(?:\s|--[^\n]*\n|/\*.*?\*/|\()*(select|with|values|table)\b", re.IGNORECASE | re.DOTALL)
# A role is left again by set_config('role', …); these are the ways to call it, or to run SQL that was put together as text.
_LEAVES = re.compile(r"set_config|(?:query|cursor|table|schema|database)_to_xml|dblink|u&\s*[\"']", re.IGNORECASE)


@dataclass(frozen=True)
class Across:
    """What a query gave over all tenants: the rows, and what went wrong.

    `frame` has a column `tenant` first. `errors` maps the tenants that failed to the reason; `truncated` are those that had
    more rows than the limit; `skipped` maps those that were not asked to their status.
    """

    frame: pandas.DataFrame
    errors: dict[str, str]
    truncated: tuple[str, ...]
    skipped: dict[str, str]

    @property
    def notes(self) -> list[str]:
        """What a reader of the rows must know, a line each."""
        return [
            *(f"{slug}: {error}" for slug, error in self.errors.items()),
            *(f"{slug}: more rows than the limit" for slug in self.truncated),
            *(f"{slug}: skipped, {status}" for slug, status in self.skipped.items()),
        ]

    def _repr_html_(self) -> str:
        notes = "".join(f"<li>{html.escape(note)}</li>" for note in self.notes)
        return f"{self.frame.to_html(max_rows=60)}<ul>{notes}</ul>"


def across(
    database: Database,
    query: str,
    params: Sequence[Any] | dict[str, Any] | None = None,
    *,
    tenants: Sequence[Tenant],
    limit: int | None = 10_000,
    timeout: float = 60,
    connections: int = 3,
    progress: Callable[[int], object] | None = None,
) -> Across:
    """Run one reading query in every active tenant's schema and return all rows as one DataFrame.

    Each tenant is read under its own role, in a read-only transaction of its own: one that fails is named beside the rows of
    the others. `limit` is the most rows a tenant may give, `timeout` the seconds for all of them together; the server holds
    both. Dtypes are nullable integers, UTC timestamps, exact decimals as objects, and parsed jsonb. `progress` is called with
    the number of tenants done. Raises UsageError for anything but one SELECT, WITH, VALUES or TABLE.
    """
    check_read_only(query)
    statement = _bind(database, _limited(query, limit), params)
    active = [tenant for tenant in tenants if tenant.is_active]
    deadline = time.monotonic() + timeout
    lanes = [active[n::connections] for n in range(connections) if active[n::connections]]
    interrupted = threading.Event()
    work = partial(_sweep, database, statement, deadline, interrupted, progress or str)
    with ThreadPoolExecutor(max(len(lanes), 1)) as threads:
        try:
            parts = [part for lane in threads.map(work, lanes) for part in lane]
        except BaseException:  # Ctrl-C, or a lane that failed: let nothing run on in the server
            interrupted.set()
            raise
    order = {tenant.slug: number for number, tenant in enumerate(active)}
    parts.sort(key=lambda part: order[part.tenant])
    return Across(
        combine([part.keep(limit) for part in parts if part.error is None]),
        {part.tenant: part.error for part in parts if part.error is not None},
        tuple(part.tenant for part in parts if limit is not None and len(part.rows) > limit),
        {tenant.slug: tenant.status for tenant in tenants if not tenant.is_active},
    )


def check_read_only(query: str) -> None:
    """Raise UsageError unless `query` begins as a reading one and calls nothing that could leave the tenant's role.

    The read-only transaction and the role are PostgreSQL's own guards; this one keeps a query from taking them off.
    """
    if not _READS.match(query):
        raise UsageError("only a query that reads can be run here: SELECT, WITH, VALUES or TABLE")
    if found := _LEAVES.search(query):
        raise UsageError(f"{found[0]!r} cannot be used here: it could leave the tenant's role")


def _limited(query: str, limit: int | None) -> str:
    text = query.strip().removesuffix(";")
    return text if limit is None else f"SELECT * FROM (\n{text}\n) limited LIMIT {limit + 1}"  # noqa: S608 - the query is the user's own


def _bind(database: Database, query: str, params: Sequence[Any] | dict[str, Any] | None) -> bytes:
    """Put the parameters in as literals, once for all tenants."""
    if params is None:
        return query.encode()
    with database.connection() as connection:
        try:
            return psycopg.ClientCursor(connection).mogrify(query, params).encode()
        except psycopg.ProgrammingError as error:
            raise UsageError(f"the parameters do not fit the query: {error}") from None


def _sweep(
    database: Database,
    statement: bytes,
    deadline: float,
    interrupted: threading.Event,
    progress: Callable[[int], object],
    tenants: Sequence[Tenant],
) -> list[Part]:
    """Read a lane of tenants, a connection for each few hundred of them; what is not reached in time is said so."""
    parts: list[Part] = []
    for start in range(0, len(tenants), _BATCH):
        batch = tenants[start : start + _BATCH]
        left = deadline - time.monotonic()
        if left <= 0 or interrupted.is_set():
            return parts + [Part(tenant.slug, error="not reached in time") for tenant in tenants[start:]]
        with database.visit(batch) as connection, _cancelled_at(connection, deadline, interrupted):
            parts += _read_batch(connection, statement, batch, math.ceil(left) * 1000)
        progress(len(batch))
    return parts


def _read_batch(connection: Connection, statement: bytes, tenants: Sequence[Tenant], timeout: int) -> list[Part]:
    """Send the statements of all `tenants` in one pipeline, with a sync point after each tenant.

    Between two sync points PostgreSQL runs an implicit transaction, so that a fault ends with its tenant (PostgreSQL manual,
    "Pipelining"), and the extended protocol takes one statement only: a query cannot end the transaction and go on.
    """
    pgconn = connection.pgconn
    commands: deque[Callable[[], None]] = deque()
    for tenant in tenants:
        for text in (scope_query(tenant.schema, tenant.reader, timeout), statement):
            commands.append(partial(pgconn.send_query_params, text, None))
        commands.append(pgconn.pipeline_sync)
    pgconn.enter_pipeline_mode()
    results = wait(pipeline_communicate(pgconn, commands), pgconn.socket)
    while len(results) < 3 * len(tenants):
        results.append(wait(fetch_many(pgconn), pgconn.socket))
    pgconn.exit_pipeline_mode()
    transformer = psycopg.adapt.Transformer(connection)
    return [_part(transformer, tenant, *results[3 * n : 3 * n + 2]) for n, tenant in enumerate(tenants)]


def _part(
    transformer: psycopg.abc.Transformer, tenant: Tenant, scope: list[pq.abc.PGresult], rows: list[pq.abc.PGresult]
) -> Part:
    if scope[-1].status != pq.ExecStatus.TUPLES_OK:
        return Part(tenant.slug, error=_reason(scope[-1]))
    if scope[-1].get_value(0, scope[-1].nfields - 1) != tenant.schema.encode():
        return Part(tenant.slug, error=no_schema(tenant))
    if rows[-1].status != pq.ExecStatus.TUPLES_OK:
        return Part(tenant.slug, error=_reason(rows[-1]))
    result = rows[-1]
    transformer.set_pgresult(result)
    names = [(result.fname(n) or b"").decode() for n in range(result.nfields)]
    try:
        loaded = transformer.load_rows(0, result.ntuples, tuple)
    except psycopg.DataError as error:  # a date beyond what Python can hold
        return Part(tenant.slug, error=str(error))
    return Part(tenant.slug, tuple(names), tuple(result.ftype(n) for n in range(result.nfields)), loaded)


def _reason(result: pq.abc.PGresult) -> str:
    return pq.error_message(result).strip().splitlines()[0]


@lru_cache(maxsize=10_000)
def scope_query(schema: str, role: str | None, timeout: int) -> bytes:
    """Return the one statement that scopes an implicit transaction to a tenant; it reads the schema that came of it."""
    settings = {
        "transaction_read_only": "on",
        "statement_timeout": str(timeout),
        "search_path": search_path(schema),
        "role": role,
    }
    calls = [
        f"set_config('{name}', {sql.Literal(value).as_string()}, true)"
        for name, value in settings.items()
        if value is not None
    ]
    return f"SELECT {', '.join(calls)}, current_schema()".encode()


@contextmanager
def _cancelled_at(connection: Connection, deadline: float, interrupted: threading.Event) -> Iterator[None]:
    """Cancel what runs on `connection` once `deadline` is past or the caller gave up, one statement after the other."""
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.02):
            if interrupted.is_set() or time.monotonic() >= deadline:
                connection.cancel_safe()

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()
