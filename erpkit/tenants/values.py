"""PostgreSQL's values as Python's, or as PostgreSQL's own text where Python would change them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from decimal import Decimal
from functools import cache
from typing import Any

import psycopg
import psycopg.abc
from psycopg import pq
from psycopg.adapt import AdaptersMap, Loader, Transformer
from psycopg.postgres import types

_UNFIT = (psycopg.DataError, ValueError, ArithmeticError, RecursionError)
_SAFE_DIGITS = 15  # a float holds any number of so many digits


class AsText(str):
    """PostgreSQL's own text of a value that Python cannot hold: `infinity`, `0044-03-15 BC`, `1 mon`.

    A type of its own, as a JSON null (`AsText('null')`) and a JSON string of these letters (`'null'`) are two values.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return f"AsText({str(self)!r})"


class Loading:
    """Turns the text form of PostgreSQL's values into Python's.

    Keep one for many results: what it looks up for a type it looks up once.
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
    """Return psycopg's loaders, but for the types whose values these change without a word."""
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
    """Return the same loaders, each of which gives PostgreSQL's text for a value that it cannot hold."""
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
    """Python's lists begin at 0, and so have no place for the bounds of `[0:1]={1,2}`."""

    def load(self, data: psycopg.abc.Buffer) -> Any:
        return _as_text(data) if bytes(data[:1]) == b"[" else self._load(data)


class _Interval(_Wrapping):
    """A timedelta has no months, which are not always 30 days, and no infinity."""

    def load(self, data: psycopg.abc.Buffer) -> Any:
        text = bytes(data)
        return _as_text(text) if any(word in text for word in (b"mon", b"year", b"inf")) else self._load(text)


class _Record(_Wrapping):
    """`()` is what PostgreSQL writes for a record of no fields, and for one of a single NULL."""

    def load(self, data: psycopg.abc.Buffer) -> Any:
        return _as_text(data) if bytes(data) == b"()" else self._load(data)


class _Json(_Wrapping):
    """A JSON null is another value than NULL; a number may have more digits than a float, an object a key twice."""

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
        raise ValueError("a key is there twice")
    return value


def _as_text(data: psycopg.abc.Buffer) -> AsText:
    return AsText(bytes(data).decode(errors="backslashreplace"))
