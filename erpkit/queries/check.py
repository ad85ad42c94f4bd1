"""Check whether each module's queries still fit each tenant: PostgreSQL plans them there, under its role, and runs nothing."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import NamedTuple

import psycopg
from psycopg import pq, sql

from erpkit.database import (
    TENANTS_A_CONNECTION,
    Connection,
    Database,
    Tenant,
    grant_usage,
    quote_name,
    search_path,
    shared_schemas,
)
from erpkit.errors import QueryError
from erpkit.finding import Finding
from erpkit.modules import ModuleLike, is_foreign
from erpkit.plural import count_of
from erpkit.queries.generate import (
    can_use_sqlc,
    generated_path,
    has_queries,
    queries_folder,
    read_plain,
    run_sqlc,
)
from erpkit.queries.types import to_numbered
from erpkit.result import Summary, SummaryResult
from erpkit.table import Column, Table

_GROUPS_A_BATCH = 50
_SCOPE = (
    b"SELECT pg_catalog.set_config('search_path', $1, true), pg_catalog.set_config('lock_timeout', '1s', true), "
    b"pg_catalog.set_config('role', coalesce($2, pg_catalog.current_setting('role')), true)"
)
_LOCKED = b"55P03"
_LOCK_TIMEOUT = "could not get a lock within 1 s"
_GENERIC_PLAN = 160000  # the first version that explains a statement with placeholders
_CAN_BE_EXPLAINED = re.compile(
    r"(?:\s|--[^\n]*\n|/\*.*?\*/|\()*(?:SELECT|INSERT|UPDATE|DELETE|MERGE|VALUES|WITH)\b", re.IGNORECASE | re.DOTALL
)
_COPY = re.compile(r"\s*COPY (?P<table>.+?) \((?P<columns>.+)\) FROM\s+STDIN\s*", re.DOTALL)
_NAME = re.compile(r'"(?:[^"]|"")*"')


@dataclass(frozen=True)
class Statement:
    """One query: its module, the name of its function, and its SQL with `$1` placeholders."""

    module: str
    name: str
    text: str


@dataclass(frozen=True)
class BrokenQuery:
    """A query that does not fit a tenant's schema or that its role may not run, with PostgreSQL's message."""

    tenant: str
    module: str
    query: str
    error: str

    def __str__(self) -> str:
        return f"{self.tenant}: {self.module}.{self.query}: {self.error}"


@dataclass(frozen=True, repr=False)
class QueryCheck(SummaryResult):
    """The result of the check in all tenants: `broken` queries, and in `unread` why modules could not be read."""

    target: str
    modules: int
    tenants: int
    queries: int
    broken: tuple[BrokenQuery, ...] = ()
    unread: tuple[str, ...] = ()

    @property
    def facts(self) -> dict[str, int]:
        """Its figures, by name."""
        counts = {"modules": self.modules, "tenants": self.tenants, "queries": self.queries}
        return {**counts, "broken": self._broken_count, "tenants not checked": len(self._whole)}

    @property
    def _broken_count(self) -> int:
        return sum(one.tenant not in self._whole for one in self.broken)

    @property
    def findings(self) -> list[Finding]:
        """What was not checked, and each broken query; if all queries of a tenant fail for one reason, that is one finding."""
        return [*self._not_checked(), *dict.fromkeys(map(self._finding, self.broken))]

    @property
    def table(self) -> Table[BrokenQuery]:
        """One line for each broken query."""
        return Table(_BROKEN, self.broken, "No query is broken.")

    @property
    def tables(self) -> list[Table[BrokenQuery]]:
        """The table of broken queries."""
        return [self.table]

    @property
    def summary(self) -> Summary:
        """How many queries were checked, and the findings."""
        return Summary(f"{self} on {self.target}", self.facts, self.findings)

    def _not_checked(self) -> Iterator[Finding]:
        if not self.modules:
            yield Finding(
                "no modules", "", "there are no modules, so no query was checked", remedy="set ERPKIT_MODULES"
            )
        if not self.tenants:
            yield Finding("no tenants", "", "there are no tenants, so no query was checked", remedy="erpkit doctor")
        if self.modules and not self.queries and not self.unread:
            yield Finding("no queries", "", "no module has queries", "info")
        yield from (Finding("not read", "", text, "error") for text in self.unread)

    def _finding(self, one: BrokenQuery) -> Finding:
        if one.tenant in self._whole:
            return Finding("not read", one.tenant, one.error, "error")
        return Finding("broken query", one.tenant, f"{one.module}.{one.query}: {one.error}", "error")

    @cached_property
    def _whole(self) -> set[str]:
        """The tenants in which every query is broken for the same reason."""
        counts = Counter(one.tenant for one in self.broken)
        reasons = Counter(tenant for tenant, _ in {(one.tenant, one.error) for one in self.broken})
        return {slug for slug, count in counts.items() if count == self.queries > 1 and reasons[slug] == 1}

    def __str__(self) -> str:
        left = f"; {count_of(len(self._whole), 'tenant')} could not be checked" if self._whole else ""
        where = count_of(self.tenants - len(self._whole), "tenant")
        return f"{count_of(self.queries, 'query', 'queries')} in {where}: {self._broken_count:,} broken{left}"


_BROKEN = (
    Column[BrokenQuery]("tenant", lambda b: b.tenant),
    Column[BrokenQuery]("module", lambda b: b.module),
    Column[BrokenQuery]("query", lambda b: b.query),
    Column[BrokenQuery]("error", lambda b: b.error, tone=lambda _: "error"),
)


@dataclass(frozen=True)
class _Way:
    """How a tenant is checked: under which role, None for the login itself, and whether by plans or only by PREPARE."""

    role: str | None
    plans: bool


@dataclass(frozen=True)
class _Group:
    tenant: Tenant
    way: _Way
    statements: Sequence[Statement]


def read_statements(modules: Sequence[ModuleLike]) -> list[Statement]:
    """Read the SQL from the generated code, without running it; raises QueryError if that is missing.

    So the check needs no sqlc, and checks exactly what is run. A module in another language has no such code: its `queries/*.sql`
    are read, by sqlc if it is installed and there are migrations, else as they are.
    """
    statements, errors = read_each_module(modules)
    if errors:
        raise errors[0]
    return statements


def read_each_module(modules: Sequence[ModuleLike]) -> tuple[list[Statement], list[QueryError]]:
    """Read the statements of all modules; a module that cannot be read does not stop the others."""
    statements: list[Statement] = []
    errors: list[QueryError] = []
    for module in modules:
        try:
            statements += list(_analyse(module, modules) if is_foreign(module) else _read(module))
        except QueryError as error:
            errors.append(error)
    return statements, errors


def check_queries(database: Database, tenants: Sequence[Tenant], statements: Sequence[Statement]) -> list[BrokenQuery]:
    """Let PostgreSQL plan all `statements` in each tenant's schema and under its role, and return those that it refuses.

    Unlike PREPARE, planning checks the privileges on tables, columns and functions, too. It does not find privileges that are only
    checked when a row is processed: on sequences, in a function's body, in row-level security. Before PostgreSQL 16, no privileges
    are checked. An archived tenant, whose role may not write, is checked under the login itself. An analyst's login may not take a
    role that writes: there each statement is only prepared, under the tenant's reader.

    The statements are pipelined with a sync point for each tenant, so that a broken tenant does not hide another; the queries of a
    tenant that refuses one are then tried one by one. Nothing is executed; it waits at most a second for a locked table.
    """
    broken: list[BrokenQuery] = []
    for start in range(0, len(tenants), TENANTS_A_CONNECTION):
        part = tenants[start : start + TENANTS_A_CONNECTION]
        with database.visit(part) as connection:
            broken += _check_some(connection, part, statements)
    return broken


def _check_some(
    connection: Connection, tenants: Sequence[Tenant], statements: Sequence[Statement]
) -> Iterator[BrokenQuery]:
    """Check the tenants of one connection; in a tenant that refused a query, try the queries one by one."""
    ways = _ways(connection, tenants)
    refused = {slug: way for slug, way in ways.items() if isinstance(way, str)}
    groups = [_Group(tenant, way, statements) for tenant in tenants if not isinstance(way := ways[tenant.slug], str)]
    alone: list[_Group] = []
    for group, error in _plan_all(connection.pgconn, groups, shared_schemas(connection)):
        if error is not None and error.startswith(_LOCK_TIMEOUT):
            refused[group.tenant.slug] = error
        elif error is not None:
            alone += [replace(group, statements=[one]) for one in group.statements]
    for group, error in _plan_all(connection.pgconn, alone, shared_schemas(connection)):
        if error is not None:
            yield BrokenQuery(group.tenant.slug, group.statements[0].module, group.statements[0].name, error)
    for slug, error in refused.items():
        yield from (BrokenQuery(slug, one.module, one.name, error) for one in statements)


def _analyse(module: ModuleLike, modules: Sequence[ModuleLike]) -> Iterator[Statement]:
    """Let sqlc read a module of another language; where there is no sqlc, or are no migrations for it, read the SQL as it is."""
    if not can_use_sqlc(module, modules):
        for plain in read_plain(module):
            yield Statement(module.name, plain.name, plain.text)
        return
    for query in run_sqlc(module, modules).queries:
        yield Statement(module.name, query.name, _as_insert(query.text) or query.text)


def _read(module: ModuleLike) -> Iterator[Statement]:
    path, folder = generated_path(module), queries_folder(module)
    if path is None or folder is None:
        return
    if not path.exists():
        if has_queries(folder):
            raise QueryError(f"module {module.name}: there is no {path}: run erpkit queries generate")
        return
    for name, text in _constants(module, path):
        yield Statement(module.name, name.lower(), _as_insert(text) or to_numbered(text))


def _constants(module: ModuleLike, path: Path) -> Iterator[tuple[str, str]]:
    """Yield name and text of each statement in generated code."""
    try:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
                yield node.target.id, str(ast.literal_eval(node.value))
    except (OSError, SyntaxError, ValueError) as error:
        raise QueryError(
            f"module {module.name}: {path} is not generated code ({error}): run erpkit queries generate"
        ) from None


def _as_insert(text: str) -> str | None:
    """Return for a COPY an INSERT that PostgreSQL can plan and that needs the same privileges; None for other statements."""
    if (found := _COPY.fullmatch(text)) is None:
        return None
    values = ", ".join(f"${number}" for number, _ in enumerate(_NAME.findall(found["columns"]), 1))
    return f"INSERT INTO {found['table']} ({found['columns']}) OVERRIDING SYSTEM VALUE VALUES ({values})"  # noqa: S608


def _ways(connection: Connection, tenants: Sequence[Tenant]) -> dict[str, _Way | str]:
    """Return by slug how each tenant is checked, or why it cannot be: otherwise each table would seem to be missing."""
    rows = connection.execute(
        "SELECT slug, n.oid IS NOT NULL, has_schema_privilege(n.oid, 'USAGE'), r.oid IS NOT NULL, pg_has_role(r.oid, 'MEMBER'), "
        "has_schema_privilege(r.oid, n.oid, 'USAGE'), pg_has_role(rr.oid, 'MEMBER'), has_schema_privilege(rr.oid, n.oid, 'USAGE') "
        "FROM unnest(%s::text[], %s::text[], %s::text[], %s::text[]) AS t (slug, schema, role, reader) "
        "LEFT JOIN pg_namespace n ON n.nspname = schema LEFT JOIN pg_roles r ON r.rolname = role "
        "LEFT JOIN pg_roles rr ON rr.rolname = reader",
        [
            [t.slug for t in tenants],
            [t.schema for t in tenants],
            [t.role for t in tenants],
            [t.reader for t in tenants],
        ],
    ).fetchall()
    by_slug = {tenant.slug: tenant for tenant in tenants}
    return {slug: _way(connection.info.user, by_slug[slug], _Access(*facts)) for slug, *facts in rows}


class _Access(NamedTuple):
    """What the login and the roles of a tenant may do with its schema; None where there is no schema or role."""

    exists: bool
    is_usable: bool | None
    has_role: bool
    may_take: bool | None
    role_may_use: bool | None
    may_take_reader: bool | None
    reader_may_use: bool | None


def _way(login: str, tenant: Tenant, access: _Access) -> _Way | str:
    """Decide how a tenant is checked. Pure."""
    exists, is_usable, has_role, may_take, role_may_use, may_take_reader, reader_may_use = access
    if not exists:
        return f"there is no schema {tenant.schema}"
    if tenant.role is None:
        refusal = f"this login may not use the schema {tenant.schema}: {grant_usage(tenant.schema, login)}"
        return _Way(None, plans=True) if is_usable else refusal
    if tenant.status == "archived" and is_usable:
        return _Way(None, plans=True)
    if tenant.status != "archived" and may_take and role_may_use:
        return _Way(tenant.role, plans=True)
    if may_take_reader and reader_may_use and not may_take:
        return _Way(tenant.reader, plans=False)
    if not has_role:
        return f"there is no role {tenant.role}"
    if may_take_reader and tenant.reader and not may_take:
        return f"the role {tenant.reader} may not use the schema {tenant.schema}: {grant_usage(tenant.schema, tenant.reader)}"
    if not may_take:
        grant = f"GRANT {quote_name(tenant.reader or '')} TO {quote_name(login)}"
        return f"this login may not take the role {tenant.role}: {grant}"
    return f"the role {tenant.role} may not use the schema {tenant.schema}: {grant_usage(tenant.schema, tenant.role)}"


def _plan_all(
    pgconn: pq.abc.PGconn, groups: Sequence[_Group], shared: tuple[str, ...]
) -> Iterator[tuple[_Group, str | None]]:
    """Plan each group in a transaction of its own, and yield the first error of each."""
    pgconn.nonblocking = 0  # so that libpq reads answers while it waits to send
    pgconn.enter_pipeline_mode()
    for start in range(0, len(groups), _GROUPS_A_BATCH):
        batch = groups[start : start + _GROUPS_A_BATCH]
        for group in batch:
            _send(pgconn, group, shared)
        for group in batch:
            yield group, _first_error(pgconn)
    pgconn.exit_pipeline_mode()
    pgconn.nonblocking = 1


def _send(pgconn: pq.abc.PGconn, group: _Group, shared: tuple[str, ...]) -> None:
    """Queue a group's statements up to a sync point: they are one implicit transaction, with which the settings end.

    Each unnamed statement replaces the one before, so that nothing has to be deallocated.
    """
    role = group.way.role
    pgconn.send_query_params(
        _SCOPE, [search_path(group.tenant.schema, shared).encode(), role.encode() if role else None]
    )
    explains = group.way.plans and pgconn.server_version >= _GENERIC_PLAN
    for statement in group.statements:
        if explains and _CAN_BE_EXPLAINED.match(statement.text):
            pgconn.send_query_params(_explaining(statement.text), None)
        else:
            pgconn.send_prepare(b"", statement.text.encode())
    pgconn.pipeline_sync()


@lru_cache(maxsize=10_000)
def _explaining(text: str) -> bytes:
    """Wrap the EXPLAIN into a DO block, as a pipeline would otherwise need values for the placeholders."""
    block = f"BEGIN EXECUTE {sql.quote(f'EXPLAIN (GENERIC_PLAN) {text}')}; END"
    return f"DO {sql.quote(block)}".encode()


def _first_error(pgconn: pq.abc.PGconn) -> str | None:
    """Read answers up to the next sync point."""
    error: str | None = None
    while True:
        result = pgconn.get_result()
        if result is None:
            continue  # the end of one command's answers
        if result.status == pq.ExecStatus.PIPELINE_SYNC:
            return error
        if result.status == pq.ExecStatus.FATAL_ERROR and error is None:
            error = (result.error_field(pq.DiagnosticField.MESSAGE_PRIMARY) or b"refused").decode()
            if result.error_field(pq.DiagnosticField.SQLSTATE) == _LOCKED:
                error = f"{_LOCK_TIMEOUT}: another transaction has locked a table"
        if pgconn.status == pq.ConnStatus.BAD:
            raise psycopg.OperationalError(pgconn.get_error_message())
