"""PostgreSQL's values in Python without loss, and the rows of many tenants as one DataFrame with the right dtypes."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import cache
from itertools import chain
from typing import TYPE_CHECKING, Any

import psycopg
import psycopg.abc
from psycopg import pq
from psycopg.adapt import AdaptersMap, Loader, Transformer
from psycopg.postgres import types

if TYPE_CHECKING:
    import pandas

Array = Any  # one of pandas' arrays, which have no common type

# PostgreSQL's type oids (pg_type.dat) whose values a pandas dtype holds without loss, nulls included. Values of other types stay
# objects: decimals, jsonb, uuids, dates, arrays.
_INTEGERS = (20, 21, 23, 26)
_TEXTS = (18, 19, 25, 1042, 1043)
_FLOATS = (700, 701)
_BOOL, _TIMESTAMP, _TIMESTAMPTZ = 16, 1114, 1184


@dataclass(frozen=True)
class Part:
    """One tenant's result: column names, their type oids and rows, or an error.

    A large result has `arrays`, one for each column, in place of rows.
    """

    tenant: str
    names: tuple[str, ...] = ()
    types: tuple[int, ...] = ()
    rows: Sequence[tuple[Any, ...]] = ()
    arrays: Sequence[Array] | None = None
    count: int = 0
    error: str | None = None

    def keep(self, limit: int | None) -> Part:
        """Return this part with at most `limit` rows."""
        if limit is None or self.count <= limit:
            return self
        arrays = None if self.arrays is None else [array[:limit] for array in self.arrays]
        return replace(self, rows=self.rows[:limit], arrays=arrays, count=limit)


@dataclass
class _Piece:
    """Rows of some tenants that have the same columns."""

    slugs: Sequence[str]
    counts: Sequence[int]
    columns: dict[str, Array]


def combine(parts: Sequence[Part], *, named: bool = True) -> pandas.DataFrame:
    """Stack the parts, with a column `tenant` first if `named`.

    Columns of the same name get a number: `a`, `a_2`. If the tenants' columns differ, as their schemas do, the frame has all of
    them, with nulls where a tenant lacks one; a column whose dtype differs between tenants holds objects, so that no value changes.
    """
    import pandas  # noqa: PLC0415 - slow to import

    pieces = _pieces(parts, named)
    counts = [sum(piece.counts) for piece in pieces]
    data: dict[str, Any] = {}
    if named:
        slugs = chain.from_iterable(piece.slugs for piece in pieces)
        data["tenant"] = _repeat(list(slugs), list(chain.from_iterable(piece.counts for piece in pieces)))
    for name in dict.fromkeys(chain.from_iterable(piece.columns for piece in pieces)):
        stacked = _stack([piece.columns.pop(name, None) for piece in pieces], counts)
        # Without a dtype pandas would convert objects that are all str to text.
        data[name] = pandas.Series(stacked, dtype=stacked.dtype if stacked.dtype != object else "object", copy=False)
    return pandas.DataFrame(data, index=pandas.RangeIndex(sum(counts)), copy=False)


def make_array(oid: int, values: Sequence[Any]) -> Array:
    """Return the values of one column, None for NULL, in the dtype that holds them."""
    import numpy  # noqa: PLC0415
    import pandas  # noqa: PLC0415

    if oid in (_TIMESTAMP, _TIMESTAMPTZ):
        rows = [row for row, value in enumerate(values) if type(value) is AsText]
        plain = [None if type(value) is AsText else value for value in values] if rows else list(values)
        return make_times(oid, plain, rows, [values[row] for row in rows])
    if oid in _TEXTS:
        return pandas.array(_objects(values), dtype="str")
    if oid not in (*_INTEGERS, *_FLOATS, _BOOL):
        return pandas.array(_objects(values), dtype=object)
    kind = numpy.dtype("int64" if oid in _INTEGERS else "float64" if oid in _FLOATS else "bool")
    is_null = numpy.fromiter((value is None for value in values), bool, len(values))
    filled = [0 if value is None else value for value in values] if is_null.any() else list(values)
    return make_masked(numpy.array(filled, dtype=kind), is_null)


def make_masked(values: Any, is_null: Any) -> Array:
    """Return numbers or booleans with a mask for NULL, so that NaN and NULL stay different."""
    import pandas  # noqa: PLC0415

    kinds = {"i": pandas.arrays.IntegerArray, "f": pandas.arrays.FloatingArray, "b": pandas.arrays.BooleanArray}
    return kinds[values.dtype.kind](values, is_null)


def make_times(oid: int, values: Any, rows: Sequence[int], odd: Sequence[AsText]) -> Array:
    """Return timestamps in microseconds, or objects if some `rows` have `odd` ones: pandas only has the years 1 to 9999."""
    import pandas  # noqa: PLC0415

    times = pandas.array(values, dtype="datetime64[us, UTC]" if oid == _TIMESTAMPTZ else "datetime64[us]", copy=False)
    if not len(rows):
        return times
    objects = times.astype(object)
    objects[times.isna()] = None
    objects[rows] = _objects(odd)
    return pandas.array(objects, dtype=object)


def _pieces(parts: Sequence[Part], named: bool) -> list[_Piece]:
    """Build the columns, once for all tenants that have the same ones."""
    shapes: dict[Any, list[Part]] = {}
    for part in parts:
        shapes.setdefault((part.names, part.types) if part.arrays is None else part.tenant, []).append(part)
    return [
        _Piece([part.tenant for part in same], [part.count for part in same], _columns(same, named))
        for same in shapes.values()
    ]


def _columns(parts: Sequence[Part], named: bool) -> dict[str, Array]:
    first = parts[0]
    names = _unique(first.names, {"tenant"} if named else set())
    if first.arrays is not None:
        return dict(zip(names, first.arrays, strict=True))
    rows = list(chain.from_iterable(part.rows for part in parts))
    columns: Sequence[Sequence[Any]] = list(zip(*rows, strict=True)) if rows else [()] * len(names)
    return {name: make_array(oid, values) for name, oid, values in zip(names, first.types, columns, strict=True)}


def _stack(arrays: Sequence[Array | None], counts: Sequence[int]) -> Array:
    """Stack the arrays of one column; None stands for rows without that column."""
    import pandas  # noqa: PLC0415

    if len(arrays) == 1 and arrays[0] is not None:
        return arrays[0]
    kinds = {array.dtype for array in arrays if array is not None}
    dtype = kinds.pop() if len(kinds) == 1 else pandas.array([], dtype=object).dtype
    same = [
        _blank(count, dtype) if array is None else array if array.dtype == dtype else _as_objects(array)
        for array, count in zip(arrays, counts, strict=True)
    ]
    return type(same[0])._concat_same_type(same)


def _blank(count: int, dtype: Any) -> Array:
    import pandas  # noqa: PLC0415

    if dtype.kind == "O" and dtype != "str":
        return pandas.array(_objects([None] * count), dtype=object)
    return pandas.array([None] * count, dtype=dtype)


def _as_objects(array: Array) -> Array:
    import pandas  # noqa: PLC0415

    objects = array.astype(object)
    objects[array.isna()] = None
    return pandas.array(objects, dtype=object)


def _objects(values: Sequence[Any]) -> Any:
    """Return an array of objects; numpy would otherwise unpack lists."""
    import numpy  # noqa: PLC0415

    return numpy.fromiter(values, object, len(values))


def _repeat(slugs: Sequence[str], counts: Sequence[int]) -> Array:
    import numpy  # noqa: PLC0415
    import pandas  # noqa: PLC0415

    return pandas.array(numpy.repeat(_objects(slugs), counts), dtype="str")


def _unique(names: Sequence[str], taken: set[str]) -> list[str]:
    """Number columns of the same name: count, count_2; a number is skipped if another column already has that name."""
    taken, given = set(taken), set(names)
    numbers: Counter[str] = Counter()
    unique = []
    for name in names:
        new = name
        while new in taken or (new != name and new in given):
            numbers[name] += 1
            new = f"{name}_{numbers[name] + 1}"
        taken.add(new)
        unique.append(new)
    return unique


_UNFIT = (psycopg.DataError, ValueError, ArithmeticError, RecursionError)
_SAFE_DIGITS = 15  # a float holds every number with so many digits


class AsText(str):
    """PostgreSQL's own text of a value that Python cannot hold: `infinity`, `0044-03-15 BC`, `1 mon`.

    It is a type of its own to keep a JSON null, `AsText('null')`, apart from the JSON string `'null'`.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return f"AsText({str(self)!r})"


class Loading:
    """Converts PostgreSQL's values from text to Python's.

    Keep one for many results, as it caches what it looks up for each type.
    """

    def __init__(self) -> None:
        self._usual = Transformer(_adapters())
        self._careful = Transformer(_careful_adapters())

    def rows(self, result: pq.abc.PGresult) -> Sequence[tuple[Any, ...]]:
        """Return the rows of a result in text format."""
        try:
            return _load_rows(self._usual, result)
        except _UNFIT:
            return _load_rows(self._careful, result)

    def cells(self, oid: int, texts: Sequence[bytes | None]) -> list[Any]:
        """Return the values of one column; None stands for NULL."""
        try:
            return _load_cells(self._usual, oid, texts)
        except _UNFIT:
            return _load_cells(self._careful, oid, texts)


def _load_rows(transformer: psycopg.abc.Transformer, result: pq.abc.PGresult) -> Sequence[tuple[Any, ...]]:
    transformer.set_pgresult(result)
    return transformer.load_rows(0, result.ntuples, tuple)


def _load_cells(transformer: psycopg.abc.Transformer, oid: int, texts: Sequence[Any]) -> list[Any]:
    load = transformer.get_loader(oid, pq.Format.TEXT).load
    if None not in texts:
        return list(map(load, texts))
    return [None if text is None else load(text) for text in texts]


@cache
def _adapters() -> AdaptersMap:
    """Return psycopg's loaders, except for the types whose values they would silently change."""
    adapters = AdaptersMap(psycopg.adapters)
    usual = _loaders(adapters)
    for info in types:
        if info.array_oid in usual:
            adapters.register_loader(info.array_oid, _wrap(_Array, usual[info.array_oid]))
    for name, loader in (("interval", _Interval), ("json", _Json), ("jsonb", _Json), ("record", _Record)):
        adapters.register_loader(name, _wrap(loader, usual[types[name].oid]))
    return adapters


@cache
def _careful_adapters() -> AdaptersMap:
    """Return the same loaders, each of which returns PostgreSQL's text for a value that it cannot convert."""
    adapters = AdaptersMap(_adapters())
    for oid, loader in _loaders(adapters).items():
        adapters.register_loader(oid, _wrap(_Careful, loader))
    return adapters


def _loaders(adapters: AdaptersMap) -> dict[int, type[psycopg.abc.Loader]]:
    oids = {0, *(info.oid for info in types), *(info.array_oid for info in types)}
    found = {oid: adapters.get_loader(oid, pq.Format.TEXT) for oid in oids}
    return {oid: loader for oid, loader in found.items() if loader is not None}


class _Wrapping(Loader):
    """A loader around another one."""

    inner: type[psycopg.abc.Loader]

    def __init__(self, oid: int, context: psycopg.abc.AdaptContext | None = None) -> None:
        super().__init__(oid, context)
        self._load: Callable[[Any], Any] = self.inner(oid, context).load


def _wrap(outer: type[_Wrapping], inner: type[psycopg.abc.Loader]) -> type[psycopg.abc.Loader]:
    return type(f"{outer.__name__}{inner.__name__}", (outer,), {"inner": inner})


class _Careful(_Wrapping):
    def load(self, data: psycopg.abc.Buffer) -> Any:
        try:
            return self._load(data)
        except _UNFIT:
            return _as_text(data)


class _Array(_Wrapping):
    """A Python list has no place for the bounds of `[0:1]={1,2}`."""

    def load(self, data: psycopg.abc.Buffer) -> Any:
        return _as_text(data) if bytes(data[:1]) == b"[" else self._load(data)


class _Interval(_Wrapping):
    """A timedelta has no months, whose length varies, and no infinity."""

    def load(self, data: psycopg.abc.Buffer) -> Any:
        text = bytes(data)
        return _as_text(text) if any(word in text for word in (b"mon", b"year", b"inf")) else self._load(text)


class _Record(_Wrapping):
    """PostgreSQL writes `()` both for a record without fields and for one of a single NULL."""

    def load(self, data: psycopg.abc.Buffer) -> Any:
        return _as_text(data) if bytes(data) == b"()" else self._load(data)


class _Json(_Wrapping):
    """A JSON null is not NULL; a number may have more digits than a float, an object may have a duplicate key."""

    def load(self, data: psycopg.abc.Buffer) -> Any:
        text = bytes(data)
        try:
            value = json.loads(text, parse_float=_number, object_pairs_hook=_object)
        except _UNFIT:
            return _as_text(text)
        return _as_text(text) if value is None else value


def _number(text: str) -> float | Decimal:
    near = float(text)
    if len(text) <= _SAFE_DIGITS and "e" not in text and "E" not in text:
        return near
    exact = Decimal(text)
    return near if exact == Decimal(repr(near)) else exact


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        raise ValueError("duplicate key")
    return value


def _as_text(data: psycopg.abc.Buffer) -> AsText:
    return AsText(bytes(data).decode(errors="backslashreplace"))
