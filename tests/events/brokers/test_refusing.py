"""What a broker refuses for good: a dead letter of the forwarder, and the rest in order; a broker that was wiped; sending again."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import nats as nats_client
import pytest
from nats.js.api import DiscardPolicy

from erpkit.database import Database, Tenant
from erpkit.errors import BrokerError, ErpkitError, PlanChangedError, UsageError
from erpkit.events import Message, append
from erpkit.events.brokers import (
    LIVE,
    Broker,
    Forwarded,
    MemoryBroker,
    RefusedError,
    Route,
    Subscription,
    forward,
    group_name,
    plan_resend,
    prepare,
    read_forward_findings,
    read_forward_lag,
    run_resend,
)
from erpkit.events.brokers.forward import note_wiped
from erpkit.events.brokers.kafka import KafkaBroker
from erpkit.events.brokers.nats import NatsBroker
from erpkit.events.brokers.rabbit import RabbitBroker
from erpkit.events.brokers.redis import RedisBroker
from erpkit.events.letter_edit import plan_edit
from erpkit.events.letter_plan import plan_discard
from erpkit.events.letter_run import run_letters
from erpkit.migrations import Migration
from erpkit.tenants import set_status
from tests.counting import COUNTER, GROUPS, SEEN, consuming, new_tenant, select, wait_until, write_events
from tests.events.brokers.servers import MortalNats
from tests.events.brokers.streams import purge_stream, stored

LETTERS = "SELECT error FROM erpkit_dead_letters WHERE status = 'open' AND handler LIKE 'forward.%' ORDER BY \"offset\""


@pytest.fixture
def acme(shared_database: Database, migrations: tuple[Migration, ...]) -> Tenant:
    return new_tenant(shared_database, migrations)


def _write(database: Database, tenant: Tenant, sizes: Sequence[int]) -> None:
    """Append an event of each size; a field that handlers do not know makes the large ones large."""
    with database.tenant_transaction(tenant, write=True) as connection:
        payloads = [{"number": 100 + number, "note": "x" * size} for number, size in enumerate(sizes)]
        append(connection, [Message("counter.Counted", payload) for payload in payloads])


def test_a_message_of_2_mb_among_small_ones_becomes_a_dead_letter_of_the_forwarder_and_the_rest_is_stored_in_order(
    shared_database: Database, acme: Tenant, nats: MortalNats, jetstream: NatsBroker
) -> None:
    _write(shared_database, acme, [2_000_000 if number in (7, 8, 30) else 10 for number in range(40)])
    jetstream.declare(GROUPS)
    assert forward(shared_database, acme, jetstream) == Forwarded(acme.slug, 37, 40, refused=3)
    assert [offset for _, offset, _, _ in stored(nats, acme.slug)] == [*range(1, 8), *range(10, 31), *range(32, 41)]
    first, _, last = select(shared_database, acme, LETTERS)
    assert "counter.Counted at offset 8" in str(first)
    assert "of 2,000," in str(first)
    assert "the server takes 1,048,576 bytes (max_payload)" in str(last)
    with consuming(shared_database, acme, jetstream):  # a handler has the log beside it, and misses none
        wait_until(lambda: len(select(shared_database, acme, SEEN)) == 40)
    assert select(shared_database, acme, SEEN) == [f"seen {number:05}" for number in range(100, 140)]


def test_rows_of_another_program_with_names_and_metadata_that_cannot_be_do_not_stop_the_forwarder(
    shared_database: Database, acme: Tenant, nats: MortalNats, jetstream: NatsBroker
) -> None:
    rows = [("", "{}"), ("a..b", "{}"), ("counter.", "{}"), ("c" * 5000, "{}")]
    rows += [("counter.Counted", metadata) for metadata in ("null", "[1]", '"x"', '{"n": 1}', '{"name": "Counted"}')]
    with shared_database.tenant_transaction(acme, write=True) as connection:
        for number, (topic, metadata) in enumerate(rows):
            connection.execute(
                "INSERT INTO erpkit_events (uuid, topic, payload, metadata) "
                "VALUES (gen_random_uuid(), %s, jsonb_build_object('number', %s::int), %s::jsonb)",
                [topic, 100 + number, metadata],
            )
    jetstream.declare(GROUPS)
    done = forward(shared_database, acme, jetstream)
    assert (done.events, done.refused) == (5, 4)
    headers = [headers for _, _, headers, _ in stored(nats, acme.slug)]
    assert [(one.get("n"), one.get("name")) for one in headers[3:]] == [("1", None), (None, "Counted")]
    assert all("invalid subject" in str(error) for error in select(shared_database, acme, LETTERS))


def test_a_message_that_fits_the_server_without_its_headers_is_refused_before_the_server_closes_the_connection(
    shared_database: Database, acme: Tenant, jetstream: NatsBroker
) -> None:
    _write(shared_database, acme, [10, 1_048_576 - 60, 10])
    jetstream.declare(GROUPS)
    assert forward(shared_database, acme, jetstream) == Forwarded(acme.slug, 2, 3, refused=1)


def test_a_stream_that_takes_less_than_its_server_is_named_with_its_limit(
    shared_database: Database, acme: Tenant, nats: MortalNats, jetstream: NatsBroker
) -> None:
    jetstream.declare(GROUPS)
    _limit_stream(nats, max_msg_size=5000)
    try:
        _write(shared_database, acme, [10, 6000, 10, 10])
        assert forward(shared_database, acme, jetstream) == Forwarded(acme.slug, 3, 4, refused=1)
        assert [offset for _, offset, _, _ in stored(nats, acme.slug)] == [1, 3, 4]
    finally:
        _limit_stream(nats, max_msg_size=-1)
    (error,) = select(shared_database, acme, LETTERS)
    assert "the stream ERP takes 5,000 bytes (max_msg_size)" in str(error)


def test_what_jetstream_does_not_take_now_is_overtaken_by_nothing_behind_it(
    shared_database: Database, acme: Tenant, nats: MortalNats, jetstream: NatsBroker
) -> None:
    """One topic is full, and there is room for the other."""
    jetstream.declare(GROUPS)
    limits = {"max_msgs_per_subject": 3, "discard": DiscardPolicy.NEW, "discard_new_per_subject": True}
    _limit_stream(nats, **limits)
    try:
        with shared_database.tenant_transaction(acme, write=True) as connection:
            topics = ["counter.Counted"] * 5 + ["counter.Noticed"] * 3
            append(connection, [Message(topic, {"number": 1}) for topic in topics])
        with pytest.raises(
            BrokerError, match="5 of 8 messages were not acknowledged, the first counter.Counted at offset 4"
        ):
            forward(shared_database, acme, jetstream)
        assert [offset for _, offset, _, _ in stored(nats, acme.slug)] == [1, 2, 3]
    finally:
        _limit_stream(nats, max_msgs_per_subject=-1, discard=DiscardPolicy.OLD, discard_new_per_subject=False)
    assert forward(shared_database, acme, jetstream).events == 8
    assert [offset for _, offset, _, _ in stored(nats, acme.slug)] == list(range(1, 9))


def _limit_stream(server: MortalNats, **limits: Any) -> None:
    async def limit() -> None:
        client = await nats_client.connect(server.url)
        config = (await client.jetstream().stream_info("ERP")).config.evolve(**limits)
        await client.jetstream().update_stream(config)
        await client.close()

    asyncio.run(limit())


def test_kafka_refuses_what_is_too_large_and_takes_the_rest_in_order(
    shared_database: Database, acme: Tenant, kafka: KafkaBroker
) -> None:
    _write(shared_database, acme, [10, 2_000_000, 10, 10])
    assert forward(shared_database, acme, kafka) == Forwarded(acme.slug, 3, 4, refused=1)
    offsets: list[int | None] = []
    listen = Subscription(
        "spy", "counter.Counted",
        lambda deliveries: offsets.extend(one.message.offset for one in deliveries if one.tenant == acme.slug),
    )  # fmt: skip
    with kafka.consuming([listen]):
        wait_until(lambda: len(offsets) == 3)
    assert offsets == [1, 3, 4]


def test_rabbitmq_refuses_what_is_over_its_limit_and_both_sizes_are_told(
    shared_database: Database, acme: Tenant, rabbit: RabbitBroker
) -> None:
    rabbit.declare(GROUPS)
    _write(shared_database, acme, [10, 2_000_000, 10, 10])
    assert forward(shared_database, acme, rabbit) == Forwarded(acme.slug, 3, 4, refused=1)
    (error,) = select(shared_database, acme, LETTERS)
    assert "of 2,000," in str(error)
    assert "larger than configured max size 1000000" in str(error)


def test_redis_refuses_what_goes_to_a_key_that_is_no_stream(
    shared_database: Database, acme: Tenant, redis: RedisBroker
) -> None:
    async def occupy(client: object) -> None:
        await (await client.connect()).set("erp.counter.Odd", "taken")  # type: ignore[attr-defined]

    redis._call(redis._with_publisher, occupy)
    with shared_database.tenant_transaction(acme, write=True) as connection:
        append(connection, [Message(f"counter.{name}", {"number": 1}) for name in ("Counted", "Odd", "Counted")])
    assert forward(shared_database, acme, redis) == Forwarded(acme.slug, 2, 3, refused=1)
    assert "the key is no stream" in str(select(shared_database, acme, LETTERS)[0])


@pytest.mark.parametrize("kind", ["jetstream", "redis", "rabbit", "kafka"])
@pytest.mark.parametrize(
    "metadata",
    [
        {"": "empty"},
        {"a:b": "colon"},
        {"two\nlines": "two\r\nlines"},
        {"a b": " blanks "},
        {"ü": "ö 🚀"},
        {"k" * 300: "long"},
        {"note": "x" * 300_000},
    ],
    ids=["empty", "colon", "lines", "blanks", "unicode", "long", "large"],
)
def test_odd_metadata_stop_no_forwarder(
    shared_database: Database, acme: Tenant, request: pytest.FixtureRequest, kind: str, metadata: dict[str, str]
) -> None:
    broker: Broker = request.getfixturevalue(kind)
    broker.declare(GROUPS)
    with shared_database.tenant_transaction(acme, write=True) as connection:
        append(connection, [Message("counter.Counted", {"number": 1}, metadata=more) for more in ({}, metadata, {})])
    done = forward(shared_database, acme, broker)
    assert (done.events + done.refused, done.offset) == (3, 3)
    assert done.events >= 2


class Picky(MemoryBroker):
    """Refuses one number for good, and fails once at another: what it stored is in `offsets`."""

    def __init__(self, refuses: int, fails: int) -> None:
        super().__init__()
        self.offsets: list[int | None] = []
        self._refuses, self._fails = refuses, {fails}

    def publish(self, tenant: str, messages: Sequence[Message], route: Route = LIVE) -> set[UUID]:  # noqa: ARG002
        for message in messages:
            number = message.payload["number"]
            if number == self._refuses:
                raise RefusedError("too odd", message)
            if number in self._fails:
                self._fails.clear()
                raise BrokerError("away")
            self.offsets.append(message.offset)
        return set()


def test_an_outage_after_a_refusal_makes_no_second_letter_and_none_for_itself(
    shared_database: Database, acme: Tenant
) -> None:
    write_events(shared_database, acme, 10)
    broker = Picky(refuses=103, fails=106)
    with pytest.raises(BrokerError, match="away"):
        forward(shared_database, acme, broker)
    assert select(shared_database, acme, LETTERS) == []  # the batch comes again
    assert forward(shared_database, acme, broker) == Forwarded(acme.slug, 9, 10, refused=1)
    assert broker.offsets == [1, 2, 3, 5, 6, 1, 2, 3, 5, 6, 7, 8, 9, 10]
    assert select(shared_database, acme, LETTERS) == ["RefusedError: too odd"]


def test_lag_shows_the_forwarder_and_what_was_refused(shared_database: Database, acme: Tenant) -> None:
    write_events(shared_database, acme, 10)
    forward(shared_database, acme, Picky(refuses=103, fails=-1))
    write_events(shared_database, acme, 5, first=200)
    with shared_database.connection() as connection:
        (lag,) = read_forward_lag(connection, [acme], "memory")
        (finding,) = read_forward_findings(connection, [acme], "memory")
    assert (lag.handler, lag.topic, lag.waiting, lag.checkpoint) == ("forward.memory", "*", 5, 10)
    assert (finding.kind, finding.subject) == ("refused event", acme.slug)
    assert "too odd" in finding.problem
    assert finding.remedy == f"erpkit events forward --tenant {acme.slug} --from 4"


def test_a_dead_letter_of_the_forwarder_is_not_edited_and_what_is_to_be_done_with_it_is_told(
    shared_database: Database, acme: Tenant
) -> None:
    write_events(shared_database, acme, 5)
    forward(shared_database, acme, Picky(refuses=103, fails=-1))
    with pytest.raises(UsageError, match="forward.memory forwards an event as the log has it") as told:
        plan_edit(shared_database, COUNTER, acme, (4, ""), ({"number": 1}, "a test"))
    assert f"`erpkit events forward --tenant {acme.slug} --from 4`" in str(told.value)
    with shared_database.connection() as connection:
        plan = plan_discard(connection, [acme], "too odd")
    run_letters(shared_database, COUNTER, plan, plan.id)
    assert select(shared_database, acme, LETTERS) == []


def _tell_lost(database: Database, tenant: Tenant, broker: Broker) -> list[str]:
    with database.connection() as connection:
        return [one.problem for one in read_forward_findings(connection, [tenant], broker.scheme)]


def test_a_stream_that_was_deleted_and_made_anew_is_noticed_and_what_it_lost_can_be_sent_again(
    shared_database: Database, acme: Tenant, nats: MortalNats, jetstream: NatsBroker
) -> None:
    write_events(shared_database, acme, 20)
    prepare(shared_database, [acme], GROUPS, jetstream, {})
    forward(shared_database, acme, jetstream)
    prepare(shared_database, [acme], GROUPS, jetstream, {})
    assert _tell_lost(shared_database, acme, jetstream) == []
    _delete_stream(nats)
    prepare(shared_database, [acme], GROUPS, jetstream, {})
    (lost,) = _tell_lost(shared_database, acme, jetstream)
    assert "has lost what was forwarded up to offset 20" in lost
    plan = plan_resend(shared_database, [acme], group_name("nats"), offset=6)
    assert [(one.first_offset, one.events, one.checkpoint) for one in plan.rewinds] == [(6, 15, 20)]
    assert str(plan) == "send 15 events of 1 tenant again"
    with pytest.raises(PlanChangedError):
        run_resend(shared_database, plan, "resend-0")
    run_resend(shared_database, plan, plan.id)
    assert forward(shared_database, acme, jetstream).events == 15
    assert [offset for _, offset, _, _ in stored(nats, acme.slug)] == list(range(6, 21))


class Wiped(Picky):
    """Has lost what it was sent, and so the mark."""

    def __init__(self) -> None:
        super().__init__(refuses=-1, fails=-1)
        self.is_marked = False

    def has_mark(self) -> bool:
        return self.is_marked

    def leave_mark(self) -> None:
        self.is_marked = True


def test_the_mark_is_left_only_once_the_loss_is_noted_with_each_tenant(
    shared_database: Database, acme: Tenant, migrations: tuple[Migration, ...]
) -> None:
    bluebird, broker, errors = new_tenant(shared_database, migrations), Wiped(), dict[str, str]()
    for tenant in (acme, bluebird):
        write_events(shared_database, tenant, 3)
        forward(shared_database, tenant, broker)
    tenants = [acme, replace(bluebird, role="nobody")]
    assert [one.tenant for one in prepare(shared_database, tenants, GROUPS, broker, errors)] == [acme.slug]
    assert (broker.is_marked, [*errors]) == (False, [bluebird.slug])
    (lost,) = prepare(shared_database, [acme, bluebird], GROUPS, broker, {})
    assert (lost.tenant, broker.is_marked) == (bluebird.slug, True)


def test_what_a_broker_has_lost_is_noted_with_an_archived_tenant_too(shared_database: Database, acme: Tenant) -> None:
    broker = Wiped()
    write_events(shared_database, acme, 3)
    forward(shared_database, acme, broker)
    with shared_database.connection() as connection:
        archived = set_status(connection, acme.slug, "archived")
    errors: dict[str, str] = {}
    assert [one.offset for one in prepare(shared_database, [archived], GROUPS, broker, errors)] == [3]
    assert errors == {}
    assert len(_tell_lost(shared_database, archived, broker)) == 1


def test_what_a_broker_has_lost_stays_told_until_it_is_sent_again_from_the_first_event_that_is_left(
    shared_database: Database, acme: Tenant
) -> None:
    """As where an event behind it was refused, and the advice was to send again from that one."""
    write_events(shared_database, acme, 20)
    broker = Picky(refuses=115, fails=-1)
    forward(shared_database, acme, broker)
    assert note_wiped(shared_database, acme, broker) == 20
    with shared_database.tenant_transaction(acme, write=True) as connection:
        connection.execute('DELETE FROM erpkit_events WHERE "offset" <= 3')
    plan = plan_resend(shared_database, [acme], "forward.memory", offset=16)
    (finding,) = plan.findings
    assert (finding.kind, finding.evidence) == ("still lost", ("12 events before offset 16",))
    run_resend(shared_database, plan, plan.id)
    assert len(_tell_lost(shared_database, acme, broker)) == 2  # and that an event was refused
    plan = plan_resend(shared_database, [acme], "forward.memory")
    assert ([one.first_offset for one in plan.rewinds], plan.findings) == ([4], [])
    run_resend(shared_database, plan, plan.id)
    assert len(_tell_lost(shared_database, acme, broker)) == 1


@pytest.mark.parametrize("limits", [{"max_msgs": -1}, {"max_msgs": 1000}], ids=["unlimited", "limited"])
def test_a_stream_that_was_purged_is_noticed_once_and_what_it_lost_can_be_sent_again(
    shared_database: Database, acme: Tenant, nats: MortalNats, jetstream: NatsBroker, limits: dict[str, int]
) -> None:
    write_events(shared_database, acme, 20)
    prepare(shared_database, [acme], GROUPS, jetstream, {})
    _limit_stream(nats, **limits)
    forward(shared_database, acme, jetstream)
    prepare(shared_database, [acme], GROUPS, jetstream, {})
    assert _tell_lost(shared_database, acme, jetstream) == []
    purge_stream(nats)
    prepare(shared_database, [acme], GROUPS, jetstream, {})
    (lost,) = _tell_lost(shared_database, acme, jetstream)
    assert "has lost what was forwarded up to offset 20" in lost
    plan = plan_resend(shared_database, [acme], group_name("nats"))
    run_resend(shared_database, plan, plan.id)
    prepare(shared_database, [acme], GROUPS, jetstream, {})
    assert _tell_lost(shared_database, acme, jetstream) == []
    forward(shared_database, acme, jetstream)
    assert [offset for _, offset, _, _ in stored(nats, acme.slug)] == list(range(1, 21))
    prepare(shared_database, [acme], GROUPS, jetstream, {})
    assert _tell_lost(shared_database, acme, jetstream) == []
    _limit_stream(nats, max_msgs=-1)


def test_a_stream_that_removes_old_messages_by_its_own_limits_is_not_taken_for_purged(
    shared_database: Database, acme: Tenant, nats: MortalNats, jetstream: NatsBroker
) -> None:
    prepare(shared_database, [acme], GROUPS, jetstream, {})
    _limit_stream(nats, max_msgs=5)
    try:
        write_events(shared_database, acme, 20)
        forward(shared_database, acme, jetstream)
        prepare(shared_database, [acme], GROUPS, jetstream, {})
        assert _tell_lost(shared_database, acme, jetstream) == []
    finally:
        _limit_stream(nats, max_msgs=-1)
        _delete_stream(nats)


def _delete_stream(server: MortalNats) -> None:
    async def delete() -> None:
        client = await nats_client.connect(server.url)
        await client.jetstream().delete_stream("ERP")
        await client.close()

    asyncio.run(delete())


def test_a_refused_event_that_is_taken_when_it_is_sent_again_is_a_dead_letter_no_more(
    shared_database: Database, acme: Tenant
) -> None:
    write_events(shared_database, acme, 5)
    forward(shared_database, acme, Picky(refuses=102, fails=-1))
    plan = plan_resend(shared_database, [acme], "forward.memory", offset=3)
    run_resend(shared_database, plan, plan.id)
    forward(shared_database, acme, Picky(refuses=-1, fails=-1))
    assert select(shared_database, acme, LETTERS) == []
    assert select(shared_database, acme, "SELECT status FROM erpkit_dead_letters") == ["resolved"]


def test_a_plan_to_send_again_is_refused_once_the_forwarder_has_moved_on(
    shared_database: Database, acme: Tenant
) -> None:
    write_events(shared_database, acme, 5)
    forward(shared_database, acme, MemoryBroker())
    plan = plan_resend(shared_database, [acme], "forward.memory")
    write_events(shared_database, acme, 1)
    forward(shared_database, acme, MemoryBroker())
    with pytest.raises(ErpkitError, match="has moved on meanwhile: plan again"):
        run_resend(shared_database, plan, plan.id)


def test_a_clock_that_was_set_back_hides_no_event_from_a_time(shared_database: Database, acme: Tenant) -> None:
    """The log's order is that of its offsets: after the first event since that time all are sent again, whatever their times."""
    write_events(shared_database, acme, 9)
    noon = datetime(2026, 1, 31, 12, tzinfo=UTC)
    with shared_database.tenant_transaction(acme, write=True) as connection:
        for offset, minutes in enumerate([-3, -2, -1, 0, 1, -2, -1, 2, 3], 1):
            connection.execute(
                'UPDATE erpkit_events SET recorded_at = %s WHERE "offset" = %s',
                [noon + timedelta(minutes=minutes), offset],
            )
    broker = Picky(refuses=-1, fails=-1)
    forward(shared_database, acme, broker)
    plan = plan_resend(shared_database, [acme], "forward.memory", since=noon)
    assert [(one.first_offset, one.events) for one in plan.rewinds] == [(4, 6)]
    run_resend(shared_database, plan, plan.id)
    forward(shared_database, acme, broker)
    assert broker.offsets == [*range(1, 10), *range(4, 10)]
