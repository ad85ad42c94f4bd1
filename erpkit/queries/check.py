"""Whether each module's queries still fit each tenant's schema: PostgreSQL itself parses them there, and runs nothing."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import psycopg
from psycopg import pq

from erpkit.database import TENANTS_A_CONNECTION, Connection, Database, Tenant, search_path
from erpkit.errors import QueryError
from erpkit.modules import ModuleLike
from erpkit.queries.generate import generated_path
from erpkit.queries.text import to_numbered

__all__ = ["BrokenQuery", "Statement", "check_queries", "read_statements"]

_GROUPS_A_BATCH = 50
_SET_PATH = b"SELECT pg_catalog.set_config('search_path', $1, true)"


@dataclass(frozen=True)
class Statement:
    """One query as it is run: its module, the name of its function, and its SQL with `$1` placeholders."""

    module: str
    name: str
    text: str


@dataclass(frozen=True)
class BrokenQuery:
    """A query that a tenant's schema does not bear, and what PostgreSQL says about it."""

    tenant: str
    module: str
    query: str
    error: str

    def __str__(self) -> str:
        return f"{self.tenant}: {self.module}.{self.query}: {self.error}"


_Group = tuple[Tenant, Sequence[Statement]]


def read_statements(modules: Sequence[ModuleLike]) -> list[Statement]:
    """Read the SQL out of the generated code, without running it; raises QueryError where that is missing.

    sqlc is not needed for it, and what is checked is what is run.
    """
    return [statement for module in modules for statement in _read(module)]


def check_queries(database: Database, tenants: Sequence[Tenant], statements: Sequence[Statement]) -> list[BrokenQuery]:
    """Let PostgreSQL prepare all `statements` in each tenant's schema, and return those that it refuses.

    Pipelined, with a sync point a tenant, so that a broken tenant does not hide another; where one refuses, each of its
    queries is tried on its own. Nothing is executed.
    """
    broken: list[BrokenQuery] = []
    for start in range(0, len(tenants), TENANTS_A_CONNECTION):
        part = tenants[start : start + TENANTS_A_CONNECTION]
        with database.visit(part) as connection:
            there = _schemas(connection, part)
            groups = [(tenant, statements) for tenant in part if tenant.schema in there]
            suspects = [group for group, error in _prepare_all(connection.pgconn, groups) if error]
            alone = [(tenant, [statement]) for tenant, several in suspects for statement in several]
            refused = [
                BrokenQuery(tenant.slug, one.module, one.name, error)
                for (tenant, (one,)), error in _prepare_all(connection.pgconn, alone)
                if error
            ]
        absent = [tenant for tenant in part if tenant.schema not in there]
        broken += [*refused, *(_without_schema(tenant, one) for tenant in absent for one in statements)]
    return broken


def _read(module: ModuleLike) -> Iterator[Statement]:
    path = generated_path(module)
    if path is None:
        return
    if not path.exists():
        raise QueryError(f"module {module.name}: there is no {path}: run erpkit queries generate")
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
            yield Statement(module.name, node.target.id.lower(), to_numbered(ast.literal_eval(node.value)))


def _schemas(connection: Connection, tenants: Sequence[Tenant]) -> set[str]:
    wanted = [tenant.schema for tenant in tenants]
    return {
        name for (name,) in connection.execute("SELECT nspname FROM pg_namespace WHERE nspname = ANY(%s)", [wanted])
    }


def _without_schema(tenant: Tenant, statement: Statement) -> BrokenQuery:
    return BrokenQuery(tenant.slug, statement.module, statement.name, f"there is no schema {tenant.schema}")


def _prepare_all(pgconn: pq.abc.PGconn, groups: Sequence[_Group]) -> Iterator[tuple[_Group, str | None]]:
    """Prepare each group in a transaction of its own, and yield the first error of each."""
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
    """Up to the sync point all is one implicit transaction: the local setting ends with it.

    The unnamed statement is replaced by the next one, so nothing is left to deallocate.
    """
    pgconn.send_query_params(_SET_PATH, [search_path(tenant.schema).encode()])
    for statement in statements:
        pgconn.send_prepare(b"", statement.text.encode())
    pgconn.pipeline_sync()


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
