"""Shadows: a projection rebuilt beside the live one, compared with it, and put in its place."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest

from erpkit.database import Database, Tenant
from erpkit.errors import ErpkitError, PlanChangedError, UsageError
from erpkit.events import (
    Context,
    Message,
    RunOptions,
    Shadow,
    append,
    build_shadow,
    diff_shadow,
    dispatch,
    drop_shadow,
    find_projection,
    list_dead_letters,
    list_shadows,
    rebuild_projection,
    swap_shadow,
)
from erpkit.migrations import Migration
from erpkit.modules import EventHandler, Module, Registry
from erpkit.tenants import create_tenant


@dataclass(frozen=True)
class Sold:
    item: int
    amount: int


@dataclass(frozen=True)
class Refunded:
    item: int


def _sell(event: Sold, context: Context) -> None:
    if event.amount == 13:
        raise ValueError("thirteen")
    context.connection.execute(
        "INSERT INTO totals VALUES (%s, %s) ON CONFLICT (item) DO UPDATE SET amount = totals.amount + EXCLUDED.amount",
        [event.item, event.amount],
    )
    context.connection.execute("INSERT INTO sales (item) VALUES (%s)", [event.item])


def _refund(event: Refunded, context: Context) -> None:
    context.connection.execute("UPDATE totals SET amount = 0 WHERE item = %s", [event.item])


def _meddle(event: Sold, context: Context) -> None:
    context.connection.execute("INSERT INTO elsewhere VALUES (%s)", [event.item])


def _module(**writes: Any) -> Registry:
    return Registry.of(
        [
            Module(
                "shop",
                publishes=(Sold, Refunded),
                subscribes=(
                    EventHandler("shop.on_sold", Sold, _sell, replayable=True, writes=("totals", "sales")),
                    EventHandler("shop.on_refunded", Refunded, _refund, replayable=True, writes=("totals",)),
                    EventHandler("shop.meddle", Sold, _meddle, **writes),
                ),
            )
        ]
    )


SHOP = _module()


@pytest.fixture(scope="module")
def _acme(shared_database: Database, migrations: tuple[Migration, ...]) -> Tenant:
    acme = create_tenant(shared_database, migrations, "acme")
    with shared_database.connection() as connection:
        connection.execute(
            "CREATE TABLE tenant_acme.totals (item int PRIMARY KEY, amount int NOT NULL, note json, "
            "double int GENERATED ALWAYS AS (amount * 2) STORED);"
            "CREATE TABLE tenant_acme.sales (id bigserial PRIMARY KEY, item int NOT NULL);"
            "CREATE TABLE tenant_acme.elsewhere (item int);"
            "CREATE TABLE tenant_acme.orders (item int REFERENCES tenant_acme.totals)"
        )
    return acme


@pytest.fixture
def acme(shared_database: Database, _acme: Tenant) -> Iterator[Tenant]:
    with shared_database.connection() as connection:
        tables = ("totals", "sales", "elsewhere", "orders", "erpkit_events", "erpkit_replays", "erpkit_inbox")
        names = ", ".join(f"tenant_acme.{t}" for t in (*tables, "erpkit_dead_letters", "erpkit_checkpoints"))
        connection.execute(f"TRUNCATE {names} RESTART IDENTITY CASCADE".encode())
    _sales(shared_database, _acme, [Sold(1, 10), Sold(2, 20), Sold(1, 5), Refunded(1)])
    dispatch(shared_database, _acme, SHOP)
    yield _acme
    with shared_database.connection() as connection:
        left = list_shadows(connection)
    for shadow in left:
        drop_shadow(shared_database, shadow.schema)


def _sales(database: Database, tenant: Tenant, events: list[Sold | Refunded]) -> None:
    with database.tenant_transaction(tenant, write=True) as connection:
        append(connection, [Message(f"shop.{type(e).__name__}", dict(vars(e))) for e in events])


def _rows(database: Database, query: str) -> list[Any]:
    with database.connection() as connection:
        return connection.execute(query.encode()).fetchall()


TOTALS = "SELECT item, amount, double FROM tenant_acme.totals ORDER BY 1"


def test_a_projection_is_its_tables_and_all_handlers_that_write_them() -> None:
    projection = find_projection(SHOP, "shop.on_refunded")
    assert (projection.handlers, projection.tables) == (("shop.on_sold", "shop.on_refunded"), ("totals", "sales"))


@pytest.mark.parametrize(
    ("handler", "registry", "message"),
    [
        ("shop.nothing", SHOP, "no handler is named shop.nothing"),
        ("shop.meddle", SHOP, "shop.meddle declares no table that it writes"),
        ("shop.on_sold", _module(writes=("sales",)), "shop.meddle writes sales, totals and is not replayable"),
    ],
)
def test_what_cannot_be_rebuilt_is_refused(handler: str, registry: Registry, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        find_projection(registry, handler)


def test_a_shadow_of_a_sound_projection_does_not_differ(shared_database: Database, acme: Tenant) -> None:
    shadow = build_shadow(shared_database, SHOP, acme, "shop.on_sold")
    assert (shadow.events, shadow.failed, shadow.is_complete) == (4, 0, True)
    diff = diff_shadow(shared_database, SHOP, shadow)
    assert [(t.table, t.live_rows, t.shadow_rows, t.count) for t in diff.differences] == [
        ("totals", 2, 2, 0), ("sales", 3, 3, 0),
    ]  # fmt: skip


def test_what_somebody_changed_by_hand_is_found_and_a_swap_mends_it(shared_database: Database, acme: Tenant) -> None:
    before = _rows(shared_database, TOTALS)
    grants = "SELECT relname, relacl::text FROM pg_class WHERE relnamespace = 'tenant_acme'::regnamespace ORDER BY 1"
    granted = _rows(shared_database, grants)
    checkpoints = _rows(shared_database, "SELECT * FROM tenant_acme.erpkit_checkpoints")
    with shared_database.connection() as connection:
        connection.execute(
            "UPDATE tenant_acme.totals SET amount = 7 WHERE item = 1; DELETE FROM tenant_acme.totals WHERE item = 2;"
            "INSERT INTO tenant_acme.totals VALUES (3, 30); INSERT INTO tenant_acme.orders VALUES (1)"
        )
    shadow = build_shadow(shared_database, SHOP, acme, "shop.on_sold")
    diff = diff_shadow(shared_database, SHOP, shadow)
    totals, sales = diff.differences
    assert (totals.only_live, totals.only_shadow, totals.differing, sales.count) == (1, 1, 1, 0)
    assert {d.key["item"]: (d.live and d.live["amount"], d.shadow and d.shadow["amount"]) for d in totals.examples} == {
        1: (7, 0), 2: (None, 20), 3: (30, None),
    }  # fmt: skip
    with pytest.raises(PlanChangedError, match="nothing was done"):
        swap_shadow(shared_database, SHOP, shadow, "swap-0123456789")
    assert _rows(shared_database, TOTALS) != before
    assert swap_shadow(shared_database, SHOP, shadow, diff.id).count == 3
    assert _rows(shared_database, TOTALS) == before
    assert _rows(shared_database, grants) == granted
    assert _rows(shared_database, "SELECT * FROM tenant_acme.erpkit_checkpoints") == checkpoints
    with pytest.raises(psycopg.errors.ForeignKeyViolation), shared_database.connection() as connection:
        connection.execute("INSERT INTO tenant_acme.orders VALUES (99)")
    with shared_database.connection() as connection:
        assert list_shadows(connection) == []
    audit = "SELECT plan_id, state, handled FROM tenant_acme.erpkit_replays"
    assert _rows(shared_database, audit) == [(diff.id, "done", 4)]
    assert _rows(shared_database, "SELECT 1 FROM pg_roles WHERE rolname LIKE '%tenant_acme.copy'") == []
    _sales(shared_database, acme, [Sold(2, 1)])  # and the live handlers go on: the serial goes past what was put in
    assert (dispatch(shared_database, acme, SHOP).dead, _rows(shared_database, TOTALS)[1]) == (0, (2, 21, 42))


def test_a_swap_is_refused_when_the_difference_is_another_by_now(shared_database: Database, acme: Tenant) -> None:
    shadow = build_shadow(shared_database, SHOP, acme, "shop.on_sold")
    shown = diff_shadow(shared_database, SHOP, shadow)
    with shared_database.connection() as connection:
        connection.execute("UPDATE tenant_acme.totals SET amount = 7 WHERE item = 1")
    with pytest.raises(PlanChangedError):
        swap_shadow(shared_database, SHOP, shadow, shown.id)
    assert _rows(shared_database, TOTALS)[0] == (1, 7, 14)


def test_a_shadow_catches_up_with_what_was_handled_since(shared_database: Database, acme: Tenant) -> None:
    shadow = build_shadow(shared_database, SHOP, acme, "shop.on_sold")
    _sales(shared_database, acme, [Sold(1, 1), Sold(4, 40)])
    dispatch(shared_database, acme, SHOP)
    _sales(shared_database, acme, [Sold(5, 50)])  # not dispatched yet: it is for the live handlers, after the swap
    diff = diff_shadow(shared_database, SHOP, shadow)
    assert (diff.count, diff.shadow.events) == (0, 6)
    swap_shadow(shared_database, SHOP, shadow, diff.id)
    dispatch(shared_database, acme, SHOP)
    assert _rows(shared_database, TOTALS) == [(1, 1, 2), (2, 20, 40), (4, 40, 80), (5, 50, 100)]


def test_a_swap_waits_for_the_batch_that_a_dispatcher_has_in_hand(shared_database: Database, acme: Tenant) -> None:
    shadow = build_shadow(shared_database, SHOP, acme, "shop.on_sold")
    _sales(shared_database, acme, [Sold(1, 1)])
    found: list[int] = []
    compare = threading.Thread(target=lambda: found.append(diff_shadow(shared_database, SHOP, shadow).shadow.events))
    with shared_database.tenant_transaction(acme, write=True) as connection:
        lock = "pg_try_advisory_xact_lock(hashtextextended('erpkit.dispatch.tenant_acme.shop.on_sold', 0))"
        assert connection.execute(f"SELECT {lock}").fetchall() == [(True,)]
        compare.start()
        compare.join(0.3)
        assert compare.is_alive()
        connection.execute("UPDATE erpkit_checkpoints SET \"offset\" = 5 WHERE consumer_group = 'shop.on_sold'")
    compare.join()
    assert found == [5]


def test_a_projection_is_right_however_dispatch_and_swap_meet(shared_database: Database, acme: Tenant) -> None:
    stop = threading.Event()

    def trade() -> None:
        while not stop.is_set():
            _sales(shared_database, acme, [Sold(1, 1)])
            dispatch(shared_database, acme, SHOP)

    thread = threading.Thread(target=trade)
    thread.start()
    try:
        for _ in range(3):
            rebuild_projection(shared_database, SHOP, acme, "shop.on_sold")
    finally:
        stop.set()
        thread.join()
    dispatch(shared_database, acme, SHOP)
    sold = _rows(
        shared_database, 'SELECT count(*) FROM tenant_acme.erpkit_events WHERE payload = \'{"item": 1, "amount": 1}\''
    )
    assert _rows(shared_database, TOTALS)[0][1] == sold[0][0]


def test_a_handler_that_writes_what_it_does_not_declare_is_refused_by_postgresql(
    shared_database: Database, acme: Tenant
) -> None:
    registry = _module(replayable=True, writes=("totals",))
    with pytest.raises(ErpkitError, match="shop.meddle uses tables that it does not declare in `writes` .*elsewhere"):
        build_shadow(shared_database, registry, acme, "shop.on_sold")
    assert _rows(shared_database, "SELECT count(*) FROM tenant_acme.elsewhere") == [(3,)]  # of the fixture's dispatch


def test_a_rebuild_that_was_stopped_changes_nothing_and_goes_on(shared_database: Database, acme: Tenant) -> None:
    _sales(shared_database, acme, [Sold(1, 1) for _ in range(800)])
    dispatch(shared_database, acme, SHOP)
    with shared_database.connection() as connection:
        connection.execute("DELETE FROM tenant_acme.totals")
    stop = threading.Event()
    with pytest.raises(ErpkitError, match="the rebuild was stopped after 500 events"):
        rebuild_projection(shared_database, SHOP, acme, "shop.on_sold", RunOptions(lambda _: stop.set(), stop))
    assert _rows(shared_database, TOTALS) == []
    with shared_database.connection() as connection:
        assert [(s.tenant, s.events) for s in list_shadows(connection)] == [("acme", 500)]
    seen: list[int] = []
    diff = rebuild_projection(shared_database, SHOP, acme, "shop.on_sold", RunOptions(seen.append, resume=True))
    assert (sum(seen), diff.shadow.events) == (304, 804)
    assert _rows(shared_database, TOTALS) == [(1, 800, 1600), (2, 20, 40)]


def test_an_event_that_fails_again_is_counted_and_one_that_no_longer_does_is_no_dead_letter(
    shared_database: Database, acme: Tenant
) -> None:
    _sales(shared_database, acme, [Sold(6, 13)])
    assert dispatch(shared_database, acme, SHOP).dead == 1
    assert build_shadow(shared_database, SHOP, acme, "shop.on_sold").failed == 1
    mended = _replaced(_sell, lambda e: Sold(e.item, 12))
    assert rebuild_projection(shared_database, mended, acme, "shop.on_sold").count == 2
    with shared_database.connection() as connection:
        assert list_dead_letters(connection, [acme]) == []


def _sell_carefully(event: Sold, context: Context) -> None:
    """Update or else insert, by the number of rows; a duplicate is caught."""
    connection = context.connection
    if not connection.execute(
        "UPDATE totals SET amount = amount + %s WHERE item = %s", [event.amount, event.item]
    ).rowcount:
        connection.execute("INSERT INTO totals VALUES (%s, %s)", [event.item, event.amount])
    try:
        with connection.transaction():
            connection.execute("INSERT INTO totals VALUES (%s, 0)", [event.item])
    except psycopg.errors.UniqueViolation:
        connection.execute("INSERT INTO sales (item) VALUES (%s)", [event.item])


def _sell_by_copy(event: Sold, context: Context) -> None:
    _sell(Sold(event.item, event.amount), context)
    context.connection.execute("DELETE FROM sales WHERE id = (SELECT max(id) FROM sales)")
    with context.connection.cursor().copy("COPY sales (item) FROM STDIN") as copy:
        copy.write_row([event.item])


@pytest.mark.parametrize("function", [_sell_carefully, _sell_by_copy])
def test_a_handler_that_looks_at_its_answers_or_copies_is_rebuilt_as_any_other(
    shared_database: Database, acme: Tenant, function: Callable[[Sold, Context], None]
) -> None:
    shadow = build_shadow(shared_database, _replaced(function, lambda e: e), acme, "shop.on_sold")
    totals, sales = diff_shadow(shared_database, SHOP, shadow).differences
    assert (shadow.failed, totals.count, sales.shadow_rows) == (0, 0, 3)


def _replaced(function: Callable[[Sold, Context], None], change: Callable[[Sold], Sold]) -> Registry:
    def mended(event: Sold, context: Context) -> None:
        function(change(event) if event.amount == 13 else event, context)

    handlers = (
        EventHandler("shop.on_sold", Sold, mended, replayable=True, writes=("totals", "sales")),
        EventHandler("shop.on_refunded", Refunded, _refund, replayable=True, writes=("totals",)),
    )
    return Registry.of([Module("shop", publishes=(Sold, Refunded), subscribes=handlers)])


def test_only_scratch_schemas_are_dropped(shared_database: Database, acme: Tenant) -> None:
    with pytest.raises(UsageError, match="tenant_acme is not a scratch schema"):
        drop_shadow(shared_database, "tenant_acme")
    shadow: Shadow = build_shadow(shared_database, SHOP, acme, "shop.on_sold")
    drop_shadow(shared_database, shadow.schema)
    drop_shadow(shared_database, shadow.schema)
    assert _rows(shared_database, "SELECT 1 FROM pg_namespace WHERE nspname LIKE 'erpkit_shadow%'") == []
