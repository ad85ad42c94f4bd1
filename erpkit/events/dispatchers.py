"""Who dispatches: the workers that are connected, what the last one wrote before it ended, and taking over from it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from psycopg import sql

from erpkit.database import Connection, Database, Errors, Tenant, read_tenants, tenants_with_table
from erpkit.errors import PlanChangedError, UsageError
from erpkit.events.consumer import handler_topics
from erpkit.events.dispatch import DispatchResult, dispatch
from erpkit.events.lag import GroupLag, LockHolder, read_lag
from erpkit.modules import Registry

__all__ = [
    "Dispatcher",
    "Handled",
    "Health",
    "TakeOver",
    "audit_handled",
    "explain_stop",
    "list_dispatchers",
    "plan_take_over",
    "read_health",
    "take_over",
]

_STALE = 180.0  # seconds; a worker reports every 60 unless it is told otherwise

_DISPATCHERS = """
SELECT pid, coalesce(usename, ''), coalesce(host(client_addr), 'local socket'), backend_start FROM pg_stat_activity
 WHERE datname = current_database() AND application_name = 'erpkit dispatch' ORDER BY backend_start
"""

# Up to its checkpoint a handler has each event in its inbox, unless that became a dead letter or is parked behind one.
_HANDLED = """
SELECT {slug}, h.name, count(e.uuid), count(i.uuid),
       count(*) FILTER (WHERE e.uuid IS NOT NULL AND i.uuid IS NULL AND EXISTS (
           SELECT FROM {letters} d WHERE d.handler = h.name AND d.uuid = e.uuid
           UNION ALL SELECT FROM {parked} p WHERE p.handler = h.name AND p.uuid = e.uuid))
  FROM (VALUES {handlers}) h (name, topic) LEFT JOIN {checkpoints} c ON c.consumer_group = h.name
  LEFT JOIN {events} e ON e.topic = h.topic AND e."offset" <= coalesce(c."offset", 0)
  LEFT JOIN {inbox} i ON i.handler = h.name AND i.uuid = e.uuid
 GROUP BY h.name
"""


@dataclass(frozen=True)
class Dispatcher:
    """The connection by which a worker hears of new events: while it is there, the worker's process is."""

    pid: int
    user: str
    host: str
    since: datetime


@dataclass(frozen=True)
class Health:
    """What a worker last wrote into its health file; one that ends in order removes the file."""

    at: datetime
    handled: int
    dead_letters: int
    waiting: int


@dataclass(frozen=True)
class Handled:
    """Of the events up to a handler's checkpoint, how many are in its inbox, and how many are put aside (dead, or parked)."""

    tenant: str
    handler: str
    events: int
    handled: int
    aside: int

    @property
    def missing(self) -> int:
        """How many have neither been handled nor put aside: there should be none."""
        return self.events - self.handled - self.aside


@dataclass(frozen=True)
class TakeOver:
    """The groups for which events wait, and where each group of the fleet stands."""

    waiting: tuple[GroupLag, ...]
    checkpoints: tuple[tuple[str, str, int], ...]

    @property
    def id(self) -> str:
        """`dispatch-` and ten hexadecimal digits that stand for where all groups are: it changes once somebody else dispatches."""
        return f"dispatch-{hashlib.sha256(json.dumps(self.checkpoints).encode()).hexdigest()[:10]}"

    @property
    def events(self) -> int:
        """How many events wait, over all groups; handling them may publish more."""
        return sum(one.waiting for one in self.waiting)


def list_dispatchers(connection: Connection) -> list[Dispatcher]:
    """Return the workers that are connected to this database, the oldest first."""
    return [Dispatcher(*row) for row in connection.execute(_DISPATCHERS)]


def read_health(path: Path | str) -> Health | None:
    """Read a worker's health file; None where there is none. Raises UsageError for a file that is no report."""
    try:
        value = json.loads(Path(path).read_text())
        return Health(datetime.fromisoformat(value["at"]), value["handled"], value["dead_letters"], value["waiting"])
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError):
        raise UsageError(f"{path} is no health file of erpkit events dispatch") from None


def explain_stop(
    lag: Sequence[GroupLag], dispatchers: Sequence[Dispatcher], health: Health | None, holders: Sequence[LockHolder], now: datetime
) -> list[str]:  # fmt: skip
    """Put into words what is known of who dispatches and who stopped, the first thing to look at first. Pure."""
    words = [
        f"process {one.pid} of {one.user} from {one.host} listens since {one.since:%Y-%m-%d %H:%M:%S}"
        for one in dispatchers
    ]
    if not dispatchers:
        words.append("no dispatcher is connected to this database")
    if health is None:
        words.append("there is no health file: the last dispatcher ended in order, or kept none")
    elif not dispatchers:
        words.append(
            f"the health file is of {health.at:%Y-%m-%d %H:%M:%S}: its dispatcher did not end in order, as it would have removed it"
        )
    elif (now - health.at).total_seconds() > _STALE:
        words.append(
            f"the last report is {(now - health.at).total_seconds():,.0f} s old: that dispatcher hangs, or is another one"
        )
    in_hand = [f"{one.tenant}, {one.handler}" for one in lag if one.in_hand is not None]
    if in_hand and not dispatchers:
        words.append(f"it ended with a batch in hand: {'; '.join(in_hand[:3])}")
    for holder in holders:
        words.append(f"{holder}; if it hangs: SELECT pg_terminate_backend({holder.pid})")
    return words


def plan_take_over(lag: Iterable[GroupLag]) -> TakeOver:
    """Plan to hand what waits to its handlers from here. Pure."""
    groups = sorted(lag, key=lambda one: (one.tenant, one.handler))
    return TakeOver(
        tuple(one for one in groups if one.waiting), tuple((one.tenant, one.handler, one.checkpoint) for one in groups)
    )


def take_over(database: Database, registry: Registry, fleet: Sequence[Tenant], confirm: str) -> list[DispatchResult]:
    """Hand all that waits to its handlers, tenant after tenant, if `confirm` is the id of the present plan.

    Raises PlanChangedError where the checkpoints have moved since: then somebody else dispatches. Beside a worker it does no harm: an
    advisory lock leaves each group to one of them, and what a dispatcher had in hand when it ended is handled one by one, once.
    """
    database.check_writable()
    active = [tenant for tenant in fleet if tenant.is_active]
    with database.connection() as connection:
        plan = plan_take_over(read_lag(connection, active, handler_topics(registry), {}))
    PlanChangedError.check(confirm, plan.id, "dispatched")
    behind = {one.tenant for one in plan.waiting}
    return [dispatch(database, tenant, registry) for tenant in active if tenant.slug in behind]


def audit_handled(
    connection: Connection, tenants: Sequence[Tenant], topics: Mapping[str, str], errors: Errors | None = None
) -> list[Handled]:
    """Count, a tenant and handler, what became of the events up to its checkpoint.

    An inbox row commits together with the handler's effect, and there can be one an event and handler: what is in the inbox once was
    done once. `errors` is as in `read_tenants`.
    """
    with_log = tenants_with_table(connection, "erpkit_events", tenants, errors) if topics else []
    handlers = sql.SQL(", ").join(sql.SQL("({}, {})").format(*map(sql.Literal, pair)) for pair in topics.items())
    queries = [(tenant, _handled(tenant, handlers)) for tenant in with_log]
    found = [Handled(*row) for row in read_tenants(connection, queries, errors)]
    return sorted(found, key=lambda one: (one.tenant, one.handler))


def _handled(tenant: Tenant, handlers: sql.Composed) -> sql.Composed:
    tables = {
        name: sql.Identifier(tenant.schema, f"erpkit_{name}") for name in ("checkpoints", "events", "inbox", "parked")
    }
    letters = sql.Identifier(tenant.schema, "erpkit_dead_letters")
    return sql.SQL(_HANDLED).format(slug=sql.Literal(tenant.slug), handlers=handlers, letters=letters, **tables)
