"""A look at any database: what the login may do, which schemas are tenants, who lists and who migrates them, and what to do next."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from erpkit.database import TEMPLATE, Connection, Tenant
from erpkit.errors import UsageError
from erpkit.finding import Finding
from erpkit.migrations import FoundTable, find_state_tables
from erpkit.migrations.state_tables import parse_state_table
from erpkit.plural import count_of
from erpkit.result import Result, Summary, to_html
from erpkit.table import Column, Table, Tone
from erpkit.tenants.family import Family, Schema, find_families, read_schemas
from erpkit.tenants.listing import Listing, find_listing, write_query
from erpkit.tenants.reading_login import Login, find_asked, grants_lacking, grants_of_reader, read_login
from erpkit.tenants.registry import list_tenants
from erpkit.visible import visible_html

__all__ = ["Ability", "Diagnosis", "examine"]

_NAMED = 2  # schemas that a line names
# Where the foreign keys of schemas lead, and where extensions live: what tenants share.
_SHARED = """
SELECT t.nspname::text, array_agg(DISTINCT s.nspname::text) FROM pg_catalog.pg_constraint c
  JOIN pg_catalog.pg_class k ON k.oid = c.confrelid JOIN pg_catalog.pg_namespace t ON t.oid = k.relnamespace
  JOIN pg_catalog.pg_namespace s ON s.oid = c.connamespace
 WHERE c.contype = 'f' AND k.relnamespace <> c.connamespace GROUP BY 1
"""
_EXTENSIONS = """
SELECT DISTINCT n.nspname::text FROM pg_catalog.pg_extension e JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace
 WHERE n.nspname <> 'pg_catalog'
"""


@dataclass(frozen=True)
class Ability:
    """What a notebook and its commands do on this database: "yes", with what is to be known of it, or "no", and why."""

    notebook: str
    commands: str
    works: str


@dataclass(frozen=True)
class Diagnosis(Result):
    """What was found in a database; `query` is the ERPKIT_TENANTS_QUERY that follows, "" where erpkit needs none.

    `family` are the schemas that look like tenants of one ERP, `others` further ones that are alike, `tenants` those that are
    listed by erpkit's own table or by the query that is set. `connect` is the line that names this database again, where it was
    not the configured one.
    """

    target: str
    login: Login
    schemas: tuple[Schema, ...] = field(repr=False)
    family: Family | None = None
    others: tuple[Family, ...] = ()
    listing: Listing | None = None
    query: str = ""
    configured: bool = False
    tenants: tuple[Tenant, ...] = ()
    shared: tuple[str, ...] = ()
    extensions: tuple[str, ...] = ()
    state: tuple[FoundTable, ...] = ()
    errors: tuple[str, ...] = ()
    connect: str = ""

    @property
    def members(self) -> tuple[Schema, ...]:
        """The schemas of the tenants: those that are listed, else those that look like it."""
        names = {tenant.schema for tenant in self.tenants} or set(self.family.names if self.family else ())
        return tuple(sorted((one for one in self.schemas if one.name in names), key=lambda one: one.name))

    @property
    def unreadable(self) -> tuple[Schema, ...]:
        """The tenants' schemas that the login may not read, or not all of."""
        return tuple(one for one in self.members if not one.is_readable)

    @property
    def facts(self) -> dict[str, str]:
        """What was found, a line each."""
        told = {
            "login": self._login(), "server": self._server(), "tenants": self._tenants(), "listed in": self._listed(),
            "migrated by": self._migrated(), "shared": self._shared(),
        }  # fmt: skip
        return {name: text for name, text in told.items() if text}

    def _login(self) -> str:
        count, readable = len(self.members), len(self.members) - len(self.unreadable)
        reads = f"; may read {readable:,} of {count_of(count, 'tenant')}" if count else ""
        return f"{self.login.name}: {self.login.excess or 'it may only read'}{reads}"

    def _server(self) -> str:
        pooler = "through a pooler" if self.login.pooler else "no pooler in between"
        return f"PostgreSQL {self.login.version}, {pooler}" + (", a standby" if self.login.is_standby else "")

    def _tenants(self) -> str:
        if self.login.owns_registry and not self.configured:
            return f"{len(self.tenants):,} of erpkit's own"
        if self._query_fails:
            return "not known: ERPKIT_TENANTS_QUERY failed"
        if self.configured:
            return f"{len(self.tenants):,} by ERPKIT_TENANTS_QUERY"
        if self.family is None:
            return "no two schemas have the same tables"
        family, tables = self.family, count_of(len(self.family.tables), "table")
        odd = len(family.different)
        alike = (
            f"mostly the same {tables}, {odd:,} {'differs' if odd == 1 else 'differ'}" if odd else f"the same {tables}"
        )
        return f"{count_of(len(family.schemas), 'schema has', 'schemas have')} {alike}: {some(family.names)}"

    def _listed(self) -> str:
        if self.family is None or self.configured or self.login.owns_registry:
            return ""
        if self.listing is None:
            return "no table that this login may read"
        found = len(self.listing.listed & set(self.family.names))
        kind = f" ({self.listing.kind})" if self.listing.kind else ""
        return f"{self.listing}{kind}, {found:,} of {len(self.family.schemas):,}"

    def _migrated(self) -> str:
        places: dict[tuple[str, str], list[str]] = {}
        for one in self.state:
            if one.kind and not one.schema.startswith("pg_"):
                places.setdefault((one.kind.tool, one.table), []).append(one.schema)
        names = {schema.name for schema in self.members}
        tables: dict[tuple[str, str], list[str]] = {}  # by tool and place
        for (tool, table), found in places.items():
            tables.setdefault((tool, self._where(found, names)), []).append(table)
        return "; ".join(f"{tool} ({', '.join(found)} {where})" for (tool, where), found in tables.items())

    def _where(self, places: Sequence[str], members: Collection[str]) -> str:
        inside = sum(place in members for place in places)
        outside = [place for place in places if place not in members]
        parts = [f"{inside:,} of {count_of(len(members), 'tenant')}"] if inside else []
        return f"in {' and '.join([*parts, *([some(outside)] if outside else [])])}"

    def _shared(self) -> str:
        names = {TEMPLATE.schema, *(schema.name for schema in self.members)}
        tables = {one.name: len(one.tables) for one in self.schemas if one.tables and one.name not in names}
        linked = [f"{name} (foreign keys of tenants lead there)" for name in self.shared]
        placed = [f"{name} (extensions)" for name in self.extensions if name not in self.shared]
        rest = [f"{name} ({count_of(count, 'table')})" for name, count in sorted(tables.items())]
        known = {*self.shared, *self.extensions}
        return ", ".join([*linked, *placed, *[text for text in rest if text.split(" (")[0] not in known][:_NAMED]])

    @property
    def findings(self) -> list[Finding]:
        """What stands in the way, with what helps."""
        return [*self._nobody(), *self._rights(), *self._strays(), *self._hints()]

    def _nobody(self) -> Iterator[Finding]:
        if not self.members:
            words = "there is nothing that looks like tenants: two schemas or more with the same tables"
            yield Finding("no tenants", "", words, remedy="erpkit tenants create NAME  # with modules of your own")
        remedy = "see the grants below" if self._query_fails and self._asked else ""
        yield from (Finding("not read", "", error, remedy=remedy) for error in self.errors)

    def _rights(self) -> Iterator[Finding]:
        for one in self.unreadable:
            what = f"{one.refused:,} of its tables" if one.is_usable else "its schema"
            yield Finding(
                "not read", one.name, f"the login {self.login.name} may not read {what}", remedy="see the grants below"
            )

    def _strays(self) -> Iterator[Finding]:
        family = set(self.family.names if self.family else ())
        known = {tenant.schema for tenant in self.tenants} or (self.listing.listed if self.listing else family)
        where = (
            "ERPKIT_TENANTS_QUERY"
            if self.configured
            else self.listing.column.place
            if self.listing
            else "public.tenants"
        )
        for name in sorted(family - known):
            yield Finding("not listed", name, f"it has the tenants' tables, and is not in {where}", "info", of="schema")
        for name in sorted(known - family - {"public", *self.shared} if family else ()):
            yield Finding(
                "other tables", name, f"it is in {where}, and does not have most of the tenants' tables", of="schema"
            )

    def _hints(self) -> Iterator[Finding]:
        if self.login.pooler:
            words = (
                "a pooler is in between: what reads works; migrations without a transaction need a direct connection"
            )
            yield Finding("pooler", "", words, "info")
        for family in self.others:
            words = (
                f"{count_of(len(family.schemas), 'other schema is', 'other schemas are')} alike: {some(family.names)}"
            )
            yield Finding("another family", "", words, "info")
        if self.family and not self.state:
            words = "no migration tool that erpkit knows keeps its state here"
            yield Finding("no state", "", words, "info", 'export ERPKIT_MIGRATION_STATE="TABLE COLUMN ORDER"')

    @property
    def grants(self) -> tuple[str, ...]:
        """The SQL that gives the login what it lacks, or makes a login that may only read; to be run by the owner."""
        if not self.members or self.login.owns_registry:
            return ()
        if self.lacks_rights:
            return tuple(grants_lacking(self.login, [one.name for one in self.unreadable], self._asked))
        if not self.login.excess:
            return ()
        owners = sorted({one.owner for one in self.members})
        return tuple(grants_of_reader(self.query, self._asked, owners))

    @property
    def lacks_rights(self) -> bool:
        """Whether the login may not read all of the tenants, or not the table that lists them."""
        return bool(self.unreadable) or (self._query_fails and bool(self._asked))

    @property
    def _query_fails(self) -> bool:
        return self.configured and bool(self.errors)

    @property
    def _asked(self) -> list[tuple[str, str]]:
        """The tables that the query asks, each with its schema; of those that the tenants share."""
        tenants = {schema.name for schema in self.members}
        return find_asked(self.query, {one.name: one.tables for one in self.schemas if one.name not in tenants})

    @property
    def commands(self) -> tuple[str, ...]:
        """What to paste next, into a shell."""
        first = [self.connect] if self.connect else []
        if not self.members:
            return (*first, "erpkit demo")
        if self._query_fails:
            return (*first, "erpkit doctor")
        export = [] if self.configured or not self.query else [f"export ERPKIT_TENANTS_QUERY={quote(self.query)}"]
        return (*first, *export, "erpkit run inspect_tenants")

    @property
    def abilities(self) -> tuple[Ability, ...]:
        """What of erpkit works on this database."""
        if not self.members:
            return ()
        return _OWN_ABILITIES if self.login.owns_registry and not self.configured else tuple(self._foreign_abilities())

    def _foreign_abilities(self) -> Iterator[Ability]:
        readable = len(self.members) - len(self.unreadable)
        reads = (
            "yes"
            if not self.unreadable
            else f"yes, {readable:,} of {count_of(len(self.members), 'tenant')}"
            if readable
            else "no: the login may not read them"
        )
        if self._query_fails:
            reads = "no: ERPKIT_TENANTS_QUERY fails"
        members = {one.name for one in self.members}
        keeps = any(one.kind and one.schema in members for one in self.state)
        yield Ability("inspect_tenants", "tenants inspect, drift", reads)
        yield Ability("explore_tenants", "lab", reads)
        status = "yes, to read" if keeps else "no state table was found"
        yield Ability("run_migrations", "migrate status", reads if self._query_fails else status)
        yield Ability("check_modules", "modules check", "yes, with a modules.toml")
        yield Ability("", "queries check", "yes, with a modules.toml")
        yield from _REFUSED

    @property
    def table(self) -> Table[Ability]:
        """One line a thing that erpkit does: whether it works here."""
        return Table(_ABILITIES, self.abilities, "Nothing works before there are tenants.")

    @property
    def tables(self) -> list[Table[Ability]]:
        """What works."""
        return [self.table]

    @property
    def summary(self) -> Summary:
        """What was found, and what stands in the way."""
        return Summary(f"erpkit on {self.target}", self.facts, self.findings)

    @property
    def document(self) -> dict[str, Any]:
        """All of it as plain values."""
        return {
            "target": self.target, "login": asdict(self.login) | {"registry": sorted(self.login.registry)},
            "tenants": [one.name for one in self.members], "unreadable": [one.name for one in self.unreadable],
            "tables": sorted(self.family.tables) if self.family else [], "different": self.family.different if self.family else [],
            "listing": None if self.listing is None else {
                "table": self.listing.column.place, "column": self.listing.column.column, "prefix": self.listing.prefix,
                "kind": self.listing.kind, "listed": sorted(self.listing.listed),
            },
            "tenants_query": self.query, "shared": self.shared, "extensions": self.extensions,
            "state": [
                {"schema": one.schema, "table": one.table, "tool": one.kind.tool if one.kind else None} for one in self.state
            ],
            "abilities": [asdict(one) for one in self.abilities], "grants": self.grants, "commands": self.commands,
            "findings": [asdict(finding) for finding in self.findings],
        }  # fmt: skip

    def __str__(self) -> str:
        return "\n".join(f"{name}: {text}" for name, text in self.facts.items())

    def _repr_html_(self) -> str:
        parts = [self.summary.html(), self.table._repr_html_()]
        blocks = (("To be granted", self.grants), ("Next", self.commands))
        parts += [to_html(title) + _preformatted(lines) for title, lines in blocks if lines]
        return "".join(parts)


def examine(
    connection: Connection, target: str, query: str | None = None, declared: Sequence[str] = (), connect: str = ""
) -> Diagnosis:
    """Look at a database and write nothing; about a dozen queries, however many schemas it has.

    `query` is the ERPKIT_TENANTS_QUERY that is set, if one is, and `declared` the ERPKIT_MIGRATION_STATE. Raises what the driver
    raises where the catalog cannot be read.
    """
    with connection.transaction():
        connection.execute(
            "SET TRANSACTION READ ONLY; SET LOCAL statement_timeout TO '30s'; SET LOCAL lock_timeout TO '1s'"
        )
        return _examine(connection, target, query, declared, connect)


def _examine(
    connection: Connection, target: str, query: str | None, declared: Sequence[str], connect: str
) -> Diagnosis:
    login, schemas = read_login(connection), read_schemas(connection)
    families = find_families(schemas)
    family = families[0] if families else None
    errors: list[str] = []
    tenants: list[Tenant] = []
    if query is not None or login.owns_registry:
        tenants = _listed_tenants(connection, query, errors)
    names = {tenant.schema for tenant in tenants} or set(family.names if family else ())
    shared = [schema for schema, sources in connection.execute(_SHARED) if names & set(sources) and schema not in names]
    listing, written = None, query or ""
    if family is not None and query is None and not login.owns_registry:
        listing, error = find_listing(connection, family, schemas, families[1:])
        errors += [error] if error else []
        written = write_query(listing, family, schemas, {"public", *shared})
    return Diagnosis(
        target, login, tuple(schemas), family, tuple(families[1:]), listing, written,
        configured=query is not None, tenants=tuple(tenants), shared=tuple(shared),
        extensions=tuple(name for (name,) in connection.execute(_EXTENSIONS)),
        state=tuple(find_state_tables(connection, None, [parse_state_table(text) for text in declared])),
        errors=tuple(errors), connect=connect,
    )  # fmt: skip


def _listed_tenants(connection: Connection, query: str | None, errors: list[str]) -> list[Tenant]:
    try:
        return list_tenants(connection, query)
    except UsageError as error:
        errors.append(str(error))
        return []


def quote(text: str) -> str:
    """Quote for a POSIX shell; in double quotes where nothing in it acts there, as SQL has many single ones."""
    return f'"{text}"' if not set('"$`\\!') & set(text) else shlex.quote(text)


def some(names: Sequence[str]) -> str:
    """Name a few, and count the others."""
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more:,} more" if more > 0 else "")


def _preformatted(lines: Sequence[str]) -> str:
    return f'<pre style="overflow-x:auto">{visible_html(chr(10).join(lines))}</pre>'


_OWN_ABILITIES = (Ability("all", "all commands", "yes; ERPKIT_MODULES says which modules"),)
_REFUSED = (
    Ability("run_history", "runs", "yes, of the runs of this machine"),
    Ability("provision_tenant", "tenants create", "no: erpkit only reads it"),
    Ability("offboard_tenant", "tenants export, drop", "no: erpkit only reads it"),
    Ability("event_health", "events lag", "no: it has no event log"),
    Ability("replay_events", "events replay", "no: it has no event log"),
    Ability("rebuild_projection", "events shadows", "no: it has no event log"),
)


def _tone(one: Ability) -> Tone:
    return "good" if one.works.startswith("yes") else "muted"


_ABILITIES = (
    Column[Ability]("notebook", lambda one: one.notebook),
    Column[Ability]("erpkit …", lambda one: one.commands),
    Column[Ability]("works", lambda one: one.works, tone=_tone),
)
