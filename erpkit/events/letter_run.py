"""Retrying and discarding dead letters: one transaction for each, with one effect even if several people try at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal
from uuid import UUID

import psycopg

from erpkit.config import acting_user
from erpkit.database import Connection, Database, Tenant
from erpkit.errors import DatabaseError
from erpkit.events.consumer import Consumer, raise_if_lost
from erpkit.events.dead_letters import DeadLetter, describe_error, failure_findings
from erpkit.events.handling import handle_batch
from erpkit.events.letter_plan import LetterPlan
from erpkit.events.log import EVENT, append, to_message
from erpkit.events.message import Message
from erpkit.events.parking import hold_back, lock_parking
from erpkit.events.router import handle
from erpkit.finding import Finding, not_read
from erpkit.modules import Registry
from erpkit.plural import count_of
from erpkit.result import Result
from erpkit.table import Column, Table, Tone

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
    `published` counts the events that the handler published: they wait for a dispatcher.
    """

    tenant: str
    handler: str
    topic: str
    offset: int
    uuid: UUID
    state: State
    detail: str = ""
    was_parked: bool = False
    published: int = 0


@dataclass(frozen=True)
class LetterRun(Result):
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
        """What failed, by tenant, handler and cause, what was left alone or could not be read, and what waits now."""
        return [
            *failure_findings(((one.tenant, one.handler, one.detail, one.offset) for one in self.failed), _SHOW),
            *(
                Finding(
                    "left alone", one.tenant, f"{one.handler}, offset {one.offset} left alone: {one.detail}", "info"
                )
                for one in self.results
                if one.state == "left alone"
            ),
            *not_read(self.errors),
            *self._waiting(),
        ]

    def _waiting(self) -> list[Finding]:
        """Return what the handlers published: where no dispatcher runs, it would be trouble some minutes later."""
        counts = Counter[str]()
        for one in self.results:
            counts[one.tenant] += one.published
        return [
            Finding(
                "published", slug, f"{count_of(count, 'event')} published by the handlers: a dispatcher handles them",
                "info", f"erpkit events dispatch --once --tenant {slug}",
            )
            for slug, count in counts.items() if count
        ]  # fmt: skip

    @property
    def tables(self) -> tuple[Table[LetterResult], ...]:
        """One row per event, those that failed first; an event that had been parked is marked."""
        rows = sorted(self.results, key=lambda result: result.state != "failed")
        return (Table(_COLUMNS, rows, "There was nothing to do."),)

    def __str__(self) -> str:
        states: tuple[State, ...] = ("handled", "discarded", "failed", "left alone")
        counts = [f"{self.count(state):,} {state}" for state in states if self.count(state)]
        parked = self.count("handled", was_parked=True)
        after = f"; {count_of(parked, 'parked event')} handled after them" if parked else ""
        return f"{self.plan_id}: {', '.join(counts) or 'nothing to do'}{after}"


_SHOW = "erpkit events dead-letters show"


def _tone(result: LetterResult) -> Tone:
    return "error" if result.state == "failed" else "warning" if result.state == "left alone" else ""


_COLUMNS = (
    Column[LetterResult]("tenant", lambda r: r.tenant),
    Column[LetterResult]("offset", lambda r: r.offset),
    Column[LetterResult]("topic", lambda r: r.topic, minor=True),
    Column[LetterResult]("handler", lambda r: r.handler),
    Column[LetterResult]("state", lambda r: f"{r.state}, was parked" if r.was_parked else r.state, tone=_tone),
    Column[LetterResult]("detail", lambda r: r.detail),
)


def run_letters(
    database: Database,
    registry: Registry,
    plan: LetterPlan,
    confirm: str,
    progress: Callable[[int], object] | None = None,
) -> LetterRun:
    """Retry or discard the letters of `plan` if `confirm` is its id; then handle the events that were parked behind them.

    To retry is to handle for the first time with success, so it does not matter whether the handler is replayable. The effect,
    the inbox row and the closed letter are one transaction for each letter; one that fails again stays open, with its new
    error. To discard is to close a letter without handling it: who, when and why are kept, and it is entered in the inbox, so
    that a second delivery does not bring it back. A letter that was closed or handled by others meanwhile is left alone, and so
    is one that an earlier letter of its aggregate blocks. `progress` is called with 1 for each letter.
    Raises PlanChangedError, with nothing done, when the id is another.
    """
    database.check_writable()
    plan.check(confirm)
    return LetterRun(plan.id, tuple(_run(database, registry, plan, progress)))


def _run(
    database: Database, registry: Registry, plan: LetterPlan, progress: Callable[[int], object] | None
) -> Iterator[LetterResult]:
    for tenant in plan.tenants:
        letters = [letter for letter in plan.letters if letter.tenant == tenant.slug]
        handlers = {name: registry.event_handlers.get(name) for name in dict.fromkeys(one.handler for one in letters)}
        consumers = {
            name: Consumer(tenant, registry, handler) for name, handler in handlers.items() if handler is not None
        }
        for letter in letters:
            yield _close_letter(database, tenant, consumers.get(letter.handler), plan, letter)
            if progress is not None:
                progress(1)
        for consumer in consumers.values():
            if consumer.handler.ordered_by is not None:
                yield from _release(database, consumer)


def _close_letter(
    database: Database, tenant: Tenant, consumer: Consumer | None, plan: LetterPlan, letter: DeadLetter
) -> LetterResult:
    """Retry or discard one letter in a transaction of its own; a lost connection only fails this letter."""
    try:
        with database.tenant_transaction(tenant, write=True) as connection:
            lock_parking(connection, letter.handler)
            if why := _why_leave(connection, letter):
                return _result(letter, "left alone", why)
            if plan.action == "discard":
                return _discard(connection, letter, plan.reason)
            if consumer is None:
                return _result(letter, "left alone", "no module has this handler any more")
            return _retry(connection, consumer, plan, letter)
    except (psycopg.Error, DatabaseError) as error:
        return _result(letter, "failed", describe_error(error))


def _why_leave(connection: Connection, letter: DeadLetter) -> str:
    keys = {"handler": letter.handler, "uuid": letter.uuid}
    row = connection.execute(
        "SELECT status, resolved_by FROM erpkit_dead_letters WHERE handler = %(handler)s AND uuid = %(uuid)s FOR UPDATE",
        keys,
    ).fetchone()
    if row is None:
        return "it no longer exists"
    if row[0] != "open":
        return f"{row[0]} meanwhile" + (f" by {row[1]}" if row[1] else "")
    earlier = connection.execute(_EARLIER, keys).fetchone()
    return f"offset {earlier[0]} of the same aggregate comes first" if earlier and earlier[0] is not None else ""


def _retry(connection: Connection, consumer: Consumer, plan: LetterPlan, letter: DeadLetter) -> LetterResult:
    message = _read(connection, letter)
    if message is None:
        return _result(letter, "failed", "the event is not in the log any more")
    try:
        with connection.transaction():
            is_new = _enter_inbox(connection, letter.handler, letter.uuid)
            published = handle(connection, consumer, message) if is_new else []
            _close(connection, letter, "resolved", f"retried: {plan.id}")
    except Exception as error:
        raise_if_lost(connection, error, consumer.name)
        _note_failure(connection, letter, error)
        return _result(letter, "failed", describe_error(error))
    append(connection, published)
    if not is_new:
        return _result(letter, "left alone", "handled by other means meanwhile; it is closed now")
    return replace(_result(letter, "handled"), published=len(published))


def _discard(connection: Connection, letter: DeadLetter, reason: str) -> LetterResult:
    _enter_inbox(connection, letter.handler, letter.uuid)
    _close(connection, letter, "discarded", reason)
    return _result(letter, "discarded")


def _release(database: Database, consumer: Consumer) -> Iterator[LetterResult]:
    """Handle events that are no longer held back, one batch per transaction, until none is left."""
    while True:
        try:
            results = _release_batch(database, consumer)
        except (psycopg.Error, DatabaseError) as error:
            nothing = Message(consumer.group.topics[0], {}, UUID(int=0))
            yield _released(consumer, nothing, "failed", f"parked events stay parked: {describe_error(error)}")
            return
        yield from results
        if not results:
            return


def _release_batch(database: Database, consumer: Consumer) -> list[LetterResult]:
    """Handle a batch of released events; one that fails becomes a dead letter at once."""
    most = 1 if consumer.handler.is_outside else 500
    with database.tenant_transaction(consumer.tenant, write=True) as connection:
        result = handle_batch(connection, consumer, hold_back(connection, consumer, [], most), attempts=1)
        append(connection, result.published)
    handled = [_released(consumer, message, "handled") for message in result.handled]
    handled[:1] = [replace(one, published=len(result.published)) for one in handled[:1]]  # told once for the batch
    failed = [_released(consumer, message, "failed", describe_error(error)) for message, error in result.dead]
    return sorted([*handled, *failed], key=lambda one: one.offset)


def _released(consumer: Consumer, message: Message, state: State, detail: str = "") -> LetterResult:
    offset, slug = message.offset or 0, consumer.tenant.slug
    return LetterResult(slug, consumer.name, message.topic, offset, message.uuid, state, detail, was_parked=True)


def _enter_inbox(connection: Connection, handler: str, uuid: UUID) -> bool:
    query = "INSERT INTO erpkit_inbox (handler, uuid) VALUES (%s, %s) ON CONFLICT DO NOTHING"
    return connection.execute(query, [handler, uuid]).rowcount == 1


def _read(connection: Connection, letter: DeadLetter) -> Message | None:
    """Return the letter's event, with the payload of its last edit if there was one."""
    row = connection.execute(
        f"SELECT d.payload, {EVENT} FROM erpkit_events e "  # noqa: S608
        "JOIN erpkit_dead_letters d ON d.uuid = e.uuid AND d.handler = %s WHERE e.uuid = %s",
        [letter.handler, letter.uuid],
    ).fetchone()
    if row is None:
        return None
    message = to_message(row[1:])
    return message if row[0] is None else replace(message, payload=row[0])


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
