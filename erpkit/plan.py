"""Plans: what would be done, with an id that stands for exactly that, and applying it once the id is confirmed."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from erpkit.errors import PlanChangedError
from erpkit.finding import Finding, group_findings, marked
from erpkit.result import SCRAP, Summary, to_html
from erpkit.table import Table


class Shown(Protocol):
    """What a plan and the result of applying it have in common: `str()` is one line, and the rest shows everything."""

    @property
    def facts(self) -> Mapping[str, object]:
        """Its figures, by name; those of a result replace those of its plan."""

    @property
    def findings(self) -> Sequence[Finding]:
        """What a person should look at."""

    @property
    def tables(self) -> Sequence[Table[Any]]:
        """Its parts."""


class PlanRecord(Shown, Protocol):
    """A pure record of what would be done."""

    @property
    def id(self) -> str:
        """A hash of what would be done, which a person confirms."""

    @property
    def size(self) -> int:
        """How many things applying it handles; 0 if there is nothing to do."""


def plan_id(kind: str, facts: object) -> str:
    """Return `kind` and ten hexadecimal digits that stand for exactly these facts; times and uuids count as text."""
    return f"{kind}-{hashlib.sha256(json.dumps(facts, default=str).encode()).hexdigest()[:10]}"


_BINDING = frozenset({"can_stop", "look", "make", "record", "rest", "run", "unit"})
_Record = TypeVar("_Record", bound=PlanRecord)
_Result = TypeVar("_Result", bound=Shown)


@dataclass(frozen=True)
class Work:
    """Progress and stop of long work: `advance` is called with the number of things done; `stop` is set to end early."""

    advance: Callable[[int], object] = lambda _: None
    stop: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True)
class Plan(Generic[_Record, _Result]):
    """A plan that is bound to a database: it shows itself, and `apply(confirm)` does what it says.

    `record` is the pure plan, whose attributes the plan has, too. `make` plans again; if that takes long, `look` finds the present
    id faster. `unit` names what `record.size` counts, and `can_stop` tells whether the work heeds `Work.stop`. `rest` plans what a
    result left when it was stopped, or None where planning again does that.
    """

    record: _Record
    make: Callable[[Work], _Record]
    run: Callable[[_Record, Work], _Result]
    target: str
    unit: str = ""
    can_stop: bool = True
    look: Callable[[], _Record] | None = None
    rest: Callable[[_Result], Plan[_Record, _Result] | None] | None = None

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self.record, name)

    def __dir__(self) -> Iterable[str]:
        """Name what a person wants of a plan: its record's attributes and what it adds, without how it is bound."""
        return set(super().__dir__()) - _BINDING | set(dir(self.record))

    @property
    def id(self) -> str:
        """The id that a person confirms."""
        return self.record.id

    def again(self, work: Work | None = None) -> Plan[_Record, _Result]:
        """Plan again, and return the present plan."""
        return self._with(self.make(work or Work()))

    def apply(self, confirm: str, work: Work | None = None) -> _Result:
        """Do what the plan says, after checking that the present plan is still the same.

        Raises PlanChangedError, with nothing done, unless `confirm` is the id both of this plan and of the present one, which is the
        error's `plan`.
        """
        PlanChangedError.check(confirm, self.id)
        work = work or Work()
        present = self.look() if self.look else self.make(work)
        if present.id != confirm:
            raise PlanChangedError.of(confirm, self._with(present))
        return self.run(present, work)

    def _with(self, record: _Record) -> Plan[_Record, _Result]:
        return Plan(record, self.make, self.run, self.target, self.unit, self.can_stop, self.look, self.rest)

    def summary(self, result: _Result | None = None) -> Summary:
        """Sum up the plan, or the result of applying it."""
        facts = {"plan": self.id, **self.record.facts, **(result.facts if result else {})}
        title = f"{'Applied' if result else 'Dry run'}: plan {self.id} on {self.target}"
        return Summary(title, facts, (result or self.record).findings)

    def __str__(self) -> str:
        return f"plan {self.id} for {self.target}: {self.record}"

    def __repr__(self) -> str:
        return "\n".join([str(self), *(marked(cause) for cause in group_findings(self.record.findings))])

    def _repr_html_(self) -> str:
        return to_html(str(self), findings=self.record.findings, tables=self.record.tables)

    def _repr_mimebundle_(self, **_: object) -> dict[str, Any]:
        return {"text/plain": repr(self), "text/html": self._repr_html_(), SCRAP: self.summary().scrap("findings")}
