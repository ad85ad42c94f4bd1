"""Repair a tenant's drift: plan, confirm and run the DDL that makes its schema like `_template` again, all or nothing."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from pathlib import Path
from typing import Literal

import psycopg

from erpkit.database import TEMPLATE, Connection, Database, Tenant, as_maker
from erpkit.database.scope import scope_statements, shared_schemas
from erpkit.errors import DatabaseError, PlanChangedError, UsageError, first_line
from erpkit.finding import Finding
from erpkit.migrations import Migration, describe_status, lint_migrations, read_applied
from erpkit.migrations.lint import LintReport
from erpkit.migrations.parser import ParsedMigration
from erpkit.plan import plan_id
from erpkit.plural import count_of
from erpkit.result import Result
from erpkit.table import Column, Table
from erpkit.tenants.ddl import DESTRUCTIVE, MARKS
from erpkit.tenants.drift import Difference, drift_findings, find_drift, in_order
from erpkit.tenants.fingerprints import Fingerprint, read_fingerprints
from erpkit.tenants.health import count_rows
from erpkit.tenants.lifecycle import lock_migrations
from erpkit.tenants.registry import find_tenants, get_tenant
from erpkit.visible import visible

Risk = Literal["none", "fails", "loses", "by hand"]

_CODE = (
    "function",
    "procedure",
    "view",
    "materialized view",
    "rule",
    "trigger",
)  # their DDL is one statement on many lines
_BY_HAND = "-- by hand: "
_SECONDS = 30  # that a statement may take
_BEGINS = re.compile(r"ALTER|CREATE|DROP|GRANT|REVOKE|-- ")  # other lines continue the statement


@dataclass(frozen=True)
class RepairStep:
    """One statement that helps to undo `difference`, which is in words; `object` is the object that differs.

    `risk` is `fails` if existing rows may make PostgreSQL refuse it, `loses` if it destroys values, and `by hand` if a person has to
    write it.
    """

    object: str
    difference: str
    statement: str
    risk: Risk


@dataclass(frozen=True)
class RepairPlan:
    """The steps that would be run in a tenant's schema, in order, and the `left` ones, whose risk was not accepted.

    `lint` is squawk's report on the steps, or None without one.
    """

    tenant: Tenant
    steps: tuple[RepairStep, ...]
    left: tuple[RepairStep, ...] = ()
    lint: LintReport | None = None

    @property
    def id(self) -> str:
        """`repair-` and ten hexadecimal digits that stand for exactly these statements in this schema."""
        facts = [self.tenant.slug, self.tenant.schema, [step.statement for step in self.steps]]
        return plan_id("repair", facts)

    @property
    def size(self) -> int:
        """How many statements would be run."""
        return len(self.steps)

    @property
    def differences(self) -> list[str]:
        """The differences in words, each once."""
        return list(dict.fromkeys(step.difference for step in (*self.steps, *self.left)))

    @property
    def remedies(self) -> dict[str, str]:
        """What helps against the differences whose statements are left out, by difference."""
        accepted = f"erpkit tenants repair {self.tenant.slug} --accept"
        by_hand = "write the statement by hand, as a migration"
        return {one.difference: by_hand if one.risk == "by hand" else f"{accepted} {one.risk}" for one in self.left}

    @property
    def facts(self) -> dict[str, object]:
        """Its figures, with those of the result as they are before."""
        return {"tenant": self.tenant.slug, "planned": len(self.steps), "run": 0, "left": len(self.differences)}

    @property
    def findings(self) -> list[Finding]:
        """The differences, and squawk's objections."""
        slug = self.tenant.slug
        return [
            *(Finding("drift", slug, one, remedy=self.remedies.get(one, "")) for one in self.differences),
            *(
                Finding("lint", slug, f"{one.rule}: {one.statement}: {one.message}", "info")
                for one in (self.lint.findings if self.lint else ())
            ),
        ]

    @property
    def tables(self) -> tuple[Table[tuple[str, RepairStep]], ...]:
        """One line for each statement, in order; then those that are left out."""
        rows = [("yes", step) for step in self.steps] + [("no", step) for step in self.left]
        return (Table(_STEPS, rows, "Nothing is different."),)

    @property
    def script(self) -> str:
        """The statements in order, each with the difference that it undoes; those that are left out are comments."""
        lines = [f"{step.statement}  -- {step.difference}" for step in self.steps]
        lines += [f"-- left out, as {_WHY[step.risk]}: {_first_line(step)}  -- {step.difference}" for step in self.left]
        return "\n".join(visible(line, keep="\n\t") for line in lines)

    @property
    def note(self) -> str:
        """Why squawk did not check the statements, or an empty text."""
        return self.lint.note if self.lint else ""

    def __str__(self) -> str:
        left = f", {len(self.left):,} left out" if self.left else ""
        return f"{count_of(len(self.steps), 'statement')} in one transaction for {self.tenant.slug}{left}"


@dataclass(frozen=True)
class RepairRun(Result):
    """A repair that was run, and the differences from `_template` that are left."""

    plan: RepairPlan
    left: tuple[Difference, ...]

    @property
    def facts(self) -> dict[str, object]:
        """How many statements were run, and how many differences are left."""
        return {"run": len(self.plan.steps), "left": len(self.left)}

    @property
    def findings(self) -> list[Finding]:
        """The differences that are left."""
        known = self.plan.remedies
        found = drift_findings(self.plan.tenant.slug, self.left)
        return [replace(one, remedy=known.get(one.problem, one.remedy)) for one in found]

    @property
    def tables(self) -> tuple[Table[tuple[str, RepairStep]], ...]:
        """One line a statement that was run."""
        return (Table(_STEPS[1:], [("yes", step) for step in self.plan.steps], "There was nothing to run."),)

    def __str__(self) -> str:
        left = count_of(len(self.left), "difference is", "differences are")
        return f"repaired {self.plan.tenant.slug}: {count_of(len(self.plan.steps), 'statement')}, {left} left"


def _first_line(step: RepairStep) -> str:
    first, *more = step.statement.split("\n")
    return f"{first} …" if more else first


_WHY = {
    "fails": "it may fail because of existing rows (--accept fails takes it in)",
    "loses": "it loses values (--accept loses takes it in)",
    "by hand": "it is to be done by hand",
}
_RISKS = {"none": "", "fails": "may fail", "loses": "loses values", "by hand": "by hand"}
_Step = tuple[str, RepairStep]
_STEPS = (
    Column[_Step](
        "runs", lambda row: f"{row[0]}, {_RISKS[row[1].risk]}".rstrip(", "),
        tone=lambda row: "muted" if row[0] == "no" else "error" if row[1].risk == "loses" else "",
    ),
    Column[_Step]("difference", lambda row: row[1].difference, is_name=True),
    Column[_Step]("statement", lambda row: row[1].statement),
)  # fmt: skip


def plan_repair(tenant: Tenant, differences: Sequence[Difference], accept: Collection[Risk] = ()) -> RepairPlan:
    """Plan the statements that undo `differences`; those with a risk only if `accept` names it. Pure.

    Raises UsageError if the schema could not be compared, as a table was locked.
    """
    if locked := [one for one in differences if one.change == "unknown"]:
        raise UsageError(f"tenant {tenant.slug} {locked[0]}; try again when that transaction has ended")
    steps = [step for difference in in_order(differences) for step in _steps(difference)]
    wanted = {"none", *accept} - {"by hand"}
    return RepairPlan(
        tenant,
        tuple(step for step in steps if step.risk in wanted),
        tuple(step for step in steps if step.risk not in wanted),
    )


def read_repair(
    connection: Connection, tenant: Tenant, migrations: Sequence[Migration], accept: Collection[Risk] = ()
) -> RepairPlan:
    """Compare a tenant with `_template` and plan its repair.

    Raises UsageError if either of them lacks a migration, or has one without a file, as they may differ for that reason.
    """
    fleet = [TEMPLATE, tenant]
    for status in describe_status(fleet, migrations, read_applied(connection, fleet, migrations)):
        if status.error:
            raise UsageError(f"{status.tenant} could not be read, so its drift is not repaired: {status.error}")
        if status.state not in ("current", "edited"):
            raise UsageError(
                f"{status.tenant}: {status.module} is {status.state}: migrate it before you repair its drift"
            )
    return plan_repair(tenant, find_drift(connection, [tenant])[tenant.slug], accept)


def lint_repair(plan: RepairPlan) -> LintReport:
    """Let squawk report statements that would lock a table for long; without squawk the report says so."""
    statements = tuple(step.statement for step in plan.steps)
    lines = accumulate((text.count("\n") + 1 for text in statements[:-1]), initial=1)
    content = ParsedMigration(up=statements, down=(), up_lines=tuple(lines)[: len(statements)])
    script = Migration(plan.tenant.slug, 1, Path(f"{plan.id}.sql"), content, "\n".join(statements))
    try:
        return LintReport(lint_migrations([script]))
    except UsageError as error:
        return LintReport((), f"not linted: {error}")


def run_repair(
    database: Database,
    slug: str,
    migrations: Sequence[Migration],
    confirm: str,
    accept: Collection[Risk] = (),
) -> RepairRun:
    """Repair a tenant in one transaction, if `confirm` is the id of what `read_repair` plans now.

    Before the commit it compares the schema again, and rolls back if a planned difference is still there. Waits up to three seconds
    for a lock. Raises PlanChangedError if the drift has changed, and DatabaseError if a statement fails.
    """
    database.check_writable()
    with database.connection() as connection:
        tenant = get_tenant(connection, slug)
        try:
            with connection.transaction():
                lock_migrations(connection, tenant)
                plan = read_repair(connection, tenant, migrations, accept)
                PlanChangedError.check(confirm, plan.id, "changed")
                connection.execute(
                    "; ".join(scope_statements(tenant.schema, None, _SECONDS, shared_schemas(connection))).encode()
                )
                _run_steps(connection, plan)
                return RepairRun(plan, _verify(connection, plan))
        except psycopg.errors.LockNotAvailable:
            raise DatabaseError(
                f"tenant {slug} is in use: could not get a lock within 3 s; nothing was changed: try again"
            ) from None
        except psycopg.Error as error:
            raise DatabaseError(f"tenant {slug} was not repaired: {first_line(error)}; nothing was changed") from error


def _run_steps(connection: Connection, plan: RepairPlan) -> None:
    """Run the statements as the schema's owner; default privileges also as the login, which may create tables itself."""
    with as_maker(connection, plan.tenant):
        for step in plan.steps:
            connection.execute(step.statement.encode())
    for step in plan.steps if plan.tenant.owner is None else ():
        if step.statement.startswith("ALTER DEFAULT PRIVILEGES"):
            connection.execute(step.statement.encode())


def _verify(connection: Connection, plan: RepairPlan) -> tuple[Difference, ...]:
    """Return the differences that are left; raise DatabaseError if one of them was to be repaired."""
    left = find_drift(connection, [plan.tenant])[plan.tenant.slug]
    expected = {step.object for step in plan.left}
    if others := [str(one) for one in left if _object(one) not in expected]:
        raise DatabaseError(
            f"tenant {plan.tenant.slug} would still differ: {'; '.join(others[:3])}; nothing was changed"
        )
    return tuple(left)


def _steps(difference: Difference) -> Iterator[RepairStep]:
    for statement in _statements(difference):
        mark = next((mark for mark in (*MARKS, _BY_HAND) if statement.startswith(mark)), "")
        risk: Risk = (
            "none" if not mark else "loses" if mark == DESTRUCTIVE else "by hand" if mark == _BY_HAND else "fails"
        )
        yield RepairStep(_object(difference), str(difference), statement.removeprefix(mark), risk)


def _statements(difference: Difference) -> list[str]:
    """Split the DDL into statements with their marks; a statement with code or texts may have several lines."""
    if difference.kind in _CODE:
        return [difference.ddl]
    statements: list[str] = []
    for line in difference.ddl.split("\n"):
        if statements and not _BEGINS.match(line):
            statements[-1] += f"\n{line}"
        else:
            statements.append(line)
    return statements


def _object(difference: Difference) -> str:
    return f"{difference.kind} {difference.object}"


@dataclass(frozen=True)
class SchemaState:
    """A schema at one moment: its differences from `_template`, a fingerprint of its objects, and the rows of each table."""

    drift: tuple[Difference, ...]
    fingerprint: Fingerprint | None
    rows: Mapping[str, int] = field(repr=False)


@dataclass(frozen=True)
class FleetState:
    """The state of `_template` and of all tenants, by slug."""

    states: Mapping[str, SchemaState]

    def since(self, before: FleetState) -> list[str]:
        """Return two lines: the schemas that changed, and the tenants whose number of rows changed."""
        changed = [slug for slug, one in self.states.items() if one.fingerprint != before._of(slug).fingerprint]
        rows = [slug for slug, one in self.states.items() if one.rows != before._of(slug).rows]
        return [
            f"schemas that changed: {', '.join(changed) or 'none'}",
            f"tenants with other rows: {', '.join(rows) or 'none'}",
        ]

    def _of(self, slug: str) -> SchemaState:
        return self.states.get(slug, SchemaState((), None, {}))

    def __getitem__(self, slug: str) -> SchemaState:
        return self.states[slug]

    def __str__(self) -> str:
        lines = [f"{slug}: {one}" for slug, state in self.states.items() for one in state.drift]
        return "\n".join(lines) or "no tenant differs"


def read_fleet(connection: Connection, slugs: Sequence[str] | None = ()) -> FleetState:
    """Return the state of `_template` and of all tenants; rows are counted in the tenants named, or in all for None."""
    tenants = [TEMPLATE, *find_tenants(connection)]
    prints = read_fingerprints(connection, [tenant.schema for tenant in tenants])
    drift = find_drift(connection, tenants[1:], fingerprints=prints)
    return FleetState(
        {
            tenant.slug: SchemaState(
                tuple(drift.get(tenant.slug, ())),
                prints.get(tenant.schema),
                count_rows(connection, tenant.schema) if slugs is None or tenant.slug in slugs else {},
            )
            for tenant in tenants
        }
    )
