"""Dispatchers: the workers that are connected, the last report of one that ended, and taking over from it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

import psycopg
from psycopg import sql

from erpkit.database import Connection, Database, Errors, Tenant, read_tenants, tenants_with_table
from erpkit.errors import ErpkitError, PlanChangedError, UsageError, first_line
from erpkit.events.consumer import ConsumerGroup, Watch, consumer_groups, group_rows
from erpkit.events.dispatch import DispatchResult, dispatch
from erpkit.events.lag import EventLag, GroupLag, LockHolder, read_lag
from erpkit.finding import Finding, find_skipped, find_unserved
from erpkit.grouping import group_by
from erpkit.modules import Registry
from erpkit.plan import plan_id
from erpkit.plural import count_of
from erpkit.result import Result, Summary
from erpkit.table import Column, Table

_STALE = 180.0  # seconds; a worker reports every 60 unless it is told otherwise

_DISPATCHERS = """
SELECT pid, coalesce(usename, ''), coalesce(host(client_addr), 'local socket'), backend_start FROM pg_stat_activity
 WHERE datname = current_database() AND application_name = 'erpkit dispatch' ORDER BY backend_start
"""

# From its start up to its checkpoint a handler has each event in its inbox, unless that became a dead letter or is parked behind one,
# or its row was pruned.
_HANDLED = """
SELECT {slug}, h.name, count(e.uuid), count(i.uuid),
       count(*) FILTER (WHERE e.uuid IS NOT NULL AND i.uuid IS NULL AND EXISTS (
           SELECT FROM {letters} d WHERE d.handler = h.name AND d.uuid = e.uuid
           UNION ALL SELECT FROM {parked} p WHERE p.handler = h.name AND p.uuid = e.uuid))
  FROM (VALUES {handlers}) h (name, topic)
  LEFT JOIN (SELECT consumer_group, "offset", coalesce((to_jsonb(p)->>'start_offset')::bigint, 0) AS start,
                    coalesce((to_jsonb(p)->>'inbox_since')::timestamptz, '-infinity') AS since FROM {checkpoints} p) c
       ON c.consumer_group = h.name
  LEFT JOIN {events} e ON e.topic = h.topic AND e."offset" <= coalesce(c."offset", 0) AND e."offset" > coalesce(c.start, 0)
   AND e.recorded_at >= c.since
  LEFT JOIN {inbox} i ON i.handler = h.name AND i.uuid = e.uuid
 GROUP BY h.name
"""


_HANDLE = "erpkit events dispatch --once"  # elsewhere the runbook that shows this report is the command that helps


@dataclass(frozen=True)
class Dispatcher:
    """The connection on which a worker listens for new events; it exists as long as the worker's process."""

    pid: int
    user: str
    host: str
    since: datetime


@dataclass(frozen=True)
class Health:
    """The last report in a worker's health file; a worker that stops normally removes the file."""

    at: datetime
    handled: int
    dead_letters: int
    waiting: int


@dataclass(frozen=True)
class Handled:
    """Of the events up to a handler's checkpoint, how many are in its inbox, and how many were dead-lettered or parked (`aside`)."""

    tenant: str
    handler: str
    events: int
    handled: int
    aside: int

    @property
    def missing(self) -> int:
        """How many were neither handled nor dead-lettered or parked: there should be none."""
        return self.events - self.handled - self.aside


@dataclass(frozen=True)
class TakeOver:
    """A plan to dispatch what waits: the groups for which events wait, and the checkpoint of each group."""

    waiting: tuple[GroupLag, ...]
    checkpoints: tuple[tuple[str, str, int], ...]
    unseen: tuple[Finding, ...] = ()

    @property
    def id(self) -> str:
        """`dispatch-` and ten hexadecimal digits that stand for all checkpoints: it changes when somebody else dispatches."""
        return plan_id("dispatch", self.checkpoints)

    @property
    def events(self) -> int:
        """How many events wait, over all groups; handling them may publish more."""
        return sum(one.waiting for one in self.waiting)

    @property
    def size(self) -> int:
        """The same as `events`."""
        return self.events

    @property
    def facts(self) -> dict[str, object]:
        """How many events wait, and that none was handled yet."""
        return {"handled": 0, "wait now": self.events}

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Who is skipped; the events that wait are the plan itself."""
        return self.unseen

    @property
    def tables(self) -> tuple[Table[GroupLag], ...]:
        """One row per tenant and handler for which events wait."""
        return (Table(_WAITING, self.waiting, "Nothing waits."),)

    def __str__(self) -> str:
        return f"{count_of(self.events, 'event waits', 'events wait')} for {count_of(len(self.waiting), 'handler')}"


@dataclass(frozen=True)
class DispatchRun(Result):
    """The result of dispatching all that waited, tenant by tenant.

    `failures` maps tenants that could not be served to the reason, `skipped` those that are not active to their status. With `of_all`
    each active tenant has a result or a failure.
    """

    results: Sequence[DispatchResult]
    failures: Mapping[str, str] = field(default_factory=dict)
    skipped: Mapping[str, str] = field(default_factory=dict)
    waiting: int = 0
    named: frozenset[str] = frozenset()
    of_all: bool = False

    @property
    def handled(self) -> int:
        """How many events were handled."""
        return sum(one.handled for one in self.results)

    @property
    def facts(self) -> dict[str, object]:
        """How many events were handled, and how many still wait."""
        return {"handled": self.handled, "wait now": self.waiting}

    @property
    def findings(self) -> list[Finding]:
        """The tenants that could not be served, or that none is active, events that became dead letters, and handlers that pause."""
        is_idle = self.of_all and not (self.results or self.failures or self.named & self.skipped.keys())
        return [
            *([find_unserved(self.skipped)] if is_idle else []),
            *(Finding("failed", slug, reason, "error") for slug, reason in self.failures.items()),
            *find_skipped({slug: status for slug, status in self.skipped.items() if slug in self.named}, self.named),
            *(
                Finding(
                    "dead letters",
                    one.tenant,
                    "events became dead letters",
                    remedy=f"erpkit events dead-letters list --tenant {one.tenant}",
                )
                for one in self.results
                if one.dead
            ),
            *(
                Finding("paused", one.tenant, f"{handler} pauses after failures", remedy="erpkit events lag")
                for one in self.results
                for handler in one.paused
            ),
        ]

    @property
    def table(self) -> Table[DispatchResult]:
        """One row per tenant: how many events were handled, became dead letters, and were parked."""
        return Table(_RESULTS, self.results, "Nothing was dispatched.")

    @property
    def tables(self) -> tuple[Table[DispatchResult], ...]:
        """The one table."""
        return (self.table,)

    def __str__(self) -> str:
        return f"{count_of(self.handled, 'event')} handled in {count_of(len(self.results), 'tenant')}"


@dataclass(frozen=True)
class DispatcherReport(Result):
    """Who dispatches, what waits, and the last report of the dispatcher that ended.

    `handled` says, a tenant and handler, what became of the events up to its checkpoint.
    """

    target: str
    lag: EventLag
    connected: Sequence[Dispatcher]
    health: Health | None
    handled: Sequence[Handled] = ()

    @property
    def words(self) -> str:
        """What is known of running and stopped dispatchers, one fact per line, the most important first."""
        return "\n".join(explain_stop(self.lag.groups, self.connected, self.health, self.lag.holders, self.lag.at))

    @property
    def state(self) -> str:
        """How many dispatchers are connected, and where events wait, in two lines."""
        waits = ", ".join(sorted({one.tenant for one in self.lag.behind})) or "none"
        return (
            f"dispatchers connected: {len(self.connected):,}, health file left behind: {self.health is not None}\n"
            f"tenants in which events wait: {waits}; holders of locks: {len(self.lag.holders):,}"
        )

    @property
    def proof(self) -> str:
        """How many groups wait, and how many handlers miss an event, in one line."""
        missing = sum(one.missing != 0 for one in self.handled)
        return (
            f"groups that wait: {len(self.lag.behind):,}, handlers that miss an event: {missing:,}, "
            f"dispatchers connected: {len(self.connected):,}"
        )

    @property
    def findings(self) -> list[Finding]:
        """Events that wait too long, events that are missing in an inbox, and that no dispatcher is connected."""
        return [
            *(replace(one, remedy=_HANDLE) if one.kind == "lag" else one for one in self.lag.findings),
            *(
                Finding("missing", one.tenant, f"events are missing in the inbox of {one.handler}", "error",
                        evidence=(f"{one.missing:,} of {one.events:,}",))
                for one in self.handled
                if one.missing
            ),
            *(() if self.connected else (Finding("no dispatcher", "", "no dispatcher is connected", remedy="erpkit events dispatch"),)),
        ]  # fmt: skip

    @property
    def table(self) -> Table[Dispatcher]:
        """One row per worker that is connected."""
        return Table(_DISPATCHER_COLUMNS, self.connected, "No dispatcher is connected.")

    @property
    def handled_table(self) -> Table[tuple[str, list[Handled]]]:
        """One row per handler, over all tenants: the events up to its checkpoints, and what became of them."""
        handlers = group_by(self.handled, lambda one: one.handler)
        return Table(_HANDLED_COLUMNS, list(handlers.items()), "There are no handlers.")

    @property
    def summary(self) -> Summary:
        """What waits and who dispatches."""
        facts = {"dispatchers": len(self.connected), "waiting": self.lag.waiting}
        return Summary(f"Dispatchers on {self.target}", facts, self.findings)

    def add_to(self, summary: Summary) -> Summary:
        """Return the summary of a take-over with what waits now, and what this report finds."""
        return Summary(
            summary.title, {**summary.facts, "wait now": self.lag.waiting}, [*summary.findings, *self.findings]
        )

    def __repr__(self) -> str:
        return self.words

    def _repr_html_(self) -> str:
        return self.summary.html() + self.lag.table._repr_html_()


_WAITING = (
    Column[GroupLag]("tenant", lambda one: one.tenant),
    Column[GroupLag]("handler", lambda one: one.handler),
    Column[GroupLag]("waiting", lambda one: one.waiting, bar=True),
    Column[GroupLag]("oldest", lambda one: one.oldest),
)
_RESULTS = (
    Column[DispatchResult]("tenant", lambda one: one.tenant),
    Column[DispatchResult]("handled", lambda one: one.handled, bar=True),
    Column[DispatchResult]("dead", lambda one: one.dead, tone=lambda one: "warning" if one.dead else ""),
    Column[DispatchResult]("parked", lambda one: one.parked),
)
_DISPATCHER_COLUMNS = (
    Column[Dispatcher]("process", lambda one: str(one.pid), right=True),
    Column[Dispatcher]("user", lambda one: one.user),
    Column[Dispatcher]("host", lambda one: one.host),
    Column[Dispatcher]("since", lambda one: one.since),
)
_Handlers = tuple[str, list[Handled]]
_HANDLED_COLUMNS = (
    Column[_Handlers]("handler", lambda row: row[0]),
    Column[_Handlers]("tenants", lambda row: len(row[1])),
    Column[_Handlers]("events", lambda row: sum(one.events for one in row[1])),
    Column[_Handlers]("handled once", lambda row: sum(one.handled for one in row[1])),
    Column[_Handlers]("put aside", lambda row: sum(one.aside for one in row[1])),
    Column[_Handlers](
        "missing", lambda row: sum(one.missing for one in row[1]),
        tone=lambda row: "error" if any(one.missing for one in row[1]) else "",
    ),
)  # fmt: skip


def dispatch_all(database: Database, registry: Registry, tenants: Sequence[Tenant], watch: Watch) -> DispatchRun:
    """Dispatch all that waits, tenant by tenant; a tenant that fails does not stop the others."""
    results: list[DispatchResult] = []
    failures: dict[str, str] = {}
    for tenant in (tenant for tenant in tenants if tenant.is_active):
        try:
            results.append(dispatch(database, tenant, registry, watch=watch))
        except (ErpkitError, psycopg.Error) as error:
            failures[tenant.slug] = first_line(error).removeprefix(f"tenant {tenant.slug}: ")
    skipped = {tenant.slug: tenant.status for tenant in tenants if not tenant.is_active}
    return DispatchRun(results, failures, skipped, of_all=True)


def list_dispatchers(connection: Connection) -> list[Dispatcher]:
    """Return the workers that are connected to this database, the oldest first."""
    return [Dispatcher(*row) for row in connection.execute(_DISPATCHERS)]


def may_be_served(connection: Connection) -> bool:
    """Tell whether a worker is connected to this database; on a standby, which does not see those of its primary, it may be."""
    in_recovery = connection.execute("SELECT pg_is_in_recovery()").fetchone() == (True,)
    return in_recovery or bool(list_dispatchers(connection))


def read_health(path: Path | str) -> Health | None:
    """Read a worker's health file; None where there is none. Raises UsageError for a file that is not a report."""
    try:
        value = json.loads(Path(path).read_text())
        return Health(datetime.fromisoformat(value["at"]), value["handled"], value["dead_letters"], value["waiting"])
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError):
        raise UsageError(f"{path} is not a health file of erpkit events dispatch") from None


def explain_stop(
    lag: Sequence[GroupLag], dispatchers: Sequence[Dispatcher], health: Health | None, holders: Sequence[LockHolder], now: datetime
) -> list[str]:  # fmt: skip
    """Describe what is known of running and stopped dispatchers, the most important fact first. Pure."""
    words = [
        f"process {one.pid} of {one.user} from {one.host} listens since {one.since:%Y-%m-%d %H:%M:%S}"
        for one in dispatchers
    ]
    if not dispatchers:
        words.append("no dispatcher is connected to this database")
    if health is None:
        words.append("there is no health file: the last dispatcher stopped normally, or kept none")
    elif not dispatchers:
        words.append(
            f"the health file is of {health.at:%Y-%m-%d %H:%M:%S}: "
            "its dispatcher did not stop normally, or it would have removed the file"
        )
    elif (now - health.at).total_seconds() > _STALE:
        words.append(
            f"the last report is {(now - health.at).total_seconds():,.0f} s old: that dispatcher hangs, or it is another one's file"
        )
    in_hand = [f"{one.tenant}, {one.handler}" for one in lag if one.in_hand is not None]
    if in_hand and not dispatchers:
        words.append(f"it ended with a batch in flight: {'; '.join(in_hand[:3])}")
    for holder in holders:
        words.append(f"{holder}; if it hangs: SELECT pg_terminate_backend({holder.pid})")
    return words


def plan_take_over(lag: Iterable[GroupLag]) -> TakeOver:
    """Plan to dispatch what waits from this process. Pure."""
    groups = sorted(lag, key=lambda one: (one.tenant, one.handler))
    return TakeOver(
        tuple(one for one in groups if one.waiting), tuple((one.tenant, one.handler, one.checkpoint) for one in groups)
    )


def take_over(database: Database, registry: Registry, fleet: Sequence[Tenant], confirm: str) -> list[DispatchResult]:
    """Dispatch all that waits, tenant by tenant, if `confirm` is the id of the present plan.

    Raises PlanChangedError where the checkpoints have moved since: then somebody else dispatches. It is safe beside a running
    worker: an advisory lock leaves each group to one of them, and events that were in flight are handled once.
    """
    database.check_writable()
    active = [tenant for tenant in fleet if tenant.is_active]
    with database.connection() as connection:
        plan = plan_take_over(read_lag(connection, active, consumer_groups(registry), {}))
    PlanChangedError.check(confirm, plan.id, "dispatched")
    behind = {one.tenant for one in plan.waiting}
    return [dispatch(database, tenant, registry) for tenant in active if tenant.slug in behind]


def audit_handled(
    connection: Connection, tenants: Sequence[Tenant], groups: Sequence[ConsumerGroup], errors: Errors | None = None
) -> list[Handled]:
    """Count for each tenant and handler what became of the events up to its checkpoint.

    An inbox row commits together with the handler's effect, and there can be one an event and handler: what is in the inbox once was
    done once. `errors` is as in `read_tenants`.
    """
    with_log = tenants_with_table(connection, "erpkit_events", tenants, errors) if groups else []
    handlers = group_rows(groups)
    queries = [(tenant, _handled(tenant, handlers)) for tenant in with_log]
    found = [Handled(*row) for row in read_tenants(connection, queries, errors)]
    return sorted(found, key=lambda one: (one.tenant, one.handler))


def _handled(tenant: Tenant, handlers: sql.Composed) -> sql.Composed:
    tables = {
        name: sql.Identifier(tenant.schema, f"erpkit_{name}") for name in ("checkpoints", "events", "inbox", "parked")
    }
    letters = sql.Identifier(tenant.schema, "erpkit_dead_letters")
    return sql.SQL(_HANDLED).format(slug=sql.Literal(tenant.slug), handlers=handlers, letters=letters, **tables)
