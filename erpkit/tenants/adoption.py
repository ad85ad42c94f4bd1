"""Adopting the schemas of an ERP that erpkit did not make as tenants, and releasing them again: planned, and a transaction a tenant.

Adopting adds and changes nothing that is there: an entry in the registry, two roles with their grants, and the event log's tables
where they are wanted. What the ERP's own login owns stays its own, and what erpkit makes there later is made as that login, so that
goose or golang-migrate go on as before.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
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
    read_tenants,
    search_path,
)
from erpkit.errors import DatabaseError, ErpkitError, UsageError
from erpkit.finding import Finding
from erpkit.migrations import Migration, read_applied
from erpkit.migrations.history import Run
from erpkit.migrations.script import migration_body
from erpkit.plan import plan_id
from erpkit.table import Column, Table
from erpkit.tenants.lifecycle import lock_migrations, prepare_database, register
from erpkit.tenants.registry import check_slug, ensure_registry, list_tenants, registry_table
from erpkit.tenants.roles import create_roles, forbid_writing, grant_schema, operator_statements, role_name

EVENT_TABLE = "goose_db_version_erpkit"

_SLUG_LIMIT = 48
_OURS = f"(c.relname = '{EVENT_TABLE}' OR starts_with(c.relname, 'erpkit_'))"

# The maker is the login whose migrations made the tables: the owner of the table that records them, or of most tables.
_FACTS = f"""
SELECT n.nspname::text, pg_get_userbyid(m.maker)::text, pg_has_role(m.maker, %(right)s),
       has_schema_privilege(m.maker, n.oid, 'CREATE'), has_schema_privilege(m.maker, 'public', 'USAGE'),
       ARRAY(SELECT DISTINCT pg_get_userbyid(o.owner)::text FROM (
             SELECT n.nspowner UNION ALL SELECT c.relowner FROM pg_class c
              WHERE c.relnamespace = n.oid AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')) o (owner)
             WHERE NOT pg_has_role(o.owner, 'USAGE') ORDER BY 1),
       ARRAY(SELECT c.relname::text FROM pg_class c
              WHERE c.relnamespace = n.oid AND c.relkind IN ('r', 'p') AND {_OURS} ORDER BY 1)
  FROM pg_namespace n CROSS JOIN LATERAL (SELECT coalesce(
       (SELECT c.relowner FROM pg_class c WHERE c.relnamespace = n.oid AND c.relkind IN ('r', 'p') AND NOT {_OURS} GROUP BY 1
         ORDER BY count(*) FILTER (WHERE starts_with(c.relname, 'goose_db_version') OR c.relname = 'schema_migrations') DESC,
                  count(*) DESC, 1 LIMIT 1),
       n.nspowner)) m (maker)
 WHERE n.nspname = ANY(%(schemas)s)
"""  # noqa: S608 - constants

_GOLANG = """
SELECT n.nspname::text, c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = ANY(%s) AND c.relkind = 'r' AND c.relname = 'schema_migrations' AND 2 =
       (SELECT count(*) FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname IN ('version', 'dirty') AND NOT a.attisdropped)
"""


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
class Schema:
    """What the catalog says of a schema that is to be adopted.

    `owner` is the login whose migrations made its tables, `others` the roles that own something there and as which the login
    here may not act, `ours` the tables of an event log that are there already.
    """

    owner: str
    may_act: bool
    owner_creates: bool
    owner_sees_public: bool
    others: tuple[str, ...]
    ours: tuple[str, ...]


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
        text = f"adopt {self.size} of {self._listed} schemas{events}"
        return text + (f"; {len(self.left_out)} are left out, as named above" if self.left_out else "")


_ADOPTIONS = (
    Column[Adoption]("schema", lambda a: a.tenant.schema),
    Column[Adoption]("tenant", lambda a: a.tenant.slug),
    Column[Adoption]("status", lambda a: a.tenant.status),
    Column[Adoption]("at version", lambda a: a.state),
    Column[Adoption]("stays owned by", lambda a: a.tenant.owner),
    Column[Adoption]("role", lambda a: a.tenant.role),
    Column[Adoption]("event log", lambda a: f"{len(a.events)} migrations" if a.events else "no"),
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
        return f"adopted {self.plan.size - len(self.failed)} of {self.plan.size} schemas"


def plan_adoption(connection: Connection, query: str, events: Sequence[Migration] = ()) -> AdoptionPlan:
    """Plan to make the schemas that `query` lists tenants, at the versions that they are at; with `events` with the event log.

    `query` is as ERPKIT_TENANTS_QUERY. What cannot be adopted is left out and named. Raises UsageError for a query that will not
    do, DatabaseError where the login may not make roles.
    """
    _refuse_login(connection)
    listed, present = list_tenants(connection, query), list_tenants(connection)
    schemas = _read_schemas(connection, [tenant.schema for tenant in listed])
    versions, applied, unread = _read_versions(connection, [tenant for tenant in listed if tenant.schema in schemas])
    ((database,),) = connection.execute("SELECT current_database()::text").fetchall()
    asked = [_as_tenant(tenant, database, schemas.get(tenant.schema)) for tenant in listed]
    rows = connection.execute("SELECT rolname::text FROM pg_roles WHERE rolname = ANY(%s)", [[t.role for t in asked]])
    roles = {role for (role,) in rows}
    known = {tenant.schema: tenant for tenant in present}
    adoptions, left_out = [], []
    for tenant in asked:
        due = tuple(one for one in events if one.version not in applied.get(tenant.schema, ()))
        if tenant.schema in known:
            if (there := known[tenant.schema]).owner is not None and due:
                adoptions.append(Adoption(there, versions.get(tenant.schema, ()), due, is_known=True))
            continue
        found = schemas.get(tenant.schema)
        names = _find_clash(tenant, asked, present, roles)
        problem = _find_fault(tenant, found, connection.info.user, with_events=bool(due)) or names
        if reason := unread.get(tenant.schema):
            problem = problem or (f"its versions could not be read: {reason}", "")
        if problem:
            left_out.append(
                Finding("left out", tenant.schema, f"cannot be adopted: {problem[0]}", remedy=problem[1], of="schema")
            )
        else:
            adoptions.append(Adoption(tenant, versions.get(tenant.schema, ()), due))
    notes = tuple(_notes(adoptions, present, with_events=bool(events)))
    done = sum(tenant.schema in known for tenant in asked) - sum(one.is_known for one in adoptions)
    return AdoptionPlan(tuple(adoptions), tuple(left_out), notes, done)


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
        raise DatabaseError(f"the login {login} may not make roles for tenants: ALTER ROLE {_quoted(login)} CREATEROLE")
    if not makes_tables and registry_table(connection) is None:
        raise DatabaseError(
            f"the login {login} may not make the registry of tenants: GRANT USAGE, CREATE ON SCHEMA public TO {_quoted(login)}"
        )


def _read_schemas(connection: Connection, names: Sequence[str]) -> dict[str, Schema]:
    right = "SET" if connection.info.server_version >= 160000 else "MEMBER"
    rows = connection.execute(_FACTS, {"schemas": list(names), "right": right}).fetchall()
    return {
        name: Schema(owner, may_act, creates, sees, tuple(others), tuple(ours))
        for name, owner, may_act, creates, sees, others, ours in rows
    }


def _read_versions(
    connection: Connection, tenants: Sequence[Tenant]
) -> tuple[dict[str, tuple[str, ...]], dict[str, tuple[int, ...]], dict[str, str]]:
    """Return, by schema, what the tools recorded last, the event log's versions, and why it could not be read."""
    found: dict[str, list[str]] = {}
    applied = read_applied(connection, tenants)
    for (schema, table), several in sorted(applied.versions.items()):
        if table != EVENT_TABLE:
            found.setdefault(schema, []).append(f"{table} {max(several, default=0)}")
    unread, by_schema = dict(applied.unread), {tenant.schema: tenant for tenant in tenants}
    tables = connection.execute(_GOLANG, [list(by_schema)]).fetchall()
    queries = [
        (by_schema[schema], sql.SQL("SELECT {}, version, dirty FROM {}").format(sql.Literal(schema), sql.Identifier(schema, table)))
        for schema, table in tables
    ]  # fmt: skip
    for schema, version, is_dirty in read_tenants(connection, queries, unread):
        found.setdefault(schema, []).append(f"schema_migrations {version}{' (dirty)' if is_dirty else ''}")
    events = {schema: several for (schema, table), several in applied.versions.items() if table == EVENT_TABLE}
    failed = {tenant.schema: unread[tenant.slug] for tenant in tenants if tenant.slug in unread}
    return {schema: tuple(several) for schema, several in found.items()}, events, failed


def _as_tenant(listed: Tenant, database: str, schema: Schema | None) -> Tenant:
    """Return the tenant that a row of the query would be. Pure."""
    try:
        slug = check_slug(listed.slug)
    except UsageError:
        slug = to_slug(listed.slug)
    status = listed.status if listed.status in ("active", "archived") else "suspended"
    owner = schema.owner if schema else None
    return replace(listed, slug=slug, role=role_name(database, slug), status=status, owner=owner)


def _find_fault(tenant: Tenant, schema: Schema | None, login: str, *, with_events: bool) -> tuple[str, str] | None:
    """Say why a schema cannot be adopted, and what would help. Pure."""
    if tenant.schema in ("public", TEMPLATE.schema) or tenant.schema.startswith("erpkit_"):
        return "it is no tenant's", "leave it out of the query"
    try:
        check_quotable(tenant.schema)
    except UsageError as error:
        return str(error), "leave it out of the query"
    if schema is None:
        return "there is no such schema", "leave it out of the query"
    if not tenant.slug:
        return "its slug has no letter or digit to make a tenant's name of", "give it another slug in the query"
    strangers = dict.fromkeys([*([schema.owner] if not schema.may_act else []), *schema.others])
    if strangers:
        grants = ", ".join(map(_quoted, strangers))
        problem = f"it belongs to {', '.join(strangers)}, as which the login {login} may not act"
        return problem, f"GRANT {grants} TO {_quoted(login)}"
    if not schema.owner_sees_public:
        problem = f"{schema.owner} may not use the schema public, where erpkit records migrations"
        return problem, f"GRANT USAGE ON SCHEMA public TO {_quoted(schema.owner)}"
    if with_events and not schema.owner_creates:
        grant = f"GRANT CREATE ON SCHEMA {_quoted(tenant.schema)} TO {_quoted(schema.owner)}"
        return f"{schema.owner} may not make the event log's tables in it", grant
    if with_events and schema.ours and EVENT_TABLE not in schema.ours:
        return f"it has {', '.join(schema.ours[:3])}, which are none of an event log", "rename them"
    return None


def _find_clash(
    tenant: Tenant, asked: Sequence[Tenant], present: Sequence[Tenant], roles: Collection[str]
) -> tuple[str, str] | None:
    """Say what has the name of a tenant already. Pure."""
    remedy = "give one of them another slug in the query"
    if other := next((one for one in present if one.slug == tenant.slug), None):
        return f"there is a tenant {tenant.slug} already, with the schema {other.schema}", remedy
    others = [one.schema for one in asked if one.slug == tenant.slug and one.schema != tenant.schema]
    if others:
        return f"{', '.join(others)} would have its name {tenant.slug} as well", remedy
    if tenant.role in roles:
        return f"there is a role {tenant.role} already", f"DROP ROLE {_quoted(tenant.role or '')}, if nothing needs it"
    return None


def _notes(adoptions: Sequence[Adoption], present: Sequence[Tenant], *, with_events: bool) -> Iterator[Finding]:
    """Say what to know of those that can be adopted. Pure."""
    for one in adoptions:
        if any("(dirty)" in version for version in one.versions):
            yield Finding("dirty", one.tenant.slug, f"stopped half way in a migration ({one.state}), and stays so")
        elif not one.versions:
            yield Finding("no versions", one.tenant.slug, "no goose or golang-migrate recorded a version in it", "info")
    if adoptions and not with_events and any(tenant.owner is None for tenant in present):
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
            connection.execute("\n;\n".join(migration_body(tenant, migration, "up", run)).encode())


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
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _quoted(name: str) -> str:
    return name if re.fullmatch("[a-z_][a-z0-9_]*", name) else sql.Identifier(name).as_string()
