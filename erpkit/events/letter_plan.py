"""Choosing dead letters, and planning to retry or to discard them."""

from __future__ import annotations

import fnmatch
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property
from typing import Literal
from uuid import UUID

from erpkit.database import Connection, Tenant, tenants_with_table
from erpkit.errors import PlanChangedError, UsageError
from erpkit.events.dead_letters import (
    COUNT_COLUMNS,
    LETTER_COLUMNS,
    DeadLetter,
    DeadLetterCount,
    Dimension,
    cause_of,
    group_letters,
    letter_findings,
    list_dead_letters,
    sum_counts,
)
from erpkit.events.log import check_time_zones, hint_topic
from erpkit.events.orphans import FORWARDERS
from erpkit.events.parking import PARKED_COLUMNS, Parked, list_parked
from erpkit.finding import NO_TENANTS, Finding, not_read
from erpkit.modules import Registry
from erpkit.plan import plan_id
from erpkit.plural import count_of
from erpkit.result import Summary, TableResult
from erpkit.table import Column, Table

_BEHIND = "lacks erpkit's own migrations: run `erpkit migrate up`"


@dataclass(frozen=True)
class LetterSelection:
    """Which open dead letters: all conditions hold together, and what is not given sets no limit.

    `handler` and `topic` are patterns such as `billing.*`; `cause` is a part of the error, or of its cause as counts show it,
    in any case of letters. `since` is inclusive and `until` is not; both mean the time of the failure and need a time zone.
    """

    handler: str = "*"
    topic: str = "*"
    cause: str = ""
    uuids: tuple[UUID, ...] = ()
    offsets: tuple[int, ...] = ()
    since: datetime | None = None
    until: datetime | None = None

    def __post_init__(self) -> None:
        check_time_zones(since=self.since, until=self.until)

    def holds(self, letter: DeadLetter) -> bool:
        """Tell whether a dead letter is selected."""
        return (
            fnmatch.fnmatchcase(letter.handler, self.handler)
            and fnmatch.fnmatchcase(letter.topic, self.topic)
            and any(self.cause.casefold() in text.casefold() for text in (letter.error, cause_of(letter.error)))
            and (not self.uuids or letter.uuid in self.uuids)
            and (not self.offsets or letter.offset in self.offsets)
            and (self.since is None or letter.failed_at >= self.since)
            and (self.until is None or letter.failed_at < self.until)
        )


@dataclass(frozen=True)
class LetterPlan:
    """What a retry or a discard would do. `parked` are events that wait behind some dead letter of the same handler and tenant.

    `left_out` maps tenants and handlers that it leaves alone to the reason; those of them that could not be read are `errors`, too.
    `reason` is why letters are discarded. `others` is how many letters are open in these tenants and not meant.
    """

    action: Literal["retry", "discard"]
    tenants: tuple[Tenant, ...]
    letters: tuple[DeadLetter, ...]
    parked: int = 0
    reason: str = ""
    left_out: Mapping[str, str] = field(default_factory=dict)
    errors: Mapping[str, str] = field(default_factory=dict)
    others: int = 0
    named: frozenset[str] = frozenset()
    found: int | None = None

    @property
    def id(self) -> str:
        """`retry-` or `discard-` and ten hexadecimal digits that stand for exactly these letters, and the reason."""
        facts = [self.action, self.reason, [(d.tenant, d.handler, str(d.uuid)) for d in self.letters]]
        return plan_id(self.action, facts)

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to do."""
        return not self.letters

    def counts(self) -> list[DeadLetterCount]:
        """Return how many letters there are by tenant, handler, topic and cause, the most first."""
        return group_letters(self.letters)

    @property
    def size(self) -> int:
        """How many dead letters there are."""
        return len(self.letters)

    @property
    def facts(self) -> dict[str, object]:
        """How many letters, and how many events are parked behind them."""
        return {"planned": len(self.letters), "parked then": self.parked}

    @property
    def findings(self) -> list[Finding]:
        """The tenants that could not be read, and what else is left out."""
        left = [
            Finding("left out", name, f"left out: {reason}", "warning" if name in self.named else "info")
            for name, reason in self.left_out.items()
            if name not in self.errors
        ]
        return [*([NO_TENANTS] if self.found == 0 else []), *not_read(self.errors), *left]

    @property
    def tables(self) -> tuple[Table[DeadLetterCount], ...]:
        """One row per tenant, handler and cause: how many letters would be retried or discarded."""
        empty = _none_matches(self.others) if self.others else f"There is nothing to {self.action}."
        return (Table(COUNT_COLUMNS, self.counts(), empty),)

    def __str__(self) -> str:
        return f"{self.action} {count_of(len(self.letters), 'dead letter')}{_behind(self.parked)}"

    def check(self, confirm: str) -> None:
        """Raise PlanChangedError unless `confirm` is this plan's id."""
        PlanChangedError.check(confirm, self.id)


def _behind(parked: int) -> str:
    return f", {count_of(parked, 'event')} parked behind them" if parked else ""


def plan_retry(
    connection: Connection, tenants: Sequence[Tenant], registry: Registry, selection: LetterSelection | None = None
) -> LetterPlan:
    """Plan to hand the chosen dead letters of `tenants` to their handlers once more.

    To retry is to handle for the first time with success: the failed attempts left nothing behind. So it does not matter
    whether the handler is replayable, and its side effects are wanted. Letters of tenants that are not active, and of handlers
    that no module has any more, are left out.
    """
    return _plan("retry", connection, tenants, selection, set(registry.event_handlers))


def plan_discard(
    connection: Connection, tenants: Sequence[Tenant], reason: str, selection: LetterSelection | None = None
) -> LetterPlan:
    """Plan to give the chosen dead letters of `tenants` up, for a `reason` that is kept with them.

    What the handler would have done is then never done, and events that are parked behind them go ahead. Raises UsageError
    without a reason.
    """
    if not reason.strip():
        raise UsageError("discarding a dead letter needs a reason: it is kept with the letter")
    return replace(_plan("discard", connection, tenants, selection, None), reason=reason.strip())


def choose_letters(
    letters: Iterable[DeadLetter], selection: LetterSelection, handlers: Collection[str] | None
) -> tuple[list[DeadLetter], dict[str, str]]:
    """Return the letters that are meant, and the handlers that are left out as they are not among `handlers`. Pure."""
    meant = [letter for letter in letters if selection.holds(letter)]
    if handlers is None:
        return meant, {}
    gone = {letter.handler: _why_gone(letter.handler) for letter in meant if letter.handler not in handlers}
    return [letter for letter in meant if letter.handler not in gone], gone


def _why_gone(handler: str) -> str:
    is_forwarder = handler.startswith(FORWARDERS)
    return "`erpkit events forward --from OFFSET` sends it" if is_forwarder else "no module has this handler any more"


def _plan(
    action: Literal["retry", "discard"],
    connection: Connection,
    tenants: Sequence[Tenant],
    selection: LetterSelection | None,
    handlers: Collection[str] | None,
) -> LetterPlan:
    errors: dict[str, str] = {}
    ready = {tenant.slug for tenant in tenants_with_table(connection, "erpkit_parked", tenants, errors)}
    left = {t.slug: _BEHIND if t.is_active else t.status for t in tenants if not t.is_active or t.slug not in ready}
    asked = [tenant for tenant in tenants if tenant.slug not in left]
    found = list_dead_letters(connection, asked, errors)
    chosen_by = selection or LetterSelection()
    letters, gone = choose_letters(found, chosen_by, handlers)
    slugs = {letter.tenant for letter in letters}
    chosen = tuple(tenant for tenant in asked if tenant.slug in slugs)
    waiting = _count_behind(letters, list_parked(connection, chosen, errors))
    unread = {slug: text for slug, text in errors.items() if slug not in left or left[slug] == _BEHIND}
    others = sum(not chosen_by.holds(letter) for letter in found)
    return LetterPlan(action, chosen, tuple(letters), waiting, "", {**left, **gone, **unread}, unread, others=others)


def _none_matches(others: int) -> str:
    return f"No dead letter matches; {count_of(others, 'other is', 'others are')} open."


def _count_behind(letters: Iterable[DeadLetter], parked: Iterable[Parked]) -> int:
    handlers = {(letter.tenant, letter.handler) for letter in letters}
    return sum(one.events for one in parked if (one.tenant, one.handler) in handlers)


_Sum = tuple[str, int]


@dataclass(frozen=True, repr=False)
class OpenLetters(TableResult):
    """The open dead letters that `selection` chooses, and what is parked behind those of their handlers.

    `errors` maps the tenants that could not be read to the reason. `others` is how many letters are open and not chosen.
    """

    target: str
    tenants: Sequence[Tenant]
    selection: LetterSelection
    letters: Sequence[DeadLetter]
    parked: Sequence[Parked] = ()
    errors: Mapping[str, str] = field(default_factory=dict)
    others: int = 0
    hint: str = ""  # where no topic of an open letter fits the selection's pattern

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
        """The dead letter that failed first; None where there is none."""
        return min(self.letters, key=lambda letter: letter.failed_at, default=None)

    def count(self, by: Dimension) -> Table[_Sum]:
        """Add the letters up by one dimension, the most first; raises UsageError for another one."""
        columns = (Column[_Sum](by, lambda row: row[0]), Column[_Sum]("letters", lambda row: row[1], bar=True))
        return Table(columns, list(sum_counts(self.counts, by).items()), self._empty)

    @property
    def table(self) -> Table[DeadLetter]:
        """One row per dead letter, by tenant and offset; payloads are not shown."""
        return Table(LETTER_COLUMNS, self.letters, self._empty, is_trouble=True, about=("dead letters",))

    @property
    def causes(self) -> Table[DeadLetterCount]:
        """One row per cause, topic, handler and tenant, the most letters first."""
        return Table(COUNT_COLUMNS, self.counts, self._empty)

    @property
    def parked_table(self) -> Table[Parked]:
        """One row per aggregate whose events wait behind a dead letter."""
        return Table(PARKED_COLUMNS, self.parked, "Nothing is parked.")

    @property
    def findings(self) -> list[Finding]:
        """Each tenant, handler and cause that has letters, and the tenants that could not be read."""
        nobody = [] if self.tenants else [NO_TENANTS]
        return [*nobody, *letter_findings(self.counts), *not_read(self.errors)]

    @property
    def summary(self) -> Summary:
        """How many letters there are, and of which causes."""
        facts = {
            "dead letters": len(self.letters),
            "causes": len({one.cause for one in self.counts}),
            "tenants": len({one.tenant for one in self.counts}),
            "parked": self.parked_events,
        }
        return Summary(f"{count_of(len(self.letters), 'dead letter')} on {self.target}", facts, self.findings)

    @property
    def affected(self) -> list[str]:
        """The tenants that have such letters, by name."""
        return sorted({letter.tenant for letter in self.letters})

    def add_to(self, summary: Summary) -> Summary:
        """Return the summary of a plan, or of its result, with these letters as those that are still open."""
        facts = {**summary.facts, "still open": len(self.letters)}
        return Summary(summary.title, facts, [*summary.findings, *self.findings])

    def __str__(self) -> str:
        causes = [
            f"{count_of(one.letters, 'letter')}: {one.cause} ({one.handler}, {one.tenant})" for one in self.counts
        ]
        return "\n".join([*causes, self.line])

    @property
    def line(self) -> str:
        """How many letters there are, and how many events wait behind them."""
        return f"{count_of(len(self.letters), 'dead letter')} open{_behind(self.parked_events)}"

    @property
    def _empty(self) -> str:
        if not self.tenants:
            return "no dead letters: there are no tenants"
        if self.others:
            return _none_matches(self.others) + (f" ({self.hint})" if self.hint else "")
        return "no dead letters" if not self.errors else "no dead letters in the tenants that could be read"


def read_letters(
    connection: Connection, target: str, tenants: Sequence[Tenant], selection: LetterSelection
) -> OpenLetters:
    """Read the open dead letters of `tenants` that `selection` chooses; a tenant that cannot be read does not stop the others."""
    errors: dict[str, str] = {}
    found = list_dead_letters(connection, tenants, errors)
    letters, _ = choose_letters(found, selection, None)
    hint = hint_topic(selection.topic, (letter.topic for letter in found)) if found else ""
    handlers = {(letter.tenant, letter.handler) for letter in letters}
    parked = [one for one in list_parked(connection, tenants, errors) if (one.tenant, one.handler) in handlers]
    return OpenLetters(target, tenants, selection, letters, parked, errors, len(found) - len(letters), hint)
