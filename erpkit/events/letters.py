"""The open dead letters of some tenants: chosen, counted by cause, and with what waits behind them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from erpkit.database import Connection, Tenant
from erpkit.events.causes import COUNT_COLUMNS, DeadLetterCount, Dimension, group_letters, letter_findings, sum_counts
from erpkit.events.dead_letters import LETTER_COLUMNS, DeadLetter, list_dead_letters
from erpkit.events.letter_plan import LetterSelection, choose_letters
from erpkit.events.parking import PARKED_COLUMNS, Parked, list_parked
from erpkit.finding import Finding, not_read
from erpkit.result import Summary
from erpkit.table import Column, Table

_Sum = tuple[str, int]


@dataclass(frozen=True)
class OpenLetters:
    """The open dead letters that `selection` chooses, and what is parked behind those of their handlers.

    `errors` maps the tenants that could not be read to the reason.
    """

    target: str
    tenants: Sequence[Tenant]
    selection: LetterSelection
    letters: Sequence[DeadLetter]
    parked: Sequence[Parked] = ()
    errors: Mapping[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.letters)

    @cached_property
    def counts(self) -> list[DeadLetterCount]:
        """How many letters there are by tenant, handler, topic and cause, the most first."""
        return group_letters(self.letters)

    @property
    def parked_events(self) -> int:
        """How many events wait behind a dead letter."""
        return sum(one.events for one in self.parked)

    @property
    def oldest(self) -> DeadLetter | None:
        """The letter that failed first; None where there is none."""
        return min(self.letters, key=lambda letter: letter.failed_at, default=None)

    def count(self, by: Dimension) -> Table[_Sum]:
        """Add the letters up by one dimension, the most first; raises UsageError for another one."""
        columns = (Column[_Sum](by, lambda row: row[0]), Column[_Sum]("letters", lambda row: row[1], bar=True))
        return Table(columns, list(sum_counts(self.counts, by).items()), self._empty)

    @property
    def table(self) -> Table[DeadLetter]:
        """One line a dead letter, by tenant and offset; payloads are not shown."""
        return Table(LETTER_COLUMNS, self.letters, self._empty)

    @property
    def causes(self) -> Table[DeadLetterCount]:
        """One line a cause, topic, handler and tenant, the most letters first."""
        return Table(COUNT_COLUMNS, self.counts, self._empty)

    @property
    def parked_table(self) -> Table[Parked]:
        """One line an aggregate whose events wait behind a dead letter."""
        return Table(PARKED_COLUMNS, self.parked, "Nothing is parked.")

    @property
    def findings(self) -> list[Finding]:
        """Each tenant, handler and cause that has letters, and the tenants that could not be read."""
        return [*letter_findings(self.counts), *not_read(self.errors)]

    @property
    def summary(self) -> Summary:
        """How many letters there are, and of which causes."""
        facts = {
            "dead letters": len(self.letters),
            "causes": len({one.cause for one in self.counts}),
            "tenants": len({one.tenant for one in self.counts}),
            "parked": self.parked_events,
        }
        return Summary(f"{len(self.letters):,} dead letters on {self.target}", facts, self.findings)

    @property
    def affected(self) -> list[str]:
        """The tenants that have such letters, by name."""
        return sorted({letter.tenant for letter in self.letters})

    def add_to(self, summary: Summary) -> Summary:
        """Return the summary of a plan, or of its result, with these letters as those that are open still."""
        facts = {**summary.facts, "still open": len(self.letters)}
        return Summary(summary.title, facts, [*summary.findings, *self.findings])

    def __str__(self) -> str:
        causes = [f"{one.letters:,} letters: {one.cause} ({one.handler}, {one.tenant})" for one in self.counts]
        return "\n".join([*causes, self.line])

    @property
    def line(self) -> str:
        """How many letters there are, and how many events wait behind them."""
        return f"{len(self.letters):,} dead letters open, {self.parked_events:,} events parked behind them"

    @property
    def _empty(self) -> str:
        if not self.tenants:
            return "no dead letters: there are no tenants (erpkit tenants create NAME makes one)"
        return "no dead letters" if not self.errors else "no dead letters in the tenants that could be read"

    def __repr__(self) -> str:
        return repr(self.table)

    def _repr_html_(self) -> str:
        return self.table._repr_html_()


def read_letters(
    connection: Connection, target: str, tenants: Sequence[Tenant], selection: LetterSelection
) -> OpenLetters:
    """Read the open dead letters of `tenants` that `selection` chooses; a tenant that cannot be read costs no other."""
    errors: dict[str, str] = {}
    letters, _ = choose_letters(list_dead_letters(connection, tenants, errors), selection, None)
    handlers = {(letter.tenant, letter.handler) for letter in letters}
    parked = [one for one in list_parked(connection, tenants, errors) if (one.tenant, one.handler) in handlers]
    return OpenLetters(target, tenants, selection, letters, parked, errors)
