"""Where a new handler starts, how it takes over from a renamed one, and moving a checkpoint by hand."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

import pytest

from erpkit.database import Database, Tenant
from erpkit.errors import ErpkitError, ModuleError, PlanChangedError, UsageError
from erpkit.events import Consumer, Context, consumer_groups, dispatch
from erpkit.events.checkpoints import read_batch
from erpkit.events.dispatch import dispatch_batch
from erpkit.events.dispatchers import audit_handled
from erpkit.events.health import read_event_lag
from erpkit.events.retention import PrunePlan, Retention, plan_prune
from erpkit.events.seek import SeekPlan, plan_seek, run_seek
from erpkit.events.starts import start_handlers
from erpkit.modules import EventHandler, Registry
from erpkit.modules.module import Start
from tests.events.small import Cancelled, Placed, do, done, erp_of, forget, letters, make_tenant, publish, run


@pytest.fixture
def acme(database: Database) -> Tenant:
    return make_tenant(database)


def _do(event: Placed, context: Context) -> None:
    do(context.connection, event.number, context.handler)


def _erp(start: Start | None = None, *, name: str = "shop.new", formerly: str | tuple[str, ...] = ()) -> Registry:
    return erp_of(EventHandler(name, Placed, _do, start=start, formerly=formerly))


def _numbers(database: Database, tenant: Tenant) -> list[int]:
    return [number for number, _ in done(database, tenant)]


@pytest.mark.parametrize(
    ("start", "expected"),
    [(None, [0, 1, 2, 3, 4]), ("beginning", [0, 1, 2, 3, 4]), ("now", [3, 4]), (3, [2, 3, 4]), (0, [0, 1, 2, 3, 4])],
)
def test_a_new_handler_starts_where_it_declares(
    database: Database, acme: Tenant, start: Start | None, expected: list[int]
) -> None:
    publish(database, acme, *map(Placed, range(3)))
    registry = _erp(start)
    dispatch(database, acme, registry)
    publish(database, acme, Placed(3), Placed(4))
    dispatch(database, acme, registry)
    assert _numbers(database, acme) == expected
    with database.connection() as connection:  # what it never was to handle is not missing
        (audit,) = audit_handled(connection, [acme], consumer_groups(registry))
    assert audit.missing == 0


def test_a_handler_starts_at_a_time(database: Database, acme: Tenant) -> None:
    publish(database, acme, Placed(0), Placed(1))
    moment = run(database, acme, "SELECT clock_timestamp()")[0][0]
    assert isinstance(moment, datetime)
    publish(database, acme, Placed(2))
    dispatch(database, acme, _erp(moment))
    assert _numbers(database, acme) == [2]
    with pytest.raises(ValueError, match="has no time zone"):
        _erp(datetime(2026, 1, 1))
    with pytest.raises(ValueError, match='write "beginning", "now", an offset'):
        _erp("later")  # type: ignore[arg-type]


def test_now_is_one_moment_for_all_tenants_so_that_a_later_one_misses_nothing(database: Database, acme: Tenant) -> None:
    registry = _erp("now")
    publish(database, acme, Placed(0))
    dispatch(database, acme, registry)
    bluebird = make_tenant(database, "bluebird")
    publish(database, bluebird, Placed(1))
    dispatch(database, bluebird, registry)
    assert (_numbers(database, acme), _numbers(database, bluebird)) == ([], [1])


def test_a_batch_that_comes_before_the_start_was_noted_notes_it(database: Database, acme: Tenant) -> None:
    publish(database, acme, Placed(0))
    registry = _erp("now")
    dispatch_batch(database, Consumer(acme, registry, registry.event_handlers["shop.new"]))
    publish(database, acme, Placed(1))
    dispatch_batch(database, Consumer(acme, registry, registry.event_handlers["shop.new"]))
    assert _numbers(database, acme) == [1]


def test_a_renamed_handler_goes_on_where_the_old_one_stood(database: Database, acme: Tenant) -> None:
    old = _erp(name="shop.old")
    publish(database, acme, *map(Placed, range(3)))
    dispatch(database, acme, old)
    publish(database, acme, Placed(3))
    new = _erp(formerly="shop.old", start="now")
    dispatch(database, acme, new)
    publish(database, acme, Placed(4))
    dispatch(database, acme, old)  # the old version still runs, and has nothing to do any more
    dispatch(database, acme, new)
    assert done(database, acme) == [*((n, "shop.old") for n in range(3)), (3, "shop.new"), (4, "shop.new")]


def test_it_takes_over_dead_letters_and_what_several_old_ones_did_past_the_common_checkpoint(
    database: Database, acme: Tenant
) -> None:
    def fail_on_two(event: Placed | Cancelled, context: Context) -> None:
        if event == Cancelled(2):
            raise ValueError("two")
        do(context.connection, event.number, type(event).__name__)

    placed = EventHandler("shop.on_placed", Placed, fail_on_two)
    publish(database, acme, Placed(1), Cancelled(1), Placed(2), Cancelled(2))
    dispatch(database, acme, erp_of(placed))
    dispatch(database, acme, erp_of(replace(placed, name="shop.on_cancelled", event=Cancelled)))
    publish(database, acme, Placed(3), Cancelled(3))
    status = EventHandler(
        "shop.status", (Placed, Cancelled), fail_on_two, formerly=("shop.on_placed", "shop.on_cancelled")
    )
    assert dispatch(database, acme, erp_of(status)).handled == 2  # offset 4 is a dead letter, and stays one
    expected = [(number, what) for number in (1, 2, 3) for what in ("Placed", "Cancelled")]
    assert sorted(done(database, acme)) == sorted({*expected} - {(2, "Cancelled")})
    assert run(database, acme, "SELECT DISTINCT handler FROM erpkit_dead_letters") == [("shop.status",)]
    assert letters(database, acme) == [(4, "ValueError: two")]


def test_a_name_that_is_taken_over_must_not_be_a_handler_still() -> None:
    with pytest.raises(ModuleError, match=r"shop.new takes over from shop.old, which is still a handler"):
        erp_of(EventHandler("shop.old", Placed, _do), EventHandler("shop.new", Placed, _do, formerly="shop.old"))


def test_it_does_not_take_over_while_a_dispatcher_is_at_work_on_the_old_one(database: Database, acme: Tenant) -> None:
    old = _erp(name="shop.old")
    publish(database, acme, Placed(1))
    dispatch(database, acme, old)
    with database.tenant_transaction(acme, write=True) as connection:
        read_batch(connection, consumer_groups(old)[0], 1)
        with pytest.raises(ErpkitError, match="a dispatcher is at work on shop.old"):
            start_handlers(database, _erp(formerly="shop.old"), [acme])


def _plan(database: Database, tenant: Tenant, to: Start, registry: Registry) -> SeekPlan:
    with database.connection() as connection:
        return plan_seek(connection, [tenant], registry, "shop.new", to)


def test_seeking_forward_passes_events_over_and_says_so(database: Database, acme: Tenant) -> None:
    registry = _erp()
    publish(database, acme, *map(Placed, range(5)))
    plan = _plan(database, acme, 4, registry)
    assert [(one.before, one.target, one.passed) for one in plan.steps] == [(0, 3, 3)]
    assert "never handles them" in plan.findings[0].problem
    run_seek(database, plan, plan.id)
    dispatch(database, acme, registry)
    assert _numbers(database, acme) == [3, 4]


def test_seeking_back_handles_what_was_passed_over_and_nothing_twice(database: Database, acme: Tenant) -> None:
    registry = _erp("now")
    publish(database, acme, *map(Placed, range(3)))
    dispatch(database, acme, registry)
    publish(database, acme, Placed(3))
    dispatch(database, acme, registry)
    plan = _plan(database, acme, "beginning", registry)
    assert [(one.again, one.known) for one in plan.steps] == [(3, 1)]
    assert run_seek(database, plan, plan.id).moved == ("acme",)
    dispatch(database, acme, registry)
    assert _numbers(database, acme) == [3, 0, 1, 2]


def test_seeking_back_handles_nothing_twice_where_the_inbox_was_pruned(database: Database, acme: Tenant) -> None:
    registry = _erp()
    publish(database, acme, *map(Placed, range(3)))
    dispatch(database, acme, registry)
    assert forget(database, acme, registry) == 3
    plan = _plan(database, acme, "beginning", registry)
    assert [(one.again, one.known) for one in plan.steps] == [(0, 3)]
    run_seek(database, plan, plan.id)
    dispatch(database, acme, registry)
    assert _numbers(database, acme) == [0, 1, 2]


def test_seeking_back_tells_which_events_it_cannot_tell_to_be_handled_or_passed_over(
    database: Database, acme: Tenant
) -> None:
    registry = _erp()
    publish(database, acme, *map(Placed, range(2)))
    dispatch(database, acme, registry)
    publish(database, acme, *map(Placed, range(2, 5)))
    run(database, acme, "UPDATE erpkit_checkpoints SET started_at = now() - interval '90 days'")
    forward = _plan(database, acme, "now", registry)
    run_seek(database, forward, forward.id)
    back = _plan(database, acme, "beginning", registry)
    assert [(one.again, one.known, one.unsure) for one in back.steps] == [(3, 2, 0)]
    forget(database, acme, registry)
    back = _plan(database, acme, "beginning", registry)
    assert [(one.again, one.known, one.unsure) for one in back.steps] == [(0, 5, 5)]
    (finding,) = [one for one in back.findings if one.kind == "not known"]
    assert "handled events or passed them over, the pruned inbox does not tell which" in finding.problem
    assert (finding.severity, finding.remedy) == ("warning", "erpkit events replay --handler shop.new")


def test_seeking_to_the_present_checkpoint_ends_a_pause(database: Database, acme: Tenant) -> None:
    away = [True]

    def handle(event: Placed, context: Context) -> None:
        if away:
            raise ConnectionError("no answer")
        _do(event, context)

    registry = erp_of(EventHandler("shop.new", Placed, handle))
    publish(database, acme, *map(Placed, range(6)))
    assert dispatch(database, acme, registry).paused == ("shop.new",)
    away.clear()
    assert dispatch(database, acme, registry).handled == 0
    plan = _plan(database, acme, 1, registry)
    assert [(one.before, one.target, one.is_paused) for one in plan.steps] == [(0, 0, True)]
    assert run_seek(database, plan, plan.id).moved == ("acme",)
    assert dispatch(database, acme, registry).handled == 6
    assert _plan(database, acme, 7, registry).steps == ()


def test_a_removed_handler_holds_no_events_back_any_more_after_a_seek_and_one_that_is_there_cannot_be_removed(
    database: Database, acme: Tenant
) -> None:
    publish(database, acme, *map(Placed, range(3)))
    dispatch(database, acme, _erp(name="shop.old"))
    publish(database, acme, *map(Placed, range(3, 6)))
    registry = _erp()
    dispatch(database, acme, registry)
    run(database, acme, "UPDATE erpkit_events SET recorded_at = now() - interval '60 days'")

    def prune_plan() -> PrunePlan:
        with database.connection() as connection:
            return plan_prune(connection, [acme], Retention.of(["events=30d"]), consumer_groups(registry))

    (step,) = prune_plan().steps
    assert (step.rows, step.holders) == (3, ("the removed shop.old",))
    (finding,) = [one for one in prune_plan().findings if one.kind == "removed handler"]
    assert finding.remedy == "erpkit events seek shop.old --to removed"
    with database.connection() as connection:
        plan = plan_seek(connection, [acme], registry, "shop.old", "removed")
        for name, why in (("shop.new", "a module has it"), ("shop.odd", "no tenant has a checkpoint of it")):
            with pytest.raises(UsageError, match=why):
                plan_seek(connection, [acme], registry, name, "removed")
    assert run_seek(database, plan, plan.id).moved == ("acme",)
    assert (prune_plan().size, prune_plan().findings) == (6, [])
    assert dispatch(database, acme, _erp(name="shop.old")).handled == 0  # a version that still has it does nothing
    with database.connection() as connection:
        lag = read_event_lag(connection, [acme], consumer_groups(_erp(name="shop.old")))
    assert "shop.old was removed or taken over" in lag.findings[0].problem


def test_a_dead_letter_behind_the_new_checkpoint_is_tried_again(database: Database, acme: Tenant) -> None:
    bad = {1}

    def handle(event: Placed, context: Context) -> None:
        if event.number in bad:
            raise ValueError("bad")
        _do(event, context)

    registry = erp_of(EventHandler("shop.new", Placed, handle))
    publish(database, acme, *map(Placed, range(3)))
    dispatch(database, acme, registry)
    bad.clear()
    plan = _plan(database, acme, 2, registry)
    run_seek(database, plan, plan.id)
    dispatch(database, acme, registry)
    assert _numbers(database, acme) == [0, 2, 1]
    assert letters(database, acme) == []


def test_a_stale_seek_is_refused(database: Database, acme: Tenant) -> None:
    registry = _erp()
    publish(database, acme, *map(Placed, range(3)))
    plan = _plan(database, acme, "now", registry)
    with pytest.raises(PlanChangedError):
        run_seek(database, plan, "seek-0123456789")
    dispatch(database, acme, registry)
    result = run_seek(database, plan, plan.id)
    assert "has moved meanwhile" in result.failures["acme"]
    assert _plan(database, acme, "now", registry).id != plan.id


def test_a_handler_that_is_not_there_cannot_be_moved(database: Database, acme: Tenant) -> None:
    with pytest.raises(UsageError, match=r"no handler is named shop.new; did you mean shop.other"):
        _plan(database, acme, 1, _erp(name="shop.other"))
