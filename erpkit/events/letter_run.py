"""Carrying out a plan for dead letters: a transaction each, with one effect, however many people try."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal
from uuid import UUID

import psycopg

from erpkit.config import acting_user
from erpkit.database import Connection, Database, Tenant
from erpkit.errors import DatabaseError, UsageError
from erpkit.events.causes import cause_of
from erpkit.events.dead_letters import DeadLetter, bury, describe_error
from erpkit.events.faults import raise_if_lost
from erpkit.events.letter_plan import LetterPlan
from erpkit.events.log import COLUMNS, append, to_message
from erpkit.events.message import Message
from erpkit.events.parking import hold_back, lock, park_if_blocked
from erpkit.events.router import handle
from erpkit.finding import Finding, not_read
from erpkit.modules import EventHandler, Registry
from erpkit.table import Column, Table, Tone

__all__ = ["LetterResult", "LetterRun", "run_discard", "run_retry"]

State = Literal["handled", "discarded", "failed", "left alone"]

_EARLIER = """
SELECT min(o."offset") FROM erpkit_dead_letters d JOIN erpkit_dead_letters o USING (handler, aggregate)
 WHERE d.handler = %(handler)s AND d.uuid = %(uuid)s AND o.status = 'open' AND o."offset" < d."offset"
"""

_CLOSE = """
UPDATE erpkit_dead_letters SET status = %(status)s, resolved_at = now(), resolved_by = %(who)s, reason = %(reason)s
 WHERE handler = %(handler)s AND uuid = %(uuid)s
"""


@dataclass(frozen=True)
class LetterResult:
    """What became of one event. `detail` is the error of one that failed, or why it was left alone.

    `was_parked` marks an event that had waited behind a dead letter, and was handled, or failed, once that was out of the way.
    """

    tenant: str
    handler: str
    topic: str
    offset: int
    uuid: UUID
    state: State
    detail: str = ""
    was_parked: bool = False


@dataclass(frozen=True)
class LetterRun:
    """The result of a retry or a discard, event by event."""

    plan_id: str
    results: tuple[LetterResult, ...]
    errors: Mapping[str, str] = field(default_factory=dict)  # of the plan: the tenants that could not be read

    def count(self, state: State, *, was_parked: bool = False) -> int:
        """Return how many dead letters, or parked events, ended in `state`."""
        return sum(result.state == state and result.was_parked == was_parked for result in self.results)

    @property
    def failed(self) -> tuple[LetterResult, ...]:
        """The events that the handler failed on, again or for the first time."""
        return tuple(result for result in self.results if result.state == "failed")

    @property
    def facts(self) -> dict[str, object]:
        """How many letters and parked events were handled, and how many failed."""
        return {
            "handled": self.count("handled"),
            "discarded": self.count("discarded"),
            "parked handled": self.count("handled", was_parked=True),
            "failed": len(self.failed),
        }

    @property
    def findings(self) -> list[Finding]:
        """What failed, by tenant, handler and cause, and what was left alone or could not be read."""
        failed: dict[tuple[str, str, str], list[str]] = {}
        for one in self.failed:
            failed.setdefault((one.tenant, one.handler, cause_of(one.detail)), []).append(str(one.offset))
        return [
            *(
                Finding("failed", tenant, f"{handler} failed: {cause}", evidence=(f"offsets {', '.join(offsets)}",))
                for (tenant, handler, cause), offsets in failed.items()
            ),
            *(
                Finding(
                    "left alone", one.tenant, f"{one.handler}, offset {one.offset} left alone: {one.detail}", "info"
                )
                for one in self.results
                if one.state == "left alone"
            ),
            *not_read(self.errors),
        ]

    @property
    def tables(self) -> tuple[Table[LetterResult], ...]:
        """One line an event, those that failed first; an event that had been parked is marked."""
        rows = sorted(self.results, key=lambda result: result.state != "failed")
        return (Table(_COLUMNS, rows, "There was nothing to do."),)

    def __str__(self) -> str:
        states: tuple[State, ...] = ("handled", "discarded", "failed", "left alone")
        counts = [f"{self.count(state)} {state}" for state in states if self.count(state)]
        parked = self.count("handled", was_parked=True)
        return f"{self.plan_id}: {', '.join(counts) or 'nothing to do'}; {parked} parked event(s) handled after them"


def _tone(result: LetterResult) -> Tone:
    return "error" if result.state == "failed" else "warning" if result.state == "left alone" else ""


_COLUMNS = (
    Column[LetterResult]("tenant", lambda r: r.tenant),
    Column[LetterResult]("offset", lambda r: r.offset),
    Column[LetterResult]("topic", lambda r: r.topic),
    Column[LetterResult]("handler", lambda r: r.handler),
    Column[LetterResult]("state", lambda r: f"{r.state}, was parked" if r.was_parked else r.state, tone=_tone),
    Column[LetterResult]("detail", lambda r: r.detail),
)


def run_retry(
    database: Database,
    registry: Registry,
    plan: LetterPlan,
    confirm: str,
    progress: Callable[[int], object] | None = None,
) -> LetterRun:
    """Hand the letters of `plan` to their handlers if `confirm` is its id.

    To retry is to handle for the first time with success, so it does not matter whether the handler is replayable. For each
    letter its effect, its inbox row and the closed letter are one transaction; one that fails again stays open, with its new
    error. What was closed or handled otherwise in the meantime is left alone, and so is a letter that an earlier one of its
    aggregate blocks. Events that were parked are then handled in their order. `progress` is called with 1 for each letter.
    Raises PlanChangedError, with nothing done, when the id is another.
    """
    _check(database, plan, confirm, "retry")
    return LetterRun(plan.id, tuple(_run(database, registry, plan, progress)))


def run_discard(
    database: Database,
    registry: Registry,
    plan: LetterPlan,
    confirm: str,
    progress: Callable[[int], object] | None = None,
) -> LetterRun:
    """Close the letters of `plan` without handling them if `confirm` is its id; who, when and why are kept.

    They are entered in the inbox, so that a second delivery does not bring them back. What was parked behind them is handled.
    Raises PlanChangedError, with nothing done, when the id is another.
    """
    _check(database, plan, confirm, "discard")
    return LetterRun(plan.id, tuple(_run(database, registry, plan, progress)))


def _check(database: Database, plan: LetterPlan, confirm: str, action: str) -> None:
    database.check_writable()
    plan.check(confirm)
    if plan.action != action:
        raise UsageError(f"plan {plan.id} is not to {action}: nothing was done")


def _run(
    database: Database, registry: Registry, plan: LetterPlan, progress: Callable[[int], object] | None
) -> Iterator[LetterResult]:
    for tenant in plan.tenants:
        letters = [letter for letter in plan.letters if letter.tenant == tenant.slug]
        for letter in letters:
            yield _settle(database, tenant, registry, plan, letter)
            if progress is not None:
                progress(1)
        for name in dict.fromkeys(letter.handler for letter in letters):
            handler = registry.event_handlers.get(name)
            if handler is not None and handler.ordered_by is not None:
                yield from _release(database, tenant, registry, handler)


def _settle(
    database: Database, tenant: Tenant, registry: Registry, plan: LetterPlan, letter: DeadLetter
) -> LetterResult:
    """Retry or discard one letter in a transaction of its own; a lost connection concerns this one only."""
    try:
        with database.tenant_transaction(tenant, write=True) as connection:
            lock(connection, letter.handler)
            if why := _why_leave(connection, letter):
                return _result(letter, "left alone", why)
            if plan.action == "discard":
                return _discard(connection, letter, plan.reason)
            return _retry(connection, tenant, registry, plan, letter)
    except (psycopg.Error, DatabaseError) as error:
        return _result(letter, "failed", describe_error(error))


def _why_leave(connection: Connection, letter: DeadLetter) -> str:
    keys = {"handler": letter.handler, "uuid": letter.uuid}
    row = connection.execute(
        "SELECT status, resolved_by FROM erpkit_dead_letters WHERE handler = %(handler)s AND uuid = %(uuid)s FOR UPDATE",
        keys,
    ).fetchone()
    if row is None:
        return "it is gone"
    if row[0] != "open":
        return f"{row[0]} in the meantime" + (f" by {row[1]}" if row[1] else "")
    earlier = connection.execute(_EARLIER, keys).fetchone()
    return f"offset {earlier[0]} of the same aggregate comes first" if earlier and earlier[0] is not None else ""


def _retry(
    connection: Connection, tenant: Tenant, registry: Registry, plan: LetterPlan, letter: DeadLetter
) -> LetterResult:
    handler = registry.event_handlers[letter.handler]
    message = _read(connection, letter.uuid)
    if message is None:
        return _result(letter, "failed", "the event is not in the log any more")
    try:
        with connection.transaction():
            published = _handle_once(connection, tenant, registry, handler, message)
            _close(connection, letter, "resolved", f"retried: {plan.id}")
    except Exception as error:
        raise_if_lost(connection, error, handler.name)
        _note_failure(connection, letter, error)
        return _result(letter, "failed", describe_error(error))
    append(connection, published or [])
    if published is None:
        return _result(letter, "left alone", "handled otherwise in the meantime; it is closed now")
    return _result(letter, "handled")


def _discard(connection: Connection, letter: DeadLetter, reason: str) -> LetterResult:
    _enter_inbox(connection, letter.handler, letter.uuid)
    _close(connection, letter, "discarded", reason)
    return _result(letter, "discarded")


def _release(database: Database, tenant: Tenant, registry: Registry, handler: EventHandler) -> Iterator[LetterResult]:
    """Handle what nothing holds back any more, a batch a transaction, until nothing of it is left."""
    while True:
        try:
            results = _release_batch(database, tenant, registry, handler)
        except (psycopg.Error, DatabaseError) as error:
            nothing = LetterResult(tenant.slug, handler.name, registry.topic(handler.event), 0, UUID(int=0), "failed")
            yield replace(nothing, detail=f"parked events stay parked: {describe_error(error)}", was_parked=True)
            return
        yield from results
        if not results:
            return


def _release_batch(database: Database, tenant: Tenant, registry: Registry, handler: EventHandler) -> list[LetterResult]:
    """Handle a batch of freed events at once, or one by one where one of them fails."""
    with database.tenant_transaction(tenant, write=True) as connection:
        ready = hold_back(connection, registry, handler, [])
        published: list[Message] = []
        try:
            with connection.transaction():
                for message in ready:
                    published += _handle_once(connection, tenant, registry, handler, message) or []
            results = [_freed(tenant, handler, message, "handled") for message in ready]
        except Exception as error:
            raise_if_lost(connection, error, handler.name)
            results, published = _handle_each(connection, tenant, registry, handler, ready)
        append(connection, published)
    return results


def _handle_each(
    connection: Connection, tenant: Tenant, registry: Registry, handler: EventHandler, messages: Iterable[Message]
) -> tuple[list[LetterResult], list[Message]]:
    results: list[LetterResult] = []
    published: list[Message] = []
    for message in messages:
        if park_if_blocked(connection, registry, handler, message):
            continue  # an earlier one of its aggregate failed just now
        try:
            with connection.transaction():
                published += _handle_once(connection, tenant, registry, handler, message) or []
            results.append(_freed(tenant, handler, message, "handled"))
        except Exception as error:
            raise_if_lost(connection, error, handler.name)
            bury(connection, registry, handler, message, error, 1)
            results.append(_freed(tenant, handler, message, "failed", describe_error(error)))
    return results, published


def _freed(tenant: Tenant, handler: EventHandler, message: Message, state: State, detail: str = "") -> LetterResult:
    offset = message.offset or 0
    return LetterResult(tenant.slug, handler.name, message.topic, offset, message.uuid, state, detail, was_parked=True)


def _handle_once(
    connection: Connection, tenant: Tenant, registry: Registry, handler: EventHandler, message: Message
) -> list[Message] | None:
    """Handle an event and enter it in the inbox; None where it is there already, and nothing is done."""
    if not _enter_inbox(connection, handler.name, message.uuid):
        return None
    return handle(connection, tenant, registry, handler, message)


def _enter_inbox(connection: Connection, handler: str, uuid: UUID) -> bool:
    query = "INSERT INTO erpkit_inbox (handler, uuid) VALUES (%s, %s) ON CONFLICT DO NOTHING"
    return connection.execute(query, [handler, uuid]).rowcount == 1


def _read(connection: Connection, uuid: UUID) -> Message | None:
    row = connection.execute(f"SELECT {COLUMNS} FROM erpkit_events WHERE uuid = %s", [uuid]).fetchone()  # noqa: S608
    return to_message(row) if row else None


def _close(connection: Connection, letter: DeadLetter, status: str, reason: str) -> None:
    facts = {"status": status, "who": acting_user(), "reason": reason}
    connection.execute(_CLOSE, {**facts, "handler": letter.handler, "uuid": letter.uuid})


def _note_failure(connection: Connection, letter: DeadLetter, error: Exception) -> None:
    connection.execute(
        "UPDATE erpkit_dead_letters SET error = %s, attempts = attempts + 1, failed_at = now() WHERE handler = %s AND uuid = %s",
        [describe_error(error), letter.handler, letter.uuid],
    )


def _result(letter: DeadLetter, state: State, detail: str = "") -> LetterResult:
    return LetterResult(letter.tenant, letter.handler, letter.topic, letter.offset, letter.uuid, state, detail)
