"""The health of event logs over all tenants: what waits, what arrives, what failed, and who holds locks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from erpkit.database import Connection, Tenant
from erpkit.events.consumer import ConsumerGroup
from erpkit.events.dead_letters import DeadLetterCount, count_dead_letters, look_at
from erpkit.events.lag import (
    NO_TREND,
    EventLag,
    GroupLag,
    LockHolder,
    TopicRate,
    read_lag,
    read_lock_holders,
    read_rates,
)
from erpkit.events.orphans import list_orphans
from erpkit.finding import Finding, not_read, with_ages
from erpkit.grouping import group_by
from erpkit.plural import count_of
from erpkit.result import Result, Summary
from erpkit.table import Column, Table, format_value


@dataclass(frozen=True)
class EventHealth(Result):
    """How the handlers of some tenants keep up with the events that arrive; `skipped` are tenants that are not active.

    `is_served` says whether a dispatcher is connected, or that this cannot be told.
    `trend` has the figures that moved since an earlier look, and `ages` says how long each finding has been known, by its key.
    """

    target: str
    lag: EventLag
    rates: Sequence[TopicRate]
    counts: Sequence[DeadLetterCount]
    skipped: Sequence[str] = ()
    errors: Mapping[str, str] = field(default_factory=dict)
    is_served: bool = True
    ages: Mapping[str, str] = field(default_factory=dict, repr=False)
    trend: Table[Any] = field(default=NO_TREND, repr=False)

    @property
    def findings(self) -> list[Finding]:
        """Events that wait too long or for no dispatcher, dead letters by cause, holders of locks, and what was not read."""
        unread = {slug: reason for slug, reason in self.errors.items() if slug not in self.lag.errors}
        alone = () if self.is_served or not self.lag.waiting else (_NO_DISPATCHER,)
        found = [*self.lag.findings, *map(_letter_finding, self._causes), *alone, *not_read(unread)]
        return with_ages(found, self.ages)

    @property
    def facts(self) -> dict[str, object]:
        """Its figures."""
        return {
            "tenants": len(self.lag.tenants),
            "waiting": self.lag.waiting,
            "oldest": format_value(timedelta(seconds=self.lag.oldest)),
            "last hour": sum(rate.hour for rate in self.rates),
            "last day": sum(rate.day for rate in self.rates),
            "dead letters": sum(count.letters for count in self.counts),
            "skipped": ", ".join(self.skipped) or "none",
        }

    @property
    def summary(self) -> Summary:
        """Its figures, and what a person should look at."""
        return Summary(f"Events on {self.target}", self.facts, self.findings)

    @property
    def waiting(self) -> Table[tuple[GroupLag, EventLag]]:
        """One row per tenant and handler for which events wait, the one that has waited longest first."""
        return self.lag.table

    @property
    def arrivals(self) -> Table[_Topic]:
        """One row per topic: what was appended in the last hour and day over all tenants, and which tenant had most of it."""
        rows = sorted(group_by(self.rates, lambda rate: rate.topic).items())
        return Table(_TOPICS, rows, "No event was appended in the last day.")

    @property
    def busiest(self) -> Table[_Topic]:
        """One row per tenant: how many events its log got in the last hour and day, the busiest first."""
        rows = group_by(self.rates, lambda rate: rate.tenant).items()
        return Table(_TENANTS, sorted(rows, key=lambda row: -_day(row)), "No event was appended in the last day.")

    @property
    def dead_letters(self) -> Table[_Cause]:
        """One row per handler and cause: in how many tenants it occurs, how often, and since when; the most frequent first."""
        return Table(_CAUSES, self._causes, "There are no dead letters.", is_trouble=True, about=("dead letters",))

    @property
    def holders(self) -> Table[LockHolder]:
        """One row per transaction that has held the lock of an append or of a dispatcher for long."""
        return self.lag.holder_table

    @property
    def _causes(self) -> list[_Cause]:
        causes = group_by(self.counts, lambda count: (count.handler, count.cause))
        return sorted(causes.items(), key=lambda cause: -_letters(cause))

    def __repr__(self) -> str:
        return str(self.summary)

    def _repr_html_(self) -> str:
        return self.summary.html() + self.waiting._repr_html_()


# No warning: a dispatcher may be started from time to time, and what has waited for too long is told anyhow.
_NO_DISPATCHER = Finding(
    "no dispatcher", "", "events wait, and no dispatcher is connected", "info", "erpkit events dispatch"
)
_Topic = tuple[str, list[TopicRate]]  # or of a tenant
_Cause = tuple[tuple[str, str], list[DeadLetterCount]]


def read_event_lag(
    connection: Connection, tenants: Sequence[Tenant], groups: Sequence[ConsumerGroup], long: float = 10
) -> EventLag:
    """Read how far the handlers of `groups` are behind, and who has held a lock of a log for more than `long` seconds."""
    errors: dict[str, str] = {}
    lag = read_lag(connection, tenants, groups, errors)
    holders = read_lock_holders(connection, tenants, groups, long)
    orphans = list_orphans(connection, tenants, groups, errors) if groups else []
    return EventLag(datetime.now(UTC), tenants, groups, lag, holders, errors, orphans=orphans)


def read_event_health(connection: Connection, target: str, tenants: Sequence[Tenant], lag: EventLag) -> EventHealth:
    """Add to `lag` what arrives in its tenants and what failed there."""
    errors = dict(lag.errors)
    rates = read_rates(connection, lag.tenants, errors)
    counts = count_dead_letters(connection, lag.tenants, errors)
    skipped = [tenant.slug for tenant in tenants if not tenant.is_active]
    return EventHealth(target, lag, rates, counts, skipped, errors)


def _hour(row: tuple[object, list[TopicRate]]) -> int:
    return sum(rate.hour for rate in row[1])


def _day(row: tuple[object, list[TopicRate]]) -> int:
    return sum(rate.day for rate in row[1])


def _busiest(row: _Topic) -> TopicRate:
    return max(row[1], key=lambda rate: rate.day)


def _letters(row: _Cause) -> int:
    return sum(count.letters for count in row[1])


def _tenants(row: _Cause) -> int:
    return len({count.tenant for count in row[1]})


def _letter_finding(row: _Cause) -> Finding:
    (handler, cause), _ = row
    tenants = _tenants(row)
    problem = f"{count_of(_letters(row), 'dead letter')} in {count_of(tenants, 'tenant')}: {cause}"
    return Finding("dead letters", handler, problem, remedy=look_at(handler), of="handler")


_TOPICS = (
    Column[_Topic]("topic", lambda row: row[0]),
    Column[_Topic]("tenants", lambda row: len(row[1])),
    Column[_Topic]("last hour", _hour),
    Column[_Topic]("last day", _day, bar=True),
    Column[_Topic]("busiest", lambda row: _busiest(row).tenant),
    Column[_Topic]("of it", lambda row: _busiest(row).day),
    Column[_Topic]("newest", lambda row: max(rate.newest for rate in row[1])),
)
_TENANTS = (
    Column[_Topic]("tenant", lambda row: row[0]),
    Column[_Topic]("last hour", _hour),
    Column[_Topic]("last day", _day, bar=True),
    Column[_Topic]("newest", lambda row: max(rate.newest for rate in row[1])),
)
_CAUSES = (
    Column[_Cause]("handler", lambda row: row[0][0]),
    Column[_Cause]("cause", lambda row: row[0][1]),
    Column[_Cause]("tenants", _tenants),
    Column[_Cause]("letters", _letters, bar=True),
    Column[_Cause]("first", lambda row: min(count.first_failed_at for count in row[1])),
    Column[_Cause]("last", lambda row: max(count.last_failed_at for count in row[1])),
)
