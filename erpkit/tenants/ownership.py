"""Hand over to the operators of a database what one login created before, with one transaction for each schema."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import psycopg

from erpkit.database import TEMPLATE, Connection, Database, Tenant, quote_name
from erpkit.database.operators import OBJECTS, database_name, owner_name
from erpkit.errors import PlanChangedError, first_line
from erpkit.finding import Finding
from erpkit.plan import plan_id
from erpkit.plural import count_of
from erpkit.result import Result
from erpkit.table import Column, Table
from erpkit.tenants.lifecycle import lock_migrations
from erpkit.tenants.registry import list_tenants, registry_table
from erpkit.tenants.roles import default_statements, operator_statements
from erpkit.visible import visible

_TABLES = ("erpkit_migrations", "erpkit_runs", "erpkit_looks")
_SHADOW = "erpkit_shadow_%"

_NOT_OURS = f"""
WITH found AS (
    SELECT n.nspname AS schema, 0 AS place, 'SCHEMA' AS keyword, quote_ident(n.nspname) AS identity, n.nspowner AS owner
      FROM pg_namespace n WHERE n.nspname = ANY(%(schemas)s)
    UNION ALL
    SELECT o.schema, 1, o.keyword, o.identity, o.owner FROM ({OBJECTS}) o WHERE o.schema = ANY(%(schemas)s)
)
SELECT schema, 'ALTER ' || keyword || ' ' || identity, pg_get_userbyid(owner), pg_has_role(owner, 'USAGE')
  FROM found WHERE pg_get_userbyid(owner) <> %(owner)s ORDER BY schema, place, keyword, identity
"""  # noqa: S608 - OBJECTS is ours

_ROLES = """
SELECT r.rolname FROM pg_roles r WHERE r.rolname = ANY(%(roles)s) AND NOT EXISTS
       (SELECT FROM pg_auth_members m JOIN pg_roles o ON o.oid = m.member WHERE m.roleid = r.oid AND o.rolname = %(owner)s)
"""

_DEFAULTS = """
SELECT n.nspname FROM pg_default_acl d JOIN pg_namespace n ON n.oid = d.defaclnamespace
 WHERE pg_get_userbyid(d.defaclrole) = %s AND d.defaclobjtype = 'r'
"""

_PUBLIC = """
SELECT c.relname, pg_has_role(c.relowner, 'USAGE'), o.may_own
  FROM pg_class c
 CROSS JOIN (SELECT coalesce(has_schema_privilege(to_regrole(quote_ident(%(owner)s)), 'public', 'CREATE'), false)) o (may_own)
 WHERE c.relnamespace = to_regnamespace('public') AND c.relname = ANY(%(tables)s) AND pg_get_userbyid(c.relowner) <> %(owner)s
   AND (o.may_own OR NOT EXISTS (SELECT FROM aclexplode(c.relacl) a
                                  WHERE pg_get_userbyid(a.grantee) = %(owner)s AND a.privilege_type = 'INSERT'))
 ORDER BY array_position(%(tables)s, c.relname::text)
"""


@dataclass(frozen=True)
class HandOverPart:
    """The statements of one transaction; `tenant` is None for what all tenants share."""

    tenant: Tenant | None
    statements: tuple[str, ...]

    @property
    def subject(self) -> str:
        """The name of the part, for people."""
        return "what all tenants share" if self.tenant is None else f"schema {self.tenant.schema}"


@dataclass(frozen=True)
class HandOverPlan:
    """What `owner`, the operators' role, would get; `left` are other logins that own something, by schema."""

    owner: str
    parts: tuple[HandOverPart, ...] = field(repr=False)
    left: Mapping[str, tuple[str, ...]]

    @property
    def id(self) -> str:
        """`hand-over-` and ten hexadecimal digits that stand for exactly these statements."""
        facts = [[part.subject, *part.statements] for part in self.parts]
        return plan_id("hand-over", [self.owner, facts])

    @property
    def statement_count(self) -> int:
        """How many statements it would run."""
        return sum(len(part.statements) for part in self.parts)

    @property
    def size(self) -> int:
        """How many transactions it takes."""
        return len(self.parts)

    @property
    def facts(self) -> dict[str, object]:
        """Its figures, with those of the result at zero."""
        return {"parts": len(self.parts), "statements": self.statement_count, "handed over": 0, "failed": 0}

    @property
    def findings(self) -> list[Finding]:
        """The schemas in which something belongs to other logins, which can hand it over."""
        return [
            Finding(
                "another owner", f"schema {schema}", f"something belongs to {', '.join(owners)}, which can hand it over",
                remedy="run erpkit tenants hand-over as that login", of="schema",
            )
            for schema, owners in self.left.items()
        ]  # fmt: skip

    @property
    def tables(self) -> tuple[Table[tuple[str, str]], ...]:
        """One line a statement."""
        rows = [(part.subject, statement) for part in self.parts for statement in part.statements]
        return (Table(_STATEMENTS, rows, "There is nothing to hand over by this login."),)

    @property
    def script(self) -> str:
        """The statements, in their order."""
        return "\n".join(f"{visible(statement)};" for part in self.parts for statement in part.statements)

    def __str__(self) -> str:
        return count_of(self.statement_count, "statement") if self.parts else "nothing to hand over by this login"


_STATEMENTS = (
    Column[tuple[str, str]]("of", lambda row: row[0]),
    Column[tuple[str, str]]("statement", lambda row: row[1]),
)


@dataclass(frozen=True)
class HandOverRun(Result):
    """A hand-over that was run; `failed` maps parts that failed to the reason: plan again to go on."""

    plan: HandOverPlan
    failed: Mapping[str, str]

    @property
    def facts(self) -> dict[str, object]:
        """How many parts were handed over, and how many could not be."""
        return {"handed over": len(self.plan.parts) - len(self.failed), "failed": len(self.failed)}

    @property
    def findings(self) -> list[Finding]:
        """The parts that failed, and the schemas in which something belongs to other logins."""
        failed = [
            Finding("not handed over", subject, f"was not handed over: {reason}; plan it again", of="part")
            for subject, reason in self.failed.items()
        ]
        return [*failed, *self.plan.findings]

    @property
    def tables(self) -> tuple[Table[tuple[str, str]], ...]:
        """One line a statement that was run."""
        rows = [
            (part.subject, statement)
            for part in self.plan.parts
            if part.subject not in self.failed
            for statement in part.statements
        ]
        return (Table(_STATEMENTS, rows, "Nothing was handed over."),)

    def __str__(self) -> str:
        parts = len(self.plan.parts)
        return f"handed over to {self.plan.owner}: {parts - len(self.failed):,} of {count_of(parts, 'part')}"


def plan_hand_over(connection: Connection) -> HandOverPlan:
    """Plan to give the operators all that this login owns: tenants' schemas with their objects, roles, and tables in public."""
    owner = owner_name(database_name(connection))
    tenants = [TEMPLATE, *list_tenants(connection), *_shadows(connection)]
    made = [tenant for tenant in tenants if tenant.owner is None]  # what is in an adopted schema stays the ERP's own
    ours, left, closed = _objects(connection, made, owner)
    shared = operator_statements(connection, by_superuser=True)
    shared += _public(connection, owner, may_own=any("ON SCHEMA public" in one for one in shared))
    parts = [HandOverPart(None, tuple(shared))]
    has_defaults = {schema for (schema,) in connection.execute(_DEFAULTS, [owner])}
    loose = _loose_roles(connection, tenants, owner)
    for tenant in tenants:
        statements = ours.get(tenant.schema, [])
        if tenant.schema not in closed:
            statements += _of_roles(tenant, loose, owner)
            if tenant.role is not None and tenant.owner is None and tenant.schema not in has_defaults:
                statements += default_statements(tenant, owner)
        parts.append(HandOverPart(tenant, tuple(statements)))
    return HandOverPlan(owner, tuple(part for part in parts if part.statements), left)


def hand_over(database: Database, confirm: str) -> HandOverRun:
    """Run what `plan_hand_over` plans now, if `confirm` is its id.

    A schema that cannot be handed over, for example because a migration runs in it, does not stop the others. Raises
    PlanChangedError, with nothing done, if the id differs.
    """
    database.check_writable()
    failed: dict[str, str] = {}
    with database.connection() as connection:
        plan = plan_hand_over(connection)
        PlanChangedError.check(confirm, plan.id, "handed over")
        for part in plan.parts:
            try:
                _run(connection, part)
            except psycopg.Error as error:
                if part.tenant is None:  # the others need it
                    raise
                failed[part.subject] = first_line(error)
    return HandOverRun(plan, failed)


def _run(connection: Connection, part: HandOverPart) -> None:
    with connection.transaction():
        connection.execute("SET LOCAL lock_timeout TO '3s'; SET LOCAL client_min_messages TO warning")
        if part.tenant is not None:
            lock_migrations(connection, part.tenant)
        for statement in part.statements:
            connection.execute(statement.encode())


def _shadows(connection: Connection) -> list[Tenant]:
    """Return the shadow schemas of replays as tenants without a role."""
    rows = connection.execute("SELECT nspname FROM pg_namespace WHERE nspname LIKE %s ORDER BY 1", [_SHADOW])
    return [Tenant(schema, schema) for (schema,) in rows]


def _objects(
    connection: Connection, tenants: Sequence[Tenant], owner: str
) -> tuple[dict[str, list[str]], dict[str, tuple[str, ...]], set[str]]:
    """Return by schema the statements for objects that the login may give away, and the owners of the others.

    The third result are the schemas that belong to other logins, whose owners have to hand over the rest of them.
    """
    ours: dict[str, list[str]] = {}
    others: dict[str, tuple[str, ...]] = {}
    closed: set[str] = set()
    rows = connection.execute(_NOT_OURS, {"schemas": [tenant.schema for tenant in tenants], "owner": owner})
    for schema, alter, present, is_ours in rows:
        if is_ours:
            ours.setdefault(schema, []).append(f"{alter} OWNER TO {quote_name(owner)}")
        else:
            others[schema] = tuple(sorted({*others.get(schema, ()), present}))
            if alter.startswith("ALTER SCHEMA "):
                closed.add(schema)
    return ours, others, closed


def _public(connection: Connection, owner: str, *, may_own: bool) -> Iterator[str]:
    registry = registry_table(connection)
    tables = [*([registry.removeprefix("public.")] if registry else []), *_TABLES]
    for table, is_ours, has_create in connection.execute(_PUBLIC, {"owner": owner, "tables": tables}).fetchall():
        if not is_ours:
            continue
        if has_create or may_own:
            yield f"ALTER TABLE public.{table} OWNER TO {quote_name(owner)}"
        else:
            yield f"GRANT SELECT, INSERT, UPDATE, DELETE ON public.{table} TO {quote_name(owner)}"


def _loose_roles(connection: Connection, tenants: Sequence[Tenant], owner: str) -> set[str]:
    """Return the roles of tenants that the operators may not yet take, rename and drop."""
    roles = [role for tenant in tenants for role in _roles_of(tenant)]
    return {role for (role,) in connection.execute(_ROLES, {"roles": roles, "owner": owner})}


def _of_roles(tenant: Tenant, loose: set[str], owner: str) -> Iterator[str]:
    for role in _roles_of(tenant):
        if role in loose:
            yield f"GRANT {quote_name(role)} TO {quote_name(owner)} WITH ADMIN OPTION"


def _roles_of(tenant: Tenant) -> list[str]:
    return [role for role in (tenant.role, tenant.reader, f"{tenant.role}.copy") if role] if tenant.role else []
