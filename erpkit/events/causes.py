"""Why events became dead letters, over the whole fleet: errors that differ only in a number or a name are one cause."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal

from psycopg import sql

from erpkit.database import Connection, Errors, Tenant, read_tenants, tenants_with_table
from erpkit.errors import UsageError
from erpkit.events.dead_letters import DeadLetter
from erpkit.finding import Finding, Severity
from erpkit.table import Column

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
    Column[DeadLetterCount]("topic", lambda one: one.topic),
    Column[DeadLetterCount]("handler", lambda one: one.handler),
    Column[DeadLetterCount]("tenant", lambda one: one.tenant),
    Column[DeadLetterCount]("first", lambda one: one.first_failed_at),
    Column[DeadLetterCount]("last", lambda one: one.last_failed_at),
)


def letter_findings(counts: Iterable[DeadLetterCount], severity: Severity = "warning") -> list[Finding]:
    """Return a finding for each tenant, handler and cause that has open dead letters."""
    return [
        Finding(
            "dead letters", one.tenant, f"dead letters of {one.handler}: {one.cause}", severity,
            f"erpkit events dead-letters retry --handler {shlex.quote(one.handler)}", (f"{one.letters:,} letters",),
        )
        for one in counts
    ]  # fmt: skip


def cause_of(error: str) -> str:
    """Return the first line of an error with numbers, ids and quoted values taken out, so that like errors are equal. Pure."""
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
    query = sql.SQL(
        "SELECT {}, handler, topic, error, count(*), min(failed_at), max(failed_at) FROM {} "
        "WHERE status = 'open' GROUP BY handler, topic, error"
    )
    queries = [
        (tenant, query.format(sql.Literal(tenant.slug), sql.Identifier(tenant.schema, "erpkit_dead_letters")))
        for tenant in tenants_with_table(connection, "erpkit_dead_letters", tenants, errors)
    ]
    rows = read_tenants(connection, queries, errors)
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
