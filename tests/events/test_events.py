"""Commands, the log, dispatch and replay: at least once, with exactly one effect, in order."""

import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import psycopg
import pytest

from erpkit.database import Database, Tenant
from erpkit.errors import ErpkitError, PlanChangedError, UsageError
from erpkit.events import (
    CommandBus,
    Context,
    HandlerChoice,
    Message,
    PayloadError,
    Selection,
    append,
    decode,
    dispatch,
    encode,
    list_dead_letters,
    list_events,
    plan_replay,
    read_events,
    run_replay,
)
from erpkit.migrations import Migration
from erpkit.modules import CommandHandler, EventHandler, Module, Registry
from erpkit.sample.data import do_business
from erpkit.sample.demo import Planted
from erpkit.sample.sales.messages import Line, OrderPlaced, PlaceOrder
from erpkit.tenants import create_tenant, get_tenant
from tests.conftest import SMALL
from tests.processes import start, wait_until_released


@dataclass(frozen=True)
class Count:
    number: int


@dataclass(frozen=True)
class Counted:
    number: int


def _count(command: Count, context: Context) -> None:
    context.connection.execute("INSERT INTO catalog_categories VALUES (%s)", [str(command.number)])
    context.publish(Counted(command.number))


def _tally(event: Counted, context: Context) -> None:
    """Fail on thirteen; note the order in which the others came."""
    context.connection.execute("INSERT INTO catalog_categories VALUES (%s)", [f"seen {event.number}"])
    if event.number == 13:
        raise ValueError("thirteen")


COUNTER = Registry.of(
    [
        Module(
            "counter",
            commands=(CommandHandler(Count, _count),),
            publishes=(Counted,),
            subscribes=(EventHandler("counter.on_counted", Counted, _tally),),
        )
    ]
)


@pytest.fixture
def acme(database: Database, migrations: tuple[Migration, ...]) -> Tenant:
    return create_tenant(database, migrations, "acme")


def _column(database: Database, tenant: Tenant, query: str) -> list[object]:
    with database.tenant_transaction(tenant) as connection:
        return [value for (value,) in connection.execute(query.encode()).fetchall()]


def test_a_command_and_its_events_become_true_together(database: Database, acme: Tenant) -> None:
    (event,) = CommandBus(database, COUNTER).send(acme, Count(1))
    assert _column(database, acme, "SELECT name FROM catalog_categories") == ["1"]
    with database.tenant_transaction(acme) as connection:
        (stored,) = list_events(connection)
    assert (stored.topic, stored.payload, stored.uuid) == ("counter.Counted", {"number": 1}, event.uuid)
    assert stored.metadata["name"] == "Counted"
    assert stored.metadata["correlation_id"] == stored.metadata["causation_id"]


def test_a_command_that_fails_leaves_neither_rows_nor_events(database: Database, acme: Tenant) -> None:
    bus = CommandBus(database, COUNTER)
    with pytest.raises(ErpkitError, match="tenant acme: Count failed: duplicate key"):
        bus.send_all(acme, [Count(1), Count(1)], [uuid4(), uuid4()])
    assert _column(database, acme, "SELECT name FROM catalog_categories") == []
    assert _column(database, acme, 'SELECT "offset" FROM erpkit_events') == []


def test_an_event_is_handled_once_however_often_it_is_dispatched(database: Database, acme: Tenant) -> None:
    CommandBus(database, COUNTER).send(acme, Count(1))
    assert dispatch(database, acme, COUNTER).handled == 1
    assert dispatch(database, acme, COUNTER).handled == 0
    with database.connection() as connection:  # a checkpoint that was lost does not undo the inbox
        connection.execute("DELETE FROM tenant_acme.erpkit_checkpoints")
    dispatch(database, acme, COUNTER)
    assert _column(database, acme, "SELECT name FROM catalog_categories WHERE name LIKE 'seen%'") == ["seen 1"]
    assert list_dead(database, acme) == []  # a second attempt would have failed on the row of the first


def test_an_event_that_keeps_failing_becomes_a_dead_letter_and_holds_up_nobody(
    database: Database, acme: Tenant
) -> None:
    bus = CommandBus(database, COUNTER)
    for number in (12, 13, 14):
        bus.send(acme, Count(number))
    result = dispatch(database, acme, COUNTER)
    assert (result.handled, result.dead) == (2, 1)
    assert _column(database, acme, "SELECT name FROM catalog_categories WHERE name LIKE 'seen%' ORDER BY 1") == [
        "seen 12",
        "seen 14",
    ]
    with database.connection() as connection:
        (letter,) = list_dead_letters(connection, [acme])
    assert (letter.handler, letter.offset, letter.error, letter.attempts) == (
        "counter.on_counted",
        2,
        "ValueError: thirteen",
        3,
    )


def test_a_payload_that_does_not_fit_its_type_becomes_a_dead_letter(database: Database, acme: Tenant) -> None:
    with database.tenant_transaction(acme, write=True) as connection:
        append(connection, [Message("counter.Counted", {"number": "many"})])
    assert dispatch(database, acme, COUNTER).dead == 1
    with database.connection() as connection:
        (letter,) = list_dead_letters(connection, [acme])
    assert letter.error.startswith("PayloadError: Counted.number: Input should be a valid integer")
    assert letter.attempts == 1  # a second look would find the same


def test_a_reader_never_skips_an_event_whose_transaction_commits_late(database: Database, acme: Tenant) -> None:
    with psycopg.connect(database.conninfo) as slow:
        slow.execute("SET search_path TO tenant_acme")
        append(slow, [Message("counter.Counted", {"number": 1})])
        quick_done = threading.Event()

        def quick() -> None:
            with database.tenant_transaction(acme, write=True) as connection:
                append(connection, [Message("counter.Counted", {"number": 2})])
            quick_done.set()

        thread = threading.Thread(target=quick)
        thread.start()
        assert not quick_done.wait(0.3)  # it waits for the slow one, which has the lower offset
        assert dispatch(database, acme, COUNTER).handled == 0
        slow.commit()
        thread.join()
    assert dispatch(database, acme, COUNTER).handled == 2


def test_a_dispatcher_that_is_killed_leaves_each_effect_exactly_once(database: Database, acme: Tenant) -> None:
    bus = CommandBus(database, COUNTER)
    numbers = [number for number in range(200) if number != 13]
    bus.send_all(acme, [Count(number) for number in numbers], [uuid4() for _ in numbers])
    for _ in range(3):
        worker = start(_dispatch, database.conninfo, acme)
        with psycopg.connect(database.conninfo, autocommit=True) as connection:
            before = _seen(connection)
            while _seen(connection) == before and worker.is_alive():
                time.sleep(0.002)
        worker.kill()
        worker.join()
        wait_until_released(database.conninfo)
    dispatch(database, acme, COUNTER)
    seen = _column(database, acme, "SELECT name FROM catalog_categories WHERE name LIKE 'seen%'")
    assert sorted(seen, key=str) == sorted(f"seen {number}" for number in numbers)
    assert _column(database, acme, "SELECT count(*) FROM erpkit_inbox") == [199]
    assert list_dead(database, acme) == []


def _dispatch(conninfo: str, tenant: Tenant) -> None:
    dispatch(Database(conninfo, "x"), tenant, COUNTER, batch=5)


def _seen(connection: psycopg.Connection[tuple[object, ...]]) -> object:
    return connection.execute("SELECT count(*) FROM tenant_acme.erpkit_inbox").fetchone()


def test_two_dispatchers_at_once_handle_each_event_once(database: Database, acme: Tenant) -> None:
    bus = CommandBus(database, COUNTER)
    bus.send_all(acme, [Count(number) for number in range(100, 200)], [uuid4() for _ in range(100)])
    threads = [threading.Thread(target=dispatch, args=(database, acme, COUNTER), kwargs={"batch": 7}) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    dispatch(database, acme, COUNTER)
    assert _column(database, acme, "SELECT count(*) FROM erpkit_inbox") == [100]
    assert list_dead(database, acme) == []


def list_dead(database: Database, tenant: Tenant) -> list[str]:
    with database.connection() as connection:
        return [letter.error for letter in list_dead_letters(connection, [tenant])]


def test_business_runs_from_order_to_payment(database: Database, acme: Tenant, registry: Registry) -> None:
    do_business(database, registry, acme, 7, SMALL, datetime(2026, 10, 31, tzinfo=UTC).date())
    topics = _column(database, acme, "SELECT DISTINCT topic FROM erpkit_events")
    assert {
        "sales.OrderPlaced",
        "inventory.StockReserved",
        "inventory.StockShort",
        "billing.InvoiceCreated",
        "billing.PaymentReceived",
    } <= set(topics)
    orders, invoices, reserved, short = (
        _column(database, acme, query)[0]
        for query in (
            "SELECT count(*) FROM sales_orders",
            "SELECT count(*) FROM billing_invoices",
            "SELECT count(*) FROM erpkit_events WHERE topic = 'inventory.StockReserved'",
            "SELECT count(*) FROM erpkit_events WHERE topic = 'inventory.StockShort'",
        )
    )
    assert orders == 10
    assert invoices == reserved
    assert int(str(reserved)) + int(str(short)) == 10
    assert _column(database, acme, "SELECT bool_and(paid IN (0, invoiced)) FROM billing_ledger") == [True]


def test_the_same_seed_makes_the_same_events(
    database: Database, migrations: tuple[Migration, ...], registry: Registry
) -> None:
    logs = []
    for slug, seed in (("acme", 1), ("bluebird", 1), ("cobalt", 2)):
        tenant = create_tenant(database, migrations, slug)
        do_business(database, registry, tenant, seed, SMALL, datetime(2026, 10, 31, tzinfo=UTC).date())
        with database.tenant_transaction(tenant) as connection:
            logs.append([(e.offset, e.uuid, e.topic, e.payload) for e in list_events(connection, 1000)])
    assert logs[0] == logs[1]
    assert logs[0] != logs[2]


def test_a_replay_rebuilds_a_projection_and_moves_no_checkpoint(
    database: Database, erp: Planted, registry: Registry
) -> None:
    with database.connection() as connection:
        tenant = get_tenant(connection, erp.tenants[0])
    ledger = "SELECT invoice_id || ':' || invoiced || ':' || paid FROM billing_ledger ORDER BY 1"
    checkpoints = 'SELECT consumer_group || "offset" || updated_at FROM erpkit_checkpoints ORDER BY 1'
    before = (_column(database, tenant, ledger), _column(database, tenant, checkpoints))
    with database.connection() as connection:
        connection.execute("DELETE FROM tenant_acme.billing_ledger")
        plan = plan_replay(connection, [tenant], registry, Selection("billing.*"))
    run = run_replay(database, registry, plan, plan.id)
    assert (run.handled, run.failures) == (plan.event_count, ())
    assert (_column(database, tenant, ledger), _column(database, tenant, checkpoints)) == before
    audit = "SELECT plan_id || ' ' || handled || ' ' || failed || ' ' || (finished_at IS NOT NULL) FROM erpkit_replays"
    assert _column(database, tenant, audit) == [f"{plan.id} {plan.event_count} 0 true"]


def test_a_replay_takes_only_the_window_that_was_asked_for(
    database: Database, erp: Planted, registry: Registry
) -> None:
    with database.connection() as connection:
        tenant = get_tenant(connection, erp.tenants[0])
        with database.tenant_transaction(tenant) as scoped:
            placed = read_events(scoped, "sales.OrderPlaced", 0, 100)
        first, last = placed[2], placed[5]
        by_offset = plan_replay(
            connection, [tenant], registry, Selection("sales.OrderPlaced", first.offset, last.offset)
        )
        assert first.recorded_at is not None
        assert last.recorded_at is not None
        by_time = plan_replay(
            connection, [tenant], registry,
            Selection("sales.OrderPlaced", since=first.recorded_at, until=last.recorded_at + timedelta(microseconds=1)),
        )  # fmt: skip
    assert [(s.handler, s.events) for s in by_offset.steps] == [("sales.on_order_placed", 4)]
    assert by_time.steps == by_offset.steps


def test_a_handler_with_side_effects_is_left_out_unless_it_is_named(
    database: Database, erp: Planted, registry: Registry
) -> None:
    with database.connection() as connection:
        tenant = get_tenant(connection, erp.tenants[0])
        plan = plan_replay(connection, [tenant], registry, Selection("sales.OrderPlaced"))
        assert plan.left_out["inventory.on_order_placed"] == "has side effects"
        named = plan_replay(
            connection,
            [tenant],
            registry,
            Selection("sales.OrderPlaced"),
            HandlerChoice(side_effects=["inventory.on_order_placed"]),
        )
        with pytest.raises(UsageError, match=r"no handler is named inventory\.on_order"):
            plan_replay(connection, [tenant], registry, Selection(), HandlerChoice(["inventory.on_order"]))
    assert "inventory.on_order_placed" in {step.handler for step in named.steps}


def test_a_replay_finishes_what_became_a_dead_letter_once_the_cause_is_mended(
    database: Database, erp: Planted, registry: Registry
) -> None:
    with database.connection() as connection:
        tenant = get_tenant(connection, erp.dead_letters)
        letters = list_dead_letters(connection, [tenant])
        connection.execute(f"INSERT INTO {tenant.schema}.billing_exchange_rates VALUES ('CHF', 1.05)")
        window = Selection("inventory.StockReserved", letters[0].offset, letters[-1].offset)
        plan = plan_replay(
            connection, [tenant], registry, window, HandlerChoice(side_effects=["billing.on_stock_reserved"])
        )
    run = run_replay(database, registry, plan, plan.id)
    assert (run.handled, run.resolved, list_dead(database, tenant)) == (3, 3, [])
    dispatch(database, tenant, registry)
    assert _column(
        database,
        tenant,
        "SELECT count(*) FROM billing_invoices JOIN billing_ledger USING (invoice_id) "
        "JOIN sales_orders USING (order_id) WHERE currency = 'CHF'",
    ) == [3]


def test_an_event_that_fails_in_a_replay_is_reported_and_left_behind(database: Database, acme: Tenant) -> None:
    CommandBus(database, COUNTER).send_all(acme, [Count(n) for n in (12, 13, 14)], [uuid4() for _ in range(3)])
    dispatch(database, acme, COUNTER)
    with database.connection() as connection:
        connection.execute("DELETE FROM tenant_acme.catalog_categories WHERE name LIKE 'seen%'")
        plan = plan_replay(connection, [acme], COUNTER, Selection(), HandlerChoice(side_effects=["counter.on_counted"]))
    run = run_replay(database, COUNTER, plan, plan.id)
    assert (run.handled, [(f.offset, f.error) for f in run.failures]) == (2, [(2, "ValueError: thirteen")])
    seen = "SELECT name FROM catalog_categories WHERE name LIKE 'seen%' ORDER BY 1"
    assert _column(database, acme, seen) == ["seen 12", "seen 14"]


def test_a_plan_that_is_stale_replays_nothing(database: Database, erp: Planted, registry: Registry) -> None:
    with database.connection() as connection:
        tenant = get_tenant(connection, erp.tenants[0])
        shown = plan_replay(connection, [tenant], registry, Selection())
        order = PlaceOrder(uuid4(), UUID(int=1), datetime.now(UTC).date(), (Line("A-001", 1),))
        CommandBus(database, registry).send(tenant, order)
        plan = plan_replay(connection, [tenant], registry, Selection())
    with pytest.raises(PlanChangedError, match="nothing was done"):
        run_replay(database, registry, plan, shown.id)
    assert _column(database, tenant, "SELECT plan_id FROM erpkit_replays") == []


def test_a_moment_without_a_time_zone_is_refused() -> None:
    with pytest.raises(UsageError, match="since = 2026-01-01T00:00:00 has no time zone"):
        Selection(since=datetime(2026, 1, 1))


def test_a_payload_survives_the_way_into_json_and_back(database: Database, acme: Tenant) -> None:
    from datetime import date
    from decimal import Decimal

    event = OrderPlaced(
        uuid4(), uuid4(), date(2026, 2, 3), (Line("A-001", 2), Line("B-002", 1)), Decimal("10.10"), "EUR"
    )
    assert decode(OrderPlaced, encode(event)) == event
    with pytest.raises(PayloadError, match=r"OrderPlaced\.total"):
        decode(OrderPlaced, {**encode(event), "total": "much"})
