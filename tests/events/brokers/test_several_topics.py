"""A handler of several topics, fed by a broker: one order over all of them, each event once."""

import threading

import pytest

from erpkit.database import Database
from erpkit.events import Context, Message, append, consumer_groups
from erpkit.events.brokers import Broker, ConsumeOptions, consume, forward, prepare
from erpkit.migrations import Migration
from erpkit.modules import EventHandler, Module, Registry
from tests.counting import SEEN, Counted, Noticed, new_tenant, select, wait_until


def _note(event: Counted | Noticed, context: Context) -> None:
    context.connection.execute("INSERT INTO catalog_categories VALUES (%s)", [f"seen {event.number:05}"])


BOTH = Registry.of(
    [
        Module(
            "counter",
            publishes=(Counted, Noticed),
            subscribes=(EventHandler("counter.on_both", (Counted, Noticed), _note),),
        )
    ]
)


@pytest.mark.parametrize("kind", ["memory", "jetstream", "redis", "rabbit"])
def test_a_handler_of_two_topics_gets_both_in_the_order_of_the_log(
    shared_database: Database, migrations: tuple[Migration, ...], request: pytest.FixtureRequest, kind: str
) -> None:
    from erpkit.events.brokers import MemoryBroker

    acme = new_tenant(shared_database, migrations)
    broker: Broker = MemoryBroker() if kind == "memory" else request.getfixturevalue(kind)
    topics = ("counter.Counted", "counter.Counted", "counter.Noticed")
    with shared_database.tenant_transaction(acme, write=True) as connection:
        append(connection, [Message(topics[number % 3], {"number": number}) for number in range(300)])
    prepare(shared_database, [acme], consumer_groups(BOTH), broker, {})
    forward(shared_database, acme, broker)
    stop = threading.Event()
    thread = threading.Thread(
        target=consume, args=(shared_database, BOTH, broker, lambda: [acme], ConsumeOptions(stop))
    )
    thread.start()
    wait_until(lambda: len(select(shared_database, acme, SEEN)) == 300)
    stop.set()
    thread.join()
    assert select(shared_database, acme, SEEN) == [f"seen {number:05}" for number in range(300)]
