"""Who dispatches, who stopped, and taking over from a worker that was killed."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from erpkit.database import Database, Tenant
from erpkit.erp.rehearsal import WorkerProcess
from erpkit.errors import PlanChangedError, UsageError
from erpkit.events import ConsumerGroup, consumer_groups, dispatch, read_lag
from erpkit.events.dispatchers import (
    Dispatcher,
    Health,
    audit_handled,
    explain_stop,
    list_dispatchers,
    plan_take_over,
    read_health,
    take_over,
)
from erpkit.events.lag import GroupLag, LockHolder
from erpkit.modules import Registry
from erpkit.sample.demo import place_orders
from erpkit.tenants import get_tenant
from tests.conftest import SMALL, plant_copy

NOW = datetime(2026, 11, 25, 3, 0, tzinfo=UTC)
HEALTH = Health(NOW - timedelta(seconds=400), 10, 0, 0)
LISTENER = Dispatcher(7, "erp", "10.0.0.5", NOW)
IN_HAND = GroupLag("acme", "billing.on_stock_reserved", "inventory.StockReserved", 2, NOW, 5, NOW, 7, 0)
HOLDER = LockHolder(
    "acme", "billing.on_stock_reserved", 7, "erp", "erpkit", "idle in transaction", 300.0, 0, "SELECT 1"
)


def test_a_killed_worker_is_told_from_one_that_ended_in_order_and_from_one_that_hangs() -> None:
    killed = explain_stop([IN_HAND], [], HEALTH, [], NOW)
    assert killed == [
        "no dispatcher is connected to this database",
        "the health file is of 2026-11-25 02:53:20: its dispatcher did not stop normally, or it would have removed the file",
        "it ended with a batch in flight: acme, billing.on_stock_reserved",
    ]
    in_order = explain_stop([], [], None, [], NOW)
    assert in_order[1] == "there is no health file: the last dispatcher stopped normally, or kept none"
    hangs = explain_stop([IN_HAND], [LISTENER], HEALTH, [HOLDER], NOW)
    assert hangs[0] == "process 7 of erp from 10.0.0.5 listens since 2026-11-25 03:00:00"
    assert hangs[1].startswith("the last report is 400 s old")
    assert hangs[2].endswith("if it hangs: SELECT pg_terminate_backend(7)")


def test_a_health_file_that_is_none_is_named(tmp_path: Path) -> None:
    assert read_health(tmp_path / "none.json") is None
    (tmp_path / "odd.json").write_text(json.dumps({"at": 3}))
    with pytest.raises(UsageError, match=r"odd.json is not a health file"):
        read_health(tmp_path / "odd.json")


def test_a_worker_that_was_killed_leaves_traces_and_its_work_is_taken_over_once(
    database: Database, registry: Registry, tmp_path: Path
) -> None:
    plant_copy(database, registry, 2)
    groups = consumer_groups(registry)
    worker = WorkerProcess(database.conninfo, "erpkit.sample", tmp_path / "health.json")
    try:
        worker.start()
        with database.connection() as connection:
            tenant = get_tenant(connection, "acme")
            assert len(list_dispatchers(connection)) == 1
    finally:
        worker.kill()
    place_orders(database, registry, tenant, 4, size=SMALL)
    with database.connection() as connection:
        worker_is_gone = not list_dispatchers(connection)
        lag = read_lag(connection, [tenant], groups)
    assert (worker_is_gone, read_health(tmp_path / "health.json") is not None) == (True, True)
    plan = plan_take_over(lag)
    assert {one.handler: one.waiting for one in plan.waiting} == {
        "inventory.on_order_placed": 4, "sales.on_order_placed": 4,
    }  # fmt: skip
    with pytest.raises(PlanChangedError, match="nothing was dispatched"):
        take_over(database, registry, [tenant], "dispatch-0000000000")
    assert _missing(database, tenant, groups) == 0
    (result,) = take_over(database, registry, [tenant], plan.id)
    assert result.handled >= 8
    assert _missing(database, tenant, groups) == 0
    with pytest.raises(PlanChangedError):  # the checkpoints have moved
        take_over(database, registry, [tenant], plan.id)
    with database.connection() as connection:
        assert not plan_take_over(read_lag(connection, [tenant], groups)).waiting
        connection.execute(f"DELETE FROM {tenant.schema}.erpkit_inbox WHERE handler = 'sales.on_order_placed'")
    assert _missing(database, tenant, groups) == 17
    assert dispatch(database, tenant, registry).handled == 0


def _missing(database: Database, tenant: Tenant, groups: Sequence[ConsumerGroup]) -> int:
    with database.connection() as connection:
        return sum(one.missing for one in audit_handled(connection, [tenant], groups))
