"""Forwarding a tenant's log to NATS JetStream: as Watermill would have sent it, and through every outage."""

import json
import os
import signal
import threading
import time
from contextlib import closing

import pytest

from erpkit.database import Database, Tenant
from erpkit.errors import BrokerError
from erpkit.events import CommandBus, Message
from erpkit.events.brokers import Broker, Forwarded, MemoryBroker, Subscription, forward
from erpkit.events.brokers.nats import NatsBroker
from erpkit.migrations import Migration
from erpkit.nats import NatsServer
from tests.counting import COUNTER, GROUPS, Count, new_tenant, select, wait_until, write_events
from tests.events.brokers.streams import stored


@pytest.fixture
def acme(shared_database: Database, migrations: tuple[Migration, ...]) -> Tenant:
    return new_tenant(shared_database, migrations)


def test_an_event_looks_as_watermill_would_have_sent_it(
    shared_database: Database, acme: Tenant, nats: NatsServer, jetstream: NatsBroker
) -> None:
    (event,) = CommandBus(shared_database, COUNTER).send(acme, Count(7))
    jetstream.declare(GROUPS)
    assert forward(shared_database, acme, jetstream) == Forwarded(acme.slug, 1, 1)
    ((subject, _, headers, body),) = stored(nats, acme.slug)
    assert (subject, json.loads(body)) == (f"erp.{acme.slug}.counter.Counted", {"number": 7})
    assert headers["_watermill_message_uuid"] == headers["Nats-Msg-Id"] == str(event.uuid)
    assert {key: headers[key] for key in event.metadata} == event.metadata  # each a header of its own
    assert headers["tenant"] == acme.slug


def forward_until_done(database: Database, tenant: Tenant, broker: Broker, faults: list[str]) -> threading.Thread:
    """Forward as the worker does: after a fault, once more."""

    def work() -> None:
        while True:
            try:
                if not forward(database, tenant, broker).events:
                    return
            except BrokerError as error:
                faults.append(str(error))
                time.sleep(0.1)

    thread = threading.Thread(target=work)
    thread.start()
    return thread


def checkpoint(database: Database, tenant: Tenant) -> int:
    rows = select(database, tenant, "SELECT \"offset\" FROM erpkit_checkpoints WHERE consumer_group = 'forward.nats'")
    return int(str(rows[0])) if rows else 0


@pytest.mark.parametrize("fault", ["killed", "cut off"])
def test_a_nats_server_that_goes_away_while_5000_events_are_forwarded_loses_none(
    shared_database: Database, acme: Tenant, nats: NatsServer, jetstream: NatsBroker, fault: str
) -> None:
    write_events(shared_database, acme, 5000)
    jetstream.declare(GROUPS)
    faults: list[str] = []
    thread = forward_until_done(shared_database, acme, jetstream, faults)
    wait_until(lambda: checkpoint(shared_database, acme) >= 1000)
    pid = nats.pid
    assert pid is not None
    if fault == "killed":
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        wait_until(lambda: faults)
        nats.start()
    else:
        os.kill(pid, signal.SIGSTOP)
        wait_until(lambda: faults)
        os.kill(pid, signal.SIGCONT)
    thread.join()
    assert checkpoint(shared_database, acme) == 5000
    assert [offset for _, offset, _, _ in stored(nats, acme.slug)] == list(
        range(1, 5001)
    )  # none lost, none twice, in order
    assert "not acknowledged" in faults[0] or "NATS" in faults[0]


def test_what_is_sent_again_has_the_same_id_and_jetstream_drops_it(
    shared_database: Database, acme: Tenant, nats: NatsServer, jetstream: NatsBroker
) -> None:
    """A forwarder that ended between the acknowledgement and its commit sends its batch again."""
    write_events(shared_database, acme, 50)
    jetstream.declare(GROUPS)
    forward(shared_database, acme, jetstream)
    with shared_database.connection() as connection:
        connection.execute(f"DELETE FROM {acme.schema}.erpkit_checkpoints".encode())
    assert forward(shared_database, acme, jetstream).events == 50
    assert len(stored(nats, acme.slug)) == 50


def test_two_forwarders_at_once_send_each_event_once(shared_database: Database, acme: Tenant) -> None:
    write_events(shared_database, acme, 300)
    broker, received = MemoryBroker(), list[int | None]()
    broker.declare(GROUPS)
    threads = [
        threading.Thread(target=forward, args=(shared_database, acme, broker), kwargs={"batch": 10}) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    forward(shared_database, acme, broker)
    note = Subscription(
        GROUPS[0].name,
        GROUPS[0].topics[0],
        lambda deliveries: received.extend(each.message.offset for each in deliveries),
    )
    with broker.consuming([note]):
        wait_until(lambda: len(received) >= 300)
    assert received == list(range(1, 301))


def test_a_broker_that_is_not_there_is_named_without_its_password() -> None:
    with (
        closing(NatsBroker("nats://erp:s3cret@127.0.0.1:1", acknowledge_within=3)) as broker,
        pytest.raises(BrokerError) as caught,
    ):
        broker.publish("acme", [Message("counter.Counted", {"number": 1})])
    assert "nats://***@127.0.0.1:1" in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_the_nats_server_keeps_its_port_and_streams_and_survives_being_killed(nats: NatsServer) -> None:
    url = nats.url
    assert not nats.start()
    pid = nats.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert not nats.is_running()
    assert nats.start()
    assert nats.url == url
    assert nats.stop()
    assert not nats.stop()
