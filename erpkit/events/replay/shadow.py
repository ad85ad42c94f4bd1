"""Shadows: a projection rebuilt beside the live one, in a scratch schema that handlers fill from the log."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

from erpkit.database import (
    Connection,
    Database,
    Tenant,
    as_admin,
    as_owner,
    check_schema_name,
    create_schema,
    search_path,
    shared_schemas,
)  # fmt: skip
from erpkit.errors import ErpkitError, UsageError
from erpkit.events.consumer import Consumer
from erpkit.events.replay.run import Pace, RunOptions, hand_over
from erpkit.events.replay.selection import Selection, Span, read_selected
from erpkit.modules import Registry
from erpkit.near import did_you_mean
from erpkit.signals import stop_at_interrupt
from erpkit.table import Column

_PREFIX = "erpkit_shadow_"
_EVERYTHING = Selection()


@dataclass(frozen=True)
class Projection:
    """Tables that are made from events, and all the handlers that keep them, in load order."""

    handlers: tuple[str, ...]
    tables: tuple[str, ...]


@dataclass(frozen=True)
class Shadow:
    """A projection in a scratch schema, with the events that its handlers were given there.

    `failed` are events that a handler failed on. `is_complete` says whether it came as far as the live handlers are; it does
    not when it was stopped, and `build_shadow` with the option `resume` goes on.
    """

    tenant: Tenant
    schema: str
    projection: Projection
    events: int
    failed: int
    is_complete: bool

    @property
    def role(self) -> str:
        """The role that fills it: it may read the tenant's schema, and write in the scratch schema alone."""
        return f"{self.tenant.role}.copy"


@dataclass(frozen=True)
class ShadowRecord:
    """A scratch schema in the database, complete or left behind by a crash."""

    schema: str
    tenant: str
    handlers: list[str]
    events: int
    failed: int
    started_at: datetime


SHADOW_COLUMNS = (
    Column[ShadowRecord]("schema", lambda one: one.schema),
    Column[ShadowRecord]("tenant", lambda one: one.tenant),
    Column[ShadowRecord]("handlers", lambda one: one.handlers),
    Column[ShadowRecord]("events", lambda one: one.events),
    Column[ShadowRecord]("failed", lambda one: one.failed, tone=lambda one: "warning" if one.failed else ""),
    Column[ShadowRecord]("started", lambda one: one.started_at),
)


def find_projection(registry: Registry, handler: str) -> Projection:
    """Return the projection that a handler keeps, with all other handlers that write its tables. Pure.

    Raises UsageError when the handler does not exist or declares no `writes`, or one of them is not replayable.
    """
    known = registry.event_handlers
    if handler not in known:
        raise UsageError(f"no handler is named {handler}; {did_you_mean(handler, known)}")
    if not known[handler].writes:
        raise UsageError(f"{handler} declares no table that it writes: add EventHandler(…, writes=(…)) in its module")
    tables = set(known[handler].writes)
    while more := {t for h in known.values() if tables & set(h.writes) for t in h.writes} - tables:
        tables |= more
    writers = [h for h in known.values() if tables & set(h.writes)]
    if bad := [h.name for h in writers if h.has_side_effects]:
        raise UsageError(
            f"{', '.join(bad)} writes {', '.join(sorted(tables))} and is not replayable: no rebuild is possible"
        )
    return Projection(tuple(h.name for h in writers), tuple(dict.fromkeys(t for h in writers for t in h.writes)))


def build_shadow(
    database: Database,
    registry: Registry,
    tenant: Tenant,
    handler: str,
    options: RunOptions | None = None,
) -> Shadow:
    """Rebuild the projection of `handler` from the first event on, in a scratch schema; live tables are not touched.

    Its handlers get what they handled in the log so far, in the order of the log, in constant memory. (The dispatcher keeps
    that order within each handler only: where two of them write one table, a difference may be just that.) They run under a role
    that can write nowhere else: one that writes a table it does not declare is refused by PostgreSQL. What another build
    left behind is dropped, or with the option `resume` gone on with; do that only if the handlers are still the same code.
    """
    database.check_writable()
    projection = find_projection(registry, handler)
    if tenant.role is None:
        raise UsageError(
            f"tenant {tenant.slug} has no role of its own, without which a shadow's handlers could write anywhere"
        )
    shadow = Shadow(tenant, shadow_name(tenant, projection), projection, 0, 0, False)
    options = options or RunOptions()
    if not (options.resume and _exists(database, shadow.schema)):
        drop_shadow(database, shadow.schema)
        _create(database, shadow)
    pace = Pace(options)
    with stop_at_interrupt(options.stop):
        while not options.stop.is_set():
            with database.tenant_transaction(tenant, write=True) as connection:
                events = advance(connection, registry, shadow, pace.batch)
            if events is None:
                break
            options.advance(events)
            pace.wait(events)
    return _read(database, shadow, is_complete=not options.stop.is_set())


def find_shadow(database: Database, registry: Registry, tenant: Tenant, handler: str) -> Shadow:
    """Return the existing shadow of a projection; raises UsageError when there is none."""
    projection = find_projection(registry, handler)
    shadow = Shadow(tenant, shadow_name(tenant, projection), projection, 0, 0, False)
    if not _exists(database, shadow.schema):
        raise UsageError(f"tenant {tenant.slug} has no shadow of {', '.join(projection.tables)}: build one first")
    return _read(database, shadow, is_complete=False)


def list_shadows(connection: Connection) -> list[ShadowRecord]:
    """Return the scratch schemas in the database, by name."""
    names = connection.execute(
        "SELECT schemaname FROM pg_tables WHERE tablename = 'erpkit_shadow' AND starts_with(schemaname, %s) ORDER BY 1",
        [_PREFIX],
    ).fetchall()
    query = sql.SQL("SELECT tenant, handlers, events, (SELECT count(*) FROM {}), started_at FROM {}")
    found = []
    for (name,) in names:
        tables = (sql.Identifier(name, table) for table in ("erpkit_shadow_failures", "erpkit_shadow"))
        found += [ShadowRecord(name, *row) for row in connection.execute(query.format(*tables))]
    return found


def drop_shadow(database: Database, schema: str) -> None:
    """Drop a scratch schema, and its role if it is the tenant's last one; nothing happens when there is none."""
    if not schema.startswith(_PREFIX):
        raise UsageError(f"{schema} is not a scratch schema: their names begin with {_PREFIX}…")
    with database.transaction() as connection:
        drop_in(connection, schema)


def drop_in(connection: Connection, schema: str) -> None:
    """Drop a scratch schema in the present transaction."""
    name = sql.Identifier(check_schema_name(schema))
    owner = connection.execute(
        "SELECT r.rolname FROM pg_namespace n, aclexplode(n.nspacl) a JOIN pg_roles r ON r.oid = a.grantee "
        "WHERE n.nspname = %s AND r.rolname LIKE '%%.copy'",
        [schema],
    ).fetchone()
    connection.execute(sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(name))
    if owner is not None:
        try:
            with connection.transaction(), as_admin(connection, owner[0]):
                connection.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(owner[0])))
        except psycopg.errors.DependentObjectsStillExist:
            pass  # another shadow of the tenant


def shadow_name(tenant: Tenant, projection: Projection) -> str:
    """Return the name of the scratch schema: the same projection of the same tenant has the same one."""
    digest = hashlib.sha256(repr((tenant.schema, projection)).encode()).hexdigest()[:8]
    return f"{_PREFIX}{re.sub('[^a-z0-9_]', '_', tenant.slug)[:40]}_{digest}"


@contextmanager
def in_shadow(connection: Connection, shadow: Shadow) -> Iterator[None]:
    """Let unqualified names mean the shadow's tables first and the tenant's after them, under the shadow's role."""
    tenant = search_path(shadow.tenant.schema, shared_schemas(connection))
    path = f"SET LOCAL search_path TO {search_path(shadow.schema).removesuffix(', pg_temp')}, {tenant}"
    connection.execute(sql.SQL("SET LOCAL ROLE {}").format(sql.Identifier(shadow.role)))
    connection.execute(path.encode())
    yield
    connection.execute("SET LOCAL role TO DEFAULT")
    connection.execute(f"SET LOCAL search_path TO {tenant}".encode())


def advance(connection: Connection, registry: Registry, shadow: Shadow, limit: int) -> int | None:
    """Hand the next events to the shadow's handlers, up to their live checkpoints; return how many, None at the end."""
    with in_shadow(connection, shadow):
        row = connection.execute("SELECT positions FROM erpkit_shadow FOR UPDATE").fetchone()
        positions: dict[str, int] = row[0] if row else {}
        goals = dict(_checkpoints(connection, shadow.projection.handlers))
        consumers = [
            Consumer(shadow.tenant, registry, registry.event_handlers[name]) for name in shadow.projection.handlers
        ]
        behind = [one for one in consumers if positions[one.name] < goals[one.name]]
        if not behind:
            return None
        topics = {topic for one in behind for topic in one.group.topics}
        first, last = min(positions[one.name] for one in behind), max(goals[one.name] for one in behind)
        messages = read_selected(connection, _EVERYTHING, Span(sorted(topics), first, last), limit)
        reached = messages[-1].offset or 0 if len(messages) == limit else last
        pairs = [
            (one, m) for m in messages for one in behind
            if m.topic in one.group.topics and positions[one.name] < (m.offset or 0) <= goals[one.name]
        ]  # fmt: skip
        outcomes, _ = hand_over(connection, f"tenant {shadow.tenant.slug}: a rebuild", pairs, pipeline=True)
        _check_walls(shadow, [(name, error) for name, _, error in outcomes if error])
        failures = [(name, m.offset, m.uuid, error) for name, m, error in outcomes if error]
        connection.cursor().executemany("INSERT INTO erpkit_shadow_failures VALUES (%s, %s, %s, %s)", failures)
        moved = {one.name: max(positions[one.name], min(reached, goals[one.name])) for one in behind}
        connection.execute(
            "UPDATE erpkit_shadow SET positions = %s, events = events + %s", [Jsonb(positions | moved), len(pairs)]
        )
    return len(messages)


def _check_walls(shadow: Shadow, errors: Sequence[tuple[str, str]]) -> None:
    for handler, error in errors:
        if error.startswith("InsufficientPrivilege"):
            slug = shadow.tenant.slug
            raise ErpkitError(f"tenant {slug}: {handler} uses tables that it does not declare in `writes` ({error})")


def _checkpoints(connection: Connection, handlers: Sequence[str]) -> list[tuple[str, int]]:
    return connection.execute(
        'SELECT h, coalesce(c."offset", 0) FROM unnest(%s::text[]) h LEFT JOIN erpkit_checkpoints c ON c.consumer_group = h',
        [list(handlers)],
    ).fetchall()


def _exists(database: Database, schema: str) -> bool:
    with database.connection() as connection:
        return any(record.schema == schema for record in list_shadows(connection))


def _read(database: Database, shadow: Shadow, *, is_complete: bool) -> Shadow:
    with database.connection() as connection:
        (found,) = [record for record in list_shadows(connection) if record.schema == shadow.schema]
    return Shadow(shadow.tenant, shadow.schema, shadow.projection, found.events, found.failed, is_complete)


def _create(database: Database, shadow: Shadow) -> None:
    check_schema_name(shadow.schema)
    with database.transaction() as connection:
        create_schema(connection, shadow.schema, like=shadow.tenant.schema)
        with as_owner(connection, shadow.schema):
            _fill(connection, shadow)


def _fill(connection: Connection, shadow: Shadow) -> None:
    role, reader = sql.Identifier(shadow.role), sql.Identifier(shadow.tenant.reader or "")
    name = sql.Identifier(shadow.schema)
    if not connection.execute("SELECT FROM pg_roles WHERE rolname = %s", [shadow.role]).fetchall():
        connection.execute(sql.SQL("CREATE ROLE {} NOLOGIN").format(role))
        connection.execute(sql.SQL("GRANT {} TO CURRENT_USER").format(role))
        connection.execute(sql.SQL("GRANT {} TO {}").format(reader, role))
    for table in shadow.projection.tables:
        _copy_table(connection, shadow, table)
    connection.execute(sql.SQL("SET LOCAL search_path TO {}, pg_temp").format(name))
    connection.execute(
        "CREATE TABLE erpkit_shadow (tenant text, handlers text[], events bigint, positions jsonb, "
        "started_at timestamptz DEFAULT now())"
    )
    connection.execute('CREATE TABLE erpkit_shadow_failures (handler text, "offset" bigint, uuid uuid, error text)')
    connection.execute(
        "INSERT INTO erpkit_shadow VALUES (%s, %s, 0, %s)",
        [shadow.tenant.slug, list(shadow.projection.handlers), Jsonb(dict.fromkeys(shadow.projection.handlers, 0))],
    )
    for grant in (
        "GRANT USAGE ON SCHEMA {} TO {}",
        "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {} TO {}",
        "GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA {} TO {}",
    ):
        connection.execute(sql.SQL(grant).format(name, role))


def _copy_table(connection: Connection, shadow: Shadow, table: str) -> None:
    """Make an empty copy of a live table; a serial column gets a sequence of its own, as LIKE leaves it the live one's."""
    live, copy = sql.Identifier(shadow.tenant.schema, table), sql.Identifier(shadow.schema, table)
    try:
        connection.execute(sql.SQL("CREATE TABLE {} (LIKE {} INCLUDING ALL)").format(copy, live))
    except psycopg.errors.UndefinedTable:
        raise UsageError(
            f"tenant {shadow.tenant.slug} has no table {table}, which {', '.join(shadow.projection.handlers)} declares"
        ) from None
    rows = connection.execute(
        "SELECT attname FROM pg_attribute WHERE attrelid = %s::regclass AND attidentity = '' AND attnum > 0 "
        "AND pg_get_serial_sequence(%s, attname) IS NOT NULL",
        [live.as_string(), live.as_string()],
    ).fetchall()
    for (column,) in rows:
        sequence = sql.Identifier(shadow.schema, f"{table}_{column}_seq"[-63:])
        connection.execute(sql.SQL("CREATE SEQUENCE {}").format(sequence))
        connection.execute(
            sql.SQL("ALTER TABLE {} ALTER {} SET DEFAULT nextval({})").format(
                copy, sql.Identifier(column), sql.Literal(sequence.as_string())
            )
        )
