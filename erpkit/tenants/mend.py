"""Mending tenants by a statement of one's own, once for each: planned, confirmed by an id, each tenant in a transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import psycopg

from erpkit.database import Database, Tenant
from erpkit.errors import first_line
from erpkit.finding import Finding
from erpkit.plan import Plan, Work, plan_id
from erpkit.plural import count_of
from erpkit.table import Column, Table


@dataclass(frozen=True)
class MendPlan:
    """The statement that would be run in each tenant, by slug, as text for its schema."""

    statements: Mapping[str, str]

    @property
    def id(self) -> str:
        """`mend-` and ten hexadecimal digits that stand for exactly these statements."""
        return plan_id("mend", sorted(self.statements.items()))

    @property
    def size(self) -> int:
        """How many tenants would be mended."""
        return len(self.statements)

    @property
    def facts(self) -> dict[str, object]:
        """Its figures, with those of the result as they are before."""
        return {"to mend": self.size, "mended": 0}

    @property
    def findings(self) -> list[Finding]:
        """None: what needs the mend is told where it was found."""
        return []

    @property
    def table(self) -> Table[tuple[str, str]]:
        """One line a tenant."""
        return Table(_STATEMENTS, sorted(self.statements.items()), "There is nothing to mend.")

    @property
    def tables(self) -> tuple[Table[tuple[str, str]], ...]:
        """The one table."""
        return (self.table,)

    def __str__(self) -> str:
        return f"mend {count_of(self.size, 'tenant')}" if self.size else "there is nothing to mend"


@dataclass(frozen=True)
class MendRun:
    """What became of the tenants: `failed` has the reason by slug, and nothing of that statement was done."""

    plan: MendPlan
    failed: Mapping[str, str] = field(default_factory=dict)

    @property
    def facts(self) -> dict[str, object]:
        """How many were mended."""
        return {"mended": self.plan.size - len(self.failed)}

    @property
    def findings(self) -> list[Finding]:
        """The tenants whose statement failed."""
        return [Finding("not mended", slug, f"not mended: {reason}", "error") for slug, reason in self.failed.items()]

    @property
    def tables(self) -> tuple[Table[tuple[str, str]], ...]:
        """One line a tenant that was mended."""
        done = [(slug, text) for slug, text in self.plan.table.rows if slug not in self.failed]
        return (Table(_STATEMENTS, done, "No tenant was mended."),)

    def __str__(self) -> str:
        return f"mended {self.plan.size - len(self.failed):,} of {count_of(self.plan.size, 'tenant')}"


_STATEMENTS = (
    Column[tuple[str, str]]("tenant", lambda row: row[0]),
    Column[tuple[str, str]]("statement", lambda row: row[1]),
)


def plan_mend(database: Database, tenants: Sequence[Tenant], statement: str) -> Plan[MendPlan, MendRun]:
    """Plan to run a statement for each tenant; `{schema}` in it stands for the tenant's schema. Without one, nothing is planned.

    It is any SQL, run as the operator's own login: who confirms the plan answers for it.
    """
    texts = {one.slug: statement.replace("{schema}", one.schema) for one in tenants if statement.strip()}
    record = MendPlan(texts)
    return Plan(record, lambda _: record, lambda plan, work: _run(database, plan, work), database.target, "tenants")


def _run(database: Database, plan: MendPlan, work: Work) -> MendRun:
    database.check_writable()
    failed: dict[str, str] = {}
    for slug, text in plan.table.rows:
        if work.stop.is_set():
            failed[slug] = "stopped before it"
            continue
        try:
            with database.transaction() as connection:
                connection.execute(text.encode())
        except psycopg.Error as error:
            failed[slug] = _reason(error)
        work.advance(1)
    return MendRun(plan, failed)


def _reason(error: psycopg.Error) -> str:
    """Return why a statement failed, and how to name a table: the transaction looks in no tenant's schema. Pure."""
    reason = error.diag.message_primary or first_line(error)
    if isinstance(error, psycopg.errors.UndefinedTable) and "." not in reason:
        return f"{reason}; write {{schema}} before the names of the tenant's tables, as in {{schema}}.orders"
    return reason
