"""Read the same thing from many tenants, each under its own reader, in few round trips."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator, MutableMapping
from contextlib import contextmanager
from itertools import islice
from typing import Any, LiteralString

import psycopg
from psycopg import abc, adapt, pq, sql

from erpkit.database.scope import Connection, Tenant, grant_usage, no_schema
from erpkit.database.sweep import Answer, sweep
from erpkit.errors import DatabaseError, ErpkitError, first_line
from erpkit.plural import count_of

# The reasons why tenants could not be read, by slug; functions that read many tenants fill it in.
Errors = MutableMapping[str, str]

# The first statement of a transaction in one of many tenants: waits at most a second for a locked table.
IMPATIENT: LiteralString = "SET LOCAL lock_timeout TO '1s'"

_LONGEST = 3600.0  # seconds for all tenants together


def read_tenants(
    connection: Connection, queries: Iterable[tuple[Tenant, sql.Composable]], errors: Errors | None = None
) -> list[tuple[Any, ...]]:
    """Run each query in a transaction of its tenant, under the tenant's reader, pipelined; return all rows in that order.

    A tenant that cannot be read, or has a table that stays locked for a second, does not affect the others: `errors` gets the
    reason. Without `errors`, DatabaseError is raised, so that nobody draws conclusions from what was not read. Inside a
    transaction of the caller's, which a role or an error would change, one statement reads all under the caller's privileges.
    """
    statements: dict[Tenant, list[sql.Composable]] = {}
    for tenant, query in queries:
        statements.setdefault(tenant, []).append(query)
    if connection.info.transaction_status != pq.TransactionStatus.IDLE:
        return fetch_union(connection, (query for several in statements.values() for query in several))
    texts = {tenant: [query.as_bytes(connection) for query in several] for tenant, several in statements.items()}
    rows: list[tuple[Any, ...]] = []
    failed: dict[str, str] = {}
    transformer, login = adapt.Transformer(connection), connection.info.user
    for answer in sweep(connection, texts.__getitem__, list(texts), deadline=time.monotonic() + _LONGEST):
        try:
            rows += _rows(transformer, login, answer)
        except (DatabaseError, psycopg.DataError) as error:
            failed[answer.tenant.slug] = str(error)
    if connection.closed:
        raise DatabaseError(f"the connection was lost: {next(iter(failed.values()), 'the server closed it')}")
    note_errors(failed, errors)
    return rows


def note_errors(failed: MutableMapping[str, str], errors: Errors | None) -> None:
    """Add to `errors` why tenants could not be read; without `errors`, raise DatabaseError that names them."""
    if errors is not None:
        for slug, reason in failed.items():
            errors.setdefault(slug, reason)
    elif failed:
        told = [f"tenant {slug}: {reason.removeprefix(f'tenant {slug}: ')}" for slug, reason in failed.items()]
        raise DatabaseError(
            "; ".join(told[:3]) + (f"; and {count_of(len(told) - 3, 'more tenant')}" if len(told) > 3 else "")
        )


@contextmanager
def note_failure(tenant: Tenant, errors: Errors) -> Iterator[None]:
    """Catch a database error or an ErpkitError of the block, and add its first line to `errors` under the tenant."""
    try:
        yield
    except (ErpkitError, psycopg.Error) as error:
        errors[tenant.slug] = first_line(error).removeprefix(f"tenant {tenant.slug}: ")


def tenants_with_table(
    connection: Connection, table: str, tenants: Collection[Tenant], errors: Errors | None = None
) -> list[Tenant]:
    """Return those of `tenants` that have a table of this name; `errors` gets those whose schema does not exist."""
    rows = connection.execute(
        "SELECT n.nspname, EXISTS (SELECT FROM pg_class c WHERE c.relnamespace = n.oid AND c.relname = %s AND c.relkind IN ('r', 'p')) "
        "FROM pg_namespace n WHERE n.nspname = ANY(%s)",
        [table, [tenant.schema for tenant in tenants]],
    ).fetchall()
    found: dict[str, bool] = dict(rows)
    if errors is not None:
        note_errors({t.slug: f"its schema {t.schema} does not exist" for t in tenants if t.schema not in found}, errors)
    return [tenant for tenant in tenants if found.get(tenant.schema)]


def read_tables(
    connection: Connection, tenants: Collection[Tenant], table: str, query: LiteralString, errors: Errors | None = None,
    **values: Any,
) -> list[tuple[Any, ...]]:  # fmt: skip
    """Run a query in each tenant that has a table of this name, and return all rows; `errors` is as in `read_tenants`.

    In the query `{slug}` stands for the tenant's name, `{schema}` for its schema, and what else it names for these `values`.
    """
    parts = {name: one if isinstance(one, sql.Composable) else sql.Literal(one) for name, one in values.items()}
    queries = [
        (one, sql.SQL(query).format(slug=sql.Literal(one.slug), schema=sql.Identifier(one.schema), **parts))
        for one in tenants_with_table(connection, table, tenants, errors)
    ]
    return read_tenants(connection, queries, errors)


def fetch_union(
    connection: Connection, queries: Iterable[sql.Composable], chunk: int = 500, *, patience: float = 0
) -> list[tuple[Any, ...]]:
    """Run queries of the same shape over many schemas as UNION ALL, `chunk` of them a round trip; return all rows.

    With `patience`, it waits at most so many seconds for a locked table, and then raises LockNotAvailable.
    """
    rows: list[tuple[Any, ...]] = []
    remaining = iter(queries)
    # Statements that are sent in one message are one transaction, with which the setting ends.
    limit = sql.SQL(f"SET LOCAL lock_timeout TO {int(patience * 1000)}; " if patience else "")
    while batch := list(islice(remaining, chunk)):
        cursor = connection.execute(limit + sql.SQL(" UNION ALL ").join(batch))
        if patience:
            cursor.set_result(-1)
        rows += cursor.fetchall()
    return rows


def has_schema(connection: Connection, schema: str) -> bool:
    """Tell whether there is a schema of this name."""
    return connection.execute("SELECT FROM pg_namespace WHERE nspname = %s", [schema]).fetchone() is not None


def _rows(transformer: abc.Transformer, login: str, answer: Answer) -> list[tuple[Any, ...]]:
    """Return the rows of a tenant's queries as Python values; raise DatabaseError if one failed."""
    if answer.error is not None:
        raise DatabaseError(_why(answer.tenant, answer.error, login))
    rows: list[tuple[Any, ...]] = []
    for result in answer.results:
        transformer.set_pgresult(result)
        rows += transformer.load_rows(0, result.ntuples, tuple)
    return rows


def _why(tenant: Tenant, error: str, login: str) -> str:
    """Name the missing grant for a schema that exists but did not become the current one."""
    if error != no_schema(tenant) or tenant.schema == "$user":
        return error
    return f"permission denied for schema {tenant.schema}: {grant_usage(tenant.schema, tenant.reader or login)}"
