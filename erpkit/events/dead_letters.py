"""Dead letters, the events that a handler failed on: listed, shown, and counted by cause."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from psycopg import sql

from erpkit.database import (
    IMPATIENT,
    Connection,
    Database,
    Errors,
    Tenant,
    read_tables,
)
from erpkit.errors import UsageError
from erpkit.events.consumer import Consumer
from erpkit.events.log import name_log_behind
from erpkit.events.message import Message, fields_of
from erpkit.events.parking import block
from erpkit.finding import Finding, Severity
from erpkit.plural import count_of
from erpkit.table import Column, Table

_LONGEST_ERROR = 8192  # bytes
_COLUMNS = 'handler, topic, "offset", uuid, error, attempts, failed_at'

_SHOW = """
SELECT d.handler, d.topic, d."offset", d.uuid, d.error, d.attempts, d.failed_at, d.status, d.aggregate,
       (SELECT count(*) FROM erpkit_parked p WHERE p.handler = d.handler AND p.aggregate = d.aggregate),
       d.resolved_at, d.resolved_by, d.reason, e.recorded_at, e.metadata,
       CASE WHEN %(payload)s THEN coalesce(d.payload, e.payload) END,
       ARRAY(SELECT jsonb_build_object('edited_at', x.edited_at, 'edited_by', x.edited_by, 'reason', x.reason, 'plan', x.plan_id)
                    || CASE WHEN %(payload)s THEN jsonb_build_object('before', x.before, 'after', x.after) ELSE '{}' END
               FROM erpkit_letter_edits x WHERE x.handler = d.handler AND x.uuid = d.uuid ORDER BY x.id)
  FROM erpkit_dead_letters d LEFT JOIN erpkit_events e ON e.uuid = d.uuid
 WHERE d."offset" = %(offset)s AND %(handler)s IN ('', d.handler) ORDER BY d.handler
"""


@dataclass(frozen=True)
class DeadLetter:
    """One event that one handler failed on; its payload is not in it."""

    tenant: str
    handler: str
    topic: str
    offset: int
    uuid: UUID
    error: str
    attempts: int
    failed_at: datetime


@dataclass(frozen=True)
class DeadLetterDetail:
    """All that is known of one dead letter; `payload` only if it was asked for.

    `parked` later events of its `aggregate` wait behind it. `recorded_at` and `metadata` are the event's, and None where it
    is not in the log. `resolved_by` and `reason` say who closed it and why. `payload` is that of the last of the `edits`, each of
    which says who made it, when and why.
    """

    letter: DeadLetter
    status: str
    aggregate: str | None
    parked: int
    resolved_at: datetime | None
    resolved_by: str | None
    reason: str | None
    recorded_at: datetime | None
    metadata: Mapping[str, str] | None
    payload: Mapping[str, Any] | None
    edits: Sequence[Mapping[str, Any]] = ()

    @property
    def facts(self) -> dict[str, str]:
        """What is known, by name; the payload only if it was read."""
        letter = self.letter
        closed = (
            f"{self.resolved_at:%Y-%m-%d %H:%M %Z} by {self.resolved_by}: {self.reason}" if self.resolved_at else ""
        )
        facts = {
            "event": f"{letter.topic} at offset {letter.offset} of {letter.tenant}",
            "uuid": str(letter.uuid),
            "recorded": f"{self.recorded_at:%Y-%m-%d %H:%M:%S %Z}" if self.recorded_at else "not in the log any more",
            **(self.metadata or {}),
            "handler": letter.handler,
            "error": letter.error,
            "attempts": f"{letter.attempts}, the last at {letter.failed_at:%Y-%m-%d %H:%M:%S %Z}",
            "status": self.status,
            "closed": closed,
            "holds back": f"{count_of(self.parked, 'event')} of {self.aggregate}" if self.aggregate else "",
            **{
                f"edit {number}": f"{_moment(edit['edited_at'])} by {edit['edited_by']}: {edit['reason']}"
                for number, edit in enumerate(self.edits, 1)
            },
            **{f"payload: {name}": str(value) for name, value in fields_of(self.payload).items()},
        }
        return {name: value for name, value in facts.items() if value}

    @property
    def table(self) -> Table[tuple[str, str]]:
        """One row per fact."""
        return Table(_FACTS, list(self.facts.items()))

    def __str__(self) -> str:
        return repr(self.table)

    def _repr_html_(self) -> str:
        return self.table._repr_html_()


def _moment(text: str) -> str:
    return f"{datetime.fromisoformat(text):%Y-%m-%d %H:%M:%S %Z}"


LETTER_COLUMNS = (
    Column[DeadLetter]("tenant", lambda one: one.tenant),
    Column[DeadLetter]("offset", lambda one: one.offset),
    Column[DeadLetter]("topic", lambda one: one.topic, minor=True),
    Column[DeadLetter]("handler", lambda one: one.handler),
    Column[DeadLetter]("error", lambda one: one.error),
    Column[DeadLetter]("failed", lambda one: one.failed_at, minor=True),
)
_FACTS = (
    Column[tuple[str, str]]("what", lambda row: row[0]),
    Column[tuple[str, str]]("value", lambda row: row[1]),
)


def list_dead_letters(
    connection: Connection, tenants: Sequence[Tenant], errors: Errors | None = None
) -> list[DeadLetter]:
    """Return the open dead letters of all `tenants`, by tenant and offset; `errors` is as in `read_tenants`."""
    query = "SELECT {slug}, {columns} FROM {schema}.erpkit_dead_letters WHERE status = 'open'"
    rows = read_tables(connection, tenants, "erpkit_dead_letters", query, errors, columns=sql.SQL(_COLUMNS))
    letters = [DeadLetter(*row) for row in rows]
    return sorted(letters, key=lambda letter: (letter.tenant, letter.offset))


def show_dead_letter(
    database: Database, tenant: Tenant, offset: int, handler: str = "", *, payload: bool = False
) -> DeadLetterDetail:
    """Return one dead letter, open or not, with its event's metadata; it only reads.

    `handler` is needed where several failed on the event. `payload` adds the business data in the event: ask for it only where
    you may see it, as a run records its output. Raises UsageError when there is no such letter, or more than one.
    """
    with name_log_behind(tenant), database.tenant_transaction(tenant) as connection:
        connection.execute(IMPATIENT)
        rows = connection.execute(_SHOW, {"offset": offset, "handler": handler, "payload": payload}).fetchall()
    if not rows:
        of_handler = f" of {handler}" if handler else ""
        raise UsageError(f"tenant {tenant.slug}: there is no dead letter{of_handler} at offset {offset}")
    if len(rows) > 1:
        names = ", ".join(row[0] for row in rows)
        raise UsageError(f"tenant {tenant.slug}: offset {offset} is a dead letter of {names}: name the handler")
    return DeadLetterDetail(DeadLetter(tenant.slug, *rows[0][:7]), *rows[0][7:])


def add_dead_letter(
    connection: Connection, consumer: Consumer, message: Message, error: Exception, attempts: int
) -> None:
    """Dead-letter `message` for the handler, and hold back later events of its aggregate if the handler is ordered."""
    connection.execute(
        'INSERT INTO erpkit_dead_letters (handler, uuid, "offset", topic, error, attempts) '
        'VALUES (%s, %s, coalesce(%s, (SELECT "offset" FROM erpkit_events WHERE uuid = %s), 0), %s, %s, %s) '
        "ON CONFLICT (handler, uuid) DO UPDATE SET error = EXCLUDED.error, failed_at = now(), status = 'open'",
        [consumer.name, message.uuid, message.offset, message.uuid, message.topic, describe_error(error), attempts],
    )
    block(connection, consumer, message)


def describe_error(error: BaseException) -> str:
    """Return an error as dead letters keep it: its type and what it says, in at most 8 KiB of text that PostgreSQL can store."""
    text = f"{type(error).__name__}: {error}".strip().replace("\0", "\\0")
    kept = text.encode(errors="backslashreplace")
    return kept.decode() if len(kept) <= _LONGEST_ERROR else f"{kept[: _LONGEST_ERROR - 3].decode(errors='ignore')}…"


Dimension = Literal["tenant", "handler", "topic", "cause", "kind"]

_DIMENSIONS = ("tenant", "handler", "topic", "cause", "kind")
_GAP = "…"
_VALUES = (
    re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"),
    # PostgreSQL puts names in double quotes, too, and those tell causes apart.
    re.compile(r'(?<!constraint )(?<!relation )(?<!column )(?<!table )(?<!function )(?<!schema )"[^"]*"'),
    re.compile(r"(?<!\w)'[^']*'"),
    re.compile(r"\b(?=[a-f]*\d)[0-9a-f]{12,}\b"),
    re.compile(r"(?<![\w])\d[\d.,:T+-]*\d|(?<![\w])\d"),
)


@dataclass(frozen=True)
class DeadLetterCount:
    """How many open dead letters have the same tenant, handler, topic and cause, and when the first and the last came."""

    tenant: str
    handler: str
    topic: str
    cause: str
    letters: int
    first_failed_at: datetime
    last_failed_at: datetime

    @property
    def kind(self) -> str:
        """The type of the error, such as `ValueError`."""
        return self.cause.partition(":")[0]


COUNT_COLUMNS = (
    Column[DeadLetterCount]("letters", lambda one: one.letters, bar=True),
    Column[DeadLetterCount]("cause", lambda one: one.cause),
    Column[DeadLetterCount]("topic", lambda one: one.topic, minor=True),
    Column[DeadLetterCount]("handler", lambda one: one.handler),
    Column[DeadLetterCount]("tenant", lambda one: one.tenant, is_name=True),
    Column[DeadLetterCount]("first", lambda one: one.first_failed_at, minor=True),
    Column[DeadLetterCount]("last", lambda one: one.last_failed_at),
)


def look_at(handler: str) -> str:
    """Return the first step at dead letters: the command that lists them, and says there how to retry them."""
    return f"erpkit events dead-letters list --handler {shlex.quote(handler)}"


def letter_findings(counts: Iterable[DeadLetterCount], severity: Severity = "warning") -> list[Finding]:
    """Return a finding for each tenant, handler and cause that has open dead letters."""
    return [
        Finding(
            "dead letters", one.tenant, f"dead letters of {one.handler}: {one.cause}", severity,
            look_at(one.handler), (count_of(one.letters, "letter"),),
        )
        for one in counts
    ]  # fmt: skip


def failure_findings(failures: Iterable[tuple[str, str, str, int]], remedy: str = "") -> list[Finding]:
    """Return a finding for each tenant, handler and cause of failures: tenant, handler, error and offset of each.

    `remedy` is a command that takes a tenant and an offset, the first that failed.
    """
    offsets: dict[tuple[str, str, str], list[str]] = {}
    for tenant, handler, error, offset in failures:
        offsets.setdefault((tenant, handler, cause_of(error)), []).append(str(offset))
    return [
        Finding(
            "failed", tenant, f"{handler} failed: {cause}", remedy=remedy and f"{remedy} {shlex.quote(tenant)} {found[0]}",
            evidence=(f"offsets {', '.join(found)}",),
        )
        for (tenant, handler, cause), found in offsets.items()
    ]  # fmt: skip


def cause_of(error: str) -> str:
    """Return the first line of an error without numbers, ids and quoted values, so that similar errors are equal. Pure."""
    line = error.strip().partition("\n")[0]
    for value in _VALUES:
        line = value.sub(_GAP, line)
    return line


def count_dead_letters(
    connection: Connection, tenants: Sequence[Tenant], errors: Errors | None = None
) -> list[DeadLetterCount]:
    """Count the open dead letters of all `tenants` by tenant, handler, topic and cause; the most first.

    `errors` is as in `read_tenants`.
    """
    query = (
        "SELECT {slug}, handler, topic, error, count(*), min(failed_at), max(failed_at) FROM {schema}.erpkit_dead_letters "
        "WHERE status = 'open' GROUP BY handler, topic, error"
    )
    rows = read_tables(connection, tenants, "erpkit_dead_letters", query, errors)
    return _merge(DeadLetterCount(s, h, t, cause_of(error), *rest) for s, h, t, error, *rest in rows)


def group_letters(letters: Iterable[DeadLetter]) -> list[DeadLetterCount]:
    """Count `letters` by tenant, handler, topic and cause; the most first. Pure."""
    return _merge(
        DeadLetterCount(d.tenant, d.handler, d.topic, cause_of(d.error), 1, d.failed_at, d.failed_at) for d in letters
    )


def sum_counts(counts: Iterable[DeadLetterCount], by: Dimension) -> dict[str, int]:
    """Add counts up by one of their dimensions, the most first. Pure; raises UsageError for another dimension."""
    if by not in _DIMENSIONS:
        raise UsageError(f"dead letters are counted by {', '.join(_DIMENSIONS)}, not by {by!r}")
    sums: dict[str, int] = {}
    for count in counts:
        key = str(getattr(count, by))
        sums[key] = sums.get(key, 0) + count.letters
    return dict(sorted(sums.items(), key=lambda item: (-item[1], item[0])))


def _merge(counts: Iterable[DeadLetterCount]) -> list[DeadLetterCount]:
    groups: dict[tuple[str, ...], DeadLetterCount] = {}
    for one in counts:
        key = (one.tenant, one.handler, one.topic, one.cause)
        other = groups.get(key)
        groups[key] = one if other is None else _add(one, other)
    return sorted(groups.values(), key=lambda c: (-c.letters, c.tenant, c.handler, c.topic, c.cause))


def _add(one: DeadLetterCount, other: DeadLetterCount) -> DeadLetterCount:
    return replace(
        one,
        letters=one.letters + other.letters,
        first_failed_at=min(one.first_failed_at, other.first_failed_at),
        last_failed_at=max(one.last_failed_at, other.last_failed_at),
    )
