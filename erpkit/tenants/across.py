"""One query over many tenants, as one DataFrame."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg
import psycopg.adapt

from erpkit.database import Answer, Database, Tenant, sweep
from erpkit.errors import UsageError
from erpkit.tenants.frames import Part, combine
from erpkit.visible import visible_html

if TYPE_CHECKING:
    import pandas

__all__ = ["Across", "across", "check_read_only"]

_READS = re.compile(r"(?:\s|--[^\n]*\n|/\*.*?\*/|\()*(select|with|values|table)\b", re.IGNORECASE | re.DOTALL)
# A role is left again by set_config('role', …); these are the ways to call it, or to run SQL that was put together as text.
_LEAVES = re.compile(r"set_config|(?:query|cursor|table|schema|database)_to_xml|dblink|u&\s*[\"']", re.IGNORECASE)
_MAY_BE_LIMITED = re.compile(r"limit|fetch|offset|for\b|into", re.IGNORECASE)


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
        notes = "".join(f"<li>{visible_html(note)}</li>" for note in self.notes)
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
    parts = []
    for answer in sweep(database, lambda _: [statement], active, deadline=deadline, connections=connections):
        parts.append(_part(answer))
        if progress is not None:
            progress(1)
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


def _part(answer: Answer) -> Part:
    """Return a tenant's rows as Python values."""
    if answer.error is not None:
        return Part(answer.tenant.slug, error=answer.error)
    (result,) = answer.results
    transformer = psycopg.adapt.Transformer()
    transformer.set_pgresult(result)
    names = tuple((result.fname(n) or b"").decode() for n in range(result.nfields))
    try:
        loaded = transformer.load_rows(0, result.ntuples, tuple)
    except psycopg.DataError as error:  # a date beyond what Python can hold
        return Part(answer.tenant.slug, error=str(error))
    return Part(answer.tenant.slug, names, tuple(result.ftype(n) for n in range(result.nfields)), loaded)


def _limited(query: str, limit: int | None) -> str:
    text = query.strip().removesuffix(";")
    if limit is None:
        return text
    if _MAY_BE_LIMITED.search(text):
        return f"SELECT * FROM (\n{text}\n) limited LIMIT {limit + 1}"  # noqa: S608 - the query is the user's own
    return f"(\n{text}\n) LIMIT {limit + 1}"  # a quarter less work for the server than a subquery


def _bind(database: Database, query: str, params: Sequence[Any] | dict[str, Any] | None) -> bytes:
    """Put the parameters in as literals, once for all tenants."""
    if params is None:
        return query.encode()
    with database.connection() as connection:
        try:
            return psycopg.ClientCursor(connection).mogrify(query, params).encode()
        except psycopg.ProgrammingError as error:
            raise UsageError(f"the parameters do not fit the query: {error}") from None
