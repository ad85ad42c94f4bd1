"""How tenants grew since an earlier inspection."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from erpkit.errors import UsageError
from erpkit.tenants.snapshot import Figures, Snapshot

__all__ = ["Growth", "compare_snapshots"]

_NOTHING = Figures(size=0, rows=0, is_exact=True)


@dataclass(frozen=True)
class Growth:
    """One tenant, or one table of it, then and now; `before` is None for what the earlier inspection does not hold.

    `now` is None for a table that is gone. `is_exact` is False where PostgreSQL estimated a figure, then or now.
    """

    name: str
    before: Figures | None
    now: Figures | None
    tables: tuple[Growth, ...] = ()

    @property
    def size(self) -> int | None:
        """By how many bytes it grew, or shrank; None where there is nothing to compare with."""
        return self.now.size - self.before.size if self.before and self.now else None

    @property
    def rows(self) -> int | None:
        """By how many rows it grew, or shrank; None where there is nothing to compare with."""
        return self.now.rows - self.before.rows if self.before and self.now else None

    @property
    def is_exact(self) -> bool:
        """Whether rows were counted and bytes measured both times."""
        return all(figures.is_exact for figures in (self.before, self.now) if figures)


def compare_snapshots(before: Snapshot, now: Snapshot) -> dict[str, Growth]:
    """Return by slug how each tenant of `now` grew, with its tables. Pure.

    Raises UsageError for snapshots of two databases, and for an earlier one that is the later.
    """
    if before.database != now.database:
        raise UsageError(f"the earlier inspection is of {before.target}, and this one of {now.target}")
    if before.taken_at > now.taken_at:
        raise UsageError(
            f"the earlier inspection was taken at {before.taken_at:%Y-%m-%d %H:%M %Z}, which is still to come"
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
    """Compare tables; one that is new has grown from nothing."""
    return tuple(Growth(table, before.get(table, _NOTHING), now.get(table)) for table in sorted({*before, *now}))
