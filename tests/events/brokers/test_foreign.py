"""What Watermill's own marshalers send: no tenant header, ULIDs, and names by a pattern."""

import asyncio
import json
from collections.abc import Callable, Iterator
from uuid import UUID

import nats as nats_client
import pytest
from confluent_kafka import Producer

from erpkit.config import Settings
from erpkit.database import Database, Tenant
from erpkit.errors import UsageError
from erpkit.events import Message
from erpkit.events.brokers import ConsumeOptions, MemoryBroker, consume, forward, open_broker, prepare
from erpkit.events.brokers.kafka import KafkaBroker
from erpkit.events.brokers.naming import Naming
from erpkit.events.brokers.nats import NatsBroker
from erpkit.events.brokers.wire import from_wire, payload_of
from erpkit.migrations import Migration
from tests.counting import COUNTER, GROUPS, SEEN, consuming, new_tenant, select, wait_until, write_events
from tests.events.brokers.servers import MortalNats

ULID = "01HZXT5V0Y00000000000000{:02}"


@pytest.fixture
def acme(shared_database: Database, migrations: tuple[Migration, ...]) -> Tenant:
    return new_tenant(shared_database, migrations)


def _headers(number: int) -> dict[str, str]:
    """Return the headers of Watermill's marshalers: the id, and the metadata as they are."""
    return {"_watermill_message_uuid": ULID.format(number), "name": "counter.Counted", "correlation_id": "go"}


def _publish_to_nats(server: MortalNats, subject: str, numbers: range) -> None:
    async def publish() -> None:
        client = await nats_client.connect(server.url)
        for number in numbers:
            body = json.dumps({"number": number}).encode()
            await client.jetstream().publish(subject.format(number), body, headers=_headers(number))
        await client.close()

    asyncio.run(publish())


def _publish_to_kafka(url: str, topic: str, numbers: range) -> None:
    producer = Producer({"bootstrap.servers": url.removeprefix("kafka://")})
    for number in numbers:
        headers = [*_headers(number).items(), ("null", None), ("no text", b"\xff")]
        producer.produce(topic, json.dumps({"number": number}).encode(), "one partition", headers=headers)
    producer.flush(30)


def _expect(database: Database, tenant: Tenant, numbers: range) -> None:
    wait_until(lambda: len(select(database, tenant, SEEN)) == len(numbers))
    assert select(database, tenant, SEEN) == [f"seen {number:05}" for number in numbers]
    kept = select(
        database,
        tenant,
        "SELECT metadata->>'_watermill_message_uuid' FROM erpkit_events WHERE topic = 'counter.Counted'",
    )
    assert kept == [ULID.format(number) for number in numbers]


def test_messages_of_watermills_nats_publisher_are_handled_and_the_subject_says_whose_they_are(
    shared_database: Database, acme: Tenant, nats: MortalNats, jetstream: NatsBroker
) -> None:
    prepare(shared_database, [acme], GROUPS, jetstream, {})
    _publish_to_nats(nats, f"erp.{acme.slug}.counter.Counted", range(20, 40))
    with consuming(shared_database, acme, jetstream):
        _expect(shared_database, acme, range(20, 40))
    forward(shared_database, acme, jetstream)
    assert {subject for subject, *_ in _all(nats, acme)} == {
        f"erp.{acme.slug}.counter.Counted",
        f"erp.{acme.slug}.counter.Noticed",
    }
    assert len(_all(nats, acme)) == 40  # those of the Go program were not forwarded back


def _all(server: MortalNats, tenant: Tenant) -> list[tuple[str, ...]]:
    async def read() -> list[tuple[str, ...]]:
        client = await nats_client.connect(server.url)
        state = (await client.jetstream().stream_info("ERP", subjects_filter=f"erp.{tenant.slug}.>")).state
        await client.close()
        return [(subject,) for subject, count in (state.subjects or {}).items() for _ in range(count)]

    return asyncio.run(read())


@pytest.fixture
def by_pattern(nats: MortalNats) -> Iterator[Callable[[str], NatsBroker]]:
    made: list[NatsBroker] = []

    def make(subject: str) -> NatsBroker:
        made.append(NatsBroker(nats.url, acknowledge_within=60, redeliver_after=2, subject=subject))
        return made[-1]

    yield make
    for broker in made:
        broker.close()


def test_subjects_of_another_pattern_with_the_id_behind_them_are_read_and_written_in_the_stream_that_has_them(
    shared_database: Database, acme: Tenant, nats: MortalNats, by_pattern: Callable[[str], NatsBroker]
) -> None:
    """Watermill's publisher has appended the message's id to the topic in some versions."""
    _add_stream(nats, "GO", "shop.>")
    broker = by_pattern("shop.{tenant}.{topic}.{uuid}")
    prepare(shared_database, [acme], [], broker, {})
    _publish_to_nats(nats, f"shop.{acme.slug}.counter.Counted.id{{}}", range(40, 50))
    with consuming(shared_database, acme, broker):
        _expect(shared_database, acme, range(40, 50))
    write_events(shared_database, acme, 1)
    forward(shared_database, acme, broker)
    subjects = [subject for subject, headers in _read_go(nats, acme) if "offset" in headers]
    assert subjects
    assert all(subject.startswith(f"shop.{acme.slug}.counter.") for subject in subjects)
    assert {len(subject.split(".")) for subject in subjects} == {5}


def _read_go(server: MortalNats, tenant: Tenant) -> list[tuple[str, dict[str, str]]]:
    async def read() -> list[tuple[str, dict[str, str]]]:
        client = await nats_client.connect(server.url)
        jetstream = client.jetstream()
        count = (await jetstream.stream_info("GO")).state.messages
        subscription = await jetstream.subscribe(f"shop.{tenant.slug}.>", stream="GO", ordered_consumer=True)
        messages = [await subscription.next_msg(timeout=10) for _ in range(count)]
        await client.close()
        return [(each.subject, dict(each.headers or {})) for each in messages]

    return asyncio.run(read())


def _add_stream(server: MortalNats, name: str, subjects: str) -> None:
    async def add() -> None:
        client = await nats_client.connect(server.url)
        await client.jetstream().add_stream(name=name, subjects=[subjects])
        await client.close()

    asyncio.run(add())


def test_messages_of_watermills_kafka_publisher_are_handled_and_the_topic_says_whose_they_are(
    shared_database: Database, acme: Tenant, kafka: KafkaBroker
) -> None:
    broker = KafkaBroker(kafka.url, acknowledge_within=60, redeliver_after=6, subject="{tenant}.{topic}")
    try:
        _publish_to_kafka(kafka.url, f"{acme.slug}.counter.Counted", range(50, 60))
        with consuming(shared_database, acme, broker):
            _expect(shared_database, acme, range(50, 60))
    finally:
        broker.close()


def test_the_same_id_on_two_topics_is_two_events(shared_database: Database, acme: Tenant) -> None:
    broker = MemoryBroker()
    broker.declare(GROUPS)
    uuid = UUID(int=7)
    for topic in ("counter.Counted", "counter.Noticed", "counter.Counted"):
        broker.publish(acme.slug, [Message(topic, {"number": 50}, uuid)])
    both = "SELECT count(*) FROM catalog_categories WHERE name IN ('seen 00050', 'told 00050')"
    with consuming(shared_database, acme, broker):  # on a busy machine half a second may pass between two deliveries
        wait_until(lambda: select(shared_database, acme, both) == [2])


def test_whom_the_subject_names_has_precedence_over_a_header() -> None:
    headers = {**_headers(1), "tenant": "bluebird"}
    assert from_wire("counter.Counted", headers, b"{}", "acme").tenant == "acme"
    assert from_wire("counter.Counted", headers, b"{}").tenant == "bluebird"


@pytest.mark.parametrize(
    ("body", "payload"),
    [
        (b'{"a": "x"}', {"a": "x"}),
        (b'{"a": "\\\\u0000"}', {"a": "\\u0000"}),
        (b'{"a": "\\u0000"}', '{"a": "\\u0000"}'),
        (b'{"a": NaN}', '{"a": NaN}'),
        (b'{"a": 1e999}', '{"a": 1e999}'),
        (b'{"a": "\\ud800"}', '{"a": "\\ud800"}'),
        (b"\x00\xff", "\ufffd\ufffd"),
        (b"[" * 100_000, "[" * 100_000),
    ],
)
def test_a_body_that_postgresql_could_not_keep_as_json_is_kept_as_text(
    shared_database: Database, acme: Tenant, body: bytes, payload: object
) -> None:
    assert payload_of(body) == payload
    broker = MemoryBroker()
    broker.declare(GROUPS)
    broker.publish(acme.slug, [from_wire("counter.Counted", _headers(1), body, acme.slug).message])
    assert consume(shared_database, COUNTER, broker, lambda: [acme], ConsumeOptions(idle=0.3)).dead == 1
    assert select(shared_database, acme, "SELECT payload FROM erpkit_events") == [payload]


@pytest.mark.parametrize(
    "pattern",
    ["erp", "erp.{tenant}", "{topic}.{topic}", "erp.{shop}.{topic}", "a b.{topic}", "erp..{topic}", "{topic}.>"],
)
def test_a_pattern_that_cannot_be_is_refused(pattern: str) -> None:
    with pytest.raises(UsageError, match="ERPKIT_BROKER_SUBJECT is"):
        Naming(pattern)


def test_redis_takes_no_pattern_with_a_tenant() -> None:
    settings = Settings.from_env({"ERPKIT_BROKER": "redis://127.0.0.1:1", "ERPKIT_BROKER_SUBJECT": "{tenant}.{topic}"})
    with pytest.raises(UsageError, match="Redis reads whole streams"):
        open_broker(settings)


@pytest.mark.parametrize(
    ("pattern", "name", "read"),
    [
        ("erp.{tenant}.{topic}", "erp.acme.sales.OrderPlaced", ("acme", "sales.OrderPlaced")),
        ("{topic}.{tenant}.{uuid}", "sales.OrderPlaced.acme.1-2", ("acme", "sales.OrderPlaced")),
        ("erp.{topic}", "erp.sales.OrderPlaced", (None, "sales.OrderPlaced")),
        ("erp.{tenant}.{topic}", "erp.acme.sales.OrderPlaced.more", (None, None)),
        ("erp.{tenant}.{topic}", "orders", (None, None)),
    ],
)
def test_a_name_says_tenant_and_topic_by_the_pattern(pattern: str, name: str, read: tuple[object, object]) -> None:
    assert Naming(pattern).read(name) == read
