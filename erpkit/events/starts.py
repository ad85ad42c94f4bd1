"""Where a new handler starts in each tenant's log, and how it takes over from one of another name."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import psycopg
from psycopg import sql

from erpkit.database import Connection, Database, Errors, Tenant, fetch_union, read_tables, read_tenants
from erpkit.errors import DatabaseError, ErpkitError, first_line
from erpkit.events.checkpoints import group_lock
from erpkit.events.consumer import ConsumerGroup, group_of
from erpkit.events.log import name_log_behind
from erpkit.modules import EventHandler, Registry

TAKEN_OVER = 2**63 - 1  # the checkpoint of a group whose work another one continues: nothing follows it

_LACKING = """
SELECT {slug}, h FROM unnest({names}::text[]) h
 WHERE NOT EXISTS (SELECT FROM {schema}.erpkit_checkpoints c WHERE c.consumer_group = h)
"""

_MOMENTS = (
    "SELECT consumer_group, min((to_jsonb(c)->>'started_at')::timestamptz) FROM {checkpoints} c "
    "WHERE consumer_group = ANY({names}) GROUP BY 1"
)
_LOGS = (
    "SELECT n.nspname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
    "WHERE c.relname = 'erpkit_checkpoints' AND c.relkind IN ('r', 'p')"
)
_TENANTS_A_QUERY = 100

# Events become visible in the order of their offsets, and so what follows the newest one is what comes from now on.
_NEWEST = 'SELECT coalesce(max("offset"), 0) FROM erpkit_events'
_SINCE = 'SELECT coalesce((SELECT min("offset") - 1 FROM erpkit_events WHERE recorded_at >= %s), max("offset"), 0) FROM erpkit_events'

_FORMER = """
SELECT min("offset"), max(in_hand), max(attempts) FROM erpkit_checkpoints WHERE consumer_group = ANY(%s) AND "offset" < %s
"""

# What the former handler did after the checkpoint stays done, and what it failed on stays failed. A dispatcher of an older version
# finds nothing after its checkpoint any more.
_TAKE_OVER = (
    "INSERT INTO erpkit_inbox (handler, uuid, handled_at) SELECT %(name)s, i.uuid, min(i.handled_at) FROM erpkit_inbox i "
    'JOIN erpkit_events e ON e.uuid = i.uuid AND e."offset" > %(offset)s WHERE i.handler = ANY(%(former)s) GROUP BY i.uuid '
    "ON CONFLICT DO NOTHING",
    "UPDATE erpkit_dead_letters SET handler = %(name)s WHERE handler = ANY(%(former)s)",
    "UPDATE erpkit_parked SET handler = %(name)s WHERE handler = ANY(%(former)s)",
    'UPDATE erpkit_checkpoints SET "offset" = %(end)s, in_hand = NULL, attempts = 0, updated_at = now() '
    "WHERE consumer_group = ANY(%(former)s)",
)


def start_handlers(
    database: Database, registry: Registry, tenants: Sequence[Tenant], errors: Errors | None = None
) -> None:
    """Note where handlers start that do not begin with the first event, in those of `tenants` where they are new.

    Dispatchers call it before they read a tenant's events the first time. "now" is one moment for all tenants: the first time that a
    dispatcher knew the handler. A tenant that is made later starts with its first event. `errors` is as in `read_tenants`.
    """
    handlers = {name: handler for name, handler in registry.event_handlers.items() if handler.starts_later}
    if not handlers or not tenants:
        return
    with database.connection() as connection:
        lacking = _find_lacking(connection, tenants, list(handlers), errors)
        moments = _read_moments(connection, [tenant for tenant, _ in lacking], list(handlers)) if lacking else {}
    for tenant, name in lacking:
        try:
            with name_log_behind(tenant), database.tenant_transaction(tenant, write=True) as inside:
                _start(inside, tenant, handlers[name], group_of(registry, handlers[name]), moments.get(name))
        except (psycopg.Error, ErpkitError) as error:
            if errors is None:
                raise
            errors[tenant.slug] = first_line(error)


def _find_lacking(
    connection: Connection, tenants: Sequence[Tenant], names: Sequence[str], errors: Errors | None
) -> list[tuple[Tenant, str]]:
    found = read_tables(connection, tenants, "erpkit_checkpoints", _LACKING, errors, names=list(names))
    by_slug = {tenant.slug: tenant for tenant in tenants}
    return [(by_slug[slug], name) for slug, name in found]


def _read_moments(connection: Connection, tenants: Sequence[Tenant], names: Sequence[str]) -> dict[str, datetime]:
    """Return when each handler was first known to a dispatcher of any tenant in the database, if it was."""
    schemas = [schema for (schema,) in connection.execute(_LOGS)]

    def query(schema: str) -> sql.Composed:
        return sql.SQL(_MOMENTS).format(checkpoints=_table(schema), names=sql.Literal(list(names)))

    try:
        rows = fetch_union(connection, map(query, schemas), _TENANTS_A_QUERY, patience=1.0)
    except (psycopg.ProgrammingError, psycopg.errors.LockNotAvailable):  # a login that may not read all of them
        rows = read_tenants(connection, [(tenant, query(tenant.schema)) for tenant in tenants], {})
    moments: dict[str, datetime] = {}
    for name, moment in rows:
        if moment is not None:
            moments[name] = min(moment, moments.get(name, moment))
    return moments


def _start(
    connection: Connection, tenant: Tenant, handler: EventHandler, group: ConsumerGroup, first: datetime | None
) -> None:
    _lock(connection, tenant, (handler.name, *handler.former_names))
    former = list(handler.former_names)
    offset, in_hand, attempts = connection.execute(_FORMER, [former, TAKEN_OVER]).fetchall()[0]
    if offset is None:
        offset = _find_start(connection, handler, first)
    else:
        values = {"name": handler.name, "former": former, "offset": offset, "end": TAKEN_OVER}
        for statement in _TAKE_OVER:
            connection.execute(statement, values)
    connection.execute(
        'INSERT INTO erpkit_checkpoints (consumer_group, "offset", in_hand, attempts, start_offset, started_at, topics, read_offset) '
        "VALUES (%s, %s, %s, %s, %s, clock_timestamp(), %s, %s) ON CONFLICT DO NOTHING",
        [handler.name, offset, in_hand, attempts or 0, offset, list(group.topics), offset],
    )


def _lock(connection: Connection, tenant: Tenant, names: Sequence[str]) -> None:
    """Keep dispatchers of these groups out until the transaction ends; raise DatabaseError where one is at work."""
    key = group_lock("current_schema()", "h")
    query = f"SELECT h FROM unnest(%s::text[]) h WHERE NOT pg_try_advisory_xact_lock({key})"  # noqa: S608
    if busy := connection.execute(query.encode(), [list(names)]).fetchone():
        raise DatabaseError(
            f"tenant {tenant.slug}: a dispatcher is at work on {busy[0]}: {names[0]} starts when it is done"
        )


def _find_start(connection: Connection, handler: EventHandler, first: datetime | None) -> int:
    """Return the offset of the last event that is not for the handler."""
    start = handler.start
    if start is None or start == "beginning":
        return 0
    if isinstance(start, int):
        return max(0, start - 1)
    moment = first if start == "now" else start
    query = connection.execute(_NEWEST) if moment is None else connection.execute(_SINCE, [moment])
    return int(query.fetchall()[0][0])


def _table(schema: str) -> sql.Identifier:
    return sql.Identifier(schema, "erpkit_checkpoints")
