"""Inspect tenants: size, rows, versions, events, dead letters and drift, in a fixed number of queries for all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeVar

import psycopg
from psycopg import pq, sql

from erpkit.database import TEMPLATE, Connection, Errors, Tenant, connect_beside, has_schema, read_tenants
from erpkit.events import ConsumerGroup, DeadLetter, list_dead_letters, read_backlog
from erpkit.events.checkpoints import Backlog
from erpkit.events.dead_letters import cause_of, look_at
from erpkit.events.lag import find_lag
from erpkit.finding import Finding, name_some
from erpkit.grouping import group_by
from erpkit.migrations import (
    Applied,
    ForeignState,
    ForeignStates,
    Migration,
    MigrationStatus,
    describe_status,
    read_applied,
)
from erpkit.migrations.files import VERSION_TABLES
from erpkit.result import Result, Summary
from erpkit.tenants.drift import NOTHING, Difference, Drift, compare_tenants, drift_findings
from erpkit.tenants.fingerprints import Fingerprint, read_fingerprints
from erpkit.tenants.health import (
    Blocker,
    IndexFacts,
    MissingIndex,
    TableFacts,
    count_queries,
    read_blockers,
    read_indexes,
    read_missing,
    read_tables,
)
from erpkit.tenants.locks import Locks, TableLock

EXACT = 50  # up to this many tenants, rows are counted and sizes are measured

_MANY = 200  # from so many tenants on, further connections are worth it

_EVENTS = 'SELECT {slug}, (SELECT recorded_at FROM {log} ORDER BY "offset" DESC LIMIT 1), {week}'
_WEEK = "(SELECT count(*) FROM {log} WHERE recorded_at > now() - interval '7 days')"

_OF_LOG = ("last event", "dead letters", "backlog")

_T = TypeVar("_T")


@dataclass(frozen=True)
class TenantInspection(Result):
    """The state of one tenant: `size` in bytes with indexes, `rows` of each table, and what a person should look at.

    With `is_exact`, rows were counted and files measured; otherwise `size`, `rows` and `event_count` are PostgreSQL's estimates
    and `week_events`, the events of the last seven days, is None. Unused and missing indexes are advice, not findings. `locked`
    are tables that could not be read, so that their size and rows are estimates; `unread` lists the parts that were not read,
    `lacking` those that there are not, such as the events of an ERP without event logs, and `errors` maps those that failed, for
    example because of a missing privilege, to the reason. `figure` tells a 0 from what is not known. `measure` is what the schema
    was compared with. `foreign` is the state that other tools keep of its migrations.
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
    waits: Mapping[str, Backlog] = field(default_factory=dict)
    tables: Sequence[TableFacts] = field(default=(), repr=False)
    unused_indexes: Sequence[IndexFacts] = field(default=(), repr=False)
    missing_indexes: Sequence[MissingIndex] = field(default=(), repr=False)
    blockers: Sequence[Blocker] = ()
    locked: Sequence[TableLock] = ()
    unread: Sequence[str] = ()
    lacking: Sequence[str] = ()
    errors: Mapping[str, str] = field(default_factory=dict)
    measure: str = TEMPLATE.slug
    foreign: Sequence[ForeignState] = ()

    @property
    def versions(self) -> dict[str, int]:
        """The highest applied version of each module."""
        return {status.module: status.version for status in self.migrations}

    @property
    def pending(self) -> int:
        """How many migrations it lacks; of another tool's, as far as other tenants have them."""
        return self._own_pending + sum(len(state.pending) for state in self.foreign)

    @property
    def _own_pending(self) -> int:
        return sum(len(status.pending) for status in self.migrations)

    @property
    def backlog(self) -> dict[str, int]:
        """How many events wait for each handler that has some."""
        return {handler: one.events for handler, one in self.waits.items()}

    def figure(self, part: str, value: _T) -> _T | None:
        """Return the value, or None where `part` was not read or does not exist: a 0 would say that there is nothing to look at."""
        return value if self.exists and part not in (*self.unread, *self.lacking) else None

    @property
    def is_unread(self) -> bool:
        """Whether a part of it was not read."""
        return not self.exists or bool(self.unread)

    @property
    def dead_rows(self) -> int:
        """How many dead rows wait for a vacuum."""
        return sum(table.dead_rows for table in self.tables)

    @property
    def problems(self) -> list[str]:
        """What a person should look at, in one line each."""
        return [str(finding) for finding in self.findings]

    @property
    def findings(self) -> list[Finding]:
        """What a person should look at, with the command that helps; also what could not be read."""
        slug, tenant = self.tenant.slug, self.tenant
        if not self.exists:
            return [Finding("gone", slug, f"its schema {tenant.schema} does not exist", "error")]
        findings = []
        if not tenant.is_active:
            findings.append(self._not_active())
        if self._own_pending:
            missing = [f"{s.module} {', '.join(map(str, s.pending))}" for s in self.migrations if s.pending]
            words = f"behind on migrations ({'; '.join(missing)})"
            remedy = "" if tenant.role is None else f"erpkit migrate up --tenant {slug}"
            findings.append(Finding("pending", slug, words, remedy=remedy))
        findings += [finding for state in self.foreign for finding in state.findings if not state.error]
        findings += drift_findings(slug, self.drift, self.measure)
        findings += self._letter_findings()
        if tenant.is_active:  # nobody dispatches the events of the others
            findings += [one for handler, waits in self.waits.items() for one in find_lag(slug, handler, waits)]
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

    @property
    def summary(self) -> Summary:
        """Its status, and what a person should look at."""
        return Summary(self.tenant.slug, {"status": self.tenant.status if self.exists else "gone"}, self.findings)

    def _repr_html_(self) -> str:
        return self.summary.html()

    def _not_active(self) -> Finding:
        """Say that it is passed over: that is no fault, as a person chose it. What another ERP lists, erpkit does not activate."""
        words = f"{self.tenant.status}: operations on all tenants skip it"
        remedy = "" if self.tenant.role is None else f"erpkit tenants activate {self.tenant.slug}"
        return Finding("not active", self.tenant.slug, words, "info", remedy)

    def _letter_findings(self) -> list[Finding]:
        """Return one finding for each handler and cause; similar errors of many tenants are one cause."""
        alike: dict[tuple[str, str], list[str]] = {}
        for letter in self.dead_letters:
            alike.setdefault((letter.handler, cause_of(letter.error)), []).append(f"offset {letter.offset}")
        return [
            Finding(
                "dead letters", self.tenant.slug, f"dead letters of {handler}: {cause}", remedy=look_at(handler),
                evidence=tuple(offsets),
            )
            for (handler, cause), offsets in alike.items()
        ]  # fmt: skip

    def _locked_lines(self) -> Iterator[str]:
        """Return one line for each process that has locked tables; the last one adds what was not read."""
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
    foreign: ForeignStates | None = None,
) -> list[TenantInspection]:
    """Inspect `tenants`; only those that have every migration are checked for drift, as the others differ anyway.

    `exact` counts rows and measures files; None does so for up to 50 tenants. With `groups`, the consumer groups of all handlers,
    the backlog is read, too. `locks` are those of these schemas, if they were read before. Without a `_template`, drift is measured
    by what most of the tenants `among` have. `foreign` is the state that other tools keep of their migrations. It does not wait for
    a table that another process has locked exclusively: the table's figures are estimates, and a finding says so. Tenants' own
    tables are read under each tenant's reader: a failure is among the tenant's `errors` and does not affect the others. Raises
    DatabaseError if more and more tables are locked meanwhile.
    """
    exact = len(tenants) <= EXACT if exact is None else exact
    locks = locks or Locks(connection, [TEMPLATE.schema, *(tenant.schema for tenant in tenants)])
    reading = _Reading(connection, tenants, migrations, locks, exact, foreign or ForeignStates())
    with _beside(connection, [TEMPLATE, *tenants], migrations, locks) as (versions, fingerprints):
        reading.read_catalogs()
        reading.read_data(groups)
        reading.read_versions(versions)
        reading.read_drift(fingerprints, among)
    return [reading.inspection_of(tenant) for tenant in tenants]


class _Reading:
    """Reads one part after another, each of all tenants; `failed` maps a part to the tenants of which it could not be read."""

    def __init__(
        self,
        connection: Connection,
        tenants: Sequence[Tenant],
        migrations: Sequence[Migration],
        locks: Locks,
        exact: bool,
        foreign: ForeignStates,
    ) -> None:
        self.connection, self.tenants, self.migrations = connection, tenants, migrations
        self.locks, self.exact, self.foreign = locks, exact, foreign
        self.schemas = [tenant.schema for tenant in tenants]
        self.failed: dict[str, dict[str, str]] = {what: {} for what in ("rows", *_OF_LOG, "versions", "drift")}

    def read_catalogs(self) -> None:
        """Read what PostgreSQL itself knows of the schemas."""
        connection, schemas, locks = self.connection, self.schemas, self.locks
        self.tables = locks.read(lambda: read_tables(connection, schemas, exact=self.exact, locked=locks.oids))
        self.there = [tenant for tenant in locks.readable(self.tenants) if tenant.schema in self.tables]
        self.unused, self.missing = read_indexes(connection, schemas), read_missing(connection, schemas)
        self.blockers = read_blockers(connection, schemas)

    def read_data(self, groups: Sequence[ConsumerGroup]) -> None:
        """Read the tenants' own tables: rows, events, dead letters and what waits for a handler."""
        connection, there, failed = self.connection, self.there, self.failed
        counts = _counts(connection, self.tenants, self.locks, failed["rows"]) if self.exact else {}
        self.rows = {schema: _estimates(facts) | counts.get(schema, {}) for schema, facts in self.tables.items()}
        self.events = _events(connection, there, self.tables, failed["last event"], exact=self.exact)
        self.groups = groups
        self.letters = group_by(list_dead_letters(connection, there, failed["dead letters"]), lambda one: one.tenant)
        self.backlog = read_backlog(connection, there, groups, failed["backlog"])

    def read_versions(self, beside: Future[Applied] | None) -> None:
        """Read which migrations are applied, unless that is done `beside`."""
        readable = self.locks.readable([TEMPLATE, *self.tenants])
        applied = beside.result() if beside else read_applied(self.connection, readable, self.migrations)
        self.failed["versions"] |= {state.tenant: state.error for state in self.foreign.states if state.error}
        self.failed["versions"] |= {t.slug: applied.unread[t.slug] for t in self.there if t.slug in applied.unread}
        if applied.no_history:
            self.failed["edited and unfinished migrations"] = {t.slug: applied.no_history for t in self.there}
        known = [tenant for tenant in readable if tenant.slug not in applied.unread]
        self.statuses = group_by(describe_status(known, self.migrations, applied), lambda one: one.tenant)

    def read_drift(self, beside: Future[dict[str, Fingerprint]] | None, among: Sequence[Tenant]) -> None:
        """Look for drift in the tenants that have every migration."""
        comparable = [
            tenant
            for tenant in self.tenants
            if tenant.schema in self.tables and not self._is_behind(tenant) and tenant.slug not in self.failed["drift"]
        ]
        if self._is_behind(TEMPLATE) and has_schema(self.connection, TEMPLATE.schema):
            self.failed["drift"] |= {tenant.slug: "_template is behind on migrations" for tenant in comparable}
            comparable = []
        self.drift = _drift(self.connection, comparable, self.locks, beside, among)

    def _is_behind(self, tenant: Tenant) -> bool:
        return any(status.pending for status in self.statuses.get(tenant.slug, ()))

    def _lacking(self, tenant: Tenant) -> Iterator[str]:
        """Yield the parts that this tenant does not have, and drift where there was nothing to compare."""
        if not any(table.name == "erpkit_events" for table in self.tables.get(tenant.schema, ())):
            yield from ("events", *_OF_LOG)
        elif not self.groups:
            yield "backlog"
        if not self.statuses.get(tenant.slug) and not self.foreign.of(tenant.slug):
            yield "versions"
        if tenant.slug not in self.drift.differences or self.drift.measure == NOTHING:
            yield "drift"

    def inspection_of(self, tenant: Tenant) -> TenantInspection:
        """Return what was read of one tenant."""
        slug, schema = tenant.slug, tenant.schema
        rows, tables = self.rows.get(schema, {}), self.tables.get(schema, ())
        last_event, week_events = self.events.get(slug, (None, None))
        errors = {what: errors[slug] for what, errors in self.failed.items() if slug in errors}
        return TenantInspection(
            tenant=tenant,
            exists=schema in self.tables,
            size=sum(table.size for table in tables),
            rows=rows,
            migrations=self.statuses.get(slug, []),
            event_count=rows.get("erpkit_events", 0),
            last_event=last_event,
            dead_letters=self.letters.get(slug, []),
            drift=self.drift.differences.get(slug, ()),
            measure=self.drift.measure,
            is_exact=self.exact,
            week_events=week_events,
            waits=self.backlog.get(slug, {}),
            tables=tables,
            unused_indexes=self.unused.get(schema, ()),
            missing_indexes=self.missing.get(schema, ()),
            blockers=self.blockers.get(schema, ()),
            locked=self.locks.of(schema),
            unread=tuple(dict.fromkeys([*_unread(tenant, self.locks), *errors])),
            lacking=tuple(self._lacking(tenant)),
            errors=errors,
            foreign=self.foreign.of(slug),
        )


@contextmanager
def _beside(
    connection: Connection, tenants: Sequence[Tenant], migrations: Sequence[Migration], locks: Locks
) -> Iterator[tuple[Future[Applied] | None, Future[dict[str, Fingerprint]] | None]]:
    """Read the versions of many tenants and hash their schemas on further connections: that is over half of an inspection's time.

    It does not do so if `connection` is in a transaction, as another connection would not see its changes.
    """
    if len(tenants) < _MANY or connection.info.transaction_status != pq.TransactionStatus.IDLE:
        yield None, None
        return
    free = [tenant.schema for tenant in tenants if not locks.of(tenant.schema)]
    with connect_beside(connection) as second, connect_beside(connection) as third, ThreadPoolExecutor(2) as executor:
        versions = executor.submit(read_applied, second, locks.readable(tenants), migrations)
        yield versions, executor.submit(read_fingerprints, third, free)


def _unless_locked(future: Future[_T] | None) -> _T | None:
    """Return the result of a future; None without one, or if a table was locked."""
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
    """Look for drift in tenants without locks; a schema that a migration works on is about to change anyhow."""
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


def _named(tables: Sequence[str]) -> str:
    """Name up to three tables, and count the others."""
    if len(tables) == 1:
        return f"table {tables[0]}"
    return f"tables {name_some(tables, 3)}"


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
    queries = ((t, query) for t in tenants for query in count_queries(t.schema, tables.get(t.schema, ())))
    counts: dict[str, dict[str, int]] = {}
    for schema, table, count in read_tenants(connection, queries, errors):
        counts.setdefault(schema, {})[table] = count
    return counts


def _events(
    connection: Connection,
    tenants: Sequence[Tenant],
    tables: Mapping[str, Sequence[TableFacts]],
    errors: Errors,
    *,
    exact: bool,
) -> dict[str, tuple[Any, ...]]:
    """Read the time of the last event of each tenant, and how many there were in seven days."""
    query = sql.SQL(_EVENTS.replace("{week}", _WEEK if exact else "NULL::bigint"))
    queries = [
        (tenant, query.format(slug=sql.Literal(tenant.slug), log=sql.Identifier(tenant.schema, "erpkit_events")))
        for tenant in tenants
        if any(table.name == "erpkit_events" for table in tables[tenant.schema])
    ]
    return {slug: (last, count) for slug, last, count in read_tenants(connection, queries, errors)}
