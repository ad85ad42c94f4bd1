"""Adopting the schemas of an ERP that erpkit did not make as tenants, and releasing them again: planned, and a transaction a tenant.

Adopting adds and changes nothing that is there: an entry in the registry, two roles with their grants, and the event log's tables
where they are wanted. What the ERP's own login owns stays its own, and what erpkit makes there later is made as that login, so that
goose or golang-migrate go on as before.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, field, replace

import psycopg
from psycopg import sql

from erpkit.database import (
    TEMPLATE,
    Connection,
    Database,
    Tenant,
    as_maker,
    check_quotable,
    find_owner,
    quote_name,
    search_path,
)
from erpkit.errors import DatabaseError, ErpkitError, UsageError, first_line
from erpkit.finding import Finding
from erpkit.migrations import Migration
from erpkit.migrations.apply import send_body
from erpkit.migrations.history import Run
from erpkit.plan import plan_id
from erpkit.plural import count_of
from erpkit.table import Column, Table
from erpkit.tenants.foreign_schemas import EVENT_TABLE, Facts, Schema, read_facts
from erpkit.tenants.lifecycle import lock_migrations, prepare_database, register
from erpkit.tenants.registry import check_slug, ensure_registry, list_tenants, registry_table
from erpkit.tenants.roles import create_roles, forbid_writing, grant_schema, operator_statements, role_name

_SLUG_LIMIT = 48


@dataclass(frozen=True)
class Adoption:
    """A tenant as it would be: `tenant.owner` is the ERP's own login, `versions` what its migration tools recorded last.

    `events` are the event log's migrations that it would get. `is_known` says that it is a tenant already, and only gets these.
    """

    tenant: Tenant
    versions: tuple[str, ...] = ()
    events: tuple[Migration, ...] = field(default=(), repr=False)
    is_known: bool = False

    @property
    def state(self) -> str:
        """The versions in one line."""
        return ", ".join(self.versions) or "none recorded"


@dataclass(frozen=True)
class AdoptionPlan:
    """The schemas that would become tenants, those that cannot, and how many are tenants already."""

    adoptions: tuple[Adoption, ...]
    left_out: tuple[Finding, ...] = field(default=(), repr=False)
    notes: tuple[Finding, ...] = field(default=(), repr=False)
    known: int = 0

    @property
    def id(self) -> str:
        """`adopt-` and ten hexadecimal digits that stand for exactly these tenants, versions and tables, and what is left out."""
        chosen = [[astuple(a.tenant), a.versions, [m.name for m in a.events], a.is_known] for a in self.adoptions]
        return plan_id("adopt", [chosen, [str(one) for one in self.left_out]])

    @property
    def size(self) -> int:
        """How many tenants it is about."""
        return len(self.adoptions)

    @property
    def facts(self) -> dict[str, object]:
        """Its figures, with those of a result at naught."""
        return {
            "to adopt": self.size, "left out": len(self.left_out), "tenants already": self.known, "adopted": 0, "failed": 0,
        }  # fmt: skip

    @property
    def findings(self) -> list[Finding]:
        """What cannot be adopted and why, and what to know of the others."""
        nothing = [Finding("no tenants", "", "the query lists no schema")] if not self._listed else []
        return [*nothing, *self.left_out, *self.notes]

    @property
    def _listed(self) -> int:
        return self.size + len(self.left_out) + self.known

    @property
    def tables(self) -> tuple[Table[Adoption], ...]:
        """One line a tenant that would be made."""
        return (Table(_ADOPTIONS, self.adoptions, "There is nothing to adopt."),)

    def __str__(self) -> str:
        events = " with the event log's tables" if any(one.events for one in self.adoptions) else ""
        text = f"adopt {self.size:,} of {count_of(self._listed, 'schema')}{events}"
        return text + (f"; {len(self.left_out):,} are left out, as named above" if self.left_out else "")


_ADOPTIONS = (
    Column[Adoption]("schema", lambda a: a.tenant.schema),
    Column[Adoption]("tenant", lambda a: a.tenant.slug),
    Column[Adoption]("status", lambda a: a.tenant.status),
    Column[Adoption]("at version", lambda a: a.state),
    Column[Adoption]("stays owned by", lambda a: a.tenant.owner),
    Column[Adoption]("role", lambda a: a.tenant.role),
    Column[Adoption]("event log", lambda a: f"{count_of(len(a.events), 'migration')}" if a.events else "no"),
)


@dataclass(frozen=True)
class AdoptionRun:
    """What became of a plan to adopt: `failed` maps the tenants that are as they were to the reason; adopt again to go on."""

    plan: AdoptionPlan
    failed: Mapping[str, str]
    is_listed_by_query: bool = False

    @property
    def facts(self) -> dict[str, object]:
        """How many were adopted, and how many could not be."""
        return {"adopted": self.plan.size - len(self.failed), "failed": len(self.failed)}

    @property
    def findings(self) -> list[Finding]:
        """Who was not adopted, who is left out, and what to set."""
        again = "run erpkit tenants adopt again"
        unset = Finding("next", "", "while ERPKIT_TENANTS_QUERY is set, erpkit reads only: unset it", "info")
        return [
            *(Finding("failed", slug, f"was not adopted: {why}", "error", again) for slug, why in self.failed.items()),
            *self.plan.findings,
            *([unset] if self.is_listed_by_query and self.plan.size > len(self.failed) else []),
        ]

    @property
    def tables(self) -> tuple[Table[Adoption], ...]:
        """One line a tenant that was adopted."""
        done = [one for one in self.plan.adoptions if one.tenant.slug not in self.failed]
        return (Table(_ADOPTIONS, done, "Nothing was adopted."),)

    def __str__(self) -> str:
        return f"adopted {self.plan.size - len(self.failed):,} of {count_of(self.plan.size, 'schema')}"


def plan_adoption(connection: Connection, query: str, events: Sequence[Migration] = ()) -> AdoptionPlan:
    """Plan to make the schemas that `query` lists tenants, at the versions that they are at; with `events` with the event log.

    `query` is as ERPKIT_TENANTS_QUERY. What cannot be adopted is left out and named. Raises UsageError for a query that will not
    do, DatabaseError where the login may not make roles.
    """
    _refuse_login(connection)
    listed = list_tenants(connection, query)
    return decide_adoption(listed, read_facts(connection, listed), events)


def decide_adoption(listed: Sequence[Tenant], facts: Facts, events: Sequence[Migration]) -> AdoptionPlan:
    """Decide what becomes of the schemas that a query lists. Pure."""
    asked = [_as_tenant(tenant, facts) for tenant in listed]
    known = {tenant.schema: tenant for tenant in facts.present}
    adoptions: list[Adoption] = []
    left_out: list[Finding] = []
    for tenant in asked:
        there = known.get(tenant.schema)
        due = tuple(one for one in events if one.version not in facts.events.get(tenant.schema, ()))
        adoption = Adoption(there or tenant, facts.versions.get(tenant.schema, ()), due, there is not None)
        if there is not None:
            adoptions += [adoption] if due and there.owner is not None else []
        elif problem := _find_fault(adoption, facts) or _find_clash(tenant, asked, facts):
            left_out.append(_left_out(tenant, *problem))
        else:
            adoptions.append(adoption)
    only_events = sum(one.is_known for one in adoptions)
    notes = tuple(_notes(adoptions, facts, with_events=bool(events)))
    return AdoptionPlan(tuple(adoptions), tuple(left_out), notes, sum(t.schema in known for t in asked) - only_events)


def _left_out(tenant: Tenant, problem: str, remedy: str) -> Finding:
    return Finding("left out", tenant.schema, f"cannot be adopted: {problem}", remedy=remedy, of="schema")


def adopt_tenants(
    database: Database, plan: AdoptionPlan, progress: Callable[[int], object] = lambda _: None
) -> AdoptionRun:
    """Carry out a plan: each tenant is adopted whole or is as it was, and one that cannot be does not stop the others.

    It writes where ERPKIT_TENANTS_QUERY is set, too: that is how an ERP ceases to be one that erpkit only reads.
    """
    failed: dict[str, str] = {}
    with database.connection() as connection:
        prepare_database(connection)
        _ensure_owner_column(connection)
        for adoption in plan.adoptions:
            try:
                _adopt(connection, adoption)
            except (psycopg.Error, ErpkitError) as error:
                failed[adoption.tenant.slug] = reason_of(error)
            progress(1)
    return AdoptionRun(plan, failed)


def to_slug(name: str) -> str:
    """Return a name for a tenant made of any text, such as nord_example_com of Nord.example.com; "" where nothing is left of it."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    slug = re.sub("[^a-z0-9]+", "_", plain).strip("_")
    if not slug:
        return ""
    slug = slug if slug[0].isalpha() else f"t_{slug}"
    if len(slug) <= _SLUG_LIMIT:
        return slug
    return f"{slug[: _SLUG_LIMIT - 11]}_{hashlib.sha256(name.encode()).hexdigest()[:10]}"


def _refuse_login(connection: Connection) -> None:
    """Raise DatabaseError where no tenant could be adopted by this login."""
    operator_statements(connection)  # refuses one that does not operate a database that others operate
    ((login, makes_roles, makes_tables),) = connection.execute(
        "SELECT rolname::text, rolsuper OR rolcreaterole, has_schema_privilege('public', 'CREATE') "
        "FROM pg_roles WHERE rolname = current_user"
    ).fetchall()
    if not makes_roles and find_owner(connection) is None:
        raise DatabaseError(
            f"the login {login} may not make roles for tenants: ALTER ROLE {quote_name(login)} CREATEROLE"
        )
    if not makes_tables and registry_table(connection) is None:
        raise DatabaseError(
            f"the login {login} may not make the registry of tenants: GRANT USAGE, CREATE ON SCHEMA public TO {quote_name(login)}"
        )


def _as_tenant(listed: Tenant, facts: Facts) -> Tenant:
    """Return the tenant that a row of the query would be. Pure."""
    try:
        slug = check_slug(listed.slug)
    except UsageError:
        slug = to_slug(listed.slug)
    status = listed.status if listed.status in ("active", "archived") else "suspended"
    schema = facts.schemas.get(listed.schema)
    return replace(
        listed, slug=slug, role=role_name(facts.database, slug), status=status, owner=schema.owner if schema else None
    )


def _find_fault(adoption: Adoption, facts: Facts) -> tuple[str, str] | None:
    """Say why a schema cannot be adopted, and what would help. Pure."""
    tenant, away = adoption.tenant, "leave it out of the query"
    if tenant.schema in ("public", TEMPLATE.schema) or tenant.schema.startswith("erpkit_"):
        return "it is no tenant's", away
    try:
        check_quotable(tenant.schema)
    except UsageError as error:
        return str(error), away
    schema = facts.schemas.get(tenant.schema)
    if schema is None:
        return "there is no such schema", away
    if not tenant.slug:
        return "its slug has no letter or digit to make a tenant's name of", "give it another slug in the query"
    if reason := facts.unread.get(tenant.schema):
        return f"its versions could not be read: {reason}", ""
    return _find_missing_right(adoption, schema, facts.login)


def _find_missing_right(adoption: Adoption, schema: Schema, login: str) -> tuple[str, str] | None:
    """Say what the login here, or the ERP's own, may not do. Pure."""
    owner = quote_name(schema.owner)
    strangers = dict.fromkeys([*([] if schema.may_act else [schema.owner]), *schema.others])
    if strangers:
        problem = f"it belongs to {', '.join(strangers)}, and the login {login} may not act as that role"
        return problem, f"GRANT {', '.join(map(quote_name, strangers))} TO {quote_name(login)}"
    if not schema.owner_sees_public:
        problem = f"{schema.owner} may not use the schema public, where erpkit records migrations"
        return problem, f"GRANT USAGE ON SCHEMA public TO {owner}"
    if adoption.events and not schema.owner_creates:
        problem = f"{schema.owner} may not make the event log's tables in it"
        return problem, f"GRANT CREATE ON SCHEMA {quote_name(adoption.tenant.schema)} TO {owner}"
    if adoption.events and schema.ours and EVENT_TABLE not in schema.ours:
        return f"it has {', '.join(schema.ours[:3])}, which are none of an event log", "rename them"
    return None


def _find_clash(tenant: Tenant, asked: Sequence[Tenant], facts: Facts) -> tuple[str, str] | None:
    """Say what has the name of a tenant already. Pure."""
    remedy = "give one of them another slug in the query"
    if other := next((one for one in facts.present if one.slug == tenant.slug), None):
        return f"there is a tenant {tenant.slug} already, with the schema {other.schema}", remedy
    others = [one.schema for one in asked if one.slug == tenant.slug and one.schema != tenant.schema]
    if others:
        return f"{', '.join(others)} would have its name {tenant.slug} as well", remedy
    if tenant.role in facts.roles:
        return (
            f"there is a role {tenant.role} already",
            f"DROP ROLE {quote_name(tenant.role or '')}, if nothing needs it",
        )
    return None


def _notes(adoptions: Sequence[Adoption], facts: Facts, *, with_events: bool) -> Iterator[Finding]:
    """Say what to know of those that can be adopted. Pure."""
    for one in adoptions:
        if any("(dirty)" in version for version in one.versions):
            yield Finding("dirty", one.tenant.slug, f"stopped half way in a migration ({one.state}), and stays so")
        elif not one.versions:
            yield Finding("no versions", one.tenant.slug, "no goose or golang-migrate recorded a version in it", "info")
    if adoptions and not with_events and any(tenant.owner is None for tenant in facts.present):
        problem = "other tenants here have the event log: those adopted without it will be shown as behind"
        yield Finding("event log", "", problem, "info", "erpkit tenants adopt --events")


def _ensure_owner_column(connection: Connection) -> None:
    """Add to a registry of an earlier erpkit the column that says whom an adopted schema belongs to."""
    table = ensure_registry(connection)
    has = "SELECT FROM pg_attribute WHERE attrelid = %s::regclass AND attname = 'owner_name' AND NOT attisdropped"
    if connection.execute(has.encode(), [table]).fetchone() is not None:
        return
    try:
        connection.execute(f"ALTER TABLE {table} ADD COLUMN IF NOT EXISTS owner_name text".encode())
    except psycopg.errors.InsufficientPrivilege:
        raise DatabaseError(
            f"{table} was made by an earlier erpkit and lacks a column: run erpkit tenants hand-over as the login that owns it"
        ) from None


def _adopt(connection: Connection, adoption: Adoption) -> None:
    tenant = adoption.tenant
    with connection.transaction():
        connection.execute("SET LOCAL client_min_messages TO warning")
        lock_migrations(connection, tenant)
        if not adoption.is_known:
            create_roles(connection, tenant)
            grant_schema(connection, tenant)
            if tenant.status == "archived":
                forbid_writing(connection, tenant)
            _share_history(connection, tenant)
            register(connection, tenant)
        _make_event_log(connection, adoption)


def _make_event_log(connection: Connection, adoption: Adoption) -> None:
    if not adoption.events:
        return
    tenant, run = adoption.tenant, Run("adopt")
    connection.execute(f"SET LOCAL search_path TO {search_path(tenant.schema)}".encode())
    with as_maker(connection, tenant):
        for migration in adoption.events:
            send_body(connection, tenant, (migration, "up"), run)


def _share_history(connection: Connection, tenant: Tenant) -> None:
    """Let the ERP's own login, as which the tenant is migrated, record what was done."""
    has = "SELECT has_table_privilege(%s::name, 'public.erpkit_migrations', 'INSERT')"
    if connection.execute(has.encode(), [tenant.owner]).fetchone() == (False,):
        grant = "GRANT INSERT ON public.erpkit_migrations TO {}"
        connection.execute(sql.SQL(grant).format(sql.Identifier(tenant.owner or "")))


def reason_of(error: Exception) -> str:
    """Return PostgreSQL's message with its detail, in one line."""
    if isinstance(error, psycopg.Error) and error.diag.message_primary:
        detail = error.diag.message_detail
        return f"{error.diag.message_primary} ({' '.join(detail.split())})" if detail else error.diag.message_primary
    return first_line(error)
