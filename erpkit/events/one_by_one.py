"""Dispatching to a handler with effects outside the database: one event at a time, each committed before the next."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

import psycopg
from psycopg import sql

from erpkit.database import Connection
from erpkit.events.checkpoints import (
    Checkpoint,
    commit_and_go_on,
    mark_statement,
    move_checkpoint,
    move_statement,
)
from erpkit.events.consumer import Consumer, Context, Watch, raise_if_lost
from erpkit.events.dead_letters import add_dead_letter
from erpkit.events.guard import true_cause, unbroken
from erpkit.events.handling import ATTEMPTS, STATEMENT_TIMEOUT, Dispatched, crash_of, give_up, give_up_all, handle_each
from erpkit.events.log import append
from erpkit.events.message import Message
from erpkit.events.middleware import Middleware, TransactionEndedError
from erpkit.events.parking import hold_back
from erpkit.events.pauses import WIDE_FOR, Pause, is_wide, is_worth_retrying, read_past_outage
from erpkit.events.router import EVERY, run_handler
from erpkit.events.timeout import watched
from erpkit.modules import EventHandler

_TURN = 1.0  # seconds after which other handlers and tenants get their turn

_SAVEPOINT = "SAVEPOINT erpkit_event"
_ENTER = "INSERT INTO erpkit_inbox (handler, uuid) VALUES ({}, {}) ON CONFLICT DO NOTHING"
_UNDO = "ROLLBACK TO SAVEPOINT erpkit_event"


def dispatch_one_by_one(connection: Connection, consumer: Consumer, limit: int, in_flight: list[Message]) -> Dispatched:
    """Hand on events, one to a transaction, until none is left or the turn is over; the one at work is `in_flight`.

    The present transaction, which only has begun, is the first of them. Before its handler is called an event is durably marked
    as in flight: whoever ends there, the next dispatcher tries that event again, and no other.
    """
    checkpoint, messages = read_past_outage(connection, consumer, limit)
    if messages is None:
        return Dispatched()
    turn = _Turn(connection, consumer, checkpoint, in_flight)
    turn.release()
    pause = turn.run(checkpoint, messages)
    if pause is not None:
        move_checkpoint(connection, consumer.group, pause.offset, pause=pause)
    elif turn.place is not None:
        move_checkpoint(connection, consumer.group, turn.place)
    return turn.count(pause)


@dataclass
class _Turn:
    """What became of the events of one turn; the checkpoint is to move to `place`."""

    connection: Connection
    consumer: Consumer
    checkpoint: Checkpoint
    in_flight: list[Message]
    place: int | None = None
    handled: int = 0
    parked: int = 0
    dead: list[int] = field(default_factory=list)
    failed: Context | None = None

    def count(self, pause: Pause | None) -> Dispatched:
        """Return the counts, without the dead letters that a pause has taken back."""
        dead = [offset for offset in self.dead if pause is None or offset <= pause.offset]
        return Dispatched(self.handled, len(dead), self.parked)

    def release(self) -> None:
        """Handle what was parked and is free now, each in a transaction of its own."""
        while self.consumer.handler.ordered_by is not None:
            freed = hold_back(self.connection, self.consumer, [], 1)
            if not freed:
                return
            self.in_flight[:] = freed
            result = handle_each(self.connection, replace(self.consumer, leaving=None), freed)
            append(self.connection, result.published)
            self.handled += len(result.handled)
            self.dead += [message.offset or 0 for message, _ in result.dead]
            commit_and_go_on(self.connection, self.consumer, (), (), STATEMENT_TIMEOUT)

    def run(self, checkpoint: Checkpoint, messages: Sequence[Message]) -> Pause | None:
        """Hand on messages until the turn is over; return the pause after it, if it ends with failures."""
        ends = time.monotonic() + (WIDE_FOR if is_wide(checkpoint) else _TURN)
        for message in messages:
            if self.place is not None and (time.monotonic() > ends or self._must_leave()):
                break
            if message.uuid not in checkpoint.letters and (pause := self._hand_on(message)):
                return pause
            self.place = message.offset
        if self.failed is None or self.handled:
            return None
        return give_up_all(self.connection, self.consumer, self.failed, len(self.dead), self.checkpoint)

    def _must_leave(self) -> bool:
        """Tell whether a session waits to suspend, rename or drop the tenant."""
        return self.consumer.leaving is not None and self.consumer.leaving.is_due()

    def _hand_on(self, message: Message) -> Pause | None:
        attempts = 0
        if self.place is None and self.checkpoint.is_suspect(message):
            attempts = self.checkpoint.attempts + 1
            if attempts > ATTEMPTS:
                add_dead_letter(self.connection, self.consumer, message, crash_of(self.checkpoint), ATTEMPTS)
                self.dead.append(message.offset or 0)
                return None
        is_new = self._begin(message, attempts)
        if is_new and self._is_held_back(message):
            self.parked += 1
            return None
        if is_new:
            return self._handle(message)
        self._note_handled(())
        return None

    def _begin(self, message: Message, attempts: int) -> bool:
        """Commit the event before, mark this one, and enter it in the inbox after a savepoint; tell whether it is new there."""
        done = (
            "SET LOCAL synchronous_commit TO off"
            if self.place is None
            else move_statement(self.consumer.group, self.place)
        )
        before = (done, mark_statement(self.consumer, message.offset or 0, attempts))
        self.in_flight[:] = [message]
        after = (_SAVEPOINT, self._enter(message))
        return commit_and_go_on(self.connection, self.consumer, before, after, STATEMENT_TIMEOUT) == 1

    def _enter(self, message: Message) -> str:
        values = (sql.Literal(value).as_string() for value in (self.consumer.name, message.uuid))
        return _ENTER.format(*values)

    def _is_held_back(self, message: Message) -> bool:
        """Park the event if it must wait for an earlier one of its aggregate; it is not handled then, and leaves the inbox."""
        if self.consumer.handler.ordered_by is None:
            return False
        self.connection.execute(_UNDO)
        if not hold_back(self.connection, self.consumer, [message], 0):
            return True
        self.connection.execute(f"{_SAVEPOINT}; {self._enter(message)}".encode())
        return False

    def _handle(self, message: Message) -> Pause | None:
        context = self.consumer.context(self.connection, message)
        middleware = _middleware(self.consumer.handler, self.consumer.watch)
        retry = self.consumer.handler.retry
        most = 1 if retry.waits_outside or self.checkpoint.pauses else retry.attempts
        for attempt in range(1, most + 1):
            context.attempt, context.published, context.sent = attempt, [], 0
            try:
                self._note_handled(run_handler(self.consumer.handler, context, middleware))
                return None
            except Exception as error:
                self._undo(context, error)
                if attempt == most or not is_worth_retrying(retry, error):
                    break
            time.sleep(random.uniform(0, min(1.0, retry.limit(attempt))))
            self.connection.execute(self._enter(message).encode())
        return self._note_failed(context)

    def _undo(self, context: Context, error: Exception) -> None:
        raise_if_lost(self.connection, error, str(self.consumer))
        if isinstance(error, TransactionEndedError):
            raise error
        try:
            self.connection.execute(_UNDO)
        except psycopg.Error:
            raise_if_lost(self.connection, error, str(self.consumer))
            raise TransactionEndedError(context.message) from error
        context.error = error

    def _note_handled(self, published: Sequence[Message]) -> None:
        append(self.connection, published)
        self.handled += 1
        self.checkpoint = replace(self.checkpoint, tries=0, pauses=0)

    def _note_failed(self, context: Context) -> Pause | None:
        self.failed = context
        pause = give_up(self.connection, self.consumer, context, self.checkpoint)
        if pause is None:
            self.dead.append(context.message.offset or 0)
            self.checkpoint = replace(self.checkpoint, tries=0)
        return pause


@lru_cache(maxsize=1000)
def _middleware(handler: EventHandler, watch: Watch) -> tuple[Middleware, ...]:
    return (*EVERY, true_cause, unbroken, watched(watch, handler))
