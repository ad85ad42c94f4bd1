"""Replays to a broker's subject: planned, recorded, resumed, and honest about what the broker drops."""

import os
import signal
import threading
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import pytest

from erpkit.database import Database, Tenant
from erpkit.errors import BrokerError, PlanChangedError, UsageError
from erpkit.events import (
    Message,
    ReplayPlan,
    Route,
    RunOptions,
    Selection,
    append,
    list_replay_results,
    list_replays,
    plan_resume,
    plan_send,
    run_replay,
    send_replay,
)
from erpkit.events.brokers import LIVE, MemoryBroker, Subscription, forward
from erpkit.events.brokers.nats import NatsBroker
from erpkit.migrations import Migration
from erpkit.nats import NatsServer
from tests.counting import COUNTER, GROUPS, consuming, new_tenant, select, wait_until, write_events
from tests.events.brokers.streams import Stored, stored

AUDIT = Route("audit")


@pytest.fixture
def acme(shared_database: Database, migrations: tuple[Migration, ...]) -> Tenant:
    return new_tenant(shared_database, migrations)


def _plan(database: Database, tenant: Tenant, broker: NatsBroker, route: Route = AUDIT, **selection: Any) -> ReplayPlan:
    with database.connection() as connection:
        return plan_send(connection, [tenant], Selection(**selection), broker, route)


def _resume(database: Database, tenant: Tenant, replay_id: UUID) -> ReplayPlan:
    with database.connection() as connection:
        return plan_resume(connection, [tenant], COUNTER, replay_id)


def _audit(server: NatsServer, tenant: Tenant) -> list[Stored]:
    return stored(server, tenant.slug, "audit", "AUDIT")


def test_what_was_selected_is_published_in_order_with_its_uuid_and_says_that_it_is_replayed(
    shared_database: Database, acme: Tenant, nats: NatsServer, jetstream: NatsBroker
) -> None:
    write_events(shared_database, acme, 600)
    with shared_database.tenant_transaction(acme, write=True) as connection:
        append(connection, [Message("counter.Noticed", {"number": 1})])
    plan = _plan(shared_database, acme, jetstream, topic="counter.C*", first_offset=11)
    assert [(s.topic, s.events, s.first_offset, s.last_offset) for s in plan.steps] == [
        ("counter.Counted", 590, 11, 600)
    ]
    assert f"Publish on {nats.url}, subject audit" in plan.steps[0].does
    run = send_replay(shared_database, jetstream, plan, plan.id)
    assert (run.state, run.handled, run.known, run.failed) == ("done", 590, 0, 0)
    found = _audit(nats, acme)
    assert [(subject, offset) for subject, offset, _, _ in found] == [
        (f"audit.{acme.slug}.counter.Counted", offset) for offset in range(11, 601)
    ]
    headers = found[0][2]
    assert headers["Nats-Msg-Id"] == headers["_watermill_message_uuid"]
    assert (headers["is_replay"], headers["replay_id"]) == ("true", str(run.replay_id))
    with shared_database.connection() as connection:
        (record,) = list_replays(connection, [acme])
    assert (record.state, record.handled, record.target) == ("done", 590, plan.target)
    with shared_database.tenant_transaction(acme) as connection:
        results = list_replay_results(connection, run.replay_id, 10_000)
    assert {(r.handler, r.state, r.error) for r in results} == {("broker:audit", "sent", None)}
    assert select(shared_database, acme, "SELECT count(*) FROM erpkit_inbox") == [0]


def test_what_the_broker_has_already_is_told_and_can_be_sent_again_under_other_ids(
    shared_database: Database, acme: Tenant, nats: NatsServer, jetstream: NatsBroker
) -> None:
    write_events(shared_database, acme, 3)
    plan = _plan(shared_database, acme, jetstream)
    send_replay(shared_database, jetstream, plan, plan.id)
    write_events(shared_database, acme, 1)
    plan = _plan(shared_database, acme, jetstream)
    run = send_replay(shared_database, jetstream, plan, plan.id)
    assert (run.handled, run.known) == (1, 3)
    with shared_database.tenant_transaction(acme) as connection:
        results = list_replay_results(connection, run.replay_id)
    assert sorted((r.offset, r.state) for r in results) == [(1, "known"), (2, "known"), (3, "known"), (4, "sent")]
    again = _plan(shared_database, acme, jetstream, Route("audit", again=True))
    assert again.id != plan.id
    assert send_replay(shared_database, jetstream, again, again.id).handled == 4
    assert [offset for _, offset, _, _ in _audit(nats, acme)] == [1, 2, 3, 4, 1, 2, 3, 4]


def test_on_the_live_subject_it_stays_behind_the_forwarder_and_no_handler_handles_anything_twice(
    shared_database: Database, acme: Tenant, jetstream: NatsBroker
) -> None:
    write_events(shared_database, acme, 5)
    jetstream.declare(GROUPS)
    forward(shared_database, acme, jetstream)
    write_events(shared_database, acme, 2, first=200)
    live = Route(again=True)
    plan = _plan(shared_database, acme, jetstream, live)
    assert plan.event_count == 5
    assert plan.left_out == {"2 events": "not forwarded yet: `erpkit events forward` sends them"}
    heard: list[Message] = []
    listen = Subscription(
        "counter.spy", "counter.Counted",
        lambda deliveries: heard.extend(d.message for d in deliveries if d.tenant == acme.slug),
    )  # fmt: skip
    with consuming(shared_database, acme, jetstream) as handled, jetstream.consuming([listen]):
        wait_until(lambda: len(heard) == 5)
        run = send_replay(shared_database, jetstream, plan, plan.id)
        wait_until(lambda: len(heard) == 10)
        wait_until(lambda: select(shared_database, acme, "SELECT count(*) FROM erpkit_inbox") == [5])
    assert [message.replay_id for message in heard] == [None] * 5 + [run.replay_id] * 5
    assert [message.uuid for message in heard[:5]] == [message.uuid for message in heard[5:]]
    assert handled[0].dead == 0


def test_a_broker_that_is_killed_in_the_middle_gets_the_rest_when_the_replay_is_resumed(
    shared_database: Database, acme: Tenant, nats: NatsServer, jetstream: NatsBroker
) -> None:
    write_events(shared_database, acme, 1500)
    plan = _plan(shared_database, acme, jetstream)

    def kill(_: int) -> None:
        assert nats.pid is not None
        os.kill(nats.pid, signal.SIGKILL)

    with pytest.raises(BrokerError, match="to resume when it is back: erpkit events replay --resume") as caught:
        send_replay(shared_database, jetstream, plan, plan.id, RunOptions(kill))
    nats.start()
    with shared_database.connection() as connection:
        (record,) = list_replays(connection, [acme])
    assert (record.state, record.handled) == ("failed", 500)
    assert f"--resume {record.replay_id} --confirm {plan.id}" in str(caught.value)
    rest = _resume(shared_database, acme, record.replay_id)
    assert (rest.event_count, rest.target) == (1000, plan.target)
    run = send_replay(shared_database, jetstream, rest, plan.id)
    assert (run.state, run.handled, run.known) == ("done", 1000, 0)
    assert [offset for _, offset, _, _ in _audit(nats, acme)] == list(range(1, 1501))


def test_what_the_broker_refuses_for_good_fails_alone_and_the_rest_is_published(
    shared_database: Database, acme: Tenant, nats: NatsServer, jetstream: NatsBroker
) -> None:
    with shared_database.tenant_transaction(acme, write=True) as connection:
        notes = ["", "x" * 2_000_000, ""]
        append(connection, [Message("counter.Counted", {"number": 1, "note": note}) for note in notes])
    plan = _plan(shared_database, acme, jetstream)
    run = send_replay(shared_database, jetstream, plan, plan.id)
    assert (run.state, run.handled, run.failed) == ("done", 2, 1)
    assert "max_payload" in run.failures[0].error
    assert [offset for _, offset, _, _ in _audit(nats, acme)] == [1, 3]


class _Forgetful(NatsBroker):
    """Loses its connection after the broker has stored a batch, and before that is known."""

    def publish(self, tenant: str, messages: Sequence[Message], route: Route = LIVE) -> set[UUID]:
        super().publish(tenant, messages, route)
        raise BrokerError("cut off")


@pytest.mark.parametrize("again", [False, True])
def test_what_was_stored_but_not_recorded_is_sent_again_under_the_same_id_and_stored_once(
    shared_database: Database, acme: Tenant, nats: NatsServer, jetstream: NatsBroker, again: bool
) -> None:
    write_events(shared_database, acme, 20)
    plan = _plan(shared_database, acme, jetstream, Route("audit", again))
    forgetful = _Forgetful(nats.url, acknowledge_within=1)
    with pytest.raises(BrokerError, match="cut off"):
        send_replay(shared_database, forgetful, plan, plan.id)
    forgetful.close()
    with shared_database.connection() as connection:
        (record,) = list_replays(connection, [acme])
    rest = _resume(shared_database, acme, record.replay_id)
    run = send_replay(shared_database, jetstream, rest, plan.id)
    assert (run.handled, run.known) == (0, 20)
    assert [offset for _, offset, _, _ in _audit(nats, acme)] == list(range(1, 21))


def test_one_that_is_stopped_half_way_goes_on_and_publishes_each_event_once(
    shared_database: Database, acme: Tenant, nats: NatsServer, jetstream: NatsBroker
) -> None:
    write_events(shared_database, acme, 700)
    plan = _plan(shared_database, acme, jetstream)
    stop = threading.Event()
    run = send_replay(shared_database, jetstream, plan, plan.id, RunOptions(lambda _: stop.set(), stop))
    assert (run.state, run.handled) == ("cancelled", 500)
    rest = _resume(shared_database, acme, run.replay_id)
    with pytest.raises(UsageError, match="goes to broker:audit, not to handlers: nothing was done"):
        run_replay(shared_database, COUNTER, rest, rest.id)
    assert send_replay(shared_database, jetstream, rest, rest.id).handled == 200
    assert [offset for _, offset, _, _ in _audit(nats, acme)] == list(range(1, 701))


def test_a_stale_plan_or_another_broker_publishes_nothing(
    shared_database: Database, acme: Tenant, nats: NatsServer, jetstream: NatsBroker
) -> None:
    write_events(shared_database, acme, 2)
    shown = _plan(shared_database, acme, jetstream)
    write_events(shared_database, acme, 1)
    with pytest.raises(PlanChangedError, match="nothing was done"):
        send_replay(shared_database, jetstream, _plan(shared_database, acme, jetstream), shown.id)
    with pytest.raises(UsageError, match="ERPKIT_BROKER is memory:"):
        send_replay(shared_database, MemoryBroker(), shown, shown.id)
    assert select(shared_database, acme, "SELECT 1 FROM erpkit_replays") == []


@pytest.mark.parametrize("subject", ["", "a b", "a.*", ">", "$JS.API", "a..b", "x" * 101])
def test_what_can_be_no_subject_is_refused(subject: str) -> None:
    with pytest.raises(UsageError, match="is not a subject"):
        Route(subject)
