"""Spans around handlers, by OpenTelemetry's own SDK."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from erpkit.events import EVERY, Context, EventBus, Message
from erpkit.events.middleware import tracing
from erpkit.modules import EventHandler, Module, Registry

_exporter = InMemorySpanExporter()


@dataclass(frozen=True)
class Ordered:
    number: int


@dataclass(frozen=True)
class Billed:
    number: int


def bill(event: Ordered, context: Context) -> None:
    context.publish(Billed(event.number))


def book(event: Billed, context: Context) -> None:
    if event.number == 13:
        raise ValueError("thirteen")


SHOP = Registry.of(
    [
        Module(
            "shop",
            publishes=(Ordered, Billed),
            subscribes=(EventHandler("shop.bill", Ordered, bill), EventHandler("shop.book", Billed, book)),
        )
    ]
)


@pytest.fixture(scope="module", autouse=True)
def _provider() -> None:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(_exporter))
    trace.set_tracer_provider(provider)


@pytest.fixture
def spans() -> Iterator[InMemorySpanExporter]:
    yield _exporter
    _exporter.clear()


def _by_name(exporter: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    return {span.name: span for span in exporter.get_finished_spans()}


def test_the_span_of_an_event_is_a_child_of_the_one_that_published_it(spans: InMemorySpanExporter) -> None:
    EventBus(SHOP, middleware=EVERY).publish(Ordered(1))
    first, second = _by_name(spans)["process shop.Ordered"], _by_name(spans)["process shop.Billed"]
    assert first.parent is None
    assert second.parent is not None
    assert first.context is not None
    assert (second.parent.trace_id, second.parent.span_id) == (first.context.trace_id, first.context.span_id)


def test_the_parent_comes_from_the_metadata_and_is_handed_on(spans: InMemorySpanExporter) -> None:
    parent = f"00-{'a' * 32}-{'b' * 16}-01"
    message = Message("shop.Ordered", {"number": 1}, metadata={"traceparent": parent})
    published = tracing(lambda _: [Message("shop.Billed", {})])(_context(message))
    (span,) = spans.get_finished_spans()
    assert span.parent is not None
    assert span.context is not None
    assert (f"{span.parent.trace_id:x}", f"{span.parent.span_id:x}") == ("a" * 32, "b" * 16)
    assert published[0].metadata["traceparent"] == f"00-{'a' * 32}-{span.context.span_id:016x}-01"


def test_a_span_says_what_was_handled_by_whom(spans: InMemorySpanExporter) -> None:
    EventBus(SHOP, middleware=EVERY).publish(Billed(1))
    (span,) = spans.get_finished_spans()
    assert span.kind is SpanKind.CONSUMER
    assert span.attributes is not None
    assert span.attributes["messaging.destination.name"] == "shop.Billed"
    assert span.attributes["messaging.consumer.group.name"] == "shop.book"
    assert span.attributes["erpkit.tenant"] == "memory"


def test_a_handler_that_fails_marks_its_span(spans: InMemorySpanExporter) -> None:
    with pytest.raises(ValueError, match="thirteen"):
        EventBus(SHOP, middleware=EVERY).publish(Billed(13))
    (span,) = spans.get_finished_spans()
    assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, "ValueError: thirteen")


def test_a_span_that_is_under_way_is_the_parent_of_a_message_without_one(spans: InMemorySpanExporter) -> None:
    with trace.get_tracer("test").start_as_current_span("request") as request:
        EventBus(SHOP, middleware=EVERY).publish(Billed(1))
    span = _by_name(spans)["process shop.Billed"]
    assert span.parent is not None
    assert span.parent.span_id == request.get_span_context().span_id


def _context(message: Message) -> Context:
    from erpkit.database import Tenant

    return Context(None, Tenant("acme", "tenant_acme"), message, SHOP, "shop.bill")  # type: ignore[arg-type]
