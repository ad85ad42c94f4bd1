"""How the handlers of each tenant keep up with its log: figures for a monitor, a notebook or the command line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from psycopg import sql

from erpkit.database import Connection, Errors, Tenant, read_tenants, tenants_with_table
from erpkit.events.checkpoints import group_lock

__all__ = ["GroupLag", "LockHolder", "TopicRate", "read_lag", "read_lock_holders", "read_rates"]

_LONG = 10.0  # seconds after which an open transaction that holds a lock of the log is worth a look

# What a tenant in want of a migration lacks is null.
_LAG = """
SELECT {slug}, h.name, h.topic, w.events, o.recorded_at, coalesce(c."offset", 0), c.updated_at,
       (to_jsonb(c)->>'in_hand')::bigint, coalesce((to_jsonb(c)->>'attempts')::int, 0)
  FROM (VALUES {handlers}) h (name, topic) LEFT JOIN {checkpoints} c ON c.consumer_group = h.name
 CROSS JOIN LATERAL (SELECT count(*) AS events FROM {events} e
                      WHERE e.topic = h.topic AND e."offset" > coalesce(c."offset", 0)) w
  LEFT JOIN LATERAL (SELECT recorded_at FROM {events} e WHERE e.topic = h.topic AND e."offset" > coalesce(c."offset", 0)
                      ORDER BY e."offset" LIMIT 1) o ON true
"""

_RATES = """
SELECT {slug}, topic, count(*) FILTER (WHERE recorded_at > now() - interval '1 hour'), count(*), max(recorded_at)
  FROM {events} WHERE recorded_at > now() - interval '1 day' GROUP BY topic
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
    """How far one handler, which is a consumer group of its own, is behind one tenant's log.

    `oldest` is when the first event that waits was recorded. `in_hand` is set while a dispatcher works on events up to that
    offset, or after it ended before it was done; `attempts` counts those on one suspect event.
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

    def __str__(self) -> str:
        holds = "appends to the log" if self.what == "append" else f"dispatches for {self.what}"
        behind = f"; {self.waiting} wait(s) behind it" if self.waiting else ""
        return (
            f"{self.tenant}: process {self.pid} ({self.user}) {holds} in a transaction open for {self.seconds:,.0f} s, "
            f"{self.state}{behind}"
        )


def read_lag(
    connection: Connection, tenants: Sequence[Tenant], topics: Mapping[str, str], errors: Errors | None = None
) -> list[GroupLag]:
    """Return how far each handler of `topics` is behind, for every tenant that has a log, by tenant and handler.

    `errors` is as in `read_tenants`.
    """
    handlers = sql.SQL(", ").join(sql.SQL("({}, {})").format(*map(sql.Literal, pair)) for pair in topics.items())
    queries = [
        (
            tenant,
            sql.SQL(_LAG).format(
                slug=sql.Literal(tenant.slug),
                handlers=handlers,
                checkpoints=sql.Identifier(tenant.schema, "erpkit_checkpoints"),
                events=sql.Identifier(tenant.schema, "erpkit_events"),
            ),
        )
        for tenant in (tenants_with_table(connection, "erpkit_events", tenants, errors) if topics else ())
    ]
    lag = [GroupLag(*row) for row in read_tenants(connection, queries, errors)]
    return sorted(lag, key=lambda one: (one.tenant, one.handler))


def read_rates(connection: Connection, tenants: Sequence[Tenant], errors: Errors | None = None) -> list[TopicRate]:
    """Return what was appended in the last day, by tenant and topic; a topic without an event is not listed.

    `errors` is as in `read_tenants`.
    """
    query = sql.SQL(_RATES)
    queries = [
        (tenant, query.format(slug=sql.Literal(tenant.slug), events=sql.Identifier(tenant.schema, "erpkit_events")))
        for tenant in tenants_with_table(connection, "erpkit_events", tenants, errors)
    ]
    rates = [TopicRate(*row) for row in read_tenants(connection, queries, errors)]
    return sorted(rates, key=lambda one: (one.tenant, one.topic))


def read_lock_holders(
    connection: Connection, tenants: Sequence[Tenant], topics: Mapping[str, str], long: float = _LONG
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
        names=sql.Literal(list(topics)),
        lock=sql.SQL(group_lock("t.schema", "h.name")),
    )
    rows = connection.execute(sql.SQL(_HOLDERS).format(keys=keys, long=sql.Literal(long)))
    return [LockHolder(*row) for row in rows]
