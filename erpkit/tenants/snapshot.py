"""Snapshots of an inspection: written to a file as JSON, read again, and compared with a later one for growth."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from erpkit.errors import UsageError
from erpkit.table import Column
from erpkit.tenants.inspection import TenantInspection

FORM = 1  # of the file; raised when the format changes

_Row = TypeVar("_Row")

_HOW = "make one with erpkit tenants inspect --json"


@dataclass(frozen=True)
class Figures:
    """Bytes with indexes, and rows; `is_exact` if they were measured and counted."""

    size: int
    rows: int
    is_exact: bool


_NOTHING = Figures(size=0, rows=0, is_exact=True)


@dataclass(frozen=True)
class TenantFigures:
    """A tenant's figures: in total, and for each table."""

    total: Figures
    tables: Mapping[str, Figures]


@dataclass(frozen=True)
class Snapshot:
    """The figures of an inspection of the database `target` that are compared with a later one."""

    taken_at: datetime
    target: str
    tenants: Mapping[str, TenantFigures]

    @property
    def database(self) -> str:
        """The target without the user, which may differ each time."""
        return self.target.rpartition("/")[0] or self.target


def take_snapshot(inspections: Sequence[TenantInspection], target: str) -> Snapshot:
    """Return the figures of inspections that were just made of the database `target`."""
    return Snapshot(datetime.now(UTC), target, {i.tenant.slug: _figures(describe_inspection(i)) for i in inspections})


def describe_inspections(inspections: Sequence[TenantInspection], snapshot: Snapshot) -> dict[str, Any]:
    """Return inspections as plain values: when, where, and each tenant's state; `read_snapshot` reads them as JSON."""
    return {
        "erpkit_inspection": FORM,
        "taken_at": snapshot.taken_at.isoformat(timespec="seconds"),
        "target": snapshot.target,
        "tenants": [describe_inspection(i) for i in inspections],
    }


def describe_inspection(i: TenantInspection) -> dict[str, Any]:
    """Return one tenant's state as plain values."""
    return {
        "slug": i.tenant.slug, "schema": i.tenant.schema, "status": i.tenant.status, "size": i.size, "rows": i.rows,
        "table_sizes": {table.name: table.size for table in i.tables},
        "versions": i.versions, "pending": i.figure("versions", i.pending), "events": i.figure("events", i.event_count),
        "last_event": i.last_event,
        "dead_letters": i.figure("dead letters", len(i.dead_letters)),
        "drift": i.figure("drift", [str(one) for one in i.drift]), "problems": i.problems,
        "exact": i.is_exact, "week_events": i.week_events, "backlog": i.figure("backlog", i.backlog), "dead_rows": i.dead_rows,
        "unused_indexes": [one.name for one in i.unused_indexes],
        "missing_indexes": [str(one) for one in i.missing_indexes],
        "transactions": [str(one) for one in i.blockers],
        "foreign": {state.module: state.text for state in i.foreign},
        "locked": [lock.table for lock in i.locked], "unread": list(i.unread), "errors": dict(i.errors),
    }  # fmt: skip


def write_snapshot(path: Path | str, inspections: Sequence[TenantInspection], target: str) -> Snapshot:
    """Write an inspection to a file, or replace the file atomically. Raises UsageError if it cannot be written."""
    snapshot = take_snapshot(inspections, target)
    text = json.dumps(describe_inspections(inspections, snapshot), default=str, indent=2)
    path = Path(path)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        unfinished.write_text(text + "\n")
        unfinished.replace(path)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        raise UsageError(f"{path} cannot be written: {error.strerror}") from None
    return snapshot


def read_snapshot(path: Path | str) -> Snapshot:
    """Read what `erpkit tenants inspect --json` printed, or `write_snapshot` wrote.

    Raises UsageError for a file that is not an inspection, or that a later erpkit wrote in another form.
    """
    try:
        value = json.loads(Path(path).read_text())
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError:
        raise UsageError(f"{path} is not an inspection: it is not JSON; {_HOW}") from None
    form = value.get("erpkit_inspection") if isinstance(value, dict) else None
    if not isinstance(form, int):
        raise UsageError(f"{path} is not an inspection; {_HOW}")
    if form > FORM:
        raise UsageError(f"{path} was written by a later erpkit, in form {form}; this one reads up to {FORM}")
    try:
        return _snapshot(value)
    except (KeyError, TypeError, ValueError, AttributeError):
        raise UsageError(f"{path} is a damaged inspection; {_HOW}") from None


def describe_figures(snapshot: Snapshot) -> dict[str, Any]:
    """Return a snapshot as plain values, without the rest of the inspection; `read_figures` reads them."""
    tenants = [
        {
            "slug": slug, "size": one.total.size, "exact": any(table.is_exact for table in (one.total, *one.tables.values())),
            "rows": {name: table.rows for name, table in one.tables.items()},
            "table_sizes": {name: table.size for name, table in one.tables.items()},
            "locked": [name for name, table in one.tables.items() if not table.is_exact],
        }
        for slug, one in snapshot.tenants.items()
    ]  # fmt: skip
    return {"taken_at": snapshot.taken_at.isoformat(), "target": snapshot.target, "tenants": tenants}


def read_figures(value: Mapping[str, Any], target: str) -> Snapshot | None:
    """Read what `describe_figures` returned of the same database, whatever its name was then; None for anything else."""
    try:
        return replace(_snapshot(value), target=target)
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def _snapshot(value: Mapping[str, Any]) -> Snapshot:
    taken_at = datetime.fromisoformat(value["taken_at"])
    tenants = {str(tenant["slug"]): _figures(tenant) for tenant in value["tenants"]}
    return Snapshot(taken_at.astimezone(UTC), str(value["target"]), tenants)


def _figures(tenant: Mapping[str, Any]) -> TenantFigures:
    rows, sizes, locked = tenant["rows"], tenant["table_sizes"], tenant["locked"]
    tables = {
        table: Figures(int(sizes.get(table, 0)), int(rows.get(table, 0)), tenant["exact"] and table not in locked)
        for table in {**sizes, **rows}
    }
    total = Figures(int(tenant["size"]), sum(map(int, rows.values())), tenant["exact"] and not locked)
    return TenantFigures(total, tables)


@dataclass(frozen=True)
class Growth:
    """The growth of a tenant or a table; `before` is None if the earlier inspection does not hold it.

    `now` is None for a dropped table. `is_exact` is False if one of the figures is an estimate.
    """

    name: str
    before: Figures | None
    now: Figures | None
    tables: tuple[Growth, ...] = ()

    @property
    def size(self) -> int | None:
        """The growth in bytes, negative if it shrank; None if there is nothing to compare with."""
        return self.now.size - self.before.size if self.before and self.now else None

    @property
    def rows(self) -> int | None:
        """The growth in rows, negative if it shrank; None if there is nothing to compare with."""
        return self.now.rows - self.before.rows if self.before and self.now else None

    @property
    def is_exact(self) -> bool:
        """Whether rows were counted and bytes measured both times."""
        return all(figures.is_exact for figures in (self.before, self.now) if figures)


def compare_snapshots(before: Snapshot, now: Snapshot) -> dict[str, Growth]:
    """Return by slug the growth of each tenant of `now`, with its tables. Pure.

    Raises UsageError for snapshots of different databases, and if `before` was taken after `now`.
    """
    if before.database != now.database:
        raise UsageError(f"the earlier inspection is of {before.target}, and this one of {now.target}")
    if before.taken_at > now.taken_at:
        raise UsageError(
            f"the earlier inspection was taken at {before.taken_at:%Y-%m-%d %H:%M %Z}, which is in the future"
        )
    return {
        slug: Growth(
            slug,
            before.tenants[slug].total if slug in before.tenants else None,
            tenant.total,
            _tables(before.tenants[slug].tables, tenant.tables) if slug in before.tenants else (),
        )
        for slug, tenant in now.tenants.items()
    }


def _tables(before: Mapping[str, Figures], now: Mapping[str, Figures]) -> tuple[Growth, ...]:
    """Compare tables; a new one has grown from zero."""
    return tuple(Growth(table, before.get(table, _NOTHING), now.get(table)) for table in sorted({*before, *now}))


def describe_growth(growth: Growth) -> dict[str, Any]:
    """Return growth as plain values."""
    tables = {table.name: {"size": table.size, "rows": table.rows} for table in growth.tables}
    return {"size": growth.size, "rows": growth.rows, "exact": growth.is_exact, "tables": tables}


def growth_columns(of: Callable[[_Row], Growth | None], unit: str, size: int, places: int) -> tuple[Column[_Row], ...]:
    """Return two columns with a row's growth, in units of `size` bytes and in rows: `+1.25`, or `~+1.25` for an estimate."""

    def text(row: _Row, figure: Callable[[Growth], str]) -> str:
        growth = of(row)
        if growth is None or growth.size is None:
            return "–"
        return f"{'' if growth.is_exact else '~'}{figure(growth)}"

    def size_of(growth: Growth) -> str:
        return f"{(growth.size or 0) / size:+,.{places}f}"

    def rows_of(growth: Growth) -> str:
        return f"{growth.rows or 0:+,}"

    return (
        Column("growth", lambda row: text(row, size_of), unit=unit, right=True),
        Column("more rows", lambda row: text(row, rows_of), right=True),
    )
