"""Run many rows of parameters for generated code: by COPY, or by a statement for each row in a pipeline."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from itertools import islice
from operator import length_hint
from typing import Any, TypeVar

import psycopg
from psycopg import Connection, Cursor
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row

_T = TypeVar("_T")
_AT_ONCE = 1_000  # elements that are sent before their results are read


def copy_rows(connection: Connection[Any], statement: str, rows: Iterable[Sequence[Any]]) -> int:
    """Send `rows` by COPY as the iterable yields them, and return their number.

    They are sent as text, which the server converts, as the driver does not know the types of a tenant's schema. An error, also in
    the iterable, ends the COPY, which then keeps no row.
    """
    with connection.cursor() as cursor:
        with cursor.copy(statement.encode()) as copy:
            for row in rows:
                copy.write_row(row)
        return cursor.rowcount


def run_batch(
    connection: Connection[Any],
    statement: str,
    batch: Iterable[Mapping[str, Any]],
    read: Callable[[Cursor[tuple[Any, ...]]], _T],
) -> list[_T]:
    """Run a statement for each element of `batch` in a pipeline, and return each result as converted by `read`.

    It is all or nothing: outside a transaction it opens one; inside one, an error aborts that, as with any statement. psycopg's
    error keeps its class and names the number of the element.
    """
    alone = connection.autocommit and connection.info.transaction_status == TransactionStatus.IDLE
    elements, found = iter(batch), list[_T]()
    with connection.transaction() if alone else nullcontext():
        while some := list(islice(elements, _AT_ONCE)):
            cursor = _run(connection, statement, some, len(found))
            found += [read(one) for one in cursor.results()]
    return found


def _run(
    connection: Connection[Any], statement: str, elements: Sequence[Mapping[str, Any]], start: int
) -> Cursor[tuple[Any, ...]]:
    """Run the statement for some elements, the first of which has the number `start`."""
    cursor = connection.cursor(row_factory=tuple_row)
    unsent = iter(elements)
    try:
        cursor.executemany(statement.encode(), unsent, returning=True)
    except Exception as error:
        is_answer = isinstance(error, psycopg.Error) and error.diag.sqlstate is not None  # answers come in order
        failed = sum(1 for _ in cursor.results()) if is_answer else len(elements) - length_hint(unsent) - 1
        _name_element(error, start + failed)
        raise
    return cursor


def _name_element(error: Exception, number: int) -> None:
    place = f"element {number + 1} of the batch (index {number})"
    if isinstance(error, psycopg.OperationalError) and error.diag.sqlstate is None:
        return  # an error of the connection, not of the element
    if isinstance(error, psycopg.Error):
        error.args = (f"{place}: {error}",)
    else:
        error.add_note(place)
