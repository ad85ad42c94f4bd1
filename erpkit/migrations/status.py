"""Which migrations every tenant has: read for the whole fleet at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import psycopg
from psycopg import sql

from erpkit.database import TEMPLATE, Connection, Tenant, may_not_read, read_tenants
from erpkit.finding import Finding, marked
from erpkit.migrations import golang
from erpkit.migrations.files import VERSION_TABLE, Migration
from erpkit.migrations.foreign_state import ForeignState, ForeignStates
from erpkit.migrations.golang_table import describe_dirt, find_strangers, golang_files, read_marks
from erpkit.migrations.history import STILL_RUNNING, read_dirty, read_edited, read_stops
from erpkit.plural import count_of
from erpkit.result import Result, Summary, to_html
from erpkit.table import Column, Table, Tone

MOST_LINES = 40  # of a table with a line for each tenant; with more, those that are alike are one line

_STRING, _NAME = "'", '"'
_FEW = 4  # versions that a line names
KINDS = ("pending", "out of order", "dirty", "edited", "unknown", "running", "behind")  # of findings
_STATES = ("unread", "dirty", "unknown", "edited", "out of order", "pending", "current")  # the worst first
_TONES: dict[str, Tone] = {"current": "good", "dirty": "error"}  # all others are warnings

_Key = tuple[str, str]  # (schema, version table)


@dataclass(frozen=True)
class Applied:
    """What the version tables of a fleet say, by schema and version table.

    `versions` are those in force in the order in which they were applied; `edited` those whose file has changed since
    erpkit applied it; `dirty` the NO TRANSACTION migrations that stopped half way, with what is known of it. `unread` maps the
    slugs of tenants that could not be read to the reason: of those nothing is known. `marks` are the rows of golang-migrate's tables,
    which say themselves what is dirty. `no_history` says why the history could not
    be read, and with it what is edited or dirty.
    """

    versions: Mapping[_Key, tuple[int, ...]] = field(default_factory=dict)
    edited: Mapping[_Key, tuple[int, ...]] = field(default_factory=dict)
    dirty: Mapping[_Key, Mapping[int, str]] = field(default_factory=dict)
    unread: Mapping[str, str] = field(default_factory=dict)
    no_history: str = ""
    marks: Mapping[_Key, golang.Mark] = field(default_factory=dict)

    @property
    def errors(self) -> dict[str, str]:
        """What could not be read: tenants, and the history by its table's name."""
        return {**self.unread, **({"public.erpkit_migrations": self.no_history} if self.no_history else {})}

    def of(self, schema: str, table: str) -> tuple[int, ...]:
        """Return the versions in force in one schema."""
        return self.versions.get((schema, table), ())

    def versions_in(self, schema: str) -> dict[str, list[int]]:
        """Return the versions in force in one schema, by module (by table where that is goose's own, without a suffix)."""
        return {
            table.removeprefix(f"{VERSION_TABLE}_"): list(versions)
            for (place, table), versions in self.versions.items()
            if place == schema
        }

    def dirty_in(self, schema: str, *, is_mended: bool = False) -> list[str]:
        """Say what stopped half way in one schema, a line each; of what `is_mended` only that which a run must not repeat."""
        return [
            text
            for (place, table), texts in self.dirty.items()
            if place == schema and not (is_mended and (place, table) not in self.marks)
            for text in texts.values()
        ]


@dataclass(frozen=True)
class MigrationStatus:
    """One tenant's state in one module.

    The versions applied, pending, out of order (pending, and lower than one that is applied), unknown (applied without a
    file), edited (the file has changed since) and dirty (stopped half way). `error` says why they could not be read.
    """

    tenant: str
    module: str
    version: int
    applied: tuple[int, ...]
    pending: tuple[int, ...]
    out_of_order: tuple[int, ...]
    unknown: tuple[int, ...]
    edited: tuple[int, ...] = ()
    dirty: tuple[int, ...] = ()
    error: str = ""

    @property
    def state(self) -> str:
        """One word, the worst that holds: `unread`, `dirty`, `unknown`, `edited`, `out of order`, `pending` or `current`."""
        found = (self.error, self.dirty, self.unknown, self.edited, self.out_of_order, self.pending, True)
        return next(state for state, holds in zip(_STATES, found, strict=True) if holds)

    @property
    def text(self) -> str:
        """The version, with what is the matter: `4` if current, `3 (+1)` with one migration pending."""
        if self.error:
            return "unread"
        marks = [f"+{len(self.pending):,}"] if self.pending else []
        marks += [self.state] if self.state not in ("current", "pending") else []
        return f"{self.version}" + (f" ({', '.join(marks)})" if marks else "")

    @property
    def tone(self) -> Tone:
        """The colour of the state."""
        return _TONES.get(self.state, "warning")


_Line = tuple[str, Mapping[str, MigrationStatus | ForeignState]]  # a tenant, or how many, and the states by module


@dataclass(frozen=True)
class FleetStatus(Result):
    """Which migrations each tenant has: the matrix of tenants and modules as a table, and findings.

    `is_foreign` says that erpkit only reads the ERP, and another tool migrates it. `foreign` is what other tools keep there.
    """

    target: str
    tenants: tuple[Tenant, ...]
    migrations: tuple[Migration, ...]
    applied: Applied
    is_foreign: bool = False
    foreign: ForeignStates = field(default_factory=ForeignStates)

    @cached_property
    def statuses(self) -> tuple[MigrationStatus, ...]:
        """One record per tenant and module."""
        return tuple(describe_status(self.tenants, self.migrations, self.applied))

    @property
    def found(self) -> tuple[MigrationStatus | ForeignState, ...]:
        """What was found of erpkit's own modules and of other tools' tables."""
        return (*self.statuses, *self.foreign.states)

    @property
    def behind(self) -> tuple[str, ...]:
        """The active tenants that lack a migration, or where one stopped half way."""
        active = {tenant.slug for tenant in self.tenants if tenant.is_active and tenant.schema != TEMPLATE.schema}
        return tuple(dict.fromkeys(s.tenant for s in self.found if s.tenant in active and (s.pending or s.dirty)))

    @property
    def modules(self) -> tuple[str, ...]:
        """The modules that have migrations, in load order."""
        return tuple(self._modules)

    @cached_property
    def _modules(self) -> dict[str, str]:
        """The version table of each module that has migrations."""
        return {migration.module: migration.version_table for migration in self.migrations}

    @property
    def table(self) -> Table[_Line]:
        """The matrix: one line a tenant, one column a module, the highest version applied and what is the matter with it.

        With more than 40 tenants those that are current in all modules are one line, and the worst come first.
        """
        return self._matrix(self._lines if len(self._lines) <= MOST_LINES else _shorten(self._lines))

    @property
    def whole_table(self) -> Table[_Line]:
        """The matrix with a line for each tenant, however many there are."""
        return self._matrix(self._lines)

    def _matrix(self, lines: list[_Line]) -> Table[_Line]:
        inactive = {tenant.slug for tenant in self.tenants if not tenant.is_active}
        tenant = Column[_Line]("tenant", lambda line: line[0], tone=lambda line: "muted" if line[0] in inactive else "")
        return Table([tenant, *map(self._column, self._columns)], lines, "There are no tenants.", about=KINDS)

    @property
    def _columns(self) -> tuple[str, ...]:
        return (*self._modules, *self.foreign.tables)

    @property
    def _lines(self) -> list[_Line]:
        by_tenant: dict[str, dict[str, MigrationStatus | ForeignState]] = {tenant.slug: {} for tenant in self.tenants}
        for status in self.found:
            by_tenant[status.tenant][status.module] = status
        return list(by_tenant.items())

    def _column(self, module: str) -> Column[_Line]:
        def tone(line: _Line) -> Tone:
            if module not in line[1]:
                return "muted"
            found = line[1][module].tone
            # Without the history it is not known what was edited or stopped half way.
            return "" if found == "good" and self.applied.no_history else found

        return Column(module, lambda line: line[1][module].text if module in line[1] else None, tone=tone, right=True)

    @property
    def tables(self) -> list[Table[_Line]]:
        """The matrix."""
        return [self.table]

    @cached_property
    def findings(self) -> tuple[Finding, ...]:
        """What is not as the files say, and what could not be looked at."""
        inactive = {tenant.slug: tenant.status for tenant in self.tenants if not tenant.is_active}
        return (
            *self._nothing_read(),
            *(
                Finding("not read", name, reason, of="tenant" if name in self.applied.unread else "table")
                for name, reason in self.applied.errors.items()
            ),
            *(
                replace(finding, remedy="") if self.is_foreign else finding
                for status in self.statuses
                for finding in _find_faults(status, inactive.get(status.tenant, ""))
            ),
            *self._dirt(),
            *self._strangers(),
            *(finding for finding in self.foreign.findings if finding.subject not in self.applied.unread),
        )

    def _nothing_read(self) -> Iterator[Finding]:
        if all(tenant.schema == TEMPLATE.schema for tenant in self.tenants):
            yield Finding("no tenants", "", "there are no tenants", remedy="erpkit doctor")
        if not self.migrations and not self.foreign.states:
            yield Finding("no migrations", "", "no module has migrations", remedy="erpkit modules list", of="module")

    def _dirt(self) -> Iterator[Finding]:
        """Find what stopped half way, in modules that are no longer loaded, too."""
        slugs = {tenant.schema: tenant.slug for tenant in self.tenants}
        modules = {table: module for module, table in self._modules.items()}
        for (schema, table), texts in self.applied.dirty.items():
            for version, text in texts.items():
                module = modules.get(table, table.removeprefix(f"{VERSION_TABLE}_"))
                if text.endswith(STILL_RUNNING):
                    yield Finding("running", slugs[schema], f"{module} {version} is still running", evidence=(text,))
                else:
                    is_golang = (schema, table) in self.applied.marks
                    command = f"force VERSION --module {module} --tenant" if is_golang else "up --retry-dirty --tenant"
                    remedy = f"erpkit migrate {command} {slugs[schema]}  # once it is fixed by hand"
                    yield Finding(
                        "dirty", slugs[schema], f"{module} {version} stopped half way", "error", remedy, (text,)
                    )

    def _strangers(self) -> Iterator[Finding]:
        """Find version tables that no module has."""
        if self.is_foreign:
            return  # they are compared with each other
        known, slugs = set(self._modules.values()), {tenant.schema: tenant.slug for tenant in self.tenants}
        for (schema, table), versions in self.applied.versions.items():
            if versions and table not in known and slugs[schema] not in self.applied.unread:
                problem = f"{table} belongs to no module that is loaded: its migrations were not looked at"
                yield Finding("not looked at", slugs[schema], problem, "info")

    @property
    def facts(self) -> dict[str, object]:
        """How many tenants there are, and how many are current, are behind or were not read."""
        worst = {name: _rank(states) for name, states in self._lines}
        return {
            "tenants": sum(tenant.schema != TEMPLATE.schema for tenant in self.tenants),
            "modules": len(self._modules),
            "current": sum(_STATES[rank] == "current" for name, rank in worst.items() if name != TEMPLATE.slug),
            "behind": len(self.behind),
            "not read": len(self.applied.errors),
        }

    @property
    def summary(self) -> Summary:
        """Its figures, and what needs a look."""
        return Summary(f"Migrations on {self.target}", self.facts, self.findings)

    def __str__(self) -> str:
        return ", ".join(f"{count:,} {name}" for name, count in self.facts.items())

    def __repr__(self) -> str:
        return "\n".join([repr(self.table), *(marked(finding) for finding in self.findings)])

    def _repr_html_(self) -> str:
        return to_html("", findings=self.findings, tables=self.tables)


def _rank(states: Mapping[str, MigrationStatus | ForeignState]) -> int:
    return min((_STATES.index(status.state) for status in states.values()), default=len(_STATES) - 1)


def _shorten(lines: Sequence[_Line]) -> list[_Line]:
    """Return those that are not current, the worst first, and one line for all the others."""
    current = [line for line in lines if line[0] != TEMPLATE.slug and _rank(line[1]) == len(_STATES) - 1]
    names = {name for name, _ in current}
    shown = sorted((line for line in lines if line[0] not in names), key=lambda line: _rank(line[1]))
    return [*shown, *([(count_of(len(current), "other"), current[0][1])] if current else [])]


def _find_faults(status: MigrationStatus, inactive: str) -> Iterator[Finding]:
    """Find what is not as the files say in one module of a tenant; `inactive` is why `migrate up` passes over it."""
    tenant, module, late = status.tenant, status.module, status.out_of_order
    # what stopped half way is a finding of its own: `migrate up` alone would refuse it
    if pending := [version for version in status.pending if version not in (*late, *status.dirty)]:
        problem = f"{module} is at {status.version} and lacks {_list(pending)}"
        remedy = f"erpkit tenants activate {tenant}" if inactive else "erpkit migrate up"
        yield Finding("pending", tenant, problem + (f" ({inactive})" if inactive else ""), remedy=remedy)
    if late:
        problem = f"{module} is at {status.version} and lacks {_list(late)}, which is out of order"
        yield Finding("out of order", tenant, problem, remedy="erpkit migrate up --out-of-order")
    if status.edited:
        remedy = "restore the file, and put the change into a new migration"
        yield Finding(
            "edited", tenant, f"{module} {_list(status.edited)} was edited after it was applied", remedy=remedy
        )
    if status.unknown:
        remedy = "install the release that has the file"
        yield Finding(
            "unknown", tenant, f"no file for {module} {_list(status.unknown)}, which the tenant has", remedy=remedy
        )


def _list(versions: Sequence[int]) -> str:
    """Name all of a few versions; of more the first and the last."""
    few = len(versions) <= _FEW
    return (
        ", ".join(map(str, versions))
        if few
        else f"{count_of(len(versions), 'version')}, {versions[0]} to {versions[-1]}"
    )


def read_applied(connection: Connection, tenants: Sequence[Tenant], migrations: Sequence[Migration] = ()) -> Applied:
    """Read the version tables of all `tenants`, each under its reader; one that cannot be read is among the `unread`.

    With `migrations` it is also told which of them were edited after they were applied. What stopped half way is told of modules
    that are no longer there, too. golang-migrate's tables, which may have any name, are only read with `migrations`.
    """
    by_schema = {tenant.schema: tenant for tenant in tenants}
    files = golang_files(migrations)
    tables = _find_tables(connection, list(by_schema), list(files))
    unread = {
        tenant.slug: f"its schema {schema} does not exist"
        for schema, tenant in by_schema.items()
        if schema not in tables and schema != TEMPLATE.schema  # that one is made when migrations come
    }
    unread |= {by_schema[schema].slug: why for schema, why in find_strangers(connection, tables, list(files)).items()}
    marks, running = read_marks(
        connection,
        {by_schema[schema]: [t for t in several if t in files] for schema, several in tables.items()},
        unread,
    )
    queries = [
        (by_schema[schema], sql.SQL(" UNION ALL ".join(_versions_query(schema, table) for table in several)))
        for schema, all_tables in tables.items()
        if (several := [table for table in all_tables if table not in files])
    ]
    rows = read_tenants(connection, queries, unread)
    states: dict[_Key, dict[int, int | None]] = {
        (schema, table): dict.fromkeys(
            golang.versions_in_force(marks.get((schema, table), golang.Mark()), files.get(table, ()))
        )
        for schema, several in tables.items()
        if by_schema[schema].slug not in unread
        for table in several
    }
    # The last row of a version says whether it is in force: older goose releases kept a row for each Down.
    for schema, table, row, version, is_applied in sorted(rows):
        state = states.get((schema, table), {})
        state.pop(version, None)
        if is_applied and version > 0:
            state[version] = row
    versions = {key: tuple(state) for key, state in states.items()}
    try:
        with connection.transaction():  # a login that may not read the history does not end the caller's transaction
            edited = _edited(connection, list(by_schema), migrations, states)
            dirty = read_dirty(connection, list(by_schema), states)
            stops = read_stops(connection, [key for key, mark in marks.items() if mark.dirty])
    except psycopg.errors.InsufficientPrivilege:
        why = str(may_not_read(connection, "erpkit_migrations"))
        return Applied(versions, {}, describe_dirt(marks, running, migrations, {}), unread, why, marks)
    dirty = {key: texts for key, texts in dirty.items() if key[1] not in files}
    return Applied(versions, edited, dirty | describe_dirt(marks, running, migrations, stops), unread, "", marks)


def _find_tables(connection: Connection, schemas: Sequence[str], others: Sequence[str]) -> dict[str, list[str]]:
    """Return the version tables of each of `schemas` that exists: goose's, and those with the names of `others`."""
    rows = connection.execute(
        "SELECT n.nspname, coalesce(array_agg(c.relname::text ORDER BY c.relname) FILTER (WHERE c.oid IS NOT NULL), '{}') "
        "FROM pg_namespace n LEFT JOIN pg_class c ON c.relnamespace = n.oid AND c.relkind = 'r' "
        "AND (c.relname = ANY(%s) OR starts_with(c.relname::text, %s)) WHERE n.nspname = ANY(%s) GROUP BY 1 ORDER BY 1",
        [[VERSION_TABLE, *others], f"{VERSION_TABLE}_", schemas],
    )
    return dict(rows.fetchall())


def _edited(
    connection: Connection,
    schemas: Sequence[str],
    migrations: Sequence[Migration],
    states: Mapping[_Key, Mapping[int, int | None]],
) -> Mapping[_Key, tuple[int, ...]]:
    """Keep of the recorded checksums those that stand for a row that is in force: goose may have redone a version since."""
    edited: dict[_Key, list[int]] = {}
    for schema, table, version, row in read_edited(connection, schemas, migrations):
        state = states.get((schema, table), {})
        if version in state and state[version] == row:
            edited.setdefault((schema, table), []).append(version)
    return {key: tuple(sorted(versions)) for key, versions in edited.items()}


def describe_status(
    tenants: Sequence[Tenant], migrations: Sequence[Migration], applied: Applied
) -> list[MigrationStatus]:
    """Compare what is applied with the files: one record per tenant and module."""
    files: dict[tuple[str, str], list[int]] = {}
    for migration in migrations:
        files.setdefault((migration.module, migration.version_table), []).append(migration.version)
    return [
        _status(tenant, module, table, versions, applied)
        for tenant in tenants
        for (module, table), versions in files.items()
    ]


def _status(tenant: Tenant, module: str, table: str, files: Sequence[int], applied: Applied) -> MigrationStatus:
    if error := applied.unread.get(tenant.slug):
        return MigrationStatus(tenant.slug, module, 0, (), (), (), (), error=error)
    versions = applied.of(tenant.schema, table)
    highest = max(versions, default=0)
    missing = [version for version in files if version not in versions]
    return MigrationStatus(
        tenant=tenant.slug,
        module=module,
        version=highest,
        applied=versions,
        pending=tuple(missing),
        out_of_order=tuple(version for version in missing if version < highest),
        unknown=tuple(version for version in versions if version not in files),
        edited=applied.edited.get((tenant.schema, table), ()),
        dirty=tuple(applied.dirty.get((tenant.schema, table), ())),
    )


def _versions_query(schema: str, table: str) -> str:
    """Plain rows: sorting and grouping in each of thousands of branches takes PostgreSQL three times as long."""
    return (  # written by hand: to compose it takes ten times as long
        f"SELECT {_quote(schema, _STRING)}, {_quote(table, _STRING)}, id, version_id, is_applied "  # noqa: S608 - quoted
        f"FROM {_quote(schema, _NAME)}.{_quote(table, _NAME)}"
    )


def _quote(name: str, mark: str) -> str:
    """Return a name as PostgreSQL reads it back, as an identifier or a string."""
    written = mark + name.replace(mark, 2 * mark) + mark
    return f"E{written.replace(chr(92), 2 * chr(92))}" if mark == _STRING and chr(92) in name else written
