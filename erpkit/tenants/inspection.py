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

from erpkit.database import TEMPLATE, Connection, Errors, Tenant, read_tenants
from erpkit.events import ConsumerGroup, DeadLetter, list_dead_letters, read_backlog
from erpkit.events.causes import cause_of
from erpkit.finding import Finding
from erpkit.migrations import Applied, Migration, MigrationStatus, describe_status, read_applied
from erpkit.migrations.files import VERSION_TABLES
from erpkit.tenants.drift import Difference, Drift, compare_tenants, drift_findings
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
from erpkit.tenants.locks import Locks, TableLock
from erpkit.tenants.objects import Fingerprint, read_fingerprints
from erpkit.tenants.registry import has_schema

__all__ = ["TenantInspection", "inspect_tenants"]

EXACT = 50  # up to this many tenants, rows are counted and sizes are measured

_MANY = 200  # tenants from which on a second connection is worth it
_TABLES_A_STATEMENT = 50  # each locks its tables and their indexes, and a big schema has more than the server can

_EVENTS = 'SELECT {slug}, (SELECT recorded_at FROM {log} ORDER BY "offset" DESC LIMIT 1), NULL::bigint'
_EXACT_EVENTS = (
    'SELECT {slug}, (SELECT recorded_at FROM {log} ORDER BY "offset" DESC LIMIT 1), '
    "(SELECT count(*) FROM {log} WHERE recorded_at > now() - interval '7 days')"
)

_OF_LOG = ("last event", "dead letters", "backlog")

_T = TypeVar("_T")
_OfTenant = TypeVar("_OfTenant", MigrationStatus, DeadLetter)


@dataclass(frozen=True)
class TenantInspection:
    """The state of one tenant: `size` in bytes with indexes, `rows` a table, and what is not as it should be.

    With `is_exact` rows were counted and files measured; otherwise `size`, `rows` and `event_count` are PostgreSQL's own
    estimates and `week_events`, the events of the last seven days, is None. Unused and missing indexes are advice, no problem.
    `locked` are tables that could not be read, whose size and rows are estimates for that reason; `unread` says what else of
    the tenant was left out, and `errors` maps what of it failed, as it lacks a right say, to the reason.
    `measure` is what the schema was compared with.
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
    errors: Mapping[str, str] = field(default_factory=dict)
    measure: str = TEMPLATE.slug

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
        return [str(finding) for finding in self.findings]

    @property
    def findings(self) -> list[Finding]:
        """What a person should look at, with the command that helps; what could not be read is one, too."""
        slug, tenant = self.tenant.slug, self.tenant
        if not self.exists:
            return [Finding("gone", slug, f"its schema {tenant.schema} does not exist", "error")]
        findings = []
        if not tenant.is_active:
            words = f"{tenant.status}; fleet operations pass it over"
            findings.append(Finding("not active", slug, words, remedy=f"erpkit tenants activate {slug}"))
        if self.pending:
            missing = [f"{s.module} {', '.join(map(str, s.pending))}" for s in self.migrations if s.pending]
            words = f"behind on migrations ({'; '.join(missing)})"
            findings.append(Finding("pending", slug, words, remedy=f"erpkit migrate up --tenant {slug}"))
        findings += drift_findings(slug, self.drift, self.measure)
        findings += self._letter_findings()
        findings += [Finding("blocker", slug, str(blocker)) for blocker in self.blockers]
        findings += [Finding("not read", slug, line) for line in self._locked_lines()]
        findings += [
            Finding(
                "not read",
                slug,
                f"{reason}; not read: {', '.join(w for w, why in self.errors.items() if why == reason)}",
            )
            for reason in dict.fromkeys(self.errors.values())
        ]
        return findings

    def _letter_findings(self) -> list[Finding]:
        """Return one finding a handler and cause; like errors of many tenants are one cause."""
        remedy = f"erpkit events dead-letters list --tenant {self.tenant.slug}"
        alike: dict[tuple[str, str], list[str]] = {}
        for letter in self.dead_letters:
            alike.setdefault((letter.handler, cause_of(letter.error)), []).append(f"offset {letter.offset}")
        return [
            Finding(
                "dead letters", self.tenant.slug, f"dead letters of {handler}: {cause}", remedy=remedy,
                evidence=tuple(offsets),
            )
            for (handler, cause), offsets in alike.items()
        ]  # fmt: skip

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
        if unread := [what for what in self.unread if what not in self.errors]:
            lines[-1:] = [f"{lines[-1] if lines else '_template is locked'}; not read: {', '.join(unread)}"]
        yield from lines


def inspect_tenants(
    connection: Connection,
    tenants: Sequence[Tenant],
    migrations: Sequence[Migration],
    *,
    exact: bool | None = None,
    groups: Sequence[ConsumerGroup] = (),
    locks: Locks | None = None,
    among: Sequence[Tenant] = (),
) -> list[TenantInspection]:
    """Inspect `tenants`; drift is looked for in those that have every migration, as the others differ for that reason.

    `exact` counts rows and measures files; None does so for up to 50 tenants. With `groups`, the consumer groups
    of all handlers, the backlog is read, too. `locks` are those of these schemas, if they were read before.
    Where there is no `_template`, drift is measured by what most of the tenants `among` have.
    A table that another process has locked exclusively is not waited for: its figures are estimates, and a problem says so.
    What is not in the catalogs is read under each tenant's reader: what fails there is among its `errors`, and costs no other.
    Raises DatabaseError where tables are locked faster than they can be read.
    """
    exact = len(tenants) <= EXACT if exact is None else exact
    schemas = [tenant.schema for tenant in tenants]
    locks = locks or Locks(connection, [TEMPLATE.schema, *schemas])
    with _beside(connection, [TEMPLATE, *tenants], migrations, locks) as (versions, fingerprints):
        tables = locks.read(lambda: read_tables(connection, schemas, exact=exact, locked=locks.oids))
        there = [tenant for tenant in locks.readable(tenants) if tenant.schema in tables]
        failed: dict[str, dict[str, str]] = {what: {} for what in ("rows", *_OF_LOG, "versions", "drift")}
        counts = _counts(connection, tenants, locks, failed["rows"]) if exact else {}
        events = _events(connection, there, tables, failed["last event"], exact=exact)
        letters = _by_tenant(list_dead_letters(connection, there, failed["dead letters"]))
        backlog = read_backlog(connection, there, groups, failed["backlog"])
        unused, missing = read_indexes(connection, schemas), read_missing(connection, schemas)
        blockers = read_blockers(connection, schemas)
        applied = (
            versions.result()
            if versions
            else read_applied(connection, locks.readable([TEMPLATE, *tenants]), migrations)
        )
        failed["versions"] |= {t.slug: applied.unread[t.slug] for t in there if t.slug in applied.unread}
        if applied.no_history:
            failed["edited and unfinished migrations"] = {tenant.slug: applied.no_history for tenant in there}
        known = [tenant for tenant in locks.readable([TEMPLATE, *tenants]) if tenant.slug not in applied.unread]
        statuses = _by_tenant(describe_status(known, migrations, applied))
        if migrations and TEMPLATE.slug in applied.unread:
            failed["drift"] |= {tenant.slug: f"in _template, {applied.unread[TEMPLATE.slug]}" for tenant in there}
        current = [
            t
            for t in tenants
            if t.schema in tables and not _lacks(statuses.get(t.slug, ())) and t.slug not in failed["drift"]
        ]
        is_behind = _lacks(statuses.get(TEMPLATE.slug, ())) and has_schema(connection, TEMPLATE.schema)
        if is_behind:
            failed["drift"] |= {tenant.slug: "_template is behind on migrations" for tenant in current}
        drift = Drift(TEMPLATE.slug, {}) if is_behind else _drift(connection, current, locks, fingerprints, among)
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
            drift=drift.differences.get(tenant.slug, ()),
            measure=drift.measure,
            is_exact=exact,
            week_events=events.get(tenant.slug, (None, None))[1],
            backlog=backlog.get(tenant.slug, {}),
            tables=tables.get(tenant.schema, ()),
            unused_indexes=unused.get(tenant.schema, ()),
            missing_indexes=missing.get(tenant.schema, ()),
            blockers=blockers.get(tenant.schema, ()),
            locked=locks.of(tenant.schema),
            unread=tuple(dict.fromkeys([*_unread(tenant, locks), *_errors(tenant, failed)])),
            errors=_errors(tenant, failed),
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
        versions = executor.submit(read_applied, second, locks.readable(tenants), migrations)
        yield versions, executor.submit(read_fingerprints, third, free)


def _another(connection: Connection) -> Connection:
    info = connection.info
    return psycopg.connect(info.dsn, password=info.password or None, autocommit=True, application_name="erpkit")


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
    among: Sequence[Tenant],
) -> Drift:
    """Look for drift where nothing is locked; what a migration is at work on is about to change anyhow."""
    hashes = _unless_locked(fingerprints)

    def find() -> Drift:
        free = [] if locks.of(TEMPLATE.schema) else [tenant for tenant in tenants if not locks.of(tenant.schema)]
        if not free:
            return Drift(TEMPLATE.slug, {})
        return compare_tenants(connection, free, among=among, fingerprints=hashes)

    return locks.retry(find)


def _unread(tenant: Tenant, locks: Locks) -> tuple[str, ...]:
    own = ("versions", *_OF_LOG) if locks.holds_own(tenant.schema) else ()
    return (*own, "drift") if locks.of(tenant.schema) or locks.of(TEMPLATE.schema) else own


def _errors(tenant: Tenant, failed: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """Return why which part of a tenant could not be read."""
    return {what: errors[tenant.slug] for what, errors in failed.items() if tenant.slug in errors}


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
    return {table.name: table.rows for table in tables if not table.name.startswith(VERSION_TABLES)}


def _counts(
    connection: Connection, tenants: Sequence[Tenant], locks: Locks, errors: Errors
) -> dict[str, dict[str, int]]:
    """Count the rows of every table that is not locked, by schema and table."""
    tables: dict[str, list[str]] = {}
    for schema, table in connection.execute(
        "SELECT schemaname, tablename FROM pg_tables WHERE schemaname = ANY(%s) "
        "AND NOT starts_with(tablename, 'goose_db_version') AND NOT starts_with(tablename, 'schema_migrations') ORDER BY 1, 2",
        [[tenant.schema for tenant in tenants]],
    ):
        if not locks.holds(schema, table):
            tables.setdefault(schema, []).append(table)
    queries = ((t, query) for t in tenants for query in _count_queries(t.schema, tables.get(t.schema, ())))
    counts: dict[str, dict[str, int]] = {}
    for schema, table, count in read_tenants(connection, queries, errors):
        counts.setdefault(schema, {})[table] = count
    return counts


def _count_queries(schema: str, tables: Sequence[str]) -> Iterator[sql.Composed]:
    for start in range(0, len(tables), _TABLES_A_STATEMENT):
        yield sql.SQL(" UNION ALL ").join(
            sql.SQL("SELECT {}, {}, count(*) FROM {}").format(
                sql.Literal(schema), sql.Literal(table), sql.Identifier(schema, table)
            )
            for table in tables[start : start + _TABLES_A_STATEMENT]
        )


def _events(
    connection: Connection,
    tenants: Sequence[Tenant],
    tables: Mapping[str, Sequence[TableFacts]],
    errors: Errors,
    *,
    exact: bool,
) -> dict[str, tuple[Any, ...]]:
    """Read the time of the last event of each tenant, and how many there were in seven days."""
    query = sql.SQL(_EXACT_EVENTS if exact else _EVENTS)
    queries = [
        (tenant, query.format(slug=sql.Literal(tenant.slug), log=sql.Identifier(tenant.schema, "erpkit_events")))
        for tenant in tenants
        if any(table.name == "erpkit_events" for table in tables[tenant.schema])
    ]
    return {slug: (last, count) for slug, last, count in read_tenants(connection, queries, errors)}
