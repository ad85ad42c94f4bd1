"""One tenant's large result as arrays: numbers and timestamps straight from PostgreSQL's binary format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any

import psycopg

from erpkit.database import Database, Stream, Tenant, open_stream
from erpkit.errors import DatabaseError
from erpkit.tenants.frames import Array, Part, make_array, make_masked, make_times
from erpkit.tenants.values import AsText, Loading


@dataclass(frozen=True)
class _Fixed:
    """How PostgreSQL sends the values of a type, all of the same width, and the dtype that holds them."""

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
# The timestamps that Python has, whatever the time zone of the session: from 0001-01-02 to before 9999-12-31.
_FIRST, _LAST = -730_118 * _DAY, 2_921_938 * _DAY - 1


def read_large(database: Database, tenant: Tenant, query: bytes, *, deadline: float) -> Part:
    """Return all rows that a query gives in one tenant, or why there are none; values are as those of a small result.

    For results of many rows: it takes a few round trips more, and a third of the time that rows of Python's values would.
    """
    try:
        with open_stream(database, tenant, query, deadline=deadline) as stream:
            count, arrays = _read(stream)
        return Part(tenant.slug, stream.names, stream.types, arrays=arrays, count=count)
    except (psycopg.Error, DatabaseError) as error:
        return Part(tenant.slug, error=str(error).strip().splitlines()[0])


def _read(stream: Stream) -> tuple[int, list[Array]]:
    """Read the columns of fixed width as one, and each other one as text."""
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
    """A column that is read as its type's output function writes it, which a cast to text is not always."""

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
    """The columns of fixed width in one bytea: to fetch a value costs more than to decode it.

    A row with a NULL comes as PostgreSQL sends a record: the number of fields, then of each its type, its length, which is -1
    for NULL, and its value. It is never as long as a row without NULL, as no value is longer than what stands before it.
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
        """Go from column to column, in all rows at once; `place` is where each row's next field begins."""
        import numpy  # noqa: PLC0415

        is_record = lengths != self._row.itemsize
        place = numpy.cumsum(lengths) - lengths + 4 * is_record
        data += bytes(16)  # what is read for a NULL, and then left out, may lie beyond the end
        for number, kind in self._kinds.items():
            is_null = is_record & (_read_at(data, ">i4", 4, place + 4) < 0)
            place += 8 * is_record
            values = _read_at(data, kind.sent, kind.width, place).astype(kind.kept)
            values[is_null] = 0
            self._values[number].append(values)
            self._nulls[number].append(is_null)
            place += numpy.where(is_null, 0, kind.width)

    def array(self, number: int, stream: Stream) -> Array:
        """Return a column; what it was collected in is free before the next one is made."""
        import numpy  # noqa: PLC0415

        values = numpy.concatenate([numpy.empty(0, self._kinds[number].kept), *self._values.pop(number)])
        is_null = numpy.concatenate([numpy.empty(0, bool), *self._nulls.pop(number)])
        oid = self.types[number]
        return _times(oid, values, is_null, stream) if oid in _TIMES else make_masked(values, is_null)


def _read_at(data: bytes, kind: str, width: int, places: Any) -> Any:
    import numpy  # noqa: PLC0415

    return numpy.ndarray(len(data) - width + 1, kind, data, strides=(1,))[places]


def _times(oid: int, values: Any, is_null: Any, stream: Stream) -> Array:
    """Return timestamps; the server writes those as text that Python may not have."""
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
