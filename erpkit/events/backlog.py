"""How far the handlers of each tenant are behind their event log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import psycopg
from psycopg import sql

from erpkit.database import Connection, Errors, Tenant, fetch_union, read_tenants, tenants_with_table
from erpkit.modules import Registry

__all__ = ["handler_topics", "read_backlog", "read_waiting"]

_WAITING = (
    "SELECT {slug}, h.name FROM (VALUES {handlers}) h (name, topic) "
    "LEFT JOIN {checkpoints} c ON c.consumer_group = h.name WHERE "
)
_NEW = 'EXISTS (SELECT FROM {events} e WHERE e.topic = h.topic AND e."offset" > coalesce(c."offset", 0))'
_FREE = (
    " OR EXISTS (SELECT FROM {parked} p WHERE p.handler = h.name AND NOT EXISTS (SELECT FROM {dead_letters} d "
    'WHERE d.handler = p.handler AND d.status = \'open\' AND d.aggregate = p.aggregate AND d."offset" < p."offset"))'
)

_LOGS = """
SELECT n.nspname, bool_or(c.relname = 'erpkit_parked' AND pg_relation_size(c.oid) > 0)
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relname IN ('erpkit_events', 'erpkit_parked') AND c.relkind IN ('r', 'p') AND n.nspname = ANY(%s)
 GROUP BY 1 HAVING bool_or(c.relname = 'erpkit_events')
"""

_PATIENCE = 1.0  # seconds that a dispatcher waits for a table that is locked
_BATCH = 100  # tenants a query: the quickest of 50 to 1,000, measured


def handler_topics(registry: Registry) -> dict[str, str]:
    """Return the topic that each event handler, which is a consumer group of its own, listens to."""
    return {name: registry.topic(handler.event) for name, handler in registry.event_handlers.items()}


def read_backlog(
    connection: Connection, tenants: Sequence[Tenant], topics: Mapping[str, str], errors: Errors | None = None
) -> dict[str, dict[str, int]]:
    """Return how many events wait for each handler, by tenant: those of its topic past its checkpoint; no zeros.

    `errors` is as in `read_tenants`.
    """
    with_log = tenants_with_table(connection, "erpkit_events", tenants, errors) if topics else []
    handlers = sql.SQL(", ").join(sql.SQL("({}, {})").format(*map(sql.Literal, pair)) for pair in topics.items())
    queries = [(tenant, _query(tenant, handlers)) for tenant in with_log]
    backlog: dict[str, dict[str, int]] = {tenant.slug: {} for tenant in tenants}
    for slug, waiting in read_tenants(connection, queries, errors):
        backlog[slug] = waiting or {}
    return backlog


def read_waiting(
    connection: Connection, tenants: Sequence[Tenant], topics: Mapping[str, str], errors: Errors | None = None
) -> list[tuple[Tenant, str]]:
    """Return each tenant and handler for which some event waits, uncounted: quick however many there are.

    A parked event whose dead letter was closed, by a replay say, waits as one past the checkpoint does. It is read under the
    login's own rights, many tenants a query, as dispatchers ask all the time; only where that fails, tenant by tenant, with
    `errors` as in `read_tenants`.
    """
    with_parked = _find_logs(connection, tenants)
    handlers = sql.SQL(", ").join(sql.SQL("({}, {})").format(*map(sql.Literal, pair)) for pair in topics.items())
    queries = [
        (tenant, _any(tenant, handlers, _NEW + _FREE if with_parked[tenant.schema] else _NEW))
        for tenant in (tenants if topics else ())
        if tenant.schema in with_parked
    ]
    by_slug = {tenant.slug: tenant for tenant in tenants}
    try:
        rows = fetch_union(connection, (query for _, query in queries), _BATCH, patience=_PATIENCE)
    except (psycopg.ProgrammingError, psycopg.errors.LockNotAvailable):
        rows = read_tenants(connection, queries, errors)
    return [(by_slug[slug], name) for slug, name in rows]


def _find_logs(connection: Connection, tenants: Sequence[Tenant]) -> dict[str, bool]:
    """Return the schemas that have a log, and whether events were ever parked there: to ask each would take twice as long."""
    return dict(connection.execute(_LOGS, [[tenant.schema for tenant in tenants]]).fetchall())


def _any(tenant: Tenant, handlers: sql.Composed, condition: str) -> sql.Composed:
    tables = ("checkpoints", "events", "parked", "dead_letters")
    return sql.SQL(_WAITING + condition).format(
        slug=sql.Literal(tenant.slug),
        handlers=handlers,
        **{table: sql.Identifier(tenant.schema, f"erpkit_{table}") for table in tables},
    )


def _query(tenant: Tenant, handlers: sql.Composed) -> sql.Composed:
    return sql.SQL(
        "SELECT {slug}, (SELECT jsonb_object_agg(h.name, w.events) FROM (VALUES {handlers}) h (name, topic) "
        "LEFT JOIN {checkpoints} c ON c.consumer_group = h.name CROSS JOIN LATERAL (SELECT count(*) AS events FROM {events} e "
        'WHERE e.topic = h.topic AND e."offset" > coalesce(c."offset", 0)) w WHERE w.events > 0)'
    ).format(
        slug=sql.Literal(tenant.slug),
        handlers=handlers,
        checkpoints=sql.Identifier(tenant.schema, "erpkit_checkpoints"),
        events=sql.Identifier(tenant.schema, "erpkit_events"),
    )
