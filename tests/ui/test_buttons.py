"""Plan, apply and stop as buttons, clicked on in the kernel, on the sample ERP."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import erpkit
from erpkit.database import Database
from erpkit.erp import Erp
from erpkit.migrations import Migration, plan_redo, plan_up, read_applied, run_plan
from erpkit.modules import Registry
from erpkit.sample.demo import Planted
from erpkit.tenants import get_tenant, list_tenants
from erpkit.ui import (
    Decision,
    decide,
)
from tests.conftest import plant_copy


@pytest.fixture(scope="module")
def erp(shared_database: Database, registry: Registry) -> Planted:
    return plant_copy(shared_database, registry, 5)


@pytest.fixture
def database(erp: Planted, shared_database: Database) -> Database:
    return shared_database


@pytest.fixture(autouse=True)
def environment(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ERPKIT_DATABASE", database.conninfo)
    monkeypatch.setenv("ERPKIT_MODULES", "erpkit.sample")


@pytest.fixture
def door(database: Database) -> Iterator[Erp]:
    with erpkit.open(database.conninfo, modules="erpkit.sample") as door:
        yield door


def click(guard: Decision[Any, Any], button: str) -> None:
    """Click on a button, and wait for what it sets off."""
    assert guard.widget
    getattr(guard, f"{button}_button").click()
    guard.wait(60)


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def told(guard: Decision[Any, Any]) -> str:
    return str(guard.state.value)


def pending(database: Database, migrations: tuple[Migration, ...]) -> int:
    with database.connection() as connection:
        fleet = list_tenants(connection)
        return plan_up(fleet, migrations, read_applied(connection, fleet, migrations)).step_count


def slugs(database: Database) -> set[str]:
    with database.connection() as connection:
        return {tenant.slug for tenant in list_tenants(connection)}


def test_apply_wants_the_plans_own_id_and_then_does_what_was_planned(
    erp: Planted, database: Database, migrations: tuple[Migration, ...]
) -> None:
    with erpkit.open() as door:
        decision = decide(door.migrations.plan())
        assert decision.widget
        assert decision.apply_button.disabled
        decision.plan_button.click()
        decision.wait(60)
        assert decision.plan.id in decision.head.value
        assert erp.behind in decision.view.value
        decision.confirm.value = "migrate-0000000000"
        assert decision.apply_button.disabled
        assert f"is not the id of the present plan, {decision.plan.id}" in decision.state.value
        assert pending(database, migrations) == 1
        decision.confirm.value = decision.plan.id
        assert (decision.apply_button.disabled, decision.state.value) == (False, "")
        door.close()  # as the last cell of a notebook may do
        decision.apply_button.click()
        decision.wait(60)
        assert "1 migration applied" in decision.state.value
        assert "0 tenants failed" in decision.state.value
        assert decision.result is not None
        assert [result.tenant for result in decision.result.results] == [erp.behind]
        assert pending(database, migrations) == 0
        assert (decision.confirm.value, decision.apply_button.disabled) == ("", True)
        assert decision.bar.value == decision.bar.max


def test_a_plan_that_the_world_has_moved_away_from_is_refused_and_shown_anew(
    erp: Planted, database: Database, door: Erp
) -> None:
    guard = decide(door.events.replay([erp.behind]))
    assert guard.widget
    stale = guard.confirm.value = guard.plan.id
    with database.connection() as connection:
        connection.execute(f'DELETE FROM tenant_{erp.behind}.erpkit_events WHERE "offset" = 1')
    click(guard, "apply")
    assert (guard.result, guard.apply_button.disabled) == (None, True)
    assert f"{stale} is stale: the plan is now {guard.plan.id}; nothing was done" in told(guard)
    assert guard.plan.id != stale
    assert guard.plan.id in guard.head.value


def test_the_buttons_work_after_the_last_cell_closed_the_database(erp: Planted, database: Database, door: Erp) -> None:
    guard = decide(door.tenants.create("newcomer", "The Newcomer"))
    click(guard, "plan")
    guard.confirm.value = f" {guard.plan.id} "
    door.close()
    click(guard, "apply")
    assert "newcomer was created" in told(guard)
    assert "newcomer" in slugs(database)


def test_a_plan_of_nothing_takes_no_id_and_says_so(door: Erp) -> None:
    decision = decide(door.migrations.mend(["acme"], ""))
    assert decision.widget
    decision.confirm.value = decision.plan.id
    shown = (decision.apply_button.disabled, decision.confirm.disabled, decision.confirm.placeholder)
    assert shown == (True, True, "there is nothing to do")
    click(decision, "plan")
    assert decision.confirm.disabled


def test_migrations_are_stopped_between_tenants(
    erp: Planted, database: Database, migrations: tuple[Migration, ...]
) -> None:
    stop = threading.Event()
    with database.connection() as connection:
        fleet = [get_tenant(connection, slug) for slug in sorted(slugs(database) - {erp.suspended})]
        down = [plan_redo(fleet, migrations, read_applied(connection, fleet, migrations), module="billing")]
    run = run_plan(database, down[0], down[0].id, lambda _: stop.set(), workers=1, stop=stop)
    assert len(run.results) < len(fleet)
    assert set(run.not_started.values()) == {"stopped"}
    assert all(result.error is None or "at a whole version: stopped" in result.error for result in run.results)


def test_a_replay_is_stopped_by_the_button_and_says_so(erp: Planted, door: Erp) -> None:
    guard = decide(door.events.replay(rate=8))
    assert guard.widget
    assert "no exchange rate" in guard.view.value
    guard.confirm.value = guard.plan.id
    guard.apply_button.click()
    wait_until(lambda: bool(guard.bar.value))
    assert not guard.stop_button.disabled
    click(guard, "stop")
    assert guard.result is not None
    assert guard.result.run.state == "cancelled"
    assert 0 < guard.result.run.handled < guard.plan.record.event_count
    assert "cancelled" in told(guard)
    assert f"Stopped: plan {guard.plan.id}" in guard._live.value
    assert "--resume" in guard.view.value
    assert (guard.stop_button.disabled, guard.plan_button.disabled) == (True, False)
    handled, asked = guard.result.run.handled, guard.plan.record.event_count
    assert guard.resume_button.layout.display is None
    click(guard, "resume")
    assert guard.result is not None
    assert guard.result.run.state == "done"
    assert guard.result.run.handled == asked - handled
    facts = guard.summary.facts
    assert (facts["planned"], facts["done before"], facts["handled"]) == (asked, handled, asked - handled)
    assert guard.resume_button.layout.display == "none"


def test_the_id_stands_beside_the_button_and_the_summary_follows_the_plan(erp: Planted, door: Erp) -> None:
    summed = decide(door.events.replay())
    assert "no exchange rate" in str(summed.summary)
    assert summed.widget
    assert "no exchange rate" not in summed.view.value
    guard = decide(door.tenants.create("summed_up"))
    assert guard.widget
    assert guard.plan.id in guard.id.value
    assert f"Dry run: plan {guard.plan.id}" in guard._live.value
    assert "type the plan&#x27;s id beside the button Apply" in guard._live.value
    guard.confirm.value = guard.plan.id
    click(guard, "apply")
    assert f"Applied: plan {guard.plan.id}" in guard._live.value
    assert "Apply" not in guard._live.value
