"""Replays: what is selected, what is planned, and going on where one stopped, with each event handled once."""

import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from erpkit.database import Database, Tenant
from erpkit.errors import ErpkitError, PlanChangedError, UsageError
from erpkit.events import (
    Context,
    HandlerChoice,
    Message,
    ReplayPlan,
    ReplayRequest,
    RunOptions,
    Selection,
    append,
    list_replay_results,
    list_replays,
    plan_replay,
    plan_resume,
    run_replay,
)
from erpkit.migrations import Migration
from erpkit.modules import EventHandler, Module, Registry
from erpkit.tenants import create_tenant


@dataclass(frozen=True)
class Ticked:
    number: int


@dataclass(frozen=True)
class Tocked:
    number: int


def _note(event: Ticked | Tocked, context: Context) -> None:
    """Note the event; noting it twice fails, so that a test sees it.

    This line is not for operators.
    """
    assert context.message.is_replay
    name = f"{type(event).__name__} {event.number:05} {context.message.replay_id}"
    context.connection.execute("INSERT INTO catalog_categories VALUES (%s)", [name])
    if event.number == -1:
        raise ValueError("not this one")


def _mail(event: Ticked, context: Context) -> None: ...


CLOCK = Registry.of(
    [
        Module(
            "clock",
            publishes=(Ticked, Tocked),
            subscribes=(
                EventHandler("clock.on_tocked", Tocked, _note, replayable=True),
                EventHandler("clock.on_ticked", Ticked, _note, replayable=True),
                EventHandler("clock.mail", Ticked, _mail, description="Send a mail to the customer."),
            ),
        )
    ]
)


@pytest.fixture(scope="module")
def tenants(shared_database: Database, migrations: tuple[Migration, ...]) -> list[Tenant]:
    return [create_tenant(shared_database, migrations, slug) for slug in ("acme", "bluebird")]


@pytest.fixture
def acme(shared_database: Database, tenants: list[Tenant]) -> Tenant:
    return _emptied(shared_database, tenants)[0]


def _emptied(database: Database, tenants: list[Tenant]) -> list[Tenant]:
    with database.connection() as connection:
        for t in tenants:
            tables = ("catalog_categories", "erpkit_events", "erpkit_replays", "erpkit_inbox", "erpkit_dead_letters")
            names = ", ".join(f"{t.schema}.{table}" for table in tables)
            connection.execute(f"TRUNCATE {names} RESTART IDENTITY CASCADE".encode())
    return tenants


def _fill(database: Database, tenant: Tenant, count: int, correlation: str = "c") -> list[Message]:
    """Ticks and tocks in turn, numbered from 1."""
    names = ("Ticked", "Tocked")
    messages = [
        Message(f"clock.{names[n % 2]}", {"number": n + 1}, uuid4(), {"correlation_id": correlation})
        for n in range(count)
    ]
    with database.tenant_transaction(tenant, write=True) as connection:
        append(connection, messages)
    return messages


def _rows(database: Database, tenant: Tenant, query: str) -> list[Any]:
    with database.tenant_transaction(tenant) as connection:
        return connection.execute(query.encode()).fetchall()


def _plan(database: Database, *tenants: Tenant, **selection: Any) -> ReplayPlan:
    with database.connection() as connection:
        return plan_replay(connection, tenants, CLOCK, Selection(**selection))


def _resume(database: Database, replay_id: UUID, *tenants: Tenant) -> ReplayPlan:
    with database.connection() as connection:
        return plan_resume(connection, tenants, CLOCK, replay_id)


def _noted(database: Database, tenant: Tenant) -> list[str]:
    return [name.rsplit(" ", 1)[0] for (name,) in _rows(database, tenant, "SELECT name FROM catalog_categories")]


def test_events_are_selected_by_uuid_or_by_what_they_go_back_to(shared_database: Database, acme: Tenant) -> None:
    _fill(shared_database, acme, 4)
    mine = _fill(shared_database, acme, 3, "the one")
    by_uuid = _plan(shared_database, acme, uuids=(mine[0].uuid, mine[1].uuid, uuid4()))
    assert [(s.topic, s.events) for s in by_uuid.steps] == [("clock.Ticked", 1), ("clock.Tocked", 1)]
    by_correlation = _plan(shared_database, acme, correlation_id="the one", topic="clock.Tick*")
    assert [(s.first_offset, s.last_offset, s.events) for s in by_correlation.steps] == [(5, 7, 2)]
    run_replay(shared_database, CLOCK, by_correlation, by_correlation.id)
    assert sorted(_noted(shared_database, acme)) == ["Ticked 00001", "Ticked 00003"]


@pytest.mark.parametrize(
    ("window", "message"),
    [
        ({"first_offset": 5, "last_offset": 3}, "no offset lies between 5 and 3"),
        ({"last_offset": -1}, "an offset is below 0"),
        ({"since": datetime(2026, 1, 1)}, "has no time zone"),
        (
            {"since": datetime(2026, 1, 2, tzinfo=UTC), "until": datetime(2026, 1, 1, tzinfo=UTC)},
            "no time lies between",
        ),
        ({"uuids": ("7",)}, "one of them is not a uuid"),
    ],
)
def test_a_window_that_can_hold_no_event_is_refused(window: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Selection(**window)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"send_to": "kafka"}, "'kafka' is not a target: write broker, or broker:SUBJECT"),
        ({"send_to": "broker:"}, "is not a target"),
        ({"send_to": "broker:a b"}, "'a b' is not a subject"),
        ({"send_to": "broker", "watermill": True}, "exclude one another"),
        ({"send_to": "broker", "resume": "x"}, "exclude one another"),
        ({"send_to": "broker", "handlers": ["x"]}, "leave out handlers and side effects"),
        ({"again": True}, "again is for a replay to a broker"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused(request_: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ReplayRequest(Selection(), **request_)


def test_a_plan_says_what_each_handler_does_and_names_those_with_side_effects(
    shared_database: Database, acme: Tenant
) -> None:
    _fill(shared_database, acme, 2)
    with shared_database.connection() as connection:
        without = plan_replay(connection, [acme], CLOCK, Selection())
        named = plan_replay(connection, [acme], CLOCK, Selection(), HandlerChoice(side_effects=["clock.mail"]))
    assert (without.side_effects, without.left_out) == ((), {"clock.mail": "has side effects"})
    assert named.side_effects == ("clock.mail",)
    assert named.handlers == {
        "clock.on_ticked": "Note the event; noting it twice fails, so that a test sees it.",
        "clock.on_tocked": "Note the event; noting it twice fails, so that a test sees it.",
        "clock.mail": "Send a mail to the customer.",
    }
    assert without.id != named.id


def test_events_of_several_topics_are_replayed_in_the_order_of_the_log(shared_database: Database, acme: Tenant) -> None:
    _fill(shared_database, acme, 6)
    plan = _plan(shared_database, acme)
    run_replay(shared_database, CLOCK, plan, plan.id)
    numbers = [int(name.split()[1]) for name in _noted(shared_database, acme)]  # a heap without deletes keeps the order
    assert numbers == [1, 2, 3, 4, 5, 6]


def test_a_replay_that_is_stopped_half_way_goes_on_and_handles_each_event_once(
    shared_database: Database, tenants: list[Tenant]
) -> None:
    acme, bluebird = _emptied(shared_database, tenants)
    _fill(shared_database, acme, 1200)
    _fill(shared_database, bluebird, 10)
    plan = _plan(shared_database, acme, bluebird)
    stop = threading.Event()
    run = run_replay(shared_database, CLOCK, plan, plan.id, RunOptions(lambda _: stop.set(), stop))
    assert (run.state, run.handled) == ("cancelled", 500)
    assert len(_noted(shared_database, acme)) == 500
    with shared_database.connection() as connection:
        assert [(r.tenant, r.state, r.handled) for r in list_replays(connection, tenants)] == [
            ("acme", "cancelled", 500), ("bluebird", "cancelled", 0),
        ]  # fmt: skip
    _fill(shared_database, acme, 5)  # what comes after the plan was made is none of its business
    rest = _resume(shared_database, run.replay_id, *tenants)
    assert (rest.id, rest.event_count) == (plan.id, 710)
    assert (rest.facts["planned"], rest.facts["done before"]) == (1210, 500)
    assert str(rest) == "the rest of 1,210: 710 events of 2 tenants to handlers"
    again = run_replay(shared_database, CLOCK, rest, plan.id)
    assert (again.state, again.handled, again.failed, again.replay_id) == ("done", 710, 0, run.replay_id)
    assert (len(_noted(shared_database, acme)), len(_noted(shared_database, bluebird))) == (1200, 10)
    with shared_database.connection() as connection:
        records = list_replays(connection, tenants, run.replay_id)
    assert [(r.tenant, r.state, r.planned, r.handled) for r in records] == [
        ("acme", "done", 1200, 1200), ("bluebird", "done", 10, 10),
    ]  # fmt: skip
    with pytest.raises(UsageError, match="is done: there is nothing to resume"):
        _resume(shared_database, run.replay_id, *tenants)
    with pytest.raises(UsageError, match="no tenant has a replay"):
        _resume(shared_database, uuid4(), *tenants)


def test_ctrl_c_ends_a_replay_after_the_batch_in_hand(shared_database: Database, acme: Tenant) -> None:
    _fill(shared_database, acme, 600)
    plan = _plan(shared_database, acme)
    run = run_replay(shared_database, CLOCK, plan, plan.id, RunOptions(lambda _: signal.raise_signal(signal.SIGINT)))
    assert (run.state, run.handled, len(_noted(shared_database, acme))) == ("cancelled", 500, 500)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_replay_that_is_killed_can_be_resumed(shared_database: Database, acme: Tenant) -> None:
    _fill(shared_database, acme, 2000)
    plan = _plan(shared_database, acme)
    code = (
        "from tests.events.replay.test_replay import CLOCK, Database, RunOptions, Tenant, _plan, run_replay\n"
        f"database = Database({shared_database.conninfo!r}, 'x')\n"
        f"acme = Tenant('acme', 'tenant_acme', {acme.role!r})\n"
        "plan = _plan(database, acme)\n"
        "run_replay(database, CLOCK, plan, plan.id, RunOptions(rate=400))"
    )
    worker = subprocess.Popen([sys.executable, "-c", code])
    while not _noted(shared_database, acme) and worker.poll() is None:
        time.sleep(0.01)
    worker.kill()
    worker.wait()
    with shared_database.connection() as connection:
        (record,) = list_replays(connection, [acme])
    assert (record.state, record.plan_id) == ("running", plan.id)
    assert 0 < record.handled < 2000
    assert len(_noted(shared_database, acme)) == record.handled
    rest = _resume(shared_database, record.replay_id, acme)
    run_replay(shared_database, CLOCK, rest, plan.id)
    assert len(_noted(shared_database, acme)) == 2000
    assert _rows(shared_database, acme, "SELECT state, handled FROM erpkit_replays") == [("done", 2000)]


def test_two_that_resume_the_same_replay_do_not_both_do_it(shared_database: Database, acme: Tenant) -> None:
    _fill(shared_database, acme, 1600)
    plan = _plan(shared_database, acme)
    stop = threading.Event()
    run = run_replay(shared_database, CLOCK, plan, plan.id, RunOptions(lambda _: stop.set(), stop))
    rest = _resume(shared_database, run.replay_id, acme)

    def meddle(_: int) -> None:
        run_replay(shared_database, CLOCK, _resume(shared_database, run.replay_id, acme), plan.id)

    with pytest.raises(ErpkitError, match="another process has resumed it"):
        run_replay(shared_database, CLOCK, rest, plan.id, RunOptions(meddle))
    assert len(_noted(shared_database, acme)) == 1600


def test_each_event_has_a_result_and_failures_come_first(shared_database: Database, acme: Tenant) -> None:
    with shared_database.tenant_transaction(acme, write=True) as connection:
        append(connection, [Message("clock.Ticked", {"number": n}) for n in (1, -1, 3)])
        append(connection, [Message("clock.Ticked", {"number": "many"})])
    plan = _plan(shared_database, acme)
    run = run_replay(shared_database, CLOCK, plan, plan.id)
    assert (run.handled, run.failed, [f.offset for f in run.failures]) == (2, 2, [2, 4])
    with shared_database.tenant_transaction(acme) as connection:
        results = list_replay_results(connection, run.replay_id)
    assert [(r.offset, r.state) for r in results] == [(2, "failed"), (4, "failed"), (1, "handled"), (3, "handled")]
    assert results[0].error == "ValueError: not this one"
    assert (results[1].error or "").startswith("PayloadError: Ticked.number")


def test_a_replay_keeps_to_its_rate(shared_database: Database, acme: Tenant) -> None:
    _fill(shared_database, acme, 60)
    plan = _plan(shared_database, acme)
    started = time.monotonic()
    run_replay(shared_database, CLOCK, plan, plan.id, RunOptions(rate=100))
    assert time.monotonic() - started >= 0.6
    with pytest.raises(UsageError, match="rate = 0 is not a rate"):
        run_replay(shared_database, CLOCK, plan, plan.id, RunOptions(rate=0))


def test_a_replay_whose_plan_is_stale_writes_nothing(shared_database: Database, acme: Tenant) -> None:
    _fill(shared_database, acme, 4)
    shown = _plan(shared_database, acme)
    _fill(shared_database, acme, 1)
    with pytest.raises(PlanChangedError, match="nothing was done"):
        run_replay(shared_database, CLOCK, _plan(shared_database, acme), shown.id)
    assert _rows(shared_database, acme, "SELECT 1 FROM erpkit_replays UNION ALL SELECT 1 FROM catalog_categories") == []


def _end_who_waits(database: Database, tenant: Tenant, locked: threading.Event) -> None:
    waiting = "SELECT pg_terminate_backend(pid, 5000) FROM pg_locks WHERE NOT granted AND relation = %s::regclass"
    with psycopg.connect(database.conninfo) as holder:
        holder.execute(f"LOCK TABLE {tenant.schema}.catalog_categories".encode())
        locked.set()
        while not holder.execute(waiting, [f"{tenant.schema}.catalog_categories"]).fetchall():
            pass


def test_a_lost_connection_ends_a_replay_as_failed_and_it_can_be_resumed(
    shared_database: Database, acme: Tenant
) -> None:
    _fill(shared_database, acme, 800)
    plan = _plan(shared_database, acme)

    cutter: list[threading.Thread] = []

    def cut(_: int) -> None:
        """Let the next batch wait for a lock, and end its session there: in the middle of its transaction."""
        locked = threading.Event()
        cutter.append(threading.Thread(target=_end_who_waits, args=(shared_database, acme, locked)))
        cutter[-1].start()
        assert locked.wait(30)

    with pytest.raises((ErpkitError, psycopg.Error)):
        run_replay(shared_database, CLOCK, plan, plan.id, RunOptions(cut))
    cutter[0].join()
    with shared_database.connection() as connection:
        (record,) = list_replays(connection, [acme])
    assert (record.state, record.handled) == ("failed", 500)
    run_replay(shared_database, CLOCK, _resume(shared_database, record.replay_id, acme), plan.id)
    assert len(_noted(shared_database, acme)) == 800


def test_several_workers_keep_each_tenants_order_and_what_they_leave_can_be_resumed(
    shared_database: Database, tenants: list[Tenant]
) -> None:
    for tenant in _emptied(shared_database, tenants):
        _fill(shared_database, tenant, 1200)
    stop = threading.Event()
    with shared_database.connection() as connection:
        plan = plan_replay(connection, tenants, CLOCK, Selection())
    run = run_replay(shared_database, CLOCK, plan, plan.id, RunOptions(lambda _: stop.set(), stop, workers=2))
    assert (run.state, 0 < run.handled < 2400) == ("cancelled", True)
    with shared_database.connection() as connection:
        rest = plan_resume(connection, tenants, CLOCK, run.replay_id)
    again = run_replay(shared_database, CLOCK, rest, rest.id, RunOptions(workers=2))
    assert (again.state, run.handled + again.handled, again.failed) == ("done", 2400, 0)
    for tenant in tenants:
        names = _rows(shared_database, tenant, "SELECT name FROM catalog_categories ORDER BY xmin::text::bigint, ctid")
        assert [int(name.split()[1]) for (name,) in names] == list(range(1, 1201))


def test_a_fault_in_one_worker_ends_the_others_after_their_batch(
    shared_database: Database, tenants: list[Tenant]
) -> None:
    for tenant in _emptied(shared_database, tenants):
        _fill(shared_database, tenant, 1500)
    with shared_database.connection() as connection:
        plan = plan_replay(connection, tenants, CLOCK, Selection())

    def fail(_: int) -> None:
        raise ErpkitError("the terminal is gone")

    with pytest.raises(ErpkitError, match="terminal is gone"):
        run_replay(shared_database, CLOCK, plan, plan.id, RunOptions(fail, workers=2))
    with shared_database.connection() as connection:
        records = list_replays(connection, tenants)
    assert {record.state for record in records} == {"failed"}
    assert all(record.handled <= 1000 for record in records)
    with pytest.raises(UsageError, match="workers = 0"):
        RunOptions(workers=0)
