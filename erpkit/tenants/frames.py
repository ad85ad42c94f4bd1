"""Rows of many tenants as one DataFrame with the right dtypes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING, Any

from erpkit.errors import UsageError

if TYPE_CHECKING:
    import pandas

__all__ = ["Part", "combine"]

# PostgreSQL's type oids (pg_type.dat) and the pandas dtype that holds their values without loss, nulls included. What is not
# listed stays an object: decimals, jsonb, uuids, dates, arrays.
_DTYPES = {
    16: "boolean",
    20: "Int64", 21: "Int64", 23: "Int64", 26: "Int64",
    18: "str", 19: "str", 25: "str", 1042: "str", 1043: "str",
    700: "Float64", 701: "Float64",
    1114: "datetime64[us]", 1184: "datetime64[us, UTC]",
}  # fmt: skip


@dataclass(frozen=True)
class Part:
    """What one tenant gave: column names, their type oids and rows, or an error."""

    tenant: str
    names: tuple[str, ...] = ()
    types: tuple[int, ...] = ()
    rows: Sequence[tuple[Any, ...]] = ()
    error: str | None = None

    def keep(self, limit: int | None) -> Part:
        """Return this part with at most `limit` rows."""
        return self if limit is None or len(self.rows) <= limit else replace(self, rows=self.rows[:limit])


def combine(parts: Sequence[Part]) -> pandas.DataFrame:
    """Put the parts one under the other, with a column `tenant` first.

    Tenants whose columns differ, because their schemas do, get the columns of all, blank where they have none. Raises
    UsageError when a column is named `tenant` already.
    """
    import pandas  # noqa: PLC0415 - slow to import

    if any("tenant" in part.names for part in parts):
        raise UsageError("the query has a column named tenant: give it another name")
    shapes: dict[tuple[tuple[str, ...], tuple[int, ...]], list[Part]] = {}
    for part in parts:
        shapes.setdefault((part.names, part.types), []).append(part)
    frames = [_frame(names, types, same) for (names, types), same in shapes.items()]
    if not frames:
        return pandas.DataFrame({"tenant": pandas.Series(dtype="str")})
    return frames[0] if len(frames) == 1 else pandas.concat(frames, ignore_index=True)


def _frame(names: Sequence[str], types: Sequence[int], parts: Sequence[Part]) -> pandas.DataFrame:
    import numpy  # noqa: PLC0415 - slow to import
    import pandas  # noqa: PLC0415

    rows = list(chain.from_iterable(part.rows for part in parts))
    slugs = numpy.repeat(numpy.array([part.tenant for part in parts], dtype=object), [len(part.rows) for part in parts])
    columns = list(zip(*rows, strict=True)) if rows else [() for _ in names]
    data = {"tenant": pandas.Series(slugs, dtype="str")}
    for name, oid, values in zip(_unique(names), types, columns, strict=True):
        data[name] = pandas.Series(values, dtype=_DTYPES.get(oid, "object"))
    return pandas.DataFrame(data)


def _unique(names: Sequence[str]) -> list[str]:
    """Number the columns that have the same name: count, count_2."""
    seen: Counter[str] = Counter()
    unique = []
    for name in names:
        seen[name] += 1
        unique.append(name if seen[name] == 1 else f"{name}_{seen[name]}")
    return unique
