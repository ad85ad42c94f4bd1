"""What there is to know of tenants: size, rows, versions, events, dead letters, drift; a fixed number of queries for all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeVar

import psycopg
from psycopg import pq, sql

from erpkit.database import TEMPLATE, Connection, Tenant, fetch_union
from erpkit.events import DeadLetter, list_dead_letters, read_backlog
from erpkit.migrations import Applied, Migration, MigrationStatus, describe_status, read_applied
from erpkit.tenants.drift import Difference, find_drift
from erpkit.tenants.health import (
    Blocker,
    IndexFacts,
    MissingIndex,
    TableFacts,
    read_blockers,
    read_indexes,
    read_missing,
    read_tables,
)
from erpkit.tenants.locks import PATIENCE, Locks, TableLock
from erpkit.tenants.objects import Fingerprint, read_fingerprints

__all__ = ["TenantInspection", "inspect_tenants"]

EXACT = 50  # up to this many tenants, rows are counted and sizes are measured

_MANY = 200  # tenants from which on a second connection is worth it
_BATCH = 100  # tenants a UNION ALL: the quickest of 50 to 1,000, measured


_EVENTS = 'SELECT {slug}, (SELECT recorded_at FROM {log} ORDER BY "offset" DESC LIMIT 1), NULL::bigint'
_EXACT_EVENTS = (
    'SELECT {slug}, (SELECT recorded_at FROM {log} ORDER BY "offset" DESC LIMIT 1), '
    "(SELECT count(*) FROM {log} WHERE recorded_at > now() - interval '7 days')"
)

_T = TypeVar("_T")
_OfTenant = TypeVar("_OfTenant", MigrationStatus, DeadLetter)


@dataclass(frozen=True)
class TenantInspection:
    """The state of one tenant: `size` in bytes with indexes, `rows` a table, and what is not as it should be.

    With `is_exact` rows were counted and files measured; otherwise `size`, `rows` and `event_count` are PostgreSQL's own
    estimates and `week_events`, the events of the last seven days, is None. Unused and missing indexes are advice, no problem.
    `locked` are tables that could not be read, whose size and rows are estimates for that reason; `unread` says what else of
    the tenant was left out.
    """

    tenant: Tenant
    exists: bool
    size: int
    rows: Mapping[str, int]
    migrations: Sequence[MigrationStatus]
    event_count: int
    last_event: datetime | None
    dead_letters: Sequence[DeadLetter] = field(repr=False)
    drift: Sequence[Difference] = ()
    is_exact: bool = True
    week_events: int | None = None
    backlog: Mapping[str, int] = field(default_factory=dict)
    tables: Sequence[TableFacts] = field(default=(), repr=False)
    unused_indexes: Sequence[IndexFacts] = field(default=(), repr=False)
    missing_indexes: Sequence[MissingIndex] = field(default=(), repr=False)
    blockers: Sequence[Blocker] = ()
    locked: Sequence[TableLock] = ()
    unread: Sequence[str] = ()

    @property
    def versions(self) -> dict[str, int]:
        """The highest applied version of each module."""
        return {status.module: status.version for status in self.migrations}

    @property
    def pending(self) -> int:
        """How many migrations it lacks."""
        return sum(len(status.pending) for status in self.migrations)

    @property
    def dead_rows(self) -> int:
        """How many dead rows wait for a vacuum."""
        return sum(table.dead_rows for table in self.tables)

    @property
    def problems(self) -> list[str]:
        """What a person should look at, one line each."""
        if not self.exists:
            return [f"{self.tenant.slug}: its schema {self.tenant.schema} does not exist"]
        problems = []
        if not self.tenant.is_active:
            problems.append(f"{self.tenant.slug}: {self.tenant.status}; fleet operations pass it over")
        if self.pending:
            missing = [f"{s.module} {', '.join(map(str, s.pending))}" for s in self.migrations if s.pending]
            problems.append(f"{self.tenant.slug}: behind on migrations ({'; '.join(missing)})")
        if self.drift:
            problems.append(f"{self.tenant.slug}: schema drift ({'; '.join(map(str, self.drift))})")
        if self.dead_letters:
            problems.append(
                f"{self.tenant.slug}: {len(self.dead_letters)} dead letter(s), first {self.dead_letters[0].error}"
            )
        problems += [f"{self.tenant.slug}: {blocker}" for blocker in self.blockers]
        problems += [f"{self.tenant.slug}: {line}" for line in self._locked_lines()]
        return problems

    def _locked_lines(self) -> Iterator[str]:
        """Say who locks what, one line a process, and what was left out for it in the last one."""
        holders: dict[str, list[str]] = {}
        for lock in self.locked:
            who = (
                f"locked by {lock.holder}"
                if lock.is_held
                else f"about to be locked by {lock.holder}, which waits for it"
            )
            holders.setdefault(who, []).append(lock.table)
        lines = [f"{_named(tables)} {'is' if len(tables) == 1 else 'are'} {who}" for who, tables in holders.items()]
        if self.is_exact and lines:
            lines[-1] += f"; {'its' if len(self.locked) == 1 else 'their'} rows were not counted"
        if self.unread:
            lines[-1:] = [f"{lines[-1] if lines else '_template is locked'}; not read: {', '.join(self.unread)}"]
        yield from lines


def inspect_tenants(
    connection: Connection,
    tenants: Sequence[Tenant],
    migrations: Sequence[Migration],
    *,
    exact: bool | None = None,
    topics: Mapping[str, str] | None = None,
    locks: Locks | None = None,
) -> list[TenantInspection]:
    """Inspect `tenants`; drift is looked for in those that have every migration, as the others differ for that reason.

    `exact` counts rows and measures files; None does so for up to 50 tenants. `topics` are the handlers' topics (see
    `handler_topics`): with them the backlog is read, too. `locks` are those of these schemas, if they were read before.
    A table that another process has locked exclusively is not waited for: its figures are estimates, and a problem says so.
    Raises DatabaseError where tables are locked faster than they can be read.
    """
    exact = len(tenants) <= EXACT if exact is None else exact
    schemas = [tenant.schema for tenant in tenants]
    locks = locks or Locks(connection, [TEMPLATE.schema, *schemas])
    with _beside(connection, [TEMPLATE, *tenants], migrations, locks) as (versions, fingerprints):
        tables = locks.read(lambda: read_tables(connection, schemas, exact=exact, locked=locks.oids))
        counts = locks.read(lambda: _counts(connection, schemas, locks)) if exact else {}
        events = locks.read(lambda: _events(connection, locks.readable(tenants), tables, exact=exact))
        letters = _by_tenant(locks.read(lambda: list_dead_letters(connection, locks.readable(tenants))))
        backlog = locks.read(lambda: read_backlog(connection, locks.readable(tenants), topics or {}))
        unused, missing = read_indexes(connection, schemas), read_missing(connection, schemas)
        blockers = read_blockers(connection, schemas)
        applied = _unless_locked(versions) or locks.read(
            lambda: read_applied(connection, locks.readable([TEMPLATE, *tenants]), migrations)
        )
        statuses = _by_tenant(describe_status(locks.readable([TEMPLATE, *tenants]), migrations, applied))
        current = [t for t in tenants if t.schema in tables and not _lacks(statuses.get(t.slug, ()))]
        drift = {} if _lacks(statuses.get(TEMPLATE.slug, ())) else _drift(connection, current, locks, fingerprints)
    rows = {schema: _estimates(facts) | counts.get(schema, {}) for schema, facts in tables.items()}
    return [
        TenantInspection(
            tenant=tenant,
            exists=tenant.schema in tables,
            size=sum(table.size for table in tables.get(tenant.schema, ())),
            rows=rows.get(tenant.schema, {}),
            migrations=statuses.get(tenant.slug, []),
            event_count=rows.get(tenant.schema, {}).get("erpkit_events", 0),
            last_event=events.get(tenant.slug, (None, None))[0],
            dead_letters=letters.get(tenant.slug, []),
            drift=drift.get(tenant.slug, ()),
            is_exact=exact,
            week_events=events.get(tenant.slug, (None, None))[1],
            backlog=backlog.get(tenant.slug, {}),
            tables=tables.get(tenant.schema, ()),
            unused_indexes=unused.get(tenant.schema, ()),
            missing_indexes=missing.get(tenant.schema, ()),
            blockers=blockers.get(tenant.schema, ()),
            locked=locks.of(tenant.schema),
            unread=_unread(tenant, locks),
        )
        for tenant in tenants
    ]


@contextmanager
def _beside(
    connection: Connection, tenants: Sequence[Tenant], migrations: Sequence[Migration], locks: Locks
) -> Iterator[tuple[Future[Applied] | None, Future[dict[str, Fingerprint]] | None]]:
    """Read the versions of many tenants and hash their schemas, over half of an inspection's time, on connections of their own.

    Not where `connection` is in a transaction, which another connection would not see.
    """
    if len(tenants) < _MANY or connection.info.transaction_status != pq.TransactionStatus.IDLE:
        yield None, None
        return
    free = [tenant.schema for tenant in tenants if not locks.of(tenant.schema)]
    with _another(connection) as second, _another(connection) as third, ThreadPoolExecutor(2) as executor:
        versions = executor.submit(_read_versions, second, locks.readable(tenants), migrations)
        yield versions, executor.submit(read_fingerprints, third, free)


def _another(connection: Connection) -> Connection:
    info = connection.info
    return psycopg.connect(info.dsn, password=info.password or None, autocommit=True, application_name="erpkit")


def _read_versions(connection: Connection, tenants: Sequence[Tenant], migrations: Sequence[Migration]) -> Applied:
    with connection.transaction():
        connection.execute(f"SET LOCAL lock_timeout TO {int(PATIENCE * 1000)}")
        return read_applied(connection, tenants, migrations)


def _unless_locked(future: Future[_T] | None) -> _T | None:
    """Return what was read beside; None where it was not, or where a table was locked."""
    with suppress(psycopg.errors.LockNotAvailable):
        return future.result() if future else None
    return None


def _drift(
    connection: Connection,
    tenants: Sequence[Tenant],
    locks: Locks,
    fingerprints: Future[dict[str, Fingerprint]] | None,
) -> dict[str, list[Difference]]:
    """Look for drift where nothing is locked; what a migration is at work on is about to change anyhow."""
    hashes = _unless_locked(fingerprints)

    def find() -> dict[str, list[Difference]]:
        free = [] if locks.of(TEMPLATE.schema) else [tenant for tenant in tenants if not locks.of(tenant.schema)]
        return find_drift(connection, free, fingerprints=hashes) if free else {}

    return locks.retry(find)


def _unread(tenant: Tenant, locks: Locks) -> tuple[str, ...]:
    own = ("versions", "last event", "dead letters", "backlog") if locks.holds_own(tenant.schema) else ()
    return (*own, "drift") if locks.of(tenant.schema) or locks.of(TEMPLATE.schema) else own


def _named(tables: Sequence[str]) -> str:
    """Name a few tables, and count more."""
    if len(tables) == 1:
        return f"table {tables[0]}"
    return f"tables {', '.join(tables[:3])}" + (f" and {len(tables) - 3} more" if len(tables) > 3 else "")


def _lacks(statuses: Sequence[MigrationStatus]) -> bool:
    return any(status.pending for status in statuses)


def _by_tenant(records: Sequence[_OfTenant]) -> dict[str, list[_OfTenant]]:
    found: dict[str, list[_OfTenant]] = {}
    for record in records:
        found.setdefault(record.tenant, []).append(record)
    return found


def _estimates(tables: Sequence[TableFacts]) -> dict[str, int]:
    return {table.name: table.rows for table in tables if not table.name.startswith("goose_db_version")}


def _counts(connection: Connection, schemas: Sequence[str], locks: Locks) -> dict[str, dict[str, int]]:
    tables = connection.execute(
        "SELECT schemaname, tablename FROM pg_tables WHERE schemaname = ANY(%s) AND NOT starts_with(tablename, 'goose_db_version') "
        "ORDER BY 1, 2",
        [list(schemas)],
    ).fetchall()
    queries = [
        sql.SQL("SELECT {}, {}, count(*) FROM {}").format(
            sql.Literal(schema), sql.Literal(table), sql.Identifier(schema, table)
        )
        for schema, table in tables
        if not locks.holds(schema, table)
    ]
    counts: dict[str, dict[str, int]] = {}
    for schema, table, count in fetch_union(connection, queries):
        counts.setdefault(schema, {})[table] = count
    return counts


def _events(
    connection: Connection, tenants: Sequence[Tenant], tables: Mapping[str, Sequence[TableFacts]], *, exact: bool
) -> dict[str, tuple[Any, ...]]:
    """Read the time of the last event of each tenant, and how many there were in seven days."""
    query = sql.SQL(_EXACT_EVENTS if exact else _EVENTS)
    queries = [
        query.format(slug=sql.Literal(tenant.slug), log=sql.Identifier(tenant.schema, "erpkit_events"))
        for tenant in tenants
        if any(table.name == "erpkit_events" for table in tables.get(tenant.schema, ()))
    ]
    return {slug: (last, count) for slug, last, count in fetch_union(connection, queries, _BATCH)}
