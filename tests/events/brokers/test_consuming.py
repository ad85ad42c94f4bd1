"""Consuming from a broker: killed at bad moments, fed with nonsense, cut off from the database, and relieved by a dispatcher."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import replace

import nats as nats_client
import pytest

from erpkit.database import Database, Tenant
from erpkit.errors import BrokerError, DatabaseError
from erpkit.events import Consumer, Context, Message, consumer_groups, dispatch, read_events, read_lag
from erpkit.events.brokers import Consumed, ConsumeOptions, MemoryBroker, consume, forward
from erpkit.events.brokers.broker import Delivery
from erpkit.events.brokers.consume import BusyError, Deliveries, _Consuming
from erpkit.events.brokers.nats import NatsBroker
from erpkit.events.checkpoints import group_lock
from erpkit.events.timeout import Watchdog
from erpkit.migrations import Migration
from erpkit.modules import EventHandler, Module, Registry
from erpkit.nats import NatsServer
from erpkit.tenants import set_status
from tests.counting import (
    COUNTER,
    GROUPS,
    SEEN,
    Counted,
    consuming,
    forward_and_consume,
    new_tenant,
    select,
    wait_until,
    write_events,
)  # fmt: skip

LOCK = group_lock("current_schema()", "'counter.on_counted'")


@pytest.fixture
def acme(shared_database: Database, migrations: tuple[Migration, ...]) -> Tenant:
    return new_tenant(shared_database, migrations)


KILLED = """
import os, signal
from dataclasses import replace
from erpkit.database import Database, Tenant
from erpkit.events.brokers import consume
from erpkit.events.brokers.nats import NatsBroker
from erpkit.events.checkpoints import group_lock
from tests.counting import COUNTER

class Deadly(NatsBroker):
    def consuming(self, subscriptions):
        def deadly(receive):
            def receive_and_die(deliveries):
                receive(deliveries)
                os.kill(os.getpid(), signal.SIGKILL)
            return receive_and_die
        return super().consuming([replace(each, receive=deadly(each.receive)) for each in subscriptions])

acme = Tenant({slug!r}, {schema!r}, {role!r})
consume(Database({conninfo!r}, "x"), COUNTER, Deadly({url!r}, redeliver_after=2), lambda: [acme])
"""


def test_a_consumer_that_is_killed_between_commit_and_acknowledgement_leaves_its_effect_once(
    shared_database: Database, acme: Tenant, nats: NatsServer, jetstream: NatsBroker
) -> None:
    write_events(shared_database, acme, 20)
    jetstream.declare(GROUPS)
    forward(shared_database, acme, jetstream)
    code = KILLED.format(
        slug=acme.slug, schema=acme.schema, role=acme.role, conninfo=shared_database.conninfo, url=nats.url
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    before = select(shared_database, acme, SEEN)
    assert before  # committed
    with consuming(shared_database, acme, jetstream) as result:
        wait_until(lambda: not unacknowledged(nats) and len(select(shared_database, acme, SEEN)) == 20)
    assert result[0].handled >= 20  # all came again, those with an effect too
    assert select(shared_database, acme, SEEN) == [f"seen {n:05}" for n in range(100, 120)]
    assert select(shared_database, acme, "SELECT count(*) FROM erpkit_dead_letters") == [0]


def unacknowledged(server: NatsServer) -> int:
    async def read() -> int:
        client = await nats_client.connect(server.url)
        info = await client.jetstream().consumer_info("ERP", "counter-on_counted")
        await client.close()
        return (info.num_ack_pending or 0) + (info.num_pending or 0)

    return asyncio.run(read())


def _deliveries(database: Database, tenant: Tenant, registry: Registry) -> Deliveries:
    return Deliveries(database, Consumer(tenant, registry, registry.event_handlers["counter.on_counted"]))


def test_an_event_that_ends_its_consumer_every_time_becomes_a_dead_letter_and_its_neighbours_do_not(
    shared_database: Database, acme: Tenant
) -> None:
    """Each round is what a redelivery after the death of the process comes to."""
    write_events(shared_database, acme, 3)
    deliveries = _deliveries(shared_database, acme, FATAL)
    messages = _log_of(shared_database, acme)
    for _ in range(4):  # in a batch, then alone three times
        with pytest.raises(KeyboardInterrupt):
            deliveries.handle(messages)
    assert deliveries.handle(messages) == 1
    assert select(shared_database, acme, SEEN) == ["seen 00100", "seen 00102"]
    assert select(shared_database, acme, "SELECT error FROM erpkit_dead_letters") == [
        "CrashError: its dispatcher ended 3 times with it in flight"
    ]


def _log_of(database: Database, tenant: Tenant) -> list[Message]:
    with database.tenant_transaction(tenant) as connection:
        return read_events(connection, "counter.Counted", 0, 3000)


def _end(event: Counted, context: Context) -> None:
    context.connection.execute("INSERT INTO catalog_categories VALUES (%s)", [f"seen {event.number:05}"])
    if event.number == 101:
        raise KeyboardInterrupt


FATAL = Registry.of(
    [Module("counter", publishes=(Counted,), subscribes=(EventHandler("counter.on_counted", Counted, _end),))]
)


def test_nothing_is_acknowledged_while_the_database_is_away(shared_database: Database, acme: Tenant) -> None:
    write_events(shared_database, acme, 10)
    broker, stop, outages = MemoryBroker(), threading.Event(), [1, 2, 3]
    broker.declare(GROUPS)
    forward(shared_database, acme, broker)

    def list_tenants() -> list[Tenant]:
        if outages:
            outages.pop()
            raise DatabaseError("away")
        return [acme]

    thread = threading.Thread(
        target=consume, args=(shared_database, COUNTER, broker, list_tenants, ConsumeOptions(stop))
    )
    thread.start()
    wait_until(lambda: len(select(shared_database, acme, SEEN)) == 10)
    stop.set()
    thread.join()
    assert not outages


def test_events_of_a_suspended_tenant_wait_in_its_log_and_those_of_no_tenant_are_counted(
    shared_database: Database, acme: Tenant
) -> None:
    write_events(shared_database, acme, 2)
    broker = MemoryBroker()
    broker.declare(GROUPS)
    forward(shared_database, acme, broker)
    broker.publish("gone", [Message("counter.Counted", {"number": 1})])
    suspended = replace(acme, status="suspended")
    found = consume(shared_database, COUNTER, broker, lambda: [suspended], ConsumeOptions(idle=1))
    assert found == Consumed(0, 0, 1, left=2)
    assert select(shared_database, acme, "SELECT count(*) FROM erpkit_dead_letters") == [0]
    assert _waiting(shared_database, acme) == 2


def test_what_was_left_in_the_log_is_handled_once_its_tenant_is_active_again(
    shared_database: Database, acme: Tenant
) -> None:
    write_events(shared_database, acme, 2)
    broker, listed = MemoryBroker(), [replace(acme, status="suspended")]
    broker.declare(GROUPS)
    forward(shared_database, acme, broker)
    work = _Consuming(shared_database, COUNTER, lambda: listed, Watchdog(60))
    handler = COUNTER.event_handlers["counter.on_counted"]
    work.receive(handler, [Delivery(acme.slug, message) for message in _log_of(shared_database, acme)])
    work.catch_up()
    assert (work.counts.left, select(shared_database, acme, SEEN)) == (2, [])
    listed[:] = [acme]
    work._forget_tenants()
    work.catch_up()
    assert select(shared_database, acme, SEEN) == ["seen 00100", "seen 00101"]
    assert work.waiting == {}


def test_of_an_archived_tenant_nothing_is_written(shared_database: Database, acme: Tenant) -> None:
    write_events(shared_database, acme, 2)
    with shared_database.connection() as connection:
        archived = set_status(connection, acme.slug, "archived")
    deliveries = _deliveries(shared_database, archived, COUNTER)
    foreign = Message("counter.Counted", {"number": 1})
    assert deliveries.leave([*_log_of(shared_database, acme), foreign]) == 2
    assert len(_log_of(shared_database, acme)) == 2


def test_what_is_no_event_is_left_out_and_counted_and_holds_up_nothing(
    shared_database: Database, acme: Tenant, nats: NatsServer, jetstream: NatsBroker
) -> None:
    jetstream.declare(GROUPS)

    async def scribble() -> None:
        client = await nats_client.connect(nats.url)
        await client.jetstream().publish(f"erp.{acme.slug}.counter.Counted", b"not json, no headers")
        await client.close()

    asyncio.run(scribble())
    write_events(shared_database, acme, 1)
    forward(shared_database, acme, jetstream)
    with consuming(shared_database, acme, jetstream) as result:
        wait_until(lambda: select(shared_database, acme, SEEN) == ["seen 00100"])
    assert (result[0].handled, result[0].unreadable) == (1, 1)
    assert unacknowledged(nats) == 0


def _waiting(database: Database, tenant: Tenant) -> int:
    with database.connection() as connection:
        return read_lag(connection, [tenant], consumer_groups(COUNTER))[0].waiting


def test_a_dispatcher_takes_over_from_the_broker_and_gives_back_and_nothing_is_handled_twice_or_skipped(
    shared_database: Database, acme: Tenant
) -> None:
    broker = MemoryBroker()
    write_events(shared_database, acme, 30)
    forward_and_consume(shared_database, acme, broker)
    assert _waiting(shared_database, acme) == 0
    write_events(shared_database, acme, 10, first=200)
    forward(shared_database, acme, broker)  # these wait in the broker, too
    assert _waiting(shared_database, acme) == 10
    assert dispatch(shared_database, acme, COUNTER).handled == 20  # and no other is handed over again
    assert _waiting(shared_database, acme) == 0
    write_events(shared_database, acme, 10, first=300)
    forward_and_consume(shared_database, acme, broker)
    assert _waiting(shared_database, acme) == 0
    numbers = [*range(100, 130), *range(200, 210), *range(300, 310)]
    assert select(shared_database, acme, SEEN) == [f"seen {number:05}" for number in numbers]


def test_a_delivery_that_comes_before_earlier_events_brings_those_first(
    shared_database: Database, acme: Tenant
) -> None:
    """What failed comes again after later events, and what a broker lost never comes: the order is the log's."""
    write_events(shared_database, acme, 1200)
    messages = _log_of(shared_database, acme)
    deliveries = _deliveries(shared_database, acme, COUNTER)
    for chosen, waiting in ((messages[:1], 1199), (messages[700:701], 499), (messages[:700], 499), (messages[-1:], 0)):
        deliveries.handle(chosen)
        assert _waiting(shared_database, acme) == waiting
    assert select(shared_database, acme, SEEN) == [f"seen {number:05}" for number in range(100, 1300)]


def test_a_consumer_waits_for_another_that_has_the_group_and_then_handles_what_it_left(
    shared_database: Database, acme: Tenant
) -> None:
    write_events(shared_database, acme, 20)
    messages = _log_of(shared_database, acme)
    deliveries = _deliveries(shared_database, acme, COUNTER)
    thread = threading.Thread(target=deliveries.handle, args=[messages])
    with shared_database.tenant_transaction(acme, write=True) as connection:
        connection.execute(f"SELECT pg_advisory_xact_lock({LOCK})".encode())
        thread.start()
        wait_until(lambda: _count_waiters(shared_database))
    thread.join()
    assert select(shared_database, acme, SEEN) == [f"seen {number:05}" for number in range(100, 120)]


def test_a_consumer_that_cannot_get_the_group_leaves_its_deliveries_to_be_delivered_again(
    shared_database: Database, acme: Tenant
) -> None:
    write_events(shared_database, acme, 2)
    deliveries = replace(_deliveries(shared_database, acme, COUNTER), turn_within=1)
    with shared_database.tenant_transaction(acme, write=True) as connection:
        connection.execute(f"SELECT pg_advisory_xact_lock({LOCK})".encode())
        with pytest.raises(BusyError, match="another process has the group"):
            deliveries.handle(_log_of(shared_database, acme))
    assert deliveries.handle(_log_of(shared_database, acme)) == 0
    assert len(select(shared_database, acme, SEEN)) == 2


def test_a_consumer_works_on_after_its_broker_was_killed_and_started_again(
    shared_database: Database, acme: Tenant, nats: NatsServer, jetstream: NatsBroker
) -> None:
    def bring(first: int) -> None:
        write_events(shared_database, acme, 10, first)
        with suppress(BrokerError):  # the connection of before; the worker tries again, too
            forward(shared_database, acme, jetstream)
        forward(shared_database, acme, jetstream)
        wait_until(lambda: f"seen {first + 9:05}" in select(shared_database, acme, SEEN))

    jetstream.declare(GROUPS)
    with consuming(shared_database, acme, jetstream):
        bring(100)
        assert nats.pid is not None
        os.kill(nats.pid, signal.SIGKILL)
        wait_until(lambda: nats.pid is None)
        nats.start()
        bring(200)
    assert len(select(shared_database, acme, SEEN)) == 20


def test_a_dead_letter_that_was_discarded_stays_so_when_its_event_comes_again(
    shared_database: Database, acme: Tenant
) -> None:
    write_events(shared_database, acme, 2, first=13)
    messages = _log_of(shared_database, acme)
    deliveries = _deliveries(shared_database, acme, COUNTER)
    assert deliveries.handle(messages) == 1
    with shared_database.tenant_transaction(acme, write=True) as connection:
        connection.execute("UPDATE erpkit_dead_letters SET status = 'discarded'")
    assert deliveries.handle(messages) == 0
    assert select(shared_database, acme, "SELECT status FROM erpkit_dead_letters") == ["discarded"]
    assert select(shared_database, acme, SEEN) == ["seen 00014"]


def test_what_another_program_published_is_kept_in_the_log_handled_once_and_not_forwarded_back(
    shared_database: Database, acme: Tenant
) -> None:
    broker = MemoryBroker()
    broker.declare(GROUPS)
    foreign = [Message("counter.Counted", {"number": number}) for number in (13, 14)]
    for message in (*foreign, foreign[1]):
        broker.publish(acme.slug, [message])
    assert consume(shared_database, COUNTER, broker, lambda: [acme], ConsumeOptions(idle=0.5)).dead == 1
    assert select(shared_database, acme, SEEN) == ["seen 00014"]
    assert select(shared_database, acme, 'SELECT "offset" > 0 FROM erpkit_dead_letters') == [True]  # it can be retried
    forward(shared_database, acme, broker)
    assert consume(shared_database, COUNTER, broker, lambda: [acme], ConsumeOptions(idle=0.5)).handled == 1  # Noticed


def test_an_event_that_was_handled_and_removed_from_the_log_does_nothing_when_it_comes_again(
    shared_database: Database, acme: Tenant
) -> None:
    write_events(shared_database, acme, 3)
    messages = _log_of(shared_database, acme)
    deliveries = _deliveries(shared_database, acme, COUNTER)
    deliveries.handle(messages)
    with shared_database.tenant_transaction(acme, write=True) as connection:
        connection.execute("DELETE FROM erpkit_events; DELETE FROM erpkit_inbox")
    deliveries.handle(messages)
    assert len(select(shared_database, acme, SEEN)) == 3
    assert _log_of(shared_database, acme) == []


def _count_waiters(database: Database) -> object:
    with database.connection() as connection:
        return connection.execute("SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted").fetchone()
