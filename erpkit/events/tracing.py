"""OpenTelemetry spans around handlers, where it is installed: the extra `erpkit[tracing]`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING

from erpkit.events.context import Context
from erpkit.events.message import Message
from erpkit.events.middleware import Handle

if TYPE_CHECKING:
    from opentelemetry.trace import SpanKind, Tracer
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator


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
