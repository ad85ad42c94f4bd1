"""Plans: what would be done, under an id that stands for exactly that, and doing it once the id is confirmed."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from erpkit.errors import PlanChangedError
from erpkit.finding import Finding, group_findings
from erpkit.result import Summary, to_html
from erpkit.table import Table


class Shown(Protocol):
    """What a plan and the result of applying it have in common: `str()` says it in a line, and the rest shows it in full."""

    @property
    def facts(self) -> Mapping[str, object]:
        """Its figures, by name; a result has those of its plan anew, where they are others now."""

    @property
    def findings(self) -> Sequence[Finding]:
        """What a person should look at."""

    @property
    def tables(self) -> Sequence[Table[Any]]:
        """What it consists of."""


class PlanRecord(Shown, Protocol):
    """A pure record of what would be done."""

    @property
    def id(self) -> str:
        """A hash of what would be done: what a person confirms."""

    @property
    def size(self) -> int:
        """How many things doing it takes; 0 where there is nothing to do."""


def plan_id(kind: str, facts: object) -> str:
    """Return `kind` and ten hexadecimal digits that stand for exactly these facts; times and uuids count as text."""
    return f"{kind}-{hashlib.sha256(json.dumps(facts, default=str).encode()).hexdigest()[:10]}"


_Record = TypeVar("_Record", bound=PlanRecord)
_Result = TypeVar("_Result", bound=Shown)


@dataclass(frozen=True)
class Work:
    """What long work gets: `advance` is told how many things were done, and `stop` is set when it is to end early."""

    advance: Callable[[int], object] = lambda _: None
    stop: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True)
class Plan(Generic[_Record, _Result]):
    """A plan that is bound to a database: it shows itself, and `apply(confirm)` does what it says.

    `record` is the pure plan, whose attributes are the plan's own. `make` plans anew; where that is long work, `look` finds out
    in short what the plan would be by now. `unit` names what `record.size` counts, and `can_stop` tells whether the work heeds
    `Work.stop`.
    """

    record: _Record
    make: Callable[[Work], _Record]
    run: Callable[[_Record, Work], _Result]
    target: str
    unit: str = ""
    can_stop: bool = True
    look: Callable[[], _Record] | None = None

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
        return self._with(self.make(work or Work()))

    def apply(self, confirm: str, work: Work | None = None) -> _Result:
        """Do what the plan says; find out first whether that is still what it would be.

        Raises PlanChangedError, before anything was done, unless `confirm` is this plan's id and still the present one; the
        error's `plan` is the present plan.
        """
        PlanChangedError.check(confirm, self.id)
        work = work or Work()
        present = self.look() if self.look else self.make(work)
        if present.id != confirm:
            raise PlanChangedError.of(confirm, self._with(present))
        return self.run(present, work)

    def _with(self, record: _Record) -> Plan[_Record, _Result]:
        return Plan(record, self.make, self.run, self.target, self.unit, self.can_stop, self.look)

    def summary(self, result: _Result | None = None) -> Summary:
        """Sum up the plan, or what applying it brought."""
        facts = {"plan": self.id, **self.record.facts, **(result.facts if result else {})}
        title = f"{'Applied' if result else 'Dry run'}: plan {self.id} on {self.target}"
        return Summary(title, facts, (result or self.record).findings)

    def __str__(self) -> str:
        return f"plan {self.id} for {self.target}: {self.record}"

    def __repr__(self) -> str:
        return "\n".join([str(self), *(f"! {cause}" for cause in group_findings(self.record.findings))])

    def _repr_html_(self) -> str:
        return to_html(str(self), findings=self.record.findings, tables=self.record.tables)
