"""One query over many tenants, as one DataFrame."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import TYPE_CHECKING, Any

import psycopg

from erpkit.cells import PLAIN
from erpkit.database import (
    Answer,
    Connection,
    Database,
    Stream,
    Tenant,
    can_stream,
    column_names_and_types,
    open_stream,
    sweep,
)
from erpkit.errors import DatabaseError, UsageError, first_line
from erpkit.finding import Finding, group_findings, marked
from erpkit.plural import count_of
from erpkit.result import Result, Summary
from erpkit.table import Table
from erpkit.tenants.frames import Array, AsText, Loading, Part, combine, make_array, make_masked, make_times
from erpkit.tenants.reading_sql import check_reading
from erpkit.tenants.sql_tokens import Kind, read_tokens
from erpkit.visible import visible_html

if TYPE_CHECKING:
    import pandas

_PLACE = re.compile(r"%(?:\(\w+\))?s\b")
_IN_LIST = re.compile(r"\bin (?P<bracket>\( )?%(?: \( (?P<name>\w+) \))? s\b", re.IGNORECASE)
_FEW, _MANY_ROWS = (
    10,
    10_000,
)  # up to so many tenants, with maybe more rows each, are read one after the other, as streams
_MAY_BE_LIMITED = re.compile(r"limit|fetch|offset|for\b|into", re.IGNORECASE)


@dataclass(frozen=True)
class Across(Result):
    """The result of a query over all tenants: the rows, and what went wrong.

    The first column of `frame` is `tenant`. `errors` maps the tenants that failed to the reason; `truncated` are those with
    more rows than the limit; `skipped` maps those that were not queried to their status, and `asked` counts the others. A
    tenant that is skipped although it was asked for `by_name` is a problem.
    """

    frame: pandas.DataFrame
    errors: dict[str, str]
    truncated: tuple[str, ...]
    skipped: dict[str, str]
    asked: int = 0
    target: str = ""
    by_name: frozenset[str] = frozenset()

    @property
    def table(self) -> Table[tuple[object, ...]]:
        """The rows, with values as SQL writes them."""
        return Table.of_frame(self.frame, "no rows", raw=True)

    @property
    def facts(self) -> dict[str, object]:
        """How many tenants there are, how many were queried, how many failed, and the number of rows."""
        tenants = self.asked + len(self.skipped)
        return {"tenants": tenants, "asked": self.asked, "rows": len(self.frame), "failed": len(self.errors)}

    @property
    def findings(self) -> list[Finding]:
        """The tenants that failed, were cut off or were skipped; or that there was no tenant to query."""
        if not self.asked and not self.by_name & self.skipped.keys():
            return [Finding("no tenants", "", "there are no active tenants to query", remedy="erpkit tenants list")]
        return [
            *(Finding("not read", slug, error) for slug, error in self.errors.items()),
            *(Finding("limit", slug, "it has more rows than the limit", "info") for slug in self.truncated),
            *(
                Finding(
                    "not active", slug, f"{status}: it was not queried", "warning" if slug in self.by_name else "info"
                )
                for slug, status in self.skipped.items()
            ),
        ]

    @property
    def summary(self) -> Summary:
        """How many tenants were queried, and what a reader of the rows must know."""
        return Summary(
            f"{count_of(self.asked + len(self.skipped), 'tenant')} on {self.target}", self.facts, self.findings
        )

    @property
    def notes(self) -> list[str]:
        """What a reader of the rows must know, a line each."""
        return [
            *(f"{slug}: {error}" for slug, error in self.errors.items()),
            *(f"{slug}: more rows than the limit" for slug in self.truncated),
            *(f"{slug}: skipped, {status}" for slug, status in self.skipped.items()),
        ]

    def __repr__(self) -> str:
        rows = repr(self.frame) if len(self.frame) else "no rows"
        return "\n".join([rows, *(marked(cause) for cause in group_findings(self.findings))])

    def _repr_html_(self) -> str:
        notes = "".join(f"<li>{visible_html(note)}</li>" for note in self.notes)
        return f"{self.table._repr_html_()}<ul class='{PLAIN}'>{notes}</ul>"


def across(
    database: Database,
    query: str,
    params: Sequence[Any] | dict[str, Any] | None = None,
    *,
    tenants: Sequence[Tenant],
    limit: int | None = 10_000,
    timeout: float = 60,
    progress: Callable[[int], object] | None = None,
    named: bool = True,
) -> Across:
    """Run one reading query in every active tenant's schema and return all rows as one DataFrame.

    Each tenant is read under its own role, in a read-only transaction of its own, so that a failure does not affect the others;
    a tenant that is given twice is read once. `limit` is the maximum of rows from each tenant, `timeout` the seconds for all of
    them together; the server enforces both. `progress` is called with the number of tenants done. Without `named` the frame has
    no column `tenant`. Raises UsageError for anything but one SELECT, WITH, VALUES, TABLE, EXPLAIN or SHOW, and for a statement
    that could do more than read (see `reading_sql`).

    No column and no value is lost. Columns of the same name get a number: `a`, `a_2`; so does a column `tenant` of the query's
    own. Dtypes are nullable integers and floats (NaN and NULL stay different), UTC timestamps in microseconds, exact decimals as
    objects, and parsed jsonb, with a Decimal for a number that a float would round. A value that Python would change or cannot
    hold becomes an `AsText`, which is a str of PostgreSQL's own text: infinite times, years before 1 and after 9999, 24:00:00,
    intervals with months (a timedelta has days of 24 hours), arrays that do not begin at 1, a JSON null, json with a duplicate
    key, and the record `()`. A column of timestamps with such a value has the dtype object. Values of types for which Python
    has no class, such as enums and points, are str.
    """
    active = list({tenant.slug: tenant for tenant in tenants if tenant.is_active}.values())
    statement, is_limited = _prepare(database, query, params, active, limit)
    database.name_login(active)
    deadline = time.monotonic() + timeout
    is_large = is_limited and len(active) <= _FEW and (limit is None or limit > _MANY_ROWS) and can_stream()
    parts = []
    for part in _read_parts(database, active, statement, deadline, is_large=is_large):
        parts.append(part)
        if progress is not None:
            progress(1)
    order = {tenant.slug: number for number, tenant in enumerate(active)}
    parts.sort(key=lambda part: order[part.tenant])
    errors = {part.tenant: part.error for part in parts if part.error is not None}
    if params is None:
        _check_bound(query, errors)
    truncated = tuple(part.tenant for part in parts if limit is not None and part.count > limit)
    kept = [part.keep(limit) for part in parts if part.error is None]
    parts.clear()  # frees memory before `combine` needs as much again
    skipped = {tenant.slug: tenant.status for tenant in tenants if not tenant.is_active}
    return Across(combine(kept, named=named), errors, truncated, skipped, len(active), database.target)


def _read_parts(
    database: Database, tenants: Sequence[Tenant], statement: bytes, deadline: float, *, is_large: bool
) -> Iterator[Part]:
    """Yield what each tenant gave: large results one tenant after the other, others pipelined."""
    if is_large:
        yield from (read_large(database, tenant, statement, deadline=deadline) for tenant in tenants)
        return
    loading = Loading()
    for answer in sweep(database, lambda _: [statement], tenants, deadline=deadline):
        yield _part(answer, loading)


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
    """Bind the parameters and check the resulting text; return it as it is sent, and whether it is a query.

    EXPLAIN and SHOW are not queries: they cannot stand inside another statement.
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
            raise UsageError(f"the database cannot hold a character of the SQL: {first_line(error)}") from None
    text = _limited(statement.text, limit) if statement.is_query else statement.text
    return text.encode(), statement.is_query  # both ways of reading set the encoding UTF-8 first


def _limited(text: str, limit: int | None) -> str:
    if limit is None:
        return text
    if _MAY_BE_LIMITED.search(text):
        return f"SELECT * FROM (\n{text}\n) limited LIMIT {limit + 1}"  # noqa: S608 - the query is the user's own
    return f"(\n{text}\n) LIMIT {limit + 1}"  # takes the server a quarter less time than a subquery


def _bind(connection: Connection, query: str, params: Sequence[Any] | dict[str, Any] | None) -> str:
    """Write the parameters into the query as literals, once for all tenants."""
    if params is None:
        return query
    _check_lists(query, params)
    try:
        return psycopg.ClientCursor(connection).mogrify(query, params)
    except (psycopg.ProgrammingError, psycopg.DataError, UnicodeError) as error:
        raise UsageError(f"the parameters do not fit the query: {error}") from None


def _check_bound(query: str, errors: Mapping[str, str]) -> None:
    """Raise UsageError where a query failed as it has a place for a value, and was given none; `%` is an operator, too."""
    if not any('"%"' in error for error in errors.values()):
        return
    if found := _PLACE.search("".join("''" if token.is_string else token.text for token in read_tokens(query))):
        raise UsageError(f"{found[0]} in the query is a place for a value, and there are no params")


def _check_lists(query: str, params: Sequence[Any] | dict[str, Any]) -> None:
    """Raise UsageError for `IN %(ids)s`, which becomes invalid SQL, and for `IN (%(ids)s)` with a list, which finds nothing."""
    words = " ".join(
        "''" if token.is_string or token.kind is Kind.QUOTED else token.text for token in read_tokens(query)
    )
    for found in _IN_LIST.finditer(words):
        is_list = isinstance(params, dict) and isinstance(params.get(found["name"]), (list, tuple, set))
        if not found["bracket"] or is_list:
            place = f"%({found['name']})s" if found["name"] else "%s"
            raise UsageError(f"IN {place} does not take a list: write = ANY({place})")


@dataclass(frozen=True)
class _Fixed:
    """A type of fixed width: the function that sends its values, the numpy type of what is sent, and the dtype that holds it."""

    send: str
    sent: str
    kept: str

    @property
    def width(self) -> int:
        return 1 if self.sent == "?" else int(self.sent[2:])


_FIXED = {
    16: _Fixed("boolsend", "?", "bool"),
    20: _Fixed("int8send", ">i8", "int64"),
    21: _Fixed("int2send", ">i2", "int64"),
    23: _Fixed("int4send", ">i4", "int64"),
    26: _Fixed("oidsend", ">u4", "int64"),
    701: _Fixed("float8send", ">f8", "float64"),
    1114: _Fixed("timestamp_send", ">i8", "int64"),
    1184: _Fixed("timestamptz_send", ">i8", "int64"),
}
_TIMES = (1114, 1184)
_SAME_IN_BINARY = (19, 25, 1042, 1043)  # text
_EPOCH = 946_684_800_000_000  # microseconds from 1970 to PostgreSQL's 2000
_DAY = 86_400_000_000
# Python holds these timestamps in every time zone: from 0001-01-02 to before 9999-12-31.
_FIRST, _LAST = -730_118 * _DAY, 2_921_938 * _DAY - 1


def read_large(database: Database, tenant: Tenant, query: bytes, *, deadline: float) -> Part:
    """Return all rows of a query in one tenant, or the error; the values equal those of a small result.

    Use it for many rows: it takes a few more round trips, and a third of the time that Python's values would take.
    """
    try:
        with open_stream(database, tenant, query, deadline=deadline) as stream:
            count, arrays = _read(stream)
        return Part(tenant.slug, stream.names, stream.types, arrays=arrays, count=count)
    except (psycopg.Error, DatabaseError) as error:
        return Part(tenant.slug, error=first_line(error))


def _read(stream: Stream) -> tuple[int, list[Array]]:
    """Read all columns of fixed width as one, and each of the others as text."""
    types = dict(enumerate(stream.types, 1))
    packed = _Packed({number: oid for number, oid in types.items() if oid in _FIXED})
    texts = {number: _Texts(number, oid) for number, oid in types.items() if oid not in _FIXED}
    columns: list[_Packed | _Texts] = [*([packed] if packed.types else []), *texts.values()]
    count = 0
    for chunk in stream.read([column.expression for column in columns]):
        count += chunk.ntuples
        for place, column in enumerate(columns):
            column.add(list(map(chunk.get_value, range(chunk.ntuples), repeat(place))))
        chunk.clear()
    return count, [texts.pop(number).array() if number in texts else packed.array(number, stream) for number in types]


class _Texts:
    """A column that is read as text by its type's output function, which may differ from a cast to text."""

    def __init__(self, number: int, oid: int) -> None:
        name = f"c{number}"
        text = f"CASE pg_catalog.num_nulls({name}) WHEN 0 THEN pg_catalog.concat({name}) END"
        self.expression = name if oid in _SAME_IN_BINARY else text
        self._oid = oid
        self._loading = Loading()
        self._values: list[Any] = []

    def add(self, cells: Sequence[Any]) -> None:
        self._values += self._loading.cells(self._oid, cells)

    def array(self) -> Array:
        return make_array(self._oid, self._values)


class _Packed:
    """The columns of fixed width, packed into one bytea, as fetching a value takes longer than decoding it.

    A row with a NULL comes as PostgreSQL sends a record: the number of fields, then for each field its type, its length, which
    is -1 for NULL, and its value. Its length always differs from that of a row without NULL, as no value is longer than the
    eight bytes in front of it.
    """

    def __init__(self, types: dict[int, int]) -> None:
        import numpy  # noqa: PLC0415 - slow to import

        self.types = types
        self._kinds = {number: _FIXED[oid] for number, oid in types.items()}
        self._row = numpy.dtype([(f"c{number}", kind.sent) for number, kind in self._kinds.items()])
        self._values: dict[int, list[Any]] = {number: [] for number in types}
        self._nulls: dict[int, list[Any]] = {number: [] for number in types}

    @property
    def expression(self) -> str:
        sent = " || ".join(f"pg_catalog.{kind.send}(c{number})" for number, kind in self._kinds.items())
        return f"coalesce({sent}, pg_catalog.record_send(ROW({', '.join(f'c{number}' for number in self.types)})))"

    def add(self, cells: Sequence[Any]) -> None:
        import numpy  # noqa: PLC0415

        data = b"".join(cells)
        if len(data) != self._row.itemsize * len(cells):
            self._add_with_nulls(data, numpy.fromiter(map(len, cells), int, len(cells)))
            return
        rows = numpy.frombuffer(data, self._row)
        for number, kind in self._kinds.items():
            self._values[number].append(rows[f"c{number}"].astype(kind.kept))
            self._nulls[number].append(numpy.zeros(len(cells), bool))

    def _add_with_nulls(self, data: bytes, lengths: Any) -> None:
        """Decode column by column, in all rows at once; `place` is where each row's next field begins."""
        import numpy  # noqa: PLC0415

        is_record = lengths != self._row.itemsize
        place = numpy.cumsum(lengths) - lengths + 4 * is_record
        data += bytes(16)  # reading a NULL's bytes, which are dropped, may go beyond the end
        for number, kind in self._kinds.items():
            is_null = is_record & (_read_at(data, ">i4", 4, place + 4) < 0)
            place += 8 * is_record
            values = _read_at(data, kind.sent, kind.width, place).astype(kind.kept)
            values[is_null] = 0
            self._values[number].append(values)
            self._nulls[number].append(is_null)
            place += numpy.where(is_null, 0, kind.width)

    def array(self, number: int, stream: Stream) -> Array:
        """Return a column, and free its parts before the next one is made."""
        import numpy  # noqa: PLC0415

        values = numpy.concatenate([numpy.empty(0, self._kinds[number].kept), *self._values.pop(number)])
        is_null = numpy.concatenate([numpy.empty(0, bool), *self._nulls.pop(number)])
        oid = self.types[number]
        return _times(oid, values, is_null, stream) if oid in _TIMES else make_masked(values, is_null)


def _read_at(data: bytes, kind: str, width: int, places: Any) -> Any:
    import numpy  # noqa: PLC0415

    return numpy.ndarray(len(data) - width + 1, kind, data, strides=(1,))[places]


def _times(oid: int, values: Any, is_null: Any, stream: Stream) -> Array:
    """Return timestamps; the server writes those as text that Python may be unable to hold."""
    import numpy  # noqa: PLC0415

    rows = numpy.flatnonzero(((values < _FIRST) | (values > _LAST)) & ~is_null)
    distinct, places = numpy.unique(values[rows], return_inverse=True)
    loaded = Loading().cells(oid, stream.write(oid, [int(value).to_bytes(8, signed=True) for value in distinct]))
    values += _EPOCH
    times = values.view("datetime64[us]")
    times[is_null] = None
    is_odd = numpy.array([isinstance(value, AsText) for value in loaded], bool)[places]
    plain = numpy.array([None if isinstance(v, AsText) else v.replace(tzinfo=None) for v in loaded], times.dtype)
    times[rows] = plain[places]
    odd = numpy.fromiter(loaded, object, len(loaded))[places]
    return make_times(oid, times, rows[is_odd], odd[is_odd])
