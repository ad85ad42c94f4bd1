"""Whether each module's queries still fit each tenant: PostgreSQL itself plans them there, under its role, and runs nothing."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import psycopg
from psycopg import pq, sql

from erpkit.database import TENANTS_A_CONNECTION, Connection, Database, Tenant, search_path
from erpkit.errors import QueryError
from erpkit.modules import ModuleLike, is_foreign
from erpkit.queries.generate import generated_path
from erpkit.queries.sqlc import has_queries, queries_folder, run_sqlc
from erpkit.queries.text import to_numbered

__all__ = ["BrokenQuery", "Statement", "check_queries", "read_each_module", "read_statements"]

_GROUPS_A_BATCH = 50
_SCOPE = b"SELECT pg_catalog.set_config('search_path', $1, true), pg_catalog.set_config('role', $2, true)"
_GENERIC_PLAN = 160000  # the first server that explains a statement with placeholders in it
_CAN_BE_EXPLAINED = re.compile(
    r"(?:\s|--[^\n]*\n|/\*.*?\*/|\()*(?:SELECT|INSERT|UPDATE|DELETE|MERGE|VALUES|WITH)\b", re.IGNORECASE | re.DOTALL
)
_COPY = re.compile(r"\s*COPY (?P<table>.+?) \((?P<columns>.+)\) FROM\s+STDIN\s*", re.DOTALL)
_NAME = re.compile(r'"(?:[^"]|"")*"')


@dataclass(frozen=True)
class Statement:
    """One query as it is run: its module, the name of its function, and its SQL with `$1` placeholders."""

    module: str
    name: str
    text: str


@dataclass(frozen=True)
class BrokenQuery:
    """A query that a tenant's schema does not bear, or that its role may not run, and what PostgreSQL says about it."""

    tenant: str
    module: str
    query: str
    error: str

    def __str__(self) -> str:
        return f"{self.tenant}: {self.module}.{self.query}: {self.error}"


_Group = tuple[Tenant, Sequence[Statement]]


def read_statements(modules: Sequence[ModuleLike]) -> list[Statement]:
    """Read the SQL out of the generated code, without running it; raises QueryError where that is missing.

    sqlc is not needed for it, and what is checked is what is run. Only a module that is written in another language has no
    such code: sqlc reads its `queries/*.sql`.
    """
    statements, errors = read_each_module(modules)
    if errors:
        raise errors[0]
    return statements


def read_each_module(modules: Sequence[ModuleLike]) -> tuple[list[Statement], list[QueryError]]:
    """Read the statements of all modules likewise; what one module cannot be read for stops no other."""
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

    A plan, unlike PREPARE, asks for the rights on tables, columns and functions as well. Not seen are rights that are only
    asked for when a row is at hand (a sequence's, what a function's body does, row-level security); and before PostgreSQL 16
    no rights at all. An archived tenant, whose role may not write, is checked under the login's own.

    Pipelined, with a sync point a tenant, so that a broken tenant does not hide another; where one refuses, each of its
    queries is tried on its own. Nothing is executed.
    """
    broken: list[BrokenQuery] = []
    for start in range(0, len(tenants), TENANTS_A_CONNECTION):
        part = tenants[start : start + TENANTS_A_CONNECTION]
        with database.visit(part) as connection:
            closed = _closed_schemas(connection, part)
            groups = [(tenant, statements) for tenant in part if tenant.slug not in closed]
            suspects = [group for group, error in _plan_all(connection.pgconn, groups) if error]
            alone = [(tenant, [statement]) for tenant, several in suspects for statement in several]
            refused = [
                BrokenQuery(tenant.slug, one.module, one.name, error)
                for (tenant, (one,)), error in _plan_all(connection.pgconn, alone)
                if error
            ]
        shut = [BrokenQuery(slug, one.module, one.name, error) for slug, error in closed.items() for one in statements]
        broken += [*refused, *shut]
    return broken


def _analyse(module: ModuleLike, modules: Sequence[ModuleLike]) -> Iterator[Statement]:
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
    """Yield each statement of generated code with its name."""
    try:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
                yield node.target.id, str(ast.literal_eval(node.value))
    except (OSError, SyntaxError, ValueError) as error:
        raise QueryError(
            f"module {module.name}: {path} is no generated code ({error}): run erpkit queries generate"
        ) from None


def _as_insert(text: str) -> str | None:
    """Turn a COPY into what PostgreSQL can plan and asks the same rights for: an INSERT that fills identity columns, too."""
    if (found := _COPY.fullmatch(text)) is None:
        return None
    values = ", ".join(f"${number}" for number, _ in enumerate(_NAME.findall(found["columns"]), 1))
    return f"INSERT INTO {found['table']} ({found['columns']}) OVERRIDING SYSTEM VALUE VALUES ({values})"  # noqa: S608


def _role(tenant: Tenant) -> str | None:
    return None if tenant.status == "archived" else tenant.role


def _closed_schemas(connection: Connection, tenants: Sequence[Tenant]) -> dict[str, str]:
    """Return what keeps whole tenants from being checked, by slug; unseen, it would look as if each table were missing."""
    rows = connection.execute(
        "SELECT slug, n.oid IS NULL, role IS NOT NULL AND r.oid IS NULL, NOT pg_has_role(r.oid, 'MEMBER'), "
        "NOT has_schema_privilege(r.oid, n.oid, 'USAGE') "
        "FROM unnest(%s::text[], %s::text[], %s::text[]) AS t (slug, schema, role) "
        "LEFT JOIN pg_namespace n ON n.nspname = schema LEFT JOIN pg_roles r ON r.rolname = role",
        [[t.slug for t in tenants], [t.schema for t in tenants], [_role(t) for t in tenants]],
    ).fetchall()
    by_slug = {tenant.slug: tenant for tenant in tenants}
    said = ("there is no schema {0}", "there is no role {1}", "this login may not take the role {1}",
            "the role {1} may not use the schema {0}")  # fmt: skip
    return {
        slug: next(text for text, is_so in zip(said, wrong, strict=True) if is_so).format(
            by_slug[slug].schema, by_slug[slug].role
        )
        for slug, *wrong in rows
        if any(wrong)
    }


def _plan_all(pgconn: pq.abc.PGconn, groups: Sequence[_Group]) -> Iterator[tuple[_Group, str | None]]:
    """Plan each group in a transaction of its own, and yield the first error of each."""
    pgconn.nonblocking = 0  # libpq then reads answers while it waits to send
    pgconn.enter_pipeline_mode()
    for start in range(0, len(groups), _GROUPS_A_BATCH):
        batch = groups[start : start + _GROUPS_A_BATCH]
        for tenant, statements in batch:
            _send(pgconn, tenant, statements)
        for group in batch:
            yield group, _first_error(pgconn)
    pgconn.exit_pipeline_mode()
    pgconn.nonblocking = 1


def _send(pgconn: pq.abc.PGconn, tenant: Tenant, statements: Sequence[Statement]) -> None:
    """Up to the sync point all is one implicit transaction: the local settings end with it.

    The unnamed statement is replaced by the next one, so nothing is left to deallocate.
    """
    pgconn.send_query_params(_SCOPE, [search_path(tenant.schema).encode(), (_role(tenant) or "none").encode()])
    for statement in statements:
        if pgconn.server_version >= _GENERIC_PLAN and _CAN_BE_EXPLAINED.match(statement.text):
            pgconn.send_query_params(_explaining(statement.text), None)
        else:
            pgconn.send_prepare(b"", statement.text.encode())
    pgconn.pipeline_sync()


@lru_cache(maxsize=10_000)
def _explaining(text: str) -> bytes:
    """Wrap the EXPLAIN into a block: a pipeline would ask for values of the placeholders otherwise."""
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
        if pgconn.status == pq.ConnStatus.BAD:
            raise psycopg.OperationalError(pgconn.get_error_message())
