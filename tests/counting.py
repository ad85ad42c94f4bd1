"""A module that counts, for tests of brokers: a command, an event that a handler tallies, and one that follows from it."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from uuid import uuid4

from erpkit.database import Database, Tenant
from erpkit.events import CommandBus, ConsumerGroup, Context, Message, append
from erpkit.events.brokers import Broker, Consumed, ConsumeOptions, consume, forward
from erpkit.migrations import Migration
from erpkit.modules import CommandHandler, EventHandler, Module, Registry
from erpkit.tenants import create_tenant


@dataclass(frozen=True)
class Count:
    number: int


@dataclass(frozen=True)
class Counted:
    number: int


@dataclass(frozen=True)
class Noticed:
    number: int


def _count(command: Count, context: Context) -> None:
    context.publish(Counted(command.number))


def _tally(event: Counted, context: Context) -> None:
    """Fail on thirteen; write the others down in the order in which they came, and tell of it."""
    context.connection.execute("INSERT INTO catalog_categories VALUES (%s)", [f"seen {event.number:05}"])
    if event.number == 13:
        raise ValueError("thirteen")
    context.publish(Noticed(event.number))


def _follow(event: Noticed, context: Context) -> None:
    context.connection.execute("INSERT INTO catalog_categories VALUES (%s)", [f"told {event.number:05}"])


COUNTER = Registry.of(
    [
        Module(
            "counter",
            commands=(CommandHandler(Count, _count),),
            publishes=(Counted, Noticed),
            subscribes=(
                EventHandler("counter.on_counted", Counted, _tally),
                EventHandler("counter.on_noticed", Noticed, _follow),
            ),
        )
    ]
)
GROUPS = [
    ConsumerGroup("counter.on_counted", ("counter.Counted",)),
    ConsumerGroup("counter.on_noticed", ("counter.Noticed",)),
]

# In the order in which they were written: by transaction, then by statement.
SEEN = "SELECT name FROM catalog_categories WHERE name LIKE 'seen%' ORDER BY xmin::text::bigint, cmin::text::bigint"
TOLD = SEEN.replace("seen", "told")

_MISSING = (
    "SELECT (SELECT count(*) FROM erpkit_events) - (SELECT count(*) FROM erpkit_inbox) "
    "- (SELECT count(*) FROM erpkit_dead_letters)"
)
_numbers = count(1)


def new_tenant(database: Database, migrations: tuple[Migration, ...]) -> Tenant:
    """Return a tenant of a name of its own: what a broker still has of an earlier one's is nobody's."""
    return create_tenant(database, migrations, f"acme{next(_numbers)}")


def send(database: Database, tenant: Tenant, numbers: range) -> None:
    CommandBus(database, COUNTER).send_all(tenant, [Count(n) for n in numbers], [uuid4() for _ in numbers])


def write_events(database: Database, tenant: Tenant, count: int, first: int = 100) -> None:
    with database.tenant_transaction(tenant, write=True) as connection:
        append(connection, [Message("counter.Counted", {"number": first + number}) for number in range(count)])


def select(database: Database, tenant: Tenant, query: str) -> list[object]:
    with database.tenant_transaction(tenant) as connection:
        return [value for (value,) in connection.execute(query.encode()).fetchall()]


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@contextmanager
def consuming(database: Database, tenant: Tenant, broker: Broker) -> Iterator[list[Consumed]]:
    """Consume beside the block; the result is in the list after it."""
    stop, result = threading.Event(), list[Consumed]()
    thread = threading.Thread(
        target=lambda: result.append(consume(database, COUNTER, broker, lambda: [tenant], ConsumeOptions(stop)))
    )
    thread.start()
    try:
        yield result
    finally:
        stop.set()
        thread.join()


def forward_and_consume(database: Database, tenant: Tenant, broker: Broker) -> None:
    """Take what is in the log to the handlers, and what they publish, until each event was handled or is a dead letter."""
    broker.declare(GROUPS)
    with consuming(database, tenant, broker):
        wait_until(lambda: not forward(database, tenant, broker).events and not _missing(database, tenant))


def _missing(database: Database, tenant: Tenant) -> object:
    return select(database, tenant, _MISSING)[0]
