"""The migration state that other tools keep in each tenant's schema: who is behind whom, what one lacks, what is dirty.

Their tables are read, and nothing else of theirs: no files are needed, and nothing is written.
"""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from psycopg import sql

from erpkit.database import TEMPLATE, Connection, Tenant, read_tenants
from erpkit.finding import Finding, Severity
from erpkit.migrations.state_tables import STATE_TABLES, StateTable, parse_state_table, recognize
from erpkit.table import Tone

__all__ = [
    "MAJORITY",
    "NEWEST",
    "ForeignState",
    "ForeignStates",
    "FoundTable",
    "find_state_tables",
    "read_foreign_states",
]

MAJORITY, NEWEST = "majority", "newest"  # what tenants can be compared with, beside the name of one

MOST_ROWS = 100_000  # of a state table; one with more is not compared
_COMMON = ("migrations",)  # a name that a table of the ERP's own may have as well
_FEW = 3  # names that a line tells
_ODD = 3  # rows not understood that are read
_WIDTH = 60  # characters of one of them

_TABLES = """
SELECT n.nspname::text, c.relname::text, array_agg(a.attname::text) FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
 WHERE (%(schemas)s::text[] IS NULL OR n.nspname = ANY(%(schemas)s)) AND c.relkind IN ('r', 'p')
   AND (c.relname = ANY(%(tables)s) OR starts_with(c.relname::text, 'goose_db_version_'))
 GROUP BY 1, 2 ORDER BY 1, 2
"""
# The last row of a name decides, as of one that was taken back and applied again.
_ROWS = """
WITH rows AS (SELECT {name} AS name, {order} AS place, {applied} AS applied, {dirty} AS dirty FROM {table} WHERE {rows} LIMIT {most}),
last AS (SELECT DISTINCT ON (name) * FROM rows WHERE name ~ {pattern} ORDER BY name, place DESC)
"""
_FIGURES = """
SELECT {slug}, {number}::int, (SELECT count(*) FROM rows),
       (SELECT md5(string_agg(name, E'\\n' ORDER BY name)) FROM last WHERE applied),
       (SELECT name FROM last WHERE applied ORDER BY place DESC, name DESC LIMIT 1),
       ARRAY(SELECT name FROM last WHERE dirty ORDER BY place, name LIMIT {few}),
       ARRAY(SELECT coalesce(left(name, {width}), 'NULL') FROM rows WHERE name ~ {pattern} IS NOT TRUE LIMIT {odd})
"""
_NAMES = "SELECT {slug}, {number}::int, ARRAY(SELECT name FROM last WHERE applied ORDER BY place, name)"


@dataclass(frozen=True)
class FoundTable:
    """A state table in one schema; `kind` is None where the name is a tool's, and the columns are no tool's."""

    schema: str
    table: str
    columns: tuple[str, ...]
    kind: StateTable | None


@dataclass(frozen=True)
class ForeignState:
    """What a tool says of one tenant: the migrations `applied` in their order, the last one as `head`, and those that are dirty.

    `lacks` and `extra` are against `measure`, another tenant or what most have. Where a tool keeps nothing but the present
    version, `version` is where the measure is. `odd` are rows that are not understood. `error` says why it was not read.
    """

    tenant: str
    schema: str
    kind: StateTable
    module: str  # the table, as the heading of a column
    exists: bool = True
    applied: tuple[str, ...] = field(default=(), repr=False)
    head: str = ""
    dirty: tuple[str, ...] = ()
    odd: tuple[str, ...] = ()
    measure: str = ""
    lacks: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()
    version: str = ""
    error: str = ""

    @property
    def pending(self) -> tuple[str, ...]:
        """What it lacks; the version that it should be at where nothing else is known."""
        return self.lacks or ((self.version,) if self._is_behind else ())

    @property
    def state(self) -> str:
        """One word, as of a tenant of erpkit's own: `unread`, `dirty`, `unknown` (has more), `pending` (has less) or `current`."""
        if self.error or self.odd:
            return "unread"
        if self.dirty:
            return "dirty"
        if self.pending or not self.exists or not self.applied:
            return "pending"
        return "unknown" if self.extra or self._differs else "current"

    @property
    def text(self) -> str:
        """The newest migration, or how many there are, with what is the matter."""
        if self.error:
            return "unread"
        if not self.exists:
            return "no table"
        marks = [f"lacks {len(self.lacks):,}"] if self.lacks else []
        marks += [f"{len(self.extra):,} more"] if self.extra else []
        marks += [self._one_row_mark] if self._differs else []
        marks += ["dirty"] if self.dirty else []
        marks += ["not understood"] if self.odd else []
        return f"{self._where}" + (f" ({', '.join(marks)})" if marks else "")

    @property
    def tone(self) -> Tone:
        """The colour of the state."""
        return {"current": "good", "dirty": "error"}.get(self.state, "warning")  # type: ignore[return-value]

    @property
    def findings(self) -> Iterator[Finding]:
        """What a person should look at, with the tool's own command."""
        yield from (self._finding(*found) for found in self._problems())

    def _problems(self) -> Iterator[tuple[str, str, str]]:
        """Yield kind, problem and remedy of each thing that is the matter."""
        if self.error:
            yield "not read", self.error, ""
            return
        if not self.exists:
            yield "behind", f"has no {self.module}, which {self.measure} has", self.kind.command
            return
        if self.odd:
            yield "not understood", f"{self.module} has rows that are not understood: {', '.join(self.odd)}", ""
        if self.dirty:
            remedy = self.kind.mend or self.kind.command
            yield "dirty", f"{', '.join(self.dirty)} stopped half way ({self.module} says so)", remedy
        if not self.applied and not self.dirty and not self.odd:
            yield "behind", f"{self.module} is empty: no migration is recorded", self.kind.command
        elif self._differs:
            ahead = "" if self._is_behind or not self.kind.sorts else ", which is further"
            yield "behind", f"is at {self.head}, {self.measure} at {self.version}{ahead}", self.kind.command
        elif self.lacks:
            yield "behind", f"lacks {_list(self.lacks)}, which {self.measure} has", self.kind.command
        if self.extra:
            yield "ahead", f"has {_list(self.extra)}, which {self.measure} lacks", ""

    def _finding(self, kind: str, problem: str, remedy: str) -> Finding:
        severity: Severity = "error" if kind == "dirty" else "warning"
        told = remedy.replace("{schema}", shlex.quote(self.schema)).replace("{table}", shlex.quote(self.module))
        return Finding(kind, self.tenant, f"{self.kind.tool}: {problem}", severity, told)

    @property
    def _differs(self) -> bool:
        return self.kind.is_one_row and bool(self.version) and bool(self.applied) and self.head != self.version

    @property
    def _is_behind(self) -> bool:
        return self._differs and (not self.kind.sorts or _natural(self.head) < _natural(self.version))

    @property
    def _one_row_mark(self) -> str:
        return "differs" if not self.kind.sorts else "behind" if self._is_behind else "ahead"

    @property
    def _where(self) -> str:
        if not self.applied:
            return "none"
        return self.head if self.kind.is_one_row or self.head.isdecimal() else f"{len(self.applied):,} applied"


@dataclass(frozen=True)
class ForeignStates:
    """The state of tenants by the tables of other tools, and what of those tables was not understood (`notes`)."""

    states: tuple[ForeignState, ...] = ()
    notes: tuple[Finding, ...] = ()

    @property
    def tables(self) -> tuple[str, ...]:
        """The state tables, as headings of columns."""
        return tuple(dict.fromkeys(state.module for state in self.states))

    @property
    def findings(self) -> list[Finding]:
        """What a person should look at."""
        return [*(finding for state in self.states for finding in state.findings), *self.notes]

    @property
    def documents(self) -> list[dict[str, object]]:
        """Each state as plain values, named as those of erpkit's own modules are."""
        return [
            {
                "tenant": s.tenant, "module": s.module, "tool": s.kind.tool, "version": s.head, "applied": s.applied,
                "pending": s.pending, "unknown": s.extra, "dirty": s.dirty, "odd": s.odd, "against": s.measure,
                "error": s.error, "state": s.state,
            }
            for s in self.states
        ]  # fmt: skip

    def of(self, slug: str) -> tuple[ForeignState, ...]:
        """Return the states of one tenant."""
        return tuple(state for state in self.states if state.tenant == slug)

    def only(self, tenants: Sequence[Tenant]) -> ForeignStates:
        """Return those of some tenants, as they compare with all of them."""
        slugs = {tenant.slug for tenant in tenants}
        notes = tuple(note for note in self.notes if not note.subject or note.subject in slugs)
        return ForeignStates(tuple(state for state in self.states if state.tenant in slugs), notes)


def find_state_tables(
    connection: Connection, schemas: Sequence[str] | None, more: Sequence[StateTable] = ()
) -> list[FoundTable]:
    """Return the state tables of these schemas, of all without; one query of the catalog."""
    kinds = (*more, *STATE_TABLES)
    names = sorted({kind.table for kind in kinds})
    rows = connection.execute(_TABLES, {"schemas": None if schemas is None else list(schemas), "tables": names})
    found = [
        FoundTable(schema, table, tuple(columns), recognize(table, columns, more)) for schema, table, columns in rows
    ]
    return [one for one in found if one.kind or one.table not in _COMMON]


def read_foreign_states(
    connection: Connection,
    tenants: Sequence[Tenant],
    *,
    known: Sequence[str] = (),
    declared: Sequence[str] = (),
    against: str = "",
) -> ForeignStates:
    """Read what other tools keep of `tenants`, and compare it; `known` are tables that modules of erpkit's own claim.

    `declared` are tables of tools that erpkit does not know, as ERPKIT_MIGRATION_STATE says them. `against` is `newest` (the
    tenant that is most advanced), `majority`, or a tenant's name; without it, `_template` where it has the table, else the
    newest, and for versions without an order the majority. Raises UsageError for a declaration that is not understood.
    """
    more = [parse_state_table(text) for text in declared]
    by_schema = {tenant.schema: tenant for tenant in tenants}
    found = [one for one in find_state_tables(connection, list(by_schema), more) if one.table not in known]
    tables: dict[str, StateTable] = {one.table: one.kind for one in found if one.kind}
    states = _read(connection, by_schema, [one for one in found if one.kind is not None])
    compared: list[ForeignState] = []
    for table, kind in tables.items():
        missing = [
            ForeignState(tenant.slug, tenant.schema, kind, table, exists=False)
            for tenant in tenants
            if tenant is not TEMPLATE and (tenant.schema, table) not in states
        ]
        there = [state for (_, name), state in states.items() if name == table]
        compared += compare_states([*there, *missing], against)
    order = {tenant.slug: number for number, tenant in enumerate(tenants)}
    notes = [
        *_not_understood(found, by_schema),
        *_alone(compared),
        *_not_found(more, tables),
        *_unread(compared, against),
    ]
    return ForeignStates(tuple(sorted(compared, key=lambda state: order[state.tenant])), tuple(notes))


def compare_states(states: Sequence[ForeignState], against: str = "") -> list[ForeignState]:
    """Compare the tenants of one state table with each other, by `against` as in `read_foreign_states`. Pure."""
    known = [state for state in states if state.exists and not state.error]
    measure = _choose(known, against)
    if measure is None:  # those that have the table could not be read, or have nothing in it
        those = next((state.tenant for state in states if state.exists), "")
        return [state if state.exists else replace(state, measure=those) for state in states]
    return [_compare(state, measure) if not state.error else state for state in states]


@dataclass(frozen=True)
class _Measure:
    name: str
    applied: tuple[str, ...]
    head: str


def _choose(states: Sequence[ForeignState], against: str) -> _Measure | None:
    """Decide what the others are compared with."""
    named = [state for state in states if state.tenant == (against or TEMPLATE.slug)]
    if named:
        return _Measure(named[0].tenant, named[0].applied, named[0].head)
    usable = [state for state in states if state.applied and state.tenant != TEMPLATE.slug]
    if not usable:
        return None
    kind, counts = usable[0].kind, Counter(frozenset(state.applied) for state in usable)
    alike = {frozenset(state.applied): state for state in reversed(usable)}  # the first of those that have the same
    if against == MAJORITY or (kind.is_one_row and not kind.sorts):
        applied, most = max(alike.items(), key=lambda item: (counts[item[0]], _progress(item[1])))
        return _Measure(f"most ({counts[applied]:,} of {len(states):,})", most.applied, most.head)
    newest = max(reversed(alike.values()), key=_progress)
    return _Measure(newest.tenant, newest.applied, newest.head)


def _progress(state: ForeignState) -> tuple[Any, ...]:
    """Return how far a tenant is, to be compared."""
    highest = max(map(_natural, state.applied), default=())
    return (highest, len(state.applied)) if state.kind.sorts else (len(state.applied), highest)


def _compare(state: ForeignState, measure: _Measure) -> ForeignState:
    if not state.exists:
        return replace(state, measure=measure.name)
    if state.kind.is_one_row:
        return replace(state, measure=measure.name, version=measure.head)
    own, other = set(state.applied), set(measure.applied)
    lacks = tuple(name for name in measure.applied if name not in own)
    return replace(
        state, measure=measure.name, lacks=lacks, extra=tuple(name for name in state.applied if name not in other)
    )


def _natural(name: str) -> tuple[Any, ...]:
    """Return a key by which versions sort as people count: 1.10 after 1.9."""
    return tuple((0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", name) if part)


def _read(
    connection: Connection, tenants: Mapping[str, Tenant], found: Sequence[FoundTable]
) -> dict[tuple[str, str], ForeignState]:
    """Read figures of every table; then, of those that are alike, the names of one."""
    errors: dict[str, str] = {}
    queries = [(tenants[one.schema], _query(_FIGURES, one, tenants, number)) for number, one in enumerate(found)]
    figures = {number: facts for _, number, *facts in read_tenants(connection, queries, errors)}
    alike: dict[tuple[str, str], int] = {}
    for number, (count, digest, *_) in figures.items():
        if digest is not None and count < MOST_ROWS:
            alike.setdefault((found[number].table, digest), number)
    asked = [(tenants[found[n].schema], _query(_NAMES, found[n], tenants, n)) for n in alike.values()]
    names = {number: tuple(applied) for _, number, applied in read_tenants(connection, asked, errors)}
    states = {}
    for number, one in enumerate(found):
        assert one.kind is not None
        tenant = tenants[one.schema]
        state = ForeignState(tenant.slug, tenant.schema, one.kind, one.table)
        states[one.schema, one.table] = _state(state, figures.get(number), alike, names, errors.get(tenant.slug, ""))
    return states


def _state(
    state: ForeignState,
    figures: Sequence[Any] | None,
    alike: Mapping[tuple[str, str], int],
    names: Mapping[int, tuple[str, ...]],
    error: str,
) -> ForeignState:
    if figures is None:
        return replace(state, error=error or "could not be read")
    count, digest, head, dirty, odd = figures
    if count >= MOST_ROWS:
        return replace(state, error=f"{state.module} has {MOST_ROWS:,} rows or more: it was not compared")
    applied = names.get(alike[state.module, digest]) if digest is not None else ()
    if applied is None:
        return replace(state, error=error or f"{state.module} could not be read")
    joined = "+".join(sorted(applied)) if state.kind.is_one_row else head or ""
    return replace(state, applied=applied, head=joined, dirty=tuple(dirty), odd=tuple(odd))


def _query(what: str, one: FoundTable, tenants: Mapping[str, Tenant], number: int) -> sql.Composed:
    """Return a query over one table; the SQL in it is that of the tools' records."""
    kind = one.kind
    assert kind is not None
    parts: dict[str, sql.Composable] = {
        "name": _text(kind.name), "order": _text(kind.order), "applied": _text(kind.applied), "dirty": _text(kind.dirty),
        "rows": _text(kind.rows), "pattern": sql.Literal(kind.pattern), "table": sql.Identifier(one.schema, one.table),
        "most": sql.Literal(MOST_ROWS), "slug": sql.Literal(tenants[one.schema].slug), "number": sql.Literal(number),
        "few": sql.Literal(_FEW), "odd": sql.Literal(_ODD), "width": sql.Literal(_WIDTH),
    }  # fmt: skip
    return sql.SQL(f"({_ROWS}{what})").format(**parts)  # one of several in a UNION


def _text(expression: str) -> sql.Composable:
    return sql.SQL(expression)


def _not_understood(found: Sequence[FoundTable], tenants: Mapping[str, Tenant]) -> Iterator[Finding]:
    """Find tables that are named as a tool's and have other columns."""
    for one in found:
        if one.kind is None:
            words = f"{one.table} has the columns {_list(sorted(one.columns))}, which are no tool's that erpkit knows"
            remedy = f'export ERPKIT_MIGRATION_STATE="{one.table} COLUMN ORDER"  # the columns to name and order by'
            yield Finding("not understood", tenants[one.schema].slug, words, "warning", remedy)


def _alone(states: Sequence[ForeignState]) -> Iterator[Finding]:
    """Say where there was nothing to compare with."""
    counts = Counter(state.module for state in states)
    for state in states:
        if counts[state.module] == 1 and not state.error:
            yield Finding("not compared", state.tenant, f"{state.module} is compared with no other tenant's", "info")


def _not_found(declared: Sequence[StateTable], tables: Mapping[str, StateTable]) -> Iterator[Finding]:
    """Say which declared tables no tenant has."""
    for kind in declared:
        if kind.table not in tables:
            words = f"no tenant has the table {kind.table}, which ERPKIT_MIGRATION_STATE names"
            yield Finding("not found", "", words, "warning", "erpkit doctor")


def _unread(states: Sequence[ForeignState], against: str) -> Iterator[Finding]:
    """Say where the tenant that others should be compared with could not be read, so that they are compared with another."""
    for state in states:
        if state.tenant == against and (state.error or not state.exists):
            words = f"{state.module} was not read, and so the others are not compared with it"
            yield Finding("not compared", state.tenant, words, "warning", "")


def _list(names: Sequence[str]) -> str:
    """Name all of a few; of more the first and the last."""
    few = len(names) <= _FEW
    return ", ".join(names) if few else f"{len(names):,} ({names[0]} to {names[-1]})"
