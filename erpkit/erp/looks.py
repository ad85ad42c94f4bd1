"""Following what is looked at: the last look is found, compared with this one, and this one is kept for the next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol

from erpkit.erp.installation import Installation
from erpkit.finding import Finding

if TYPE_CHECKING:
    from erpkit.runs.changes import Changes, FactChange, Look
    from erpkit.table import Table


class _Seen(Protocol):
    @property
    def facts(self) -> Mapping[str, object]: ...

    @property
    def findings(self) -> Sequence[Finding]: ...


@dataclass(frozen=True)
class Followed:
    """What changed since earlier looks; `base` is the one that growth is measured from, `problem` why this one was not kept."""

    changes: Changes
    base: Look | None
    problem: str = ""

    @property
    def trend(self) -> Table[FactChange]:
        """The figures that moved; where none can be compared, why this look was not kept for the next one either."""
        table = self.changes.table
        return replace(table, empty=f"{table.empty} And {self.problem}.") if self.problem else table


def follow(
    installation: Installation, kind: str, scope: Sequence[str], at: datetime, seen: _Seen,
    figures: Mapping[str, Any] | None = None,
) -> Followed:  # fmt: skip
    """Compare what is `seen` of the tenants in `scope`, all without one, with earlier looks, and keep it for the next.

    An inspection of some tenants is also compared with one of all; where there are figures for each tenant, that can be done.
    """
    from erpkit.runs.changes import compare, look_after  # noqa: PLC0415 - only where something is looked at
    from erpkit.runs.store import Looks  # noqa: PLC0415

    looks = Looks(installation.database, installation.settings.home)
    last, base = looks.find(kind, scope, or_all=figures is not None)
    changes = compare(last, at, seen.facts, seen.findings, base)
    problem = looks.keep(kind, scope, look_after(changes, seen.facts, figures))
    return Followed(changes, base, problem)
