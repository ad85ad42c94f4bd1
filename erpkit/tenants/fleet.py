"""The inspections of many tenants together: summary, findings and tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from erpkit.events import LETTER_COLUMNS, DeadLetter
from erpkit.finding import Finding, with_ages
from erpkit.migrations import ForeignState, MigrationStatus
from erpkit.migrations.status import KINDS
from erpkit.plural import count_of
from erpkit.result import Summary, SummaryResult
from erpkit.table import Column, Table, Tone
from erpkit.tenants.drift import Difference, drift_table
from erpkit.tenants.health import Blocker
from erpkit.tenants.inspection import TenantInspection
from erpkit.tenants.snapshot import (
    Growth,
    Snapshot,
    compare_snapshots,
    describe_growth,
    describe_inspections,
    growth_columns,
)

_MIB = 2**20
_FEW = 5  # tenants that are alike, of which each has its line
_Versions = tuple[str, Mapping[str, MigrationStatus | ForeignState]]  # a tenant, and its states by module


@dataclass(frozen=True, repr=False)
class FleetInspection(SummaryResult):
    """The inspections of tenants; `before` is an earlier inspection, since which growth is measured.

    `ages` says how long each finding has been known, by its key, and `unkept` why this inspection was not kept for the next one.
    """

    target: str
    inspections: tuple[TenantInspection, ...]
    now: Snapshot
    before: Snapshot | None = None
    ages: Mapping[str, str] = field(default_factory=dict, repr=False)
    unkept: str = ""

    @property
    def findings(self) -> list[Finding]:
        """What a person should look at; having no tenants is a finding, too."""
        if not self.inspections:
            return [Finding("no tenants", "", "there are no tenants to inspect", remedy="erpkit doctor")]
        return with_ages([finding for one in self.inspections for finding in one.findings], self.ages)

    @property
    def facts(self) -> dict[str, object]:
        """The figures of all tenants together, and how many tenants were not read, or in part."""
        unread = sum(i.is_unread for i in self.inspections)
        return {
            "tenants": len(self.inspections),
            "active": sum(i.tenant.is_active for i in self.inspections),
            "MiB": round(sum(i.size for i in self.inspections) / _MIB, 1),
            "events": self._sum("events", lambda i: i.event_count),
            "dead letters": self._sum("dead letters", lambda i: len(i.dead_letters)),
            **({"not read": unread} if unread else {}),
        }

    def _sum(self, part: str, count: Callable[[TenantInspection], int]) -> int | None:
        """Add up what was read; None where that was nothing."""
        known = [figure for i in self.inspections if (figure := i.figure(part, count(i))) is not None]
        return sum(known) if known or not self.inspections else None

    @property
    def summary(self) -> Summary:
        """The figures, and every problem of every tenant by cause."""
        return Summary(
            f"{count_of(len(self.inspections), 'tenant')} inspected on {self.target}", self.facts, self.findings
        )

    @cached_property
    def growths(self) -> Mapping[str, Growth]:
        """The growth of each tenant since the earlier inspection; empty without one."""
        return compare_snapshots(self.before, self.now) if self.before else {}

    @property
    def note(self) -> str:
        """Tells whether the figures are estimates, and why there will be nothing to compare with."""
        estimated = "sizes, rows and events are PostgreSQL's estimates; name fewer tenants to have them counted"
        notes = [estimated] if self.inspections and not self.inspections[0].is_exact else []
        return "; ".join([*notes, *([self.unkept] if self.unkept else [])])

    @property
    def table(self) -> Table[TenantInspection]:
        """One line for each tenant: status and problems, then size, rows and events."""
        own, events = (_OF_LOG, _EVENTS) if self.has_event_log else ((), ())
        grown: Sequence[Column[TenantInspection]] = ()
        if any(one.size or one.rows for one in self.growths.values()):  # two columns of zeros would tell nothing
            grown = growth_columns(lambda i: self.growths[i.tenant.slug], "MiB", _MIB, 2)
        states = map(_state_column, dict.fromkeys(state.module for i in self.inspections for state in i.foreign))
        columns = (*_NAMES, *own, _DRIFT, *states, *_SIZE, *grown, *events)
        return Table(columns, self.inspections, "There are no tenants.", about=("not active", "gone", "not read"))

    @property
    def has_event_log(self) -> bool:
        """Whether the tenants have an event log, which an ERP that erpkit did not make has not."""
        return not self.inspections or any("erpkit_events" in i.rows or i.tenant.role for i in self.inspections)

    @property
    def health(self) -> Table[TenantInspection]:
        """One line for each tenant: backlog, recent events, dead rows, indexes, long transactions and locks."""
        return Table(_HEALTH, self.inspections, "There are no tenants.", about=("lag",))

    @property
    def growth(self) -> Table[Growth]:
        """One line for each tenant, those that grew most first; tenants without an earlier inspection come last."""
        title = f"since {self.before.taken_at:%Y-%m-%d %H:%M %Z}" if self.before else ""
        rows = sorted(
            self.growths.values(), key=lambda one: (one.size is None, -(one.size or 0), -(one.rows or 0), one.name)
        )
        empty = "There is no earlier inspection to compare with."
        return Table(_GROWTH, rows, f"{empty} And {self.unkept}." if self.unkept else empty, title)

    @property
    def migrations(self) -> Table[_Versions]:
        """A matrix of one line for each tenant and one column for each module, with the version and the state of its migrations."""
        lines: list[_Versions] = [
            (i.tenant.slug, {s.module: s for s in i.migrations} | {s.module: s for s in i.foreign})
            for i in self.inspections
        ]
        modules = dict.fromkeys(module for _, states in lines for module in states)
        return Table(
            [_TENANT, *map(_module_column, modules)], lines if modules else [], "There are no migrations.", about=KINDS
        )

    @property
    def versions(self) -> Table[_Versions]:
        """The same matrix, with one line for all tenants that are current and alike where there are many."""
        return replace(self.migrations, rows=_shorten(self.migrations.rows))

    @property
    def rows(self) -> Table[tuple[str, Mapping[str, int]]]:
        """One line for each table: how many tenants have it, its rows in all of them, and the tenant with the most."""
        names = sorted({table for i in self.inspections for table in i.rows})
        counts = [(name, {i.tenant.slug: i.rows[name] for i in self.inspections if name in i.rows}) for name in names]
        return Table(_ROWS, counts, "There are no tables.")

    @property
    def drift(self) -> Table[tuple[str, Difference]]:
        """One line for each tenant and difference, in words and as the DDL that would undo it."""
        table = drift_table({i.tenant.slug: i.drift for i in self.inspections}, self._measure)
        compared = sum(i.figure("drift", 1) or 0 for i in self.inspections)
        return (
            table if compared == len(self.inspections) > 0 else replace(table, empty=self._not_read("drift", compared))
        )

    @property
    def _measure(self) -> str:
        return self.inspections[0].measure if self.inspections else "_template"

    def _not_read(self, what: str, read: int) -> str:
        """Return what stands for a table without rows where not every tenant was looked at: it is not known to be empty."""
        if not self.inspections:
            return "There are no tenants."
        few = f"only of {read:,} of {count_of(len(self.inspections), 'tenant')}" if read else "of no tenant"
        return f"No {what} was found; it was read {few}."

    @property
    def blockers(self) -> Table[tuple[str, Blocker]]:
        """One line for each transaction that has been open for long or waits for a lock."""
        rows = [(i.tenant.slug, blocker) for i in self.inspections for blocker in i.blockers]
        return Table(_BLOCKERS, rows, "No transaction is in the way.", is_trouble=True, about=("blocker",))

    @property
    def indexes(self) -> Table[tuple[str, str, list[int]]]:
        """One line for each advice on indexes, with the number of tenants that it applies to."""
        found: dict[tuple[str, str], list[int]] = {}
        for i in self.inspections:
            for unused in i.unused_indexes:
                found.setdefault(("never used", f"{unused.table}: {unused.name}"), []).append(unused.size)
            for missing in i.missing_indexes:
                where = f"{missing.table} ({missing.columns})" if missing.columns else missing.table
                found.setdefault((missing.reason, where), []).append(0)
        rows = [(where, why, sizes) for (why, where), sizes in sorted(found.items())]
        return Table(_INDEXES, rows, "There is nothing to say of the indexes.")

    @property
    def dead_letters(self) -> Table[DeadLetter]:
        """One line for each dead letter, without its payload."""
        read = sum(i.figure("dead letters", 1) or 0 for i in self.inspections)
        empty = "There are no dead letters."
        if not read or read < len(self.inspections):
            empty = self._not_read("dead letter", read) if self.has_event_log else "There is no event log."
        return Table(
            LETTER_COLUMNS,
            [letter for i in self.inspections for letter in i.dead_letters],
            empty,
            is_trouble=True,
            about=("dead letters",),
        )

    @property
    def document(self) -> dict[str, Any]:
        """Everything as plain values: `erpkit tenants inspect --json` prints it, and `--since` reads it."""
        document = describe_inspections(self.inspections, self.now)
        if self.before is None:
            return document
        tenants = [{**one, "growth": describe_growth(self.growths[one["slug"]])} for one in document["tenants"]]
        return document | {"since": self.before.taken_at.isoformat(timespec="seconds"), "tenants": tenants}

    def __iter__(self) -> Iterator[TenantInspection]:
        return iter(self.inspections)

    def __len__(self) -> int:
        return len(self.inspections)


def _shorten(lines: Sequence[_Versions]) -> list[_Versions]:
    """Return one line for all tenants that are current and alike, where there are many; the others stay as they are."""
    alike: dict[tuple[tuple[str, str], ...], list[_Versions]] = {}
    for line in lines:
        if all(state.tone == "good" for state in line[1].values()):
            alike.setdefault(tuple((module, state.text) for module, state in line[1].items()), []).append(line)
    many = [some for some in alike.values() if len(some) > _FEW]
    left_out = {slug for some in many for slug, _ in some}
    return [line for line in lines if line[0] not in left_out] + [
        (f"{count_of(len(some), 'tenant')}, all alike", some[0][1]) for some in many
    ]


def _warn_unless_read(what: str, count: Callable[[TenantInspection], object]) -> Callable[[TenantInspection], Tone]:
    """Colour what is not 0, and what was not read of a tenant as well, which is nothing good."""
    return lambda i: "warning" if count(i) or what in i.unread else ""


def _warn(count: Callable[[TenantInspection], object]) -> Callable[[TenantInspection], Tone]:
    return lambda i: "warning" if count(i) else ""


def _if_read(what: str, count: Callable[[TenantInspection], int]) -> Callable[[TenantInspection], int | None]:
    return lambda i: i.figure(what, count(i))


def _status_tone(i: TenantInspection) -> Tone:
    if i.exists and i.tenant.is_active:
        return "good"
    return "muted" if i.exists else "error"  # a person chose that it is not active


def _module_column(module: str) -> Column[_Versions]:
    def tone(line: _Versions) -> Tone:
        return line[1][module].tone if module in line[1] else "muted"

    return Column(module, lambda line: line[1][module].text if module in line[1] else None, tone=tone, right=True)


def _state_column(module: str) -> Column[TenantInspection]:
    def find(i: TenantInspection) -> ForeignState | None:
        return next((state for state in i.foreign if state.module == module), None)

    def tone(i: TenantInspection) -> Tone:
        state = find(i)
        return state.tone if state and state.state != "current" else ""

    return Column(module, lambda i: state.text if (state := find(i)) else None, tone=tone)


def _percent(growth: Growth) -> float | None:
    return 100 * (growth.size or 0) / growth.before.size if growth.before and growth.before.size else None


def _grew_most(growth: Growth) -> str:
    most = max(growth.tables, key=lambda table: table.size or 0, default=None)
    return f"{most.name} ({most.size / _MIB:+,.2f} MiB)" if most and most.size and most.size > 0 else "–"


def _largest(row: tuple[str, Mapping[str, int]]) -> str:
    counts = row[1]
    return max(counts, key=lambda slug: counts[slug]) if sum(counts.values()) else "–"


_OF_LOG: tuple[Column[TenantInspection], ...] = (
    Column[TenantInspection](
        "migrations pending", _if_read("versions", lambda i: i.pending), right=True,
        tone=_warn_unless_read("versions", lambda i: i.pending),
    ),
    Column[TenantInspection](
        "dead letters", _if_read("dead letters", lambda i: len(i.dead_letters)), right=True,
        tone=_warn_unless_read("dead letters", lambda i: i.dead_letters),
    ),
)  # fmt: skip
_DRIFT = Column[TenantInspection](
    "drift", _if_read("drift", lambda i: len(i.drift)), right=True, tone=_warn_unless_read("drift", lambda i: i.drift)
)
_NAMES: tuple[Column[TenantInspection], ...] = (
    Column[TenantInspection]("tenant", lambda i: i.tenant.slug, tone=lambda i: "" if i.exists else "error"),
    Column[TenantInspection]("schema", lambda i: i.tenant.schema, minor=True),
    Column[TenantInspection]("status", lambda i: i.tenant.status if i.exists else "gone", tone=_status_tone),
)
_SIZE: tuple[Column[TenantInspection], ...] = (
    Column[TenantInspection]("size", lambda i: i.size / _MIB, unit="MiB", places=2, bar=True),
    Column[TenantInspection]("rows", lambda i: sum(i.rows.values()), minor=True),
)
_EVENTS: tuple[Column[TenantInspection], ...] = (
    Column[TenantInspection]("events", _if_read("events", lambda i: i.event_count), right=True, bar=True),
    Column[TenantInspection]("last event", lambda i: i.last_event, minor=True),
)
BACKLOG = Column[TenantInspection](
    "backlog", _if_read("backlog", lambda i: sum(i.backlog.values())), right=True, bar=True
)
_HEALTH = (
    Column[TenantInspection]("tenant", lambda i: i.tenant.slug),
    Column[TenantInspection]("events in 7 days", lambda i: i.week_events, right=True, bar=True),
    BACKLOG,
    Column[TenantInspection]("dead rows", lambda i: i.dead_rows, bar=True),
    Column[TenantInspection]("unused indexes", lambda i: len(i.unused_indexes)),
    Column[TenantInspection]("missing indexes", lambda i: len(i.missing_indexes)),
    Column[TenantInspection](
        "long or waiting transactions", lambda i: len(i.blockers), tone=_warn(lambda i: i.blockers)
    ),
    Column[TenantInspection]("locked tables", lambda i: len(i.locked), tone=_warn(lambda i: i.locked)),
)
_GROWTH = (
    Column[Growth]("tenant", lambda g: g.name),
    Column[Growth]("before", lambda g: g.before.size / _MIB if g.before else None, unit="MiB", places=2, right=True),
    Column[Growth]("growth", lambda g: g.size / _MIB if g.size is not None else None, unit="MiB", places=2, signed=True,
                   bar=True, right=True),
    Column[Growth]("growth", _percent, unit="%", places=1, signed=True, right=True),
    Column[Growth]("rows before", lambda g: g.before.rows if g.before else None, right=True),
    Column[Growth]("more rows", lambda g: g.rows, signed=True, bar=True, right=True),
    Column[Growth]("figures", lambda g: "exact" if g.is_exact else "estimated"),
    Column[Growth]("grew most", _grew_most),
)  # fmt: skip
_TENANT = Column[_Versions]("tenant", lambda line: line[0])
_Rows = tuple[str, Mapping[str, int]]
_ROWS = (
    Column[_Rows]("table", lambda row: row[0]),
    Column[_Rows]("tenants", lambda row: len(row[1])),
    Column[_Rows]("rows", lambda row: sum(row[1].values()), bar=True),
    Column[_Rows]("most", lambda row: max(row[1].values(), default=0)),
    Column[_Rows]("largest", _largest),
)
_BLOCKERS = (
    Column[tuple[str, Blocker]]("tenant", lambda row: row[0]),
    Column[tuple[str, Blocker]]("process", lambda row: str(row[1].pid), right=True),
    Column[tuple[str, Blocker]]("user", lambda row: row[1].user),
    Column[tuple[str, Blocker]]("open", lambda row: row[1].seconds, unit="s", places=1, bar=True),
    Column[tuple[str, Blocker]](
        "state",
        lambda row: f"waits for {', '.join(map(str, row[1].blocked_by))}" if row[1].is_waiting else row[1].state,
        tone=lambda row: "warning" if row[1].is_waiting else "",
    ),
    Column[tuple[str, Blocker]]("tables", lambda row: row[1].tables),
)
_Advice = tuple[str, str, list[int]]
_INDEXES = (
    Column[_Advice]("index", lambda row: row[0]),
    Column[_Advice]("finding", lambda row: row[1]),
    Column[_Advice]("tenants", lambda row: len(row[2])),
    Column[_Advice]("size", lambda row: round(sum(row[2]) / 1024) or None, unit="KiB", bar=True, right=True),
)
