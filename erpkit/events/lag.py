"""Lag: how far the handlers of each tenant are behind its log, and which transactions hold locks of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from psycopg import sql

from erpkit.database import Connection, Errors, Tenant, read_tables
from erpkit.events.checkpoints import Backlog, group_lock
from erpkit.events.consumer import ConsumerGroup, group_rows
from erpkit.events.orphans import Orphan, orphan_findings
from erpkit.events.starts import TAKEN_OVER
from erpkit.finding import Finding, find_unseen, group_findings, marked, not_read, with_ages
from erpkit.plural import count_of
from erpkit.result import Result, Summary, to_html
from erpkit.table import Column, Table, Tone, format_value

MAX_LAG = 1000  # events that may wait for one handler of one tenant
MAX_AGE = 300.0  # seconds that an event may wait
_LONG = 10.0  # seconds after which an open transaction that holds a lock of the log is worth a look

# What a tenant in want of a migration lacks is null.
_LAG = """
SELECT {slug}, h.name, string_agg(h.topic, ', '), sum(w.events)::bigint, min(o.recorded_at), coalesce(min(c."offset"), 0),
       min(c.updated_at), min((to_jsonb(c)->>'in_hand')::bigint), coalesce(min((to_jsonb(c)->>'attempts')::int), 0),
       min((to_jsonb(c)->>'paused_until')::timestamptz), coalesce(min(to_jsonb(c)->>'error'), '')
  FROM (VALUES {handlers}) h (name, topic) LEFT JOIN {schema}.erpkit_checkpoints c ON c.consumer_group = h.name
 CROSS JOIN LATERAL (SELECT count(*) AS events FROM {schema}.erpkit_events e
                      WHERE e.topic = h.topic AND e."offset" > coalesce(c."offset", 0)) w
  LEFT JOIN LATERAL (SELECT recorded_at FROM {schema}.erpkit_events e
                      WHERE e.topic = h.topic AND e."offset" > coalesce(c."offset", 0) ORDER BY e."offset" LIMIT 1) o ON true
 GROUP BY h.name
"""

_RATES = """
SELECT {slug}, topic, count(*) FILTER (WHERE recorded_at > now() - interval '1 hour'), count(*), max(recorded_at)
  FROM {schema}.erpkit_events WHERE recorded_at > now() - interval '1 day' GROUP BY topic
"""

_HOLDERS = """
SELECT k.slug, k.what, l.pid, coalesce(a.usename, ''), coalesce(a.application_name, ''), coalesce(a.state, ''),
       coalesce(extract(epoch FROM clock_timestamp() - a.xact_start), 0)::float,
       (SELECT count(*) FROM pg_locks w WHERE NOT w.granted AND w.locktype = 'advisory' AND w.objsubid = 1
           AND (w.database, w.classid, w.objid) = (l.database, l.classid, l.objid)),
       left(coalesce(a.query, ''), 200)
  FROM ({keys}) k (slug, what, key)
  JOIN pg_locks l ON l.locktype = 'advisory' AND l.objsubid = 1 AND l.granted
   AND (l.classid::bigint << 32) | l.objid::bigint = k.key
   AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
  JOIN pg_stat_activity a ON a.pid = l.pid
 WHERE a.pid <> pg_backend_pid() AND clock_timestamp() - a.xact_start > make_interval(secs => {long})
 ORDER BY 7 DESC
"""


@dataclass(frozen=True)
class GroupLag:
    """How far one handler (a consumer group of its own) is behind one tenant's log.

    `oldest` is when the first event that waits was recorded. `in_hand` is set while a dispatcher works on events up to that
    offset, or after it ended before it was done; `attempts` counts those on one suspect event. `paused_until` is set while it pauses
    after failures (see `Retry`), or is about to go on; `error` is the last of them.
    """

    tenant: str
    handler: str
    topic: str
    waiting: int
    oldest: datetime | None
    checkpoint: int
    moved_at: datetime | None
    in_hand: int | None
    attempts: int
    paused_until: datetime | None = None
    error: str = ""

    def age(self, now: datetime) -> float:
        """How long the oldest event that waits has waited, in seconds; 0 where none does."""
        return max((now - self.oldest).total_seconds(), 0.0) if self.oldest else 0.0


@dataclass(frozen=True)
class TopicRate:
    """How many events of one topic were appended to one tenant's log in the last hour and the last day."""

    tenant: str
    topic: str
    hour: int
    day: int
    newest: datetime


@dataclass(frozen=True)
class LockHolder:
    """A transaction that holds a lock of a tenant's log: `what` is `append`, or the group whose dispatcher it is.

    While an append is not committed, `waiting` others wait to append, and readers see nothing that is newer.
    """

    tenant: str
    what: str
    pid: int
    user: str
    application: str
    state: str
    seconds: float
    waiting: int
    query: str

    @property
    def problem(self) -> str:
        """What it holds and for how long, without the tenant."""
        holds = "appends to the log" if self.what == "append" else f"dispatches for {self.what}"
        behind = f"; {count_of(self.waiting, 'process waits', 'processes wait')} behind it" if self.waiting else ""
        return f"process {self.pid} ({self.user}) {holds} in a transaction open for {self.seconds:,.0f} s, {self.state}{behind}"

    def __str__(self) -> str:
        return f"{self.tenant}: {self.problem}"


NO_TREND: Table[Any] = Table((), (), "There is no earlier look to compare with.")


@dataclass(frozen=True)
class EventLag(Result):
    """How far handlers are behind the logs of some tenants, `at` some moment, and what holds them back.

    `consumers` are the groups that were asked about, `errors` the tenants that could not be read to the reason.
    More than `max_lag` events of one handler and tenant, or one that has waited for more than `max_age` seconds, are findings;
    None sets no limit. `skipped` maps tenants that are not active to their status, and `named` are those that were asked for by name.
    `forwarding` is what a broker has lost or refused, and `orphans` are topics that nobody handles, and handlers that are gone.
    `trend` has the figures that moved since an earlier look, and `ages` says how long each finding has been known, by its key.
    """

    at: datetime
    tenants: Sequence[Tenant]
    consumers: Sequence[ConsumerGroup]
    groups: Sequence[GroupLag]
    holders: Sequence[LockHolder]
    errors: Mapping[str, str] = field(default_factory=dict)
    max_lag: int | None = None
    max_age: float | None = None
    skipped: Mapping[str, str] = field(default_factory=dict)
    named: frozenset[str] = frozenset()
    forwarding: Sequence[Finding] = ()
    orphans: Sequence[Orphan] = ()
    ages: Mapping[str, str] = field(default_factory=dict, repr=False)
    trend: Table[Any] = field(default=NO_TREND, repr=False)

    @property
    def behind(self) -> list[GroupLag]:
        """The groups for which events wait, the one that has waited longest first."""
        return sorted((one for one in self.groups if one.waiting), key=lambda one: -one.age(self.at))

    @property
    def waiting(self) -> int:
        """How many events wait, over all groups."""
        return sum(one.waiting for one in self.groups)

    @property
    def oldest(self) -> float:
        """For how many seconds the oldest event has waited; 0 where none does."""
        return max((one.age(self.at) for one in self.groups), default=0.0)

    @property
    def without_log(self) -> list[str]:
        """The tenants that have no event log."""
        known = {one.tenant for one in self.groups} | self.errors.keys()
        return [tenant.slug for tenant in self.tenants if self.consumers and tenant.slug not in known]

    @property
    def table(self) -> Table[tuple[GroupLag, EventLag]]:
        """One row per tenant and handler for which events wait, the one that has waited longest first."""
        return Table(
            _LAG_COLUMNS,
            [(one, self) for one in self.behind],
            self._empty,
            in_order=True,
            about=("lag", "poison message", "paused", "removed handler"),
        )

    @property
    def _empty(self) -> str:
        if not self.groups:
            return "nothing was looked at"
        return "nothing waits" if not self.errors else "nothing waits in the tenants that could be read"

    @property
    def holder_table(self) -> Table[LockHolder]:
        """One row per transaction that has held the lock of an append or of a dispatcher for long."""
        return Table(
            _HOLDER_COLUMNS,
            self.holders,
            "No transaction holds a lock for long.",
            is_trouble=True,
            about=("lock holder",),
        )

    @property
    def unseen(self) -> list[Finding]:
        """The tenants that were skipped, and that nobody is left to look at."""
        return find_unseen(self.tenants, self.skipped, self.named)

    @property
    def findings(self) -> list[Finding]:
        """Handlers over a limit or that pause, events that ended a dispatcher, transactions that hold a lock, and what was not read."""
        found = [
            *self.unseen,
            *(() if self.consumers else (_NO_HANDLERS,)),
            *(finding for one in self.behind for finding in self._over(one)),
            *(Finding("poison message", one.tenant, f"an event of {one.handler} ended its dispatcher", "error", _LOOK,
                      (f"the one after offset {one.checkpoint}, {count_of(one.attempts, 'time')}",))
              for one in self.groups if one.attempts),
            *self.forwarding,
            *(Finding("paused", one.tenant, f"{one.handler} pauses after failures: {first_line_of(one.error)}",
                      remedy="it goes on by itself; fix the cause, or skip an event: erpkit events seek --help",
                      evidence=(f"next attempt at {one.paused_until:%Y-%m-%d %H:%M:%S}",))
              for one in self.groups if one.paused_until),
            *(Finding("removed handler", one.tenant, f"{one.handler} was removed or taken over: it handles nothing here",
                      remedy="erpkit events seek --help")
              for one in self.groups if one.checkpoint >= TAKEN_OVER),
            *(Finding("lock holder", one.tenant, one.problem, remedy=f"SELECT pg_terminate_backend({one.pid})")
              for one in self.holders),
            *(Finding("no log", slug, "has no event log", remedy="erpkit migrate up") for slug in self.without_log),
            *orphan_findings(self.orphans),
            *not_read(self.errors),
        ]  # fmt: skip
        return with_ages(found, self.ages)

    @property
    def facts(self) -> dict[str, object]:
        """How many events wait, and for how long."""
        return {
            "tenants": len(self.tenants),
            "waiting": self.waiting,
            "oldest": _duration(self.oldest),
            "skipped": ", ".join(self.skipped) or "none",
        }

    @property
    def summary(self) -> Summary:
        """How many events wait, for how long, and what a person should look at."""
        return Summary("Events that wait", self.facts, self.findings)

    def __repr__(self) -> str:
        return "\n".join([repr(self.table), *(marked(cause) for cause in group_findings(self.findings))])

    def _repr_html_(self) -> str:
        return to_html("", findings=self.findings, tables=[self.table])

    def _over(self, one: GroupLag) -> Iterator[Finding]:
        waits = Backlog(one.waiting, one.age(self.at))
        return find_lag(one.tenant, one.handler, waits, max_lag=self.max_lag, max_age=self.max_age)

    def is_over(self, one: GroupLag) -> bool:
        """Tell whether a group is over one of the limits."""
        return any(True for _ in self._over(one))


def first_line_of(error: str) -> str:
    """Return the first line of an error."""
    return error.partition("\n")[0]


def find_lag(
    tenant: str, handler: str, waits: Backlog, *, max_lag: int | None = MAX_LAG, max_age: float | None = MAX_AGE
) -> Iterator[Finding]:
    """Yield a finding for each limit that what waits for a handler is over; None is no limit."""
    evidence = (f"{count_of(waits.events, 'event waits', 'events wait')}, the oldest for {_duration(waits.seconds)}",)
    if max_lag is not None and waits.events > max_lag:
        problem = f"more than {count_of(max_lag, 'event waits', 'events wait')} for {handler}"
        yield Finding("lag", tenant, problem, "warning", _LOOK, evidence)
    if max_age is not None and waits.seconds > max_age:
        problem = f"an event has waited for {handler} for more than {_duration(max_age)}"
        yield Finding("lag", tenant, problem, "warning", _LOOK, evidence)


def _duration(seconds: float) -> str:
    return format_value(timedelta(seconds=seconds))


def _lag_tone(row: tuple[GroupLag, EventLag]) -> Tone:
    return "warning" if row[1].is_over(row[0]) else ""


_LOOK = "erpkit run runbooks/stopped_dispatcher -p rehearse false"
_NO_HANDLERS = Finding(
    "no modules", "", "no module handles an event, so nothing was checked", remedy="erpkit modules list"
)
_LAG_COLUMNS = (
    Column[tuple[GroupLag, EventLag]]("tenant", lambda row: row[0].tenant),
    Column[tuple[GroupLag, EventLag]]("handler", lambda row: row[0].handler),
    Column[tuple[GroupLag, EventLag]]("topic", lambda row: row[0].topic, minor=True),
    Column[tuple[GroupLag, EventLag]]("waiting", lambda row: row[0].waiting, bar=True, tone=_lag_tone),
    Column[tuple[GroupLag, EventLag]](
        "for", lambda row: timedelta(seconds=row[0].age(row[1].at)), right=True, tone=_lag_tone
    ),
    Column[tuple[GroupLag, EventLag]]("oldest", lambda row: row[0].oldest),
    Column[tuple[GroupLag, EventLag]]("checkpoint", lambda row: row[0].checkpoint, minor=True),
    Column[tuple[GroupLag, EventLag]](
        "last handled", lambda row: (row[0].checkpoint and row[0].moved_at) or "never", minor=True
    ),
)
_HOLDER_COLUMNS = (
    Column[LockHolder]("tenant", lambda one: one.tenant),
    Column[LockHolder]("holds", lambda one: one.what),
    Column[LockHolder]("process", lambda one: str(one.pid), right=True),
    Column[LockHolder]("user", lambda one: one.user),
    Column[LockHolder]("application", lambda one: one.application, minor=True),
    Column[LockHolder]("state", lambda one: one.state),
    Column[LockHolder]("open for", lambda one: timedelta(seconds=one.seconds), right=True),
    Column[LockHolder]("wait behind it", lambda one: one.waiting),
    Column[LockHolder]("last statement", lambda one: one.query),
)


def read_lag(
    connection: Connection, tenants: Sequence[Tenant], groups: Sequence[ConsumerGroup], errors: Errors | None = None
) -> list[GroupLag]:
    """Return how far each handler of `groups` is behind, for every tenant that has a log, by tenant and handler.

    `errors` is as in `read_tenants`.
    """
    asked = tenants if groups else ()
    rows = read_tables(connection, asked, "erpkit_events", _LAG, errors, handlers=group_rows(groups))
    return sorted((GroupLag(*row) for row in rows), key=lambda one: (one.tenant, one.handler))


def read_rates(connection: Connection, tenants: Sequence[Tenant], errors: Errors | None = None) -> list[TopicRate]:
    """Return what was appended in the last day, by tenant and topic; a topic without an event is not listed.

    `errors` is as in `read_tenants`.
    """
    rows = read_tables(connection, tenants, "erpkit_events", _RATES, errors)
    return sorted((TopicRate(*row) for row in rows), key=lambda one: (one.tenant, one.topic))


def read_lock_holders(
    connection: Connection, tenants: Sequence[Tenant], groups: Sequence[ConsumerGroup], long: float = _LONG
) -> list[LockHolder]:
    """Return the transactions that have held the append's or a dispatcher's lock for more than `long` seconds, longest first."""
    if not tenants:
        return []
    keys = sql.SQL(
        "SELECT t.slug, 'append', hashtextextended('erpkit.append.' || t.schema, 0) FROM unnest({slugs}::text[], {schemas}::text[]) "
        "t (slug, schema) UNION ALL SELECT t.slug, h.name, {lock} FROM unnest({slugs}::text[], {schemas}::text[]) t (slug, schema) "
        "CROSS JOIN unnest({names}::text[]) h (name)"
    ).format(
        slugs=sql.Literal([tenant.slug for tenant in tenants]),
        schemas=sql.Literal([tenant.schema for tenant in tenants]),
        names=sql.Literal([group.name for group in groups]),
        lock=sql.SQL(group_lock("t.schema", "h.name")),
    )
    rows = connection.execute(sql.SQL(_HOLDERS).format(keys=keys, long=sql.Literal(long)))
    return [LockHolder(*row) for row in rows]
