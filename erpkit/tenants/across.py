"""One query over many tenants, as one DataFrame."""

from __future__ import annotations

import html
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg
import psycopg.adapt

from erpkit.database import Answer, Connection, Database, Tenant, sweep
from erpkit.errors import UsageError
from erpkit.tenants.frames import Part, combine
from erpkit.tenants.reading_sql import check_reading
from erpkit.tenants.sql_tokens import Kind, read_tokens

if TYPE_CHECKING:
    import pandas

__all__ = ["Across", "across"]

_IN_LIST = re.compile(r"\bin (?P<bracket>\( )?%(?: \( (?P<name>\w+) \))? s\b", re.IGNORECASE)
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
    the number of tenants done. Raises UsageError for anything but one SELECT, WITH, VALUES, TABLE, EXPLAIN or SHOW, and for
    one that reaches more than reading (see `reading_sql`).
    """
    active = [tenant for tenant in tenants if tenant.is_active]
    statement = _prepare(database, query, params, active, limit)
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


def _prepare(
    database: Database,
    query: str,
    params: Sequence[Any] | dict[str, Any] | None,
    tenants: Sequence[Tenant],
    limit: int | None,
) -> bytes:
    """Bind the parameters, check the text that came of it, and return it as it is sent to all tenants."""
    with database.connection() as connection:
        statement = check_reading(
            connection,
            _bind(connection, query, params),
            tenants,
            shared_schemas=database.shared_schemas,
            allowed_functions=database.allowed_functions,
        )
        text = _limited(statement.text, limit) if statement.is_query else statement.text
        return _encode(connection, text)


def _encode(connection: Connection, text: str) -> bytes:
    """Encode as the server will decode: in another encoding, a letter's bytes could be read as a quote or a backslash."""
    encoding = connection.info.encoding
    try:
        return text.encode("utf-8" if encoding == "ascii" else encoding)  # SQL_ASCII takes all bytes as they are
    except UnicodeEncodeError as error:
        raise UsageError(
            f"the SQL has {error.object[error.start]!r}, which the connection's {encoding} has not"
        ) from None


def _limited(text: str, limit: int | None) -> str:
    if limit is None:
        return text
    if _MAY_BE_LIMITED.search(text):
        return f"SELECT * FROM (\n{text}\n) limited LIMIT {limit + 1}"  # noqa: S608 - the query is the user's own
    return f"(\n{text}\n) LIMIT {limit + 1}"  # a quarter less work for the server than a subquery


def _bind(connection: Connection, query: str, params: Sequence[Any] | dict[str, Any] | None) -> str:
    """Put the parameters in as literals, once for all tenants."""
    if params is None:
        return query
    _check_lists(query, params)
    try:
        return psycopg.ClientCursor(connection).mogrify(query, params)
    except (psycopg.ProgrammingError, psycopg.DataError, UnicodeError) as error:
        raise UsageError(f"the parameters do not fit the query: {error}") from None


def _check_lists(query: str, params: Sequence[Any] | dict[str, Any]) -> None:
    """Raise UsageError for `IN %(ids)s`, which is no SQL once the list is bound, and `IN (%(ids)s)`, which finds nothing."""
    words = " ".join(
        "''" if token.is_string or token.kind is Kind.QUOTED else token.text for token in read_tokens(query)
    )
    for found in _IN_LIST.finditer(words):
        is_list = isinstance(params, dict) and isinstance(params.get(found["name"]), (list, tuple, set))
        if not found["bracket"] or is_list:
            place = f"%({found['name']})s" if found["name"] else "%s"
            raise UsageError(f"IN {place}: compare with a list by = ANY({place})")
