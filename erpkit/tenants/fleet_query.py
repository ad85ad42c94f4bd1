"""One query over many tenants, as one DataFrame."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg

from erpkit.database import Answer, Connection, Database, Tenant, can_stream, column_names_and_types, sweep
from erpkit.errors import UsageError
from erpkit.finding import Finding
from erpkit.result import Summary
from erpkit.table import Table
from erpkit.tenants.frames import Part, combine
from erpkit.tenants.large import read_large
from erpkit.tenants.reading_sql import check_reading
from erpkit.tenants.sql_tokens import Kind, read_tokens
from erpkit.tenants.values import Loading
from erpkit.visible import visible_html

if TYPE_CHECKING:
    import pandas

__all__ = ["Across", "across"]

_IN_LIST = re.compile(r"\bin (?P<bracket>\( )?%(?: \( (?P<name>\w+) \))? s\b", re.IGNORECASE)
_FEW, _MANY_ROWS = 10, 10_000  # so few tenants, and maybe more rows than these of each, are read one after the other
_MAY_BE_LIMITED = re.compile(r"limit|fetch|offset|for\b|into", re.IGNORECASE)


@dataclass(frozen=True)
class Across:
    """What a query gave over all tenants: the rows, and what went wrong.

    `frame` has a column `tenant` first. `errors` maps the tenants that failed to the reason; `truncated` are those that had
    more rows than the limit; `skipped` maps those that were not asked to their status, and `asked` counts the others.
    """

    frame: pandas.DataFrame
    errors: dict[str, str]
    truncated: tuple[str, ...]
    skipped: dict[str, str]
    asked: int = 0
    target: str = ""

    @property
    def table(self) -> Table[tuple[object, ...]]:
        """The rows, as a filter would name their values."""
        return Table.of_frame(self.frame, "no rows", raw=True)

    @property
    def facts(self) -> dict[str, object]:
        """How many tenants there are, how many were asked, and what they gave."""
        tenants = self.asked + len(self.skipped)
        return {"tenants": tenants, "asked": self.asked, "rows": len(self.frame), "failed": len(self.errors)}

    @property
    def findings(self) -> list[Finding]:
        """Who failed; who has more rows than the limit, and who was not asked; that there was no tenant to ask."""
        if not self.asked:
            return [Finding("no tenants", "", "there are no active tenants to ask", remedy="erpkit tenants list")]
        return [
            *(Finding("not read", slug, error) for slug, error in self.errors.items()),
            *(Finding("limit", slug, "it has more rows than the limit", "info") for slug in self.truncated),
            *(
                Finding("not active", slug, f"{status}, and so not asked", "info")
                for slug, status in self.skipped.items()
            ),
        ]

    @property
    def summary(self) -> Summary:
        """How many tenants were asked, and what a reader of the rows must know."""
        return Summary(f"{self.facts['tenants']} tenants on {self.target}", self.facts, self.findings)

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
        return f"{self.table._repr_html_()}<ul>{notes}</ul>"


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
    named: bool = True,
) -> Across:
    """Run one reading query in every active tenant's schema and return all rows as one DataFrame.

    Each tenant is read under its own role, in a read-only transaction of its own: one that fails is named beside the rows of
    the others; one that is given twice is read once. `limit` is the most rows a tenant may give, `timeout` the seconds for all
    of them together; the server holds both. `progress` is called with the number of tenants done. Without `named` the frame
    has no column `tenant`. Raises UsageError for anything but one SELECT, WITH, VALUES, TABLE, EXPLAIN or SHOW, and for one that
    reaches more than reading (see `reading_sql`).

    Every column and every value arrives. Columns of the same name get a number: `a`, `a_2`; so does the query's own `tenant`
    beside that of the frame. Dtypes are nullable integers and floats (NaN stays apart from NULL), UTC timestamps in
    microseconds, exact decimals as objects, and parsed jsonb, with a Decimal for a number that a float would round. A value
    that Python would change or cannot hold arrives as an `AsText`, which is a str of PostgreSQL's own text: infinite times,
    years before 1 and after 9999, 24:00:00, intervals with months (a timedelta has days of 24 hours), arrays that do not begin
    at 1, a JSON null, json with a key twice, and the record `()`. A column of timestamps with such a value has the dtype
    object. Values of types that Python has no class for, such as enums and points, are str.
    """
    active = list({tenant.slug: tenant for tenant in tenants if tenant.is_active}.values())
    statement, is_limited = _prepare(database, query, params, active, limit)
    database.name_login(active)
    deadline = time.monotonic() + timeout
    if is_limited and len(active) <= _FEW and (limit is None or limit > _MANY_ROWS) and can_stream():
        found = (read_large(database, tenant, statement, deadline=deadline) for tenant in active)
    else:
        loading = Loading()
        answers = sweep(database, lambda _: [statement], active, deadline=deadline, connections=connections)
        found = (_part(answer, loading) for answer in answers)
    parts = []
    for part in found:
        parts.append(part)
        if progress is not None:
            progress(1)
    order = {tenant.slug: number for number, tenant in enumerate(active)}
    parts.sort(key=lambda part: order[part.tenant])
    errors = {part.tenant: part.error for part in parts if part.error is not None}
    truncated = tuple(part.tenant for part in parts if limit is not None and part.count > limit)
    kept = [part.keep(limit) for part in parts if part.error is None]
    parts.clear()  # what `combine` has used up need not stay in memory
    skipped = {tenant.slug: tenant.status for tenant in tenants if not tenant.is_active}
    return Across(combine(kept, named=named), errors, truncated, skipped, len(active), database.target)


def _part(answer: Answer, loading: Loading) -> Part:
    """Return a tenant's rows as Python values."""
    if answer.error is not None:
        return Part(answer.tenant.slug, error=answer.error)
    (result,) = answer.results
    rows = loading.rows(result)
    return Part(answer.tenant.slug, *column_names_and_types(result), rows, count=len(rows))


def _prepare(
    database: Database,
    query: str,
    params: Sequence[Any] | dict[str, Any] | None,
    tenants: Sequence[Tenant],
    limit: int | None,
) -> tuple[bytes, bool]:
    """Bind the parameters and check the text that came of it; return it as it is sent to all tenants, and whether it is a query.

    EXPLAIN and SHOW are none: they cannot stand in another statement.
    """
    with database.connection() as connection:
        text = _bind(connection, query, params)
        try:
            statement = check_reading(
                connection,
                text,
                tenants,
                shared_schemas=database.shared_schemas,
                allowed_functions=database.allowed_functions,
            )
        except psycopg.errors.UntranslatableCharacter as error:
            raise UsageError(f"the database cannot hold a character of the SQL: {error.diag.message_primary}") from None
    text = _limited(statement.text, limit) if statement.is_query else statement.text
    return text.encode(), statement.is_query  # in UTF-8, which both ways of reading have set before the server reads it


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
