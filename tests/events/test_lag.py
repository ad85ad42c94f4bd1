"""How far the handlers are behind, and who holds the log back: the figures against what was planted."""

import json
import threading
from collections.abc import Callable
from datetime import UTC, datetime

import psycopg
import pytest
from click.testing import CliRunner, Result

from erpkit.cli.events import command
from erpkit.database import Database, Tenant
from erpkit.errors import ErpkitError, UsageError
from erpkit.events import (
    ConsumerGroup,
    Message,
    append,
    consumer_groups,
    dispatch,
    read_lag,
    read_lock_holders,
    read_rates,
)
from erpkit.migrations import Migration
from erpkit.modules import Registry
from erpkit.tenants import create_tenant

Run = Callable[..., Result]


@pytest.fixture
def acme(database: Database, migrations: tuple[Migration, ...]) -> Tenant:
    return create_tenant(database, migrations, "acme")


@pytest.fixture
def run(database: Database, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run erpkit events with arguments."""
    monkeypatch.setenv("ERPKIT_DATABASE", database.conninfo)
    monkeypatch.setenv("ERPKIT_MODULES", "erpkit.sample")
    return lambda *arguments: CliRunner().invoke(command, arguments, standalone_mode=False)


def _append(database: Database, tenant: Tenant, count: int, minutes: int = 0) -> None:
    """Append shortages that were recorded some minutes ago."""
    with database.tenant_transaction(tenant, write=True) as connection:
        append(connection, [Message("inventory.StockShort", {}) for _ in range(count)])
        connection.execute("UPDATE erpkit_events SET recorded_at = recorded_at - make_interval(mins => %s)", [minutes])


def test_the_lag_of_a_group_is_what_waits_and_for_how_long(
    database: Database, acme: Tenant, registry: Registry
) -> None:
    _append(database, acme, 3, minutes=10)
    with database.connection() as connection:
        lag = {one.handler: one for one in read_lag(connection, [acme], consumer_groups(registry))}
    late = lag["inventory.on_stock_short"]
    assert (late.waiting, late.checkpoint, late.topic) == (3, 0, "inventory.StockShort")
    assert 600 <= late.age(datetime.now(UTC)) < 660
    assert (lag["sales.on_order_placed"].waiting, lag["sales.on_order_placed"].age(datetime.now(UTC))) == (0, 0)
    assert len(lag) == len(registry.event_handlers)
    dispatch(database, acme, registry)
    with database.connection() as connection:
        after = {one.handler: one for one in read_lag(connection, [acme], consumer_groups(registry))}
    done = after["inventory.on_stock_short"]
    assert (done.waiting, done.oldest, done.checkpoint, done.in_hand, done.attempts) == (0, None, 3, None, 0)


def test_rates_are_of_the_last_hour_and_day(database: Database, acme: Tenant) -> None:
    _append(database, acme, 5, minutes=24 * 60 + 1)
    _append(database, acme, 2, minutes=120)
    _append(database, acme, 1)
    with database.connection() as connection:
        (rate,) = read_rates(connection, [acme])
    assert (rate.topic, rate.hour, rate.day) == ("inventory.StockShort", 1, 3)


def test_the_transaction_that_others_wait_behind_is_named(database: Database, acme: Tenant, registry: Registry) -> None:
    groups = consumer_groups(registry)
    with psycopg.connect(database.conninfo) as slow, database.connection() as connection:
        slow.execute("SET search_path TO tenant_acme")
        append(slow, [Message("inventory.StockShort", {})])
        waiter = threading.Thread(target=_append, args=(database, acme, 1))
        waiter.start()
        holders = read_lock_holders(connection, [acme], groups, long=0)
        while not holders or not holders[0].waiting:
            holders = read_lock_holders(connection, [acme], groups, long=0)
        slow.rollback()
        waiter.join()
        (holder,) = [one for one in holders if one.what == "append"]
        assert (holder.tenant, holder.pid, holder.waiting) == ("acme", slow.info.backend_pid, 1)
        assert holder.state == "idle in transaction"
        assert read_lock_holders(connection, [acme], groups, long=0) == []


def test_the_transaction_of_a_dispatcher_is_named_with_its_group(
    database: Database, acme: Tenant, registry: Registry
) -> None:
    from erpkit.events.checkpoints import read_batch

    with psycopg.connect(database.conninfo) as slow, database.connection() as connection:
        slow.execute("SET search_path TO tenant_acme")
        read_batch(slow, ConsumerGroup("sales.on_order_placed", ("sales.OrderPlaced",)), 1)
        (holder,) = read_lock_holders(connection, [acme], consumer_groups(registry), long=0)
    assert holder.what == "sales.on_order_placed"
    assert str(holder).startswith(f"acme: process {holder.pid} (postgres) dispatches for sales.on_order_placed")


def test_the_command_ends_with_3_where_a_limit_is_passed(database: Database, acme: Tenant, run: Run) -> None:
    assert (run("lag", "--max-lag", "0").return_value, "nothing waits" in run("lag").output) == (0, True)
    _append(database, acme, 3, minutes=10)
    assert run("lag").return_value == 3  # the limit is five minutes
    assert run("lag", "--max-lag", "3", "--max-age", "700").return_value == 0
    assert "acme: more than 2 events wait for inventory.on_stock_short" in run("lag", "--max-lag", "2").output
    assert run("lag", "--max-lag", "2").return_value == 3
    assert run("lag", "--max-age", "60").return_value == 3
    groups = json.loads(run("lag", "--json").stdout)["groups"]
    assert [(group["handler"], group["waiting"]) for group in groups if group["waiting"]] == [
        ("inventory.on_stock_short", 3)
    ]


def test_dispatching_once_ends_with_3_where_events_became_dead_letters(
    database: Database, acme: Tenant, run: Run
) -> None:
    assert run("dispatch", "--once").return_value == 0
    _append(database, acme, 2)
    result = run("dispatch", "--once", "--json")
    assert (result.return_value, json.loads(result.stdout)[0]["dead"]) == (3, 2)


def test_a_tenant_that_is_not_migrated_is_named_and_holds_up_no_other(
    database: Database, acme: Tenant, migrations: tuple[Migration, ...], run: Run
) -> None:
    behind = create_tenant(database, migrations, "aardvark")
    with database.connection() as connection:
        connection.execute(f"DROP TABLE {behind.schema}.erpkit_events")
    _append(database, acme, 1)
    result = run("dispatch", "--once")
    assert result.return_value == 1
    assert "! aardvark: its event log lacks migrations: run `erpkit migrate up` first" in result.output
    lag = run("lag")
    assert lag.output.splitlines()[1:] == ["nothing waits", "! aardvark: has no event log", "    erpkit migrate up"]
    assert lag.return_value == 3
    shown = run("list", "aardvark").exception
    assert isinstance(shown, ErpkitError)
    assert str(shown).startswith("tenant aardvark: its event log lacks migrations")


@pytest.mark.parametrize("options", [("--once", "--health-file", "x"), ("--health-file", "/nowhere/x")])
def test_a_health_file_that_would_not_be_kept_is_refused_at_once(options: tuple[str, ...], run: Run) -> None:
    result = run("dispatch", *options)
    assert isinstance(result.exception, UsageError)
    assert "target:" not in result.output


def test_topics_without_a_handler_and_handlers_that_are_gone_show_in_the_lag(
    run: Run, database: Database, acme: Tenant
) -> None:
    with database.tenant_transaction(acme, write=True) as connection:
        append(connection, [Message("sales.QuoteSent", {}), Message("inventory.StockShort", {})])
        connection.execute(
            "INSERT INTO erpkit_checkpoints (consumer_group, \"offset\") VALUES ('sales.on_quote', 7), ('forward.nats', 1)"
        )
    result = run("lag", "--json")
    orphans = {(one["kind"], one["name"], one["offset"]) for one in json.loads(result.stdout)["orphans"]}
    assert orphans == {("topic", "sales.QuoteSent", 1), ("handler", "sales.on_quote", 7)}
    assert "no module has the handler sales.on_quote any more" in result.stderr
    assert result.return_value == 0
