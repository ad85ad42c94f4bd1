"""What generated code runs many rows of parameters with: a COPY, or a statement for each of them in a pipeline."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from itertools import islice
from typing import Any, TypeVar

import psycopg
from psycopg import Connection, Cursor, Pipeline
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row

__all__ = ["copy_rows", "run_batch"]

_T = TypeVar("_T")
_AT_ONCE = 1_000  # elements that are under way before their results are read


def copy_rows(connection: Connection[Any], statement: str, rows: Iterable[Sequence[Any]]) -> int:
    """Send `rows` by COPY as they come, and return how many there were.

    They go as text, which the server reads as the columns' types: those of a tenant's own schema are not known to the driver.
    An error, one of the iterable's too, ends the COPY, and none of its rows stays.
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
    """Run a statement for each element of `batch` in a pipeline, and return what `read` makes of each result.

    It is all or nothing: outside of a transaction it runs in one of its own, inside one an error makes that fail, as with any
    statement. psycopg's error names the element by its number, and keeps its class.
    """
    alone = connection.autocommit and connection.info.transaction_status == TransactionStatus.IDLE
    elements, found = iter(batch), list[_T]()
    with connection.transaction() if alone else nullcontext(), connection.pipeline() as pipeline:
        while cursors := _send(connection, pipeline, statement, islice(elements, _AT_ONCE), len(found)):
            found += [read(cursor) for cursor in cursors]
    return found


def _send(
    connection: Connection[Any], pipeline: Pipeline, statement: str, elements: Iterable[Mapping[str, Any]], start: int
) -> list[Cursor[tuple[Any, ...]]]:
    """Send some elements, the first of which has the number `start`, and wait for all results."""
    cursors: list[Cursor[tuple[Any, ...]]] = []
    query = statement.encode()
    for element in elements:
        cursor = connection.cursor(row_factory=tuple_row)
        cursors.append(cursor)
        try:
            cursor.execute(query, element)
        except Exception as error:
            _name_element(error, start + _failed(error, cursors))
            raise
    if not cursors:
        return []
    try:
        pipeline.sync()
    except psycopg.Error as error:
        _name_element(error, start + _failed(error, cursors))
        raise
    return cursors


def _failed(error: Exception, cursors: Sequence[Cursor[Any]]) -> int:
    """Return which one failed: the server's answers come in order, what cannot be sent is the last one."""
    is_answer = isinstance(error, psycopg.Error) and error.diag.sqlstate is not None
    return next(n for n, one in enumerate(cursors) if one.pgresult is None) if is_answer else len(cursors) - 1


def _name_element(error: Exception, number: int) -> None:
    place = f"element {number + 1} of the batch (index {number})"
    if isinstance(error, psycopg.OperationalError):
        return  # the connection's fault, not the element's
    if isinstance(error, psycopg.Error):
        error.args = (f"{place}: {error}",)
    else:
        error.add_note(place)
