"""Plans: what would be done, under an id that stands for exactly that, and doing it once the id is confirmed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from erpkit.errors import PlanChangedError
from erpkit.finding import Finding, group_findings
from erpkit.result import to_html
from erpkit.table import Table

__all__ = ["Plan", "PlanRecord", "Work"]


class PlanRecord(Protocol):
    """A pure record of what would be done. `str()` says it in a line."""

    @property
    def id(self) -> str:
        """A hash of what would be done: what a person confirms."""

    @property
    def size(self) -> int:
        """How many things doing it takes; 0 where there is nothing to do."""

    @property
    def tables(self) -> Sequence[Table[Any]]:
        """What would be done, in full."""

    @property
    def findings(self) -> Sequence[Finding]:
        """What a person should look at before."""


_Record = TypeVar("_Record", bound=PlanRecord)
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Work:
    """What long work gets: `advance` is told how many things were done, and `stop` is set when it is to end early."""

    advance: Callable[[int], object] = lambda _: None
    stop: threading.Event = field(default_factory=threading.Event)


class Plan(Generic[_Record, _Result]):
    """A plan that is bound to a database: it shows itself, and `apply(confirm)` does what it says.

    `record` is the pure plan, whose attributes are the plan's own. `unit` names what `record.size` counts, and `can_stop` tells
    whether the work heeds `Work.stop`.
    """

    def __init__(
        self,
        record: _Record,
        *,
        make: Callable[[Work], _Record],
        apply: Callable[[_Record, Work], _Result],
        target: str,
        unit: str = "",
        can_stop: bool = True,
    ) -> None:
        self.record, self.target, self.unit, self.can_stop = record, target, unit, can_stop
        self._make, self._apply = make, apply

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self.record, name)

    @property
    def id(self) -> str:
        """What a person confirms."""
        return self.record.id

    def again(self, work: Work | None = None) -> Plan[_Record, _Result]:
        """Return the plan as it would be by now."""
        return Plan(
            self._make(work or Work()), make=self._make, apply=self._apply, target=self.target, unit=self.unit,
            can_stop=self.can_stop,
        )  # fmt: skip

    def apply(self, confirm: str, work: Work | None = None) -> _Result:
        """Do what the plan says; plan anew first.

        Raises PlanChangedError, before anything was done, unless `confirm` is this plan's id and still the present one.
        """
        PlanChangedError.check(confirm, self.id)
        work = work or Work()
        present = self._make(work)
        PlanChangedError.check(confirm, present.id)
        return self._apply(present, work)

    def __str__(self) -> str:
        return f"plan {self.id} for {self.target}: {self.record}"

    def __repr__(self) -> str:
        return "\n".join([str(self), *(f"! {cause}" for cause in group_findings(self.record.findings))])

    def _repr_html_(self) -> str:
        return to_html(str(self), findings=self.record.findings, tables=self.record.tables)
