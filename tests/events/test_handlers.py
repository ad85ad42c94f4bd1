"""Handlers: several topics in one order, beside another version of the ERP, and what a context offers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import pytest

from erpkit.database import Database, Tenant
from erpkit.errors import ErpkitError, ModuleError
from erpkit.events import CommandBus, Context, EventBus, consumer_groups, dispatch, read_lag
from erpkit.modules import CommandHandler, EventHandler, Module, Query, QueryHandler, Registry, check_modules
from tests.events.small import Cancelled, Placed, do, done, erp_of, forget, letters, make_tenant, publish, run


@pytest.fixture
def acme(database: Database) -> Tenant:
    return make_tenant(database)


def _keep(event: Placed | Cancelled, context: Context) -> None:
    do(context.connection, event.number, type(event).__name__)


STATUS = EventHandler("shop.status", (Placed, Cancelled), _keep)


def test_a_handler_of_several_events_gets_them_in_the_order_of_the_log(database: Database, acme: Tenant) -> None:
    publish(database, acme, *map(Placed, range(700)), Cancelled(3), *map(Placed, range(700, 1500)), Cancelled(1400))
    assert dispatch(database, acme, erp_of(STATUS)).handled == 1502
    found = done(database, acme)
    assert found.index((3, "Cancelled")) == 700
    assert found[-1] == (1400, "Cancelled")
    assert len(found) == 1502


def test_lag_has_one_row_for_a_handler_of_several_events(database: Database, acme: Tenant) -> None:
    publish(database, acme, Placed(1), Cancelled(1), Placed(2))
    with database.connection() as connection:
        (lag,) = read_lag(connection, [acme], consumer_groups(erp_of(STATUS)))
    assert (lag.waiting, lag.topic) == (3, "shop.Placed, shop.Cancelled")


def test_an_older_version_that_does_not_know_a_topic_loses_none_of_its_events(database: Database, acme: Tenant) -> None:
    old, new = erp_of(replace(STATUS, event=Placed)), erp_of(STATUS)
    publish(database, acme, Placed(1))
    dispatch(database, acme, old)
    publish(database, acme, Cancelled(1), Placed(2))
    dispatch(database, acme, old)  # passes over what it does not know, before the new version first runs
    dispatch(database, acme, new)
    publish(database, acme, Cancelled(2), Placed(3))
    dispatch(database, acme, old)  # and once more beside it
    dispatch(database, acme, new)
    assert sorted(done(database, acme)) == [
        (1, "Cancelled"), (1, "Placed"), (2, "Cancelled"), (2, "Placed"), (3, "Placed"),
    ]  # fmt: skip


def test_a_topic_that_is_added_is_handled_and_no_other_twice_where_the_inbox_was_pruned(
    database: Database, acme: Tenant
) -> None:
    old, new = erp_of(replace(STATUS, event=Placed)), erp_of(STATUS)
    publish(database, acme, Placed(1), Cancelled(1), Placed(2))
    dispatch(database, acme, old)
    assert forget(database, acme, old) == 2
    assert forget(database, acme, new, "events") == 2  # the new version is to handle the one that is left
    dispatch(database, acme, new)
    assert done(database, acme) == [(1, "Placed"), (2, "Placed"), (1, "Cancelled")]


def test_dead_letters_stay_such_when_another_version_has_passed_over_events(database: Database, acme: Tenant) -> None:
    def fail_first(event: Placed | Cancelled, context: Context) -> None:
        if event == Placed(1):
            raise ValueError("no")
        _keep(event, context)

    status = replace(STATUS, function=fail_first)
    publish(database, acme, Placed(1), Cancelled(1), Placed(2))
    dispatch(database, acme, erp_of(replace(status, event=Placed)))
    run(database, acme, "UPDATE erpkit_checkpoints SET topics = NULL, read_offset = NULL")  # as from an older release
    result = dispatch(database, acme, erp_of(status))
    assert (result.handled, result.dead) == (2, 0)
    assert letters(database, acme) == [(1, "ValueError: no")]
    assert done(database, acme) == [(2, "Placed"), (1, "Cancelled")]


def test_the_bus_in_memory_hands_a_handler_all_its_events() -> None:
    seen: list[object] = []
    bus = EventBus(erp_of(EventHandler("shop.seen", (Placed, Cancelled), lambda event, _: seen.append(event))))
    bus.publish(Placed(1))
    bus.publish(Cancelled(1))
    assert seen == [Placed(1), Cancelled(1)]


def test_several_handlers_that_write_one_table_from_different_topics_are_a_warning() -> None:
    def module(*, any_order: bool = False) -> Module:
        handlers = [
            EventHandler(f"shop.on_{event.__name__}", event, _keep, writes=("done",), any_order=any_order)
            for event in (Placed, Cancelled)
        ]
        return Module("shop", publishes=(Placed, Cancelled), subscribes=tuple(handlers))

    (finding,) = check_modules([module()]).findings
    assert (finding.kind, finding.severity) == ("split projection", "warning")
    assert "shop.on_Placed, shop.on_Cancelled write done from different topics" in finding.problem
    assert check_modules([module(any_order=True)]).findings == ()
    Registry.of([module()])  # and start-up goes on


@dataclass(frozen=True)
class Cancel:
    number: int


@dataclass(frozen=True)
class CountDone(Query[int]):
    what: str


def _cancel(command: Cancel, context: Context) -> None:
    do(context.connection, command.number, "cancelled")
    context.publish(Cancelled(command.number))


def _count(query: CountDone, context: Context) -> int:
    row = context.connection.execute("SELECT count(*) FROM done WHERE what = %s", [query.what]).fetchone()
    return int(row[0]) if row else 0


def _refuse(event: Placed, context: Context) -> None:
    context.send(Cancel(event.number))
    do(context.connection, context.ask(CountDone("cancelled")), "counted")
    if event.number == 2:
        raise ValueError("two")


class Shop:
    """An ERP whose handler sends a command and asks a query."""

    @cached_property
    def registry(self) -> Registry:
        module = Module(
            "shop",
            commands=(CommandHandler(Cancel, _cancel),),
            answers=(QueryHandler(CountDone, _count),),
            publishes=(Placed, Cancelled),
            subscribes=(EventHandler("shop.refuse", Placed, _refuse), EventHandler("shop.told", Cancelled, _keep)),
        )
        return Registry.of([module])


def test_a_handler_sends_a_command_and_asks_a_query_in_its_own_transaction(database: Database, acme: Tenant) -> None:
    publish(database, acme, Placed(1), Placed(2))
    result = dispatch(database, acme, Shop().registry)
    assert (result.handled, result.dead) == (2, 1)  # what the second one sent is undone with it
    assert done(database, acme) == [(1, "cancelled"), (1, "counted"), (1, "Cancelled")]
    ((caused, of),) = run(
        database, acme,
        "SELECT c.metadata->>'correlation_id', p.uuid::text FROM erpkit_events c JOIN erpkit_events p "
        "ON p.topic = 'shop.Placed' AND p.\"offset\" = 1 WHERE c.topic = 'shop.Cancelled'",
    )  # fmt: skip
    assert caused == of


def test_what_a_handler_sends_is_published_once_however_often_it_is_handled(database: Database, acme: Tenant) -> None:
    publish(database, acme, Placed(1))
    registry = Shop().registry
    dispatch(database, acme, registry)
    run(database, acme, "DELETE FROM erpkit_inbox; DELETE FROM erpkit_checkpoints; DELETE FROM done")
    dispatch(database, acme, registry)
    assert run(database, acme, "SELECT count(*) FROM erpkit_events WHERE topic = 'shop.Cancelled'") == [(1,)]


def test_a_query_that_publishes_and_a_command_without_a_handler_are_refused(database: Database, acme: Tenant) -> None:
    def publishing(query: CountDone, context: Context) -> int:
        context.publish(Placed(1))
        return 0

    def ask(command: Cancel, context: Context) -> None:
        context.ask(CountDone("x"))

    def send(query: CountDone, context: Context) -> int:
        context.send(Placed(1))
        return 0

    shop = Module(
        "shop",
        publishes=(Placed,),
        commands=(CommandHandler(Cancel, ask),),
        answers=(QueryHandler(CountDone, publishing),),
    )
    with pytest.raises(ErpkitError, match=r"shop.CountDone: a query cannot publish events"):
        CommandBus(database, Registry.of([shop])).send(acme, Cancel(1))
    sending = replace(shop, answers=(QueryHandler(CountDone, send),))
    with pytest.raises(ModuleError, match="command Placed has no handler"):
        CommandBus(database, Registry.of([sending])).send(acme, Cancel(1))
