"""Middleware: what surrounds a handler, each one idea.

A middleware takes the next handler and returns one that does something before, after or instead of it; router.py puts them
in order. Most of them come from Watermill's router.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING

from psycopg import pq

from erpkit.errors import DatabaseError, ErpkitError
from erpkit.events.consumer import Context, raise_if_lost
from erpkit.events.message import Message, PayloadError
from erpkit.modules import Retry

if TYPE_CHECKING:
    from opentelemetry.trace import SpanKind, Tracer
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator


class RateLimit:
    """Computes how long to wait so that at most `per_second` messages a second pass, evenly spread.

    The first `burst` messages do not wait. Up to `catch_up` seconds of unused rate can be used later.
    """

    def __init__(self, per_second: float, *, burst: int = 0, catch_up: float = 0.0) -> None:
        self._cost = 1 / per_second
        self._catch_up = max(catch_up, burst / per_second)
        self._paid_at = time.monotonic() - burst / per_second
        self._lock = threading.Lock()

    def reserve(self, messages: int = 1) -> float:
        """Count `messages` as passed, and return how many seconds to wait until the rate is kept."""
        with self._lock:
            now = time.monotonic()
            self._paid_at = max(self._paid_at, now - self._catch_up) + messages * self._cost
            return max(0.0, self._paid_at - now)


Handle = Callable[[Context], Sequence[Message]]
Middleware = Callable[[Handle], Handle]


class TransactionEndedError(DatabaseError):
    """A handler ended the transaction that it was given; `message` is the one it had, None where that cannot be told.

    `published` is what the messages before it published, in a transaction that may have been committed.
    """

    def __init__(self, message: Message | None) -> None:
        super().__init__(
            "it ended the transaction itself (COMMIT or ROLLBACK in SQL), which is the dispatcher's to end"
        )
        self.message = message
        self.published: list[Message] = []


class HandlerError(ErpkitError):
    """A handler did what it must not do: it tried to end the process, or took longer than its timeout."""


def correlation(following: Handle) -> Handle:
    """Give what a handler publishes the correlation id of what it handled, and that one's uuid as its cause.

    Context.publish does so itself; this is for messages that came about in another way.
    """

    def handle(context: Context) -> Sequence[Message]:
        return [
            message
            if "causation_id" in message.metadata
            else message.with_metadata({**context.message.heritage(), **message.metadata})
            for message in following(context)
        ]

    return handle


def recoverer(following: Handle) -> Handle:
    """Keep a handler from ending the process, and note in every error which handler and message it came from.

    SystemExit and the like become a HandlerError; Ctrl-C stays what it is. Other errors keep their type and get a note.
    """

    def handle(context: Context) -> Sequence[Message]:
        try:
            return following(context)
        except KeyboardInterrupt:
            raise
        except Exception as error:
            error.add_note(_place(context))
            raise
        except BaseException as error:
            raise HandlerError(f"{_place(context)}: {type(error).__name__}: {error}") from error

    return handle


def retry_as(declared: Retry) -> Middleware:
    """Try again as a handler declares it; pauses of more than a second are not for a transaction, and so not made here."""
    return retry(declared.attempts, min(declared.pause, 1.0), min(declared.limit(31), 1.0), declared.on)


def retry(
    attempts: int = 3, first: float = 0.02, longest: float = 0.2, on: tuple[type[Exception], ...] = (Exception,)
) -> Middleware:
    """Try again when a handler fails, `attempts` times in all, and then let its error through; `on` are errors worth it.

    The pauses are random, between 0 and a limit that starts at `first` seconds and doubles up to `longest` (full jitter); they
    pass inside the transaction. A payload that does not fit and a lost connection are not tried again. Each attempt needs a
    `savepoint` inside.
    """

    def middleware(following: Handle) -> Handle:
        def handle(context: Context) -> Sequence[Message]:
            from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential  # noqa: PLC0415

            for attempt in Retrying(
                stop=stop_after_attempt(attempts),
                wait=wait_random_exponential(first, max=longest),
                retry=retry_if_exception(
                    lambda error: isinstance(error, on) and _may_pass(error) and not context.is_lost
                ),
                reraise=True,
            ):
                with attempt:
                    context.attempt, context.published, context.sent = attempt.retry_state.attempt_number, [], 0
                    return following(context)
            raise AssertionError("unreachable: the last attempt raises")

        return handle

    return middleware


def savepoint(following: Handle) -> Handle:
    """Undo what a handler that fails did to the database, and let the transaction around it go on; two round trips more."""

    def handle(context: Context) -> Sequence[Message]:
        try:
            with context.connection.transaction():
                return following(context)
        except TransactionEndedError:
            raise
        except Exception as error:
            if (
                context.connection.pgconn.transaction_status == pq.TransactionStatus.INERROR
            ):  # no savepoint to go back to
                raise TransactionEndedError(context.message) from error
            raise

    return handle


def deduplicate(following: Handle) -> Handle:
    """Leave out a message that is in the handler's inbox already, and put others there.

    The inbox row and the handler's effect become true together. Dispatch does the same for many messages at once.
    """

    def handle(context: Context) -> Sequence[Message]:
        cursor = context.connection.execute(
            "INSERT INTO erpkit_inbox (handler, uuid) VALUES (%s, %s) ON CONFLICT DO NOTHING",
            [context.handler, context.message.uuid],
        )
        return following(context) if cursor.rowcount else []

    return handle


def dead_letters(store: Callable[[Context, Exception], None]) -> Middleware:
    """Dead-letter a message after its last retry: `store` it with its error, note that in the context, and go on.

    A lost connection is no fault of the message: DatabaseError then, and it is read again later. Needs a `savepoint` inside.
    """

    def middleware(following: Handle) -> Handle:
        def handle(context: Context) -> Sequence[Message]:
            try:
                return following(context)
            except Exception as error:
                raise_if_lost(context.connection, error, _place(context))
                if isinstance(error, TransactionEndedError):
                    raise
                store(context, error)
                context.error = error
                return []

        return handle

    return middleware


def throttle(per_second: float) -> Middleware:
    """Limit messages to `per_second`, evenly spread, over all threads that share the middleware."""
    limit = RateLimit(per_second, burst=1)

    def middleware(following: Handle) -> Handle:
        def handle(context: Context) -> Sequence[Message]:
            time.sleep(limit.reserve())
            return following(context)

        return handle

    return middleware


def poisoned(message: Message, error: BaseException | str, handler: str, subscriber: str) -> Message:
    """Return a message that leaves the log as a dead letter, with the metadata that Watermill's poison queue gives it.

    `subscriber` names what read it: a consumer group, or a broker.
    """
    reason = error if isinstance(error, str) else f"{type(error).__name__}: {error}".strip()
    return message.with_metadata(
        {
            "reason_poisoned": reason,
            "topic_poisoned": message.topic,
            "handler_poisoned": handler,
            "subscriber_poisoned": subscriber,
        }
    )


def _may_pass(error: BaseException) -> bool:
    return isinstance(error, Exception) and not isinstance(error, (PayloadError, TransactionEndedError))


def _place(context: Context) -> str:
    where = f" at offset {context.message.offset}" if context.message.offset is not None else ""
    return f"tenant {context.tenant.slug}: {context.handler} on {context.message.topic}{where}, {context.message.uuid}"


def tracing(following: Handle) -> Handle:
    """Record each message as a span, a child of the one that published it, over processes and brokers.

    The parent comes from `traceparent` in the metadata (W3C Trace Context), and what is published carries it on. The names
    of attributes are those of OpenTelemetry's messaging conventions. Without OpenTelemetry, or before the process gave it a
    provider that records, this does nothing: what is published inherits its `traceparent` all the same.
    """
    tools = _tools()
    if tools is None:
        return following
    tracer, propagator, consumer, internal, is_recording = tools

    def handle(context: Context) -> Sequence[Message]:
        if not is_recording():
            return following(context)
        with tracer.start_as_current_span(
            f"process {context.message.topic}",
            propagator.extract(context.message.metadata) if "traceparent" in context.message.metadata else None,
            kind=internal if context.handler == context.message.topic else consumer,  # a command has its topic's name
            attributes=_attributes(context),
        ):
            carrier: dict[str, str] = {}
            propagator.inject(carrier)
            published = following(context)
            return [message.with_metadata(carrier) for message in published] if carrier else published

    return handle


@cache
def _tools() -> tuple[Tracer, TraceContextTextMapPropagator, SpanKind, SpanKind, Callable[[], bool]] | None:
    try:
        from opentelemetry import trace  # noqa: PLC0415 - optional, and slow
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # noqa: PLC0415
    except ImportError:
        return None
    return (
        trace.get_tracer("erpkit"),
        TraceContextTextMapPropagator(),
        trace.SpanKind.CONSUMER,
        trace.SpanKind.INTERNAL,
        lambda: not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider),
    )


def _attributes(context: Context) -> dict[str, str | bool]:
    return {
        "messaging.system": "erpkit",
        "messaging.operation.type": "process",
        "messaging.destination.name": context.message.topic,
        "messaging.message.id": str(context.message.uuid),
        "messaging.message.conversation_id": context.message.correlation_id,
        "messaging.consumer.group.name": context.handler,
        "erpkit.tenant": context.tenant.slug,
        "erpkit.is_replay": context.message.is_replay,
    }
